"""Turkish: lexicon and sentence patterns (vowel harmony, case suffixes, verb last, no gender)."""

from __future__ import annotations

from data_prep.demo_corpus.realiser import Lexicon, Realiser, join
from data_prep.demo_corpus.sentences import (
    Although,
    Because,
    Deal,
    Exists,
    Give,
    Go,
    Manner,
    Meet,
    NotGo,
    Possession,
    Purpose,
    Spend,
    Spot,
    Subject,
    Tell,
    Thing,
    Want,
    WeatherScene,
)

# nouns: bare, accusative, possessed. verbs: past, infinitive. meetings: past, what its object takes (acc or ile).
# spots: past, form of the landmark (at, to). places: in, to, genitive. landmarks: at, to, was at.
TABLE = """
[people: 1]
teacher=öğretmen; doctor=doktor; nurse=hemşire; baker=fırıncı; neighbour=komşu; farmer=çiftçi; student=öğrenci
singer=şarkıcı; driver=şoför; cook=aşçı; gardener=bahçıvan; grandmother=büyükanne; grandfather=büyükbaba; aunt=teyze
uncle=amca; painter=ressam; writer=yazar; soldier=asker; fisherman=balıkçı; tailor=terzi; lawyer=avukat
engineer=mühendis; carpenter=marangoz; waiter=garson; queen=kraliçe; king=kral; journalist=gazeteci; dancer=dansçı
postman=postacı; policeman=polis; princess=prenses; prince=prens
[nouns: 3]
apple=elma/elmayı/elması; cake=kek/keki/keki; orange=portakal/portakalı/portakalı; egg=yumurta/yumurtayı/yumurtası
fish=balık/balığı/balığı; tomato=domates/domatesi/domatesi; onion=soğan/soğanı/soğanı
potato=patates/patatesi/patatesi; lemon=limon/limonu/limonu; pear=armut/armudu/armudu; melon=kavun/kavunu/kavunu
banana=muz/muzu/muzu; carrot=havuç/havucu/havucu; cucumber=salatalık/salatalığı/salatalığı; book=kitap/kitabı/kitabı
letter=mektup/mektubu/mektubu; postcard=kart/kartı/kartı; report=rapor/raporu/raporu
newspaper=gazete/gazeteyi/gazetesi; map=harita/haritayı/haritası; coat=palto/paltoyu/paltosu; hat=şapka/şapkayı/şapkası
shirt=gömlek/gömleği/gömleği; dress=elbise/elbiseyi/elbisesi; scarf=atkı/atkıyı/atkısı; skirt=etek/eteği/eteği
bag=çanta/çantayı/çantası; jacket=ceket/ceketi/ceketi; cup=fincan/fincanı/fincanı; plate=tabak/tabağı/tabağı
knife=bıçak/bıçağı/bıçağı; vase=vazo/vazoyu/vazosu; bottle=şişe/şişeyi/şişesi; key=anahtar/anahtarı/anahtarı
lamp=lamba/lambayı/lambası; alarm_clock=çalar saat/çalar saati/çalar saati; chair=sandalye/sandalyeyi/sandalyesi
mirror=ayna/aynayı/aynası; umbrella=şemsiye/şemsiyeyi/şemsiyesi; guitar=gitar/gitarı/gitarı; radio=radyo/radyoyu/radyosu
bicycle=bisiklet/bisikleti/bisikleti; basket=sepet/sepeti/sepeti; ring=yüzük/yüzüğü/yüzüğü; candle=mum/mumu/mumu
bell=zil/zili/zili; doll=oyuncak bebek/oyuncak bebeği/oyuncak bebeği; ball=top/topu/topu; suitcase=bavul/bavulu/bavulu
blanket=battaniye/battaniyeyi/battaniyesi
[adjectives: 1]
small=küçük; big=büyük; sweet=tatlı; fresh=taze; expensive=pahalı; cheap=ucuz; beautiful=güzel; round=yuvarlak
heavy=ağır; strange=tuhaf; green=yeşil; yellow=sarı; old=eski; new=yeni; long=uzun; short=kısa; interesting=ilginç
important=önemli; dirty=kirli; red=kırmızı; blue=mavi; white=beyaz; black=siyah; clean=temiz
[verbs: 2]
buy=satın aldı/satın almak; sell=sattı/satmak; find=buldu/bulmak; lose=kaybetti/kaybetmek; choose=seçti/seçmek
look_for=aradı/aramak; order=sipariş etti/sipariş etmek; examine=inceledi/incelemek; draw=çizdi/çizmek
praise=övdü/övmek; see=gördü/görmek; recognise=tanıdı/tanımak; wash=yıkadı/yıkamak
repair=tamir etti/tamir etmek; damage=bozdu/bozmak; read=okudu/okumak; write=yazdı/yazmak; eat=yedi/yemek
cut=kesti/kesmek; taste=tattı/tatmak; clean=temizledi/temizlemek
[gifts: 1]
give=verdi; show=gösterdi; send=gönderdi; lend=ödünç verdi
[spots: 2]
leave=bıraktı/to; hide=sakladı/to; find=buldu/at
[meetings: 2]
meet=karşılaştı/ile; see=gördü/acc; greet=selamladı/acc; recognise=tanıdı/acc; look_for=aradı/acc
[motions: 1]
go=gitti; run=koştu; return=döndü; drive=arabayla gitti; walk=yürüyerek gitti; come=geldi
[activities: 1]
sleep=uyudu; dance=dans etti; sing=şarkı söyledi; work=çalıştı; laugh=güldü; wait=bekledi; rest=dinlendi; play=oynadı
cry=ağladı; study=ders çalıştı
[feelings: 1]
happy=mutluydu; sad=üzgündü; angry=kızgındı; worried=endişeliydi; surprised=şaşkındı; calm=sakindi; tired=yorgundu
hungry=açtı; thirsty=susamıştı; sick=hastaydı
[places: 3]
market=pazarda/pazara/pazarın; garden=bahçede/bahçeye/bahçenin; park=parkta/parka/parkın; school=okulda/okula/okulun
hospital=hastanede/hastaneye/hastanenin; library=kütüphanede/kütüphaneye/kütüphanenin
station=istasyonda/istasyona/istasyonun; restaurant=restoranda/restorana/restoranın; church=kilisede/kiliseye/kilisenin
village=köyde/köye/köyün; forest=ormanda/ormana/ormanın; beach=plajda/plaja/plajın; museum=müzede/müzeye/müzenin
theatre=tiyatroda/tiyatroya/tiyatronun; kitchen=mutfakta/mutfağa/mutfağın; office=ofiste/ofise/ofisin
factory=fabrikada/fabrikaya/fabrikanın; castle=kalede/kaleye/kalenin; harbour=limanda/limana/limanın
hotel=otelde/otele/otelin; farm=çiftlikte/çiftliğe/çiftliğin; island=adada/adaya/adanın
airport=havaalanında/havaalanına/havaalanının; bridge=köprüde/köprüye/köprünün
[states: 1]
empty=boş; quiet=sessiz; dirty=kirli; clean=temiz; beautiful=güzel; dangerous=tehlikeli; dark=karanlık; far=uzak
[landmarks: 3]
on_table=masanın üstünde/masanın üstüne/masanın üstündeydi
under_table=masanın altında/masanın altına/masanın altındaydı
by_window=pencerenin yanında/pencerenin yanına/pencerenin yanındaydı
behind_door=kapının arkasında/kapının arkasına/kapının arkasındaydı; on_shelf=rafta/rafa/raftaydı
under_bed=yatağın altında/yatağın altına/yatağın altındaydı; in_cupboard=dolapta/dolaba/dolaptaydı
under_tree=ağacın altında/ağacın altına/ağacın altındaydı; on_floor=yerde/yere/yerdeydi
by_stove=sobanın yanında/sobanın yanına/sobanın yanındaydı
[times: 1]
monday=pazartesi günü; wednesday=çarşamba günü; friday=cuma günü; saturday=cumartesi günü; yesterday=dün
morning=sabahleyin; evening=akşamleyin; night=geceleyin; noon=öğleyin; last_week=geçen hafta; last_month=geçen ay
last_year=geçen yıl; spring=ilkbaharda; summer=yazın; autumn=sonbaharda; winter=kışın
[weather: 1]
rain=yağmur yağıyordu; snow=kar yağıyordu; wind=kuvvetli bir rüzgâr esiyordu; cold=hava soğuktu; heat=hava sıcaktı
fog=hava sisliydi; sun=güneş parlıyordu; storm=fırtına vardı; clouds=hava bulutluydu
[adverbs: 1]
slowly=yavaşça; quickly=hızla; carefully=dikkatle; quietly=sessizce; secretly=gizlice; suddenly=aniden
gladly=seve seve; patiently=sabırla
[units: 1]
hour=saat; day=gün; week=hafta; month=ay
[numbers: 1]
2=iki; 3=üç; 4=dört; 5=beş; 6=altı; 7=yedi; 8=sekiz; 9=dokuz; 10=on
"""

_VOWELS = "aıoueiöü"
_FOURFOLD = {"a": "ı", "ı": "ı", "o": "u", "u": "u", "e": "i", "i": "i", "ö": "ü", "ü": "ü"}
_TWOFOLD = {vowel: "a" if vowel in "aıou" else "e" for vowel in _VOWELS}


def suffixed(noun: str, case: str) -> str:
    """A noun with the suffix of a case by vowel harmony: acc -(y)I, dat -(y)A, gen -(n)In.

    Only for nouns whose last consonant does not soften (kitap, kitabı), which all names of people here are.
    """
    last = next(letter for letter in reversed(noun) if letter in _VOWELS)
    open_end = noun[-1] in _VOWELS
    high, low = _FOURFOLD[last], _TWOFOLD[last]
    suffix = {"acc": ("y" if open_end else "") + high, "dat": ("y" if open_end else "") + low,
              "gen": ("n" if open_end else "") + high + "n"}[case]  # fmt: skip
    return noun + suffix


class Turkish(Realiser):
    """Turkish; subject pronouns are dropped; only a definite object takes the accusative suffix."""

    code = "tr"
    lexicon = Lexicon(TABLE)

    def capital(self, letter: str) -> str:
        """Turkish keeps the dot: i becomes İ."""
        return "İ" if letter == "i" else letter.upper()

    def thing(self, thing: Thing) -> str:
        """Eski bir anahtar; eski anahtarı; üç eski anahtar."""
        bare, accusative, _ = self.lexicon["nouns"][thing.noun]
        adjective = self.word("adjectives", thing.adjective)
        if thing.number > 1:
            return f"{self.word('numbers', thing.number)} {adjective} {bare}"
        return f"{adjective} {accusative}" if thing.definite else f"{adjective} bir {bare}"

    def _person(self, person: str, case: str = "") -> str:
        name = self.word("people", person)
        return suffixed(name, case) if case else name

    def _with(self, person: str) -> str:
        return f"{self._person(person)} ile"

    def _subject(self, subject: Subject) -> str:
        return "" if subject.pronoun else self._person(subject.person)

    def _opening(self, time: str, subject: Subject) -> str:
        return join(self.word("times", time), self._subject(subject))

    def deal(self, s: Deal) -> str:
        """Pazartesi günü öğretmen pazarda eski bir anahtar satın aldı."""
        deed = f"{self.word('places', s.place)} {self.thing(s.thing)} {self.word('verbs', s.verb)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def manner(self, s: Manner) -> str:
        """Öğretmen parkta yavaşça uzun bir mektup okudu."""
        deed = f"{self.word('adverbs', s.adverb)} {self.thing(s.thing)} {self.word('verbs', s.verb)}"
        return join(self._subject(s.subject), self.word("places", s.place), deed)

    def give(self, s: Give) -> str:
        """Akşamleyin öğretmen fırıncıya eski bir anahtar gösterdi."""
        deed = f"{self._person(s.receiver, 'dat')} {self.thing(s.thing)} {self.word('gifts', s.verb)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def go(self, s: Go) -> str:
        """Cuma günü öğretmen fırıncı ile limana yürüyerek gitti."""
        deed = f"{self._with(s.companion)} {self.word('places', s.place, 1)} {self.word('motions', s.motion)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def weather_scene(self, s: WeatherScene) -> str:
        """Sabahleyin köyde yağmur yağıyordu ama öğretmen dans etti."""
        scene = f"{self.word('times', s.time)} {self.word('places', s.place)} {self.word('weather', s.weather)}"
        return f"{scene} ama {join(self._subject(s.subject), self.word('activities', s.activity))}"

    def because(self, s: Because) -> str:
        """Öğretmen mutluydu çünkü fırıncı kırmızı bir top buldu."""
        reason = f"{self._person(s.other)} {self.thing(s.thing)} {self.word('verbs', s.verb)}"
        return f"{join(self._subject(s.subject), self.word('feelings', s.feeling))} çünkü {reason}"

    def exists(self, s: Exists) -> str:
        """Mutfakta pencerenin yanında üç eski lamba vardı."""
        return f"{self.word('places', s.place)} {self.word('landmarks', s.landmark)} {self.thing(s.thing)} vardı"

    def spot(self, s: Spot) -> str:
        """Öğretmen dikkatle yatağın altına eski bir anahtar sakladı."""
        verb, landmark_form = self.lexicon["spots"][s.verb]
        where = self.word("landmarks", s.landmark, int(landmark_form == "to"))
        return join(self._subject(s.subject), self.word("adverbs", s.adverb), where, self.thing(s.thing), verb)

    def possession(self, s: Possession) -> str:
        """Kütüphanede öğretmenin eski çantası masanın altındaydı."""
        thing = f"{self.word('adjectives', s.thing.adjective)} {self.word('nouns', s.thing.noun, 2)}"
        owner, where = self._person(s.owner, "gen"), self.word("landmarks", s.landmark, 2)
        return f"{self.word('places', s.place)} {owner} {thing} {where}"

    def want(self, s: Want) -> str:
        """Öğretmen pazarda eski bir anahtar satın almak istedi (satın almaya karar verdi)."""
        infinitive = self.word("verbs", s.verb, 1)
        to_do = infinitive[:-1] + ("ya" if infinitive.endswith("mak") else "ye")
        verb = f"{to_do} karar verdi" if s.decided else f"{infinitive} istedi"
        return join(self._subject(s.subject), self.word("places", s.place), self.thing(s.thing), verb)

    def tell(self, s: Tell) -> str:
        """Geceleyin öğretmen fırıncıya kalenin boş olduğunu söyledi."""
        clause = f"{self.word('places', s.place, 2)} {self.word('states', s.state)} olduğunu söyledi"
        return f"{self._opening(s.time, s.subject)} {self._person(s.listener, 'dat')} {clause}"

    def not_go(self, s: NotGo) -> str:
        """Pazartesi günü öğretmen pazara gitmedi çünkü yağmur yağıyordu."""
        clause = f"{self._opening(s.time, s.subject)} {self.word('places', s.place, 1)} gitmedi"
        return f"{clause} çünkü {self.word('weather', s.weather)}"

    def spend(self, s: Spend) -> str:
        """Öğretmen fırıncı ile parkta üç saat dans etti."""
        duration = f"{self.word('numbers', s.number)} {self.word('units', s.unit)}"
        deed = f"{self.word('places', s.place)} {duration} {self.word('activities', s.activity)}"
        return join(self._subject(s.subject), self._with(s.companion), deed)

    def purpose(self, s: Purpose) -> str:
        """Öğretmen eski bir anahtar satın almak için pazara koştu."""
        aim = f"{self.thing(s.thing)} {self.word('verbs', s.verb, 1)} için"
        return join(self._subject(s.subject), aim, self.word("places", s.place, 1), self.word("motions", s.motion))

    def meet(self, s: Meet) -> str:
        """Dün öğretmen köprüde fırıncı ile karşılaştı."""
        verb, case = self.lexicon["meetings"][s.verb]
        person = self._with(s.person) if case == "ile" else self._person(s.person, case)
        return f"{self._opening(s.time, s.subject)} {self.word('places', s.place)} {person} {verb}"

    def although(self, s: Although) -> str:
        """Öğretmen açtı ama pazarda iki yuvarlak kek sattı."""
        deed = f"{self.word('places', s.place)} {self.thing(s.thing)} {self.word('verbs', s.verb)}"
        return f"{join(self._subject(s.subject), self.word('feelings', s.feeling))} ama {deed}"
