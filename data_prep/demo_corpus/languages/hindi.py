"""Hindi: lexicon and sentence patterns (two genders, ergative ने, verbs that then agree with their object)."""

from __future__ import annotations

from data_prep.demo_corpus.realiser import Lexicon, Realiser, is_female
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

# people: direct, oblique. nouns: gender, singular, plural. adjectives: masculine. verbs and gifts: masculine singular
# of the perfective; verbs also the infinitive. meetings: {} = person in the oblique. motions: masculine, feminine.
# activities: masculine, feminine, whether the subject takes ने. places: in, to, gender, direct.
TABLE = """
[people: 2]
teacher=अध्यापिका/अध्यापिका; doctor=डॉक्टर/डॉक्टर; nurse=नर्स/नर्स; baker=नानबाई/नानबाई; neighbour=पड़ोसन/पड़ोसन
farmer=किसान/किसान; student=छात्रा/छात्रा; singer=गायिका/गायिका; driver=ड्राइवर/ड्राइवर; cook=रसोइया/रसोइए
gardener=माली/माली; grandmother=दादी/दादी; grandfather=दादा/दादा; aunt=मौसी/मौसी; uncle=चाचा/चाचा
painter=चित्रकार/चित्रकार; writer=लेखिका/लेखिका; soldier=सैनिक/सैनिक; fisherman=मछुआरा/मछुआरे; tailor=दर्ज़ी/दर्ज़ी
lawyer=वकील/वकील; engineer=इंजीनियर/इंजीनियर; carpenter=बढ़ई/बढ़ई; waiter=बैरा/बैरे; queen=रानी/रानी; king=राजा/राजा
journalist=पत्रकार/पत्रकार; dancer=नर्तकी/नर्तकी; postman=डाकिया/डाकिए; policeman=पुलिसवाला/पुलिसवाले
princess=राजकुमारी/राजकुमारी; prince=राजकुमार/राजकुमार
[nouns: 3]
apple=m/सेब/सेब; cake=m/केक/केक; orange=m/संतरा/संतरे; egg=m/अंडा/अंडे; fish=f/मछली/मछलियाँ; tomato=m/टमाटर/टमाटर
onion=m/प्याज़/प्याज़; potato=m/आलू/आलू; lemon=m/नींबू/नींबू; pear=f/नाशपाती/नाशपातियाँ; melon=m/ख़रबूज़ा/ख़रबूज़े
banana=m/केला/केले; carrot=f/गाजर/गाजरें; cucumber=m/खीरा/खीरे; book=f/किताब/किताबें; letter=f/चिट्ठी/चिट्ठियाँ
postcard=m/पोस्टकार्ड/पोस्टकार्ड; report=f/रिपोर्ट/रिपोर्टें; newspaper=m/अख़बार/अख़बार; map=m/नक़्शा/नक़्शे
coat=m/कोट/कोट; hat=f/टोपी/टोपियाँ; shirt=f/क़मीज़/क़मीज़ें; dress=f/पोशाक/पोशाकें; scarf=m/मफ़लर/मफ़लर
skirt=f/स्कर्ट/स्कर्टें; bag=m/थैला/थैले; jacket=f/जैकेट/जैकेटें; cup=m/प्याला/प्याले; plate=f/थाली/थालियाँ
knife=m/चाकू/चाकू; vase=m/फूलदान/फूलदान; bottle=f/बोतल/बोतलें; key=f/चाबी/चाबियाँ; lamp=m/लैंप/लैंप
alarm_clock=f/अलार्म घड़ी/अलार्म घड़ियाँ; chair=f/कुर्सी/कुर्सियाँ; mirror=m/आईना/आईने; umbrella=m/छाता/छाते
guitar=m/गिटार/गिटार; radio=m/रेडियो/रेडियो; bicycle=f/साइकिल/साइकिलें; basket=f/टोकरी/टोकरियाँ
ring=f/अँगूठी/अँगूठियाँ; candle=f/मोमबत्ती/मोमबत्तियाँ; bell=f/घंटी/घंटियाँ; doll=f/गुड़िया/गुड़ियाँ; ball=f/गेंद/गेंदें
suitcase=m/सूटकेस/सूटकेस; blanket=m/कंबल/कंबल
[adjectives: 1]
small=छोटा; big=बड़ा; sweet=मीठा; fresh=ताज़ा; expensive=महँगा; cheap=सस्ता; beautiful=सुंदर; round=गोल; heavy=भारी
strange=अजीब; green=हरा; yellow=पीला; old=पुराना; new=नया; long=लंबा; short=छोटा; interesting=दिलचस्प
important=महत्वपूर्ण; dirty=गंदा; red=लाल; blue=नीला; white=सफ़ेद; black=काला; clean=साफ़
[verbs: 2]
buy=ख़रीदा/ख़रीदना; sell=बेचा/बेचना; find=पाया/पाना; lose=खो दिया/खो देना; choose=चुना/चुनना; look_for=ढूँढा/ढूँढना
order=मँगवाया/मँगवाना; examine=जाँचा/जाँचना; draw=चित्रित किया/चित्रित करना; praise=सराहा/सराहना; see=देखा/देखना
recognise=पहचाना/पहचानना; wash=धोया/धोना; repair=ठीक किया/ठीक करना; damage=ख़राब किया/ख़राब करना; read=पढ़ा/पढ़ना
write=लिखा/लिखना; eat=खाया/खाना; cut=काटा/काटना; taste=चखा/चखना; clean=साफ़ किया/साफ़ करना
[gifts: 1]
give=दिया; show=दिखाया; send=भेजा; lend=उधार दिया
[spots: 1]
leave=छोड़ दिया; hide=छिपाया; find=पाया
[meetings: 1]
meet={} से मुलाक़ात की; see={} को देखा; greet={} का अभिवादन किया; recognise={} को पहचाना; look_for={} को ढूँढा
[motions: 2]
go=गया/गई; run=दौड़कर गया/दौड़कर गई; return=लौटा/लौटी; drive=गाड़ी से गया/गाड़ी से गई; walk=पैदल गया/पैदल गई
come=आया/आई
[activities: 3]
sleep=सोया/सोई/-; dance=नाचा/नाची/-; sing=गाना गाया/गाना गाया/ने; work=काम किया/काम किया/ने; laugh=हँसा/हँसी/-
wait=इंतज़ार किया/इंतज़ार किया/ने; rest=आराम किया/आराम किया/ने; play=खेला/खेली/-; cry=रोया/रोई/-
study=पढ़ाई की/पढ़ाई की/ने
[feelings: 2]
happy=ख़ुश/ख़ुश; sad=दुखी/दुखी; angry=नाराज़/नाराज़; worried=चिंतित/चिंतित; surprised=हैरान/हैरान; calm=शांत/शांत
tired=थका हुआ/थकी हुई; hungry=भूखा/भूखी; thirsty=प्यासा/प्यासी; sick=बीमार/बीमार
[places: 4]
market=बाज़ार में/बाज़ार/m/बाज़ार; garden=बग़ीचे में/बग़ीचे में/m/बग़ीचा; park=पार्क में/पार्क/m/पार्क
school=स्कूल में/स्कूल/m/स्कूल; hospital=अस्पताल में/अस्पताल/m/अस्पताल; library=पुस्तकालय में/पुस्तकालय/m/पुस्तकालय
station=स्टेशन पर/स्टेशन/m/स्टेशन; restaurant=रेस्तराँ में/रेस्तराँ/m/रेस्तराँ; church=गिरजाघर में/गिरजाघर/m/गिरजाघर
village=गाँव में/गाँव/m/गाँव; forest=जंगल में/जंगल/m/जंगल; beach=समुद्र तट पर/समुद्र तट पर/m/समुद्र तट
museum=संग्रहालय में/संग्रहालय/m/संग्रहालय; theatre=थिएटर में/थिएटर/m/थिएटर; kitchen=रसोई में/रसोई में/f/रसोई
office=दफ़्तर में/दफ़्तर/m/दफ़्तर; factory=कारख़ाने में/कारख़ाने/m/कारख़ाना; castle=क़िले में/क़िले में/m/क़िला
harbour=बंदरगाह पर/बंदरगाह/m/बंदरगाह; hotel=होटल में/होटल/m/होटल; farm=खेत में/खेत में/m/खेत
island=द्वीप पर/द्वीप पर/m/द्वीप; airport=हवाई अड्डे पर/हवाई अड्डे/m/हवाई अड्डा; bridge=पुल पर/पुल पर/m/पुल
[states: 2]
empty=ख़ाली/ख़ाली; quiet=शांत/शांत; dirty=गंदा/गंदी; clean=साफ़/साफ़; beautiful=सुंदर/सुंदर
dangerous=ख़तरनाक/ख़तरनाक; dark=अँधेरा/अँधेरी; far=दूर/दूर
[landmarks: 1]
on_table=मेज़ पर; under_table=मेज़ के नीचे; by_window=खिड़की के पास; behind_door=दरवाज़े के पीछे; on_shelf=ताक़ पर
under_bed=पलंग के नीचे; in_cupboard=अलमारी में; under_tree=पेड़ के नीचे; on_floor=फ़र्श पर; by_stove=चूल्हे के पास
[times: 1]
monday=सोमवार को; wednesday=बुधवार को; friday=शुक्रवार को; saturday=शनिवार को; yesterday=कल; morning=सुबह
evening=शाम को; night=रात को; noon=दोपहर को; last_week=पिछले हफ़्ते; last_month=पिछले महीने; last_year=पिछले साल
spring=वसंत में; summer=गर्मियों में; autumn=पतझड़ में; winter=सर्दियों में
[weather: 1]
rain=बारिश हो रही थी; snow=बर्फ़ गिर रही थी; wind=तेज़ हवा चल रही थी; cold=ठंड थी; heat=गर्मी थी; fog=कोहरा छाया था
sun=धूप निकली थी; storm=तूफ़ान चल रहा था; clouds=बादल छाए थे
[adverbs: 1]
slowly=धीरे-धीरे; quickly=जल्दी से; carefully=सावधानी से; quietly=चुपचाप; secretly=छिपकर; suddenly=अचानक
gladly=ख़ुशी से; patiently=धैर्य से
[units: 1]
hour=घंटे; day=दिन; week=हफ़्ते; month=महीने
[numbers: 1]
2=दो; 3=तीन; 4=चार; 5=पाँच; 6=छह; 7=सात; 8=आठ; 9=नौ; 10=दस
"""


def adjective(masculine: str, gender: str, plural: bool) -> str:
    """An adjective before its noun: those in -ा change (पुराना, पुराने, पुरानी; नया, नए, नई), others do not."""
    if not masculine.endswith("ा") or (gender == "m" and not plural):
        return masculine
    if masculine.endswith("या"):
        return masculine[:-2] + ("ई" if gender == "f" else "ए")
    return masculine[:-1] + ("ी" if gender == "f" else "े")


def perfective(masculine: str, gender: str, plural: bool) -> str:
    """A perfective in agreement: ख़रीदा, ख़रीदे, ख़रीदी, ख़रीदीं; किया, किए, की, कीं; खाया, खाए, खाई, खाईं."""
    if gender == "m" and not plural:
        return masculine
    nasal = "ं" if plural and gender == "f" else ""
    if masculine.endswith("िया"):
        return masculine[:-3] + ("ी" + nasal if gender == "f" else "िए")
    if masculine.endswith("या"):
        return masculine[:-2] + ("ई" + nasal if gender == "f" else "ए")
    return masculine[:-1] + ("ी" + nasal if gender == "f" else "े")


class Hindi(Realiser):
    """Hindi; a transitive perfective agrees with its object, and its subject takes ने."""

    code = "hi"
    lexicon = Lexicon(TABLE)
    full_stop = "।"

    def thing(self, thing: Thing) -> str:
        """एक पुरानी चाबी; पुरानी चाबी; तीन पुरानी चाबियाँ."""
        gender, singular, plural = self.lexicon["nouns"][thing.noun]
        phrase = adjective(self.word("adjectives", thing.adjective), gender, thing.number > 1)
        if thing.number > 1:
            return f"{self.word('numbers', thing.number)} {phrase} {plural}"
        return f"{phrase} {singular}" if thing.definite else f"एक {phrase} {singular}"

    def _done(self, section: str, verb: str, thing: Thing) -> str:
        gender = self.word("nouns", thing.noun)
        return f"{self.thing(thing)} {perfective(self.word(section, verb), gender, thing.number > 1)}"

    def _was(self, gender: str, plural: bool = False) -> str:
        return {"m": ("था", "थे"), "f": ("थी", "थीं")}[gender][int(plural)]

    def _oblique(self, person: str) -> str:
        return self.word("people", person, 1)

    def _subject(self, subject: Subject) -> str:
        return "वह" if subject.pronoun else self.word("people", subject.person)

    def _agent(self, subject: Subject) -> str:
        return "उसने" if subject.pronoun else f"{self._oblique(subject.person)} ने"

    def _feeling(self, subject: Subject, feeling: str) -> str:
        female = is_female(subject)
        state = f"{self.word('feelings', feeling, int(female))} {self._was('f' if female else 'm')}"
        return f"{self._subject(subject)} {state}"

    def _actor(self, subject: Subject, activity: str) -> str:
        return self._agent(subject) if self.word("activities", activity, 2) == "ने" else self._subject(subject)

    def deal(self, s: Deal) -> str:
        """सोमवार को अध्यापिका ने बाज़ार में एक पुरानी चाबी ख़रीदी।"""
        deed = f"{self.word('places', s.place)} {self._done('verbs', s.verb, s.thing)}"
        return f"{self.word('times', s.time)} {self._agent(s.subject)} {deed}"

    def manner(self, s: Manner) -> str:
        """अध्यापिका ने पार्क में धीरे-धीरे एक लंबी चिट्ठी पढ़ी।"""
        deed = f"{self.word('adverbs', s.adverb)} {self._done('verbs', s.verb, s.thing)}"
        return f"{self._agent(s.subject)} {self.word('places', s.place)} {deed}"

    def give(self, s: Give) -> str:
        """शाम को अध्यापिका ने नानबाई को एक पुरानी चाबी दिखाई।"""
        deed = f"{self._oblique(s.receiver)} को {self._done('gifts', s.verb, s.thing)}"
        return f"{self.word('times', s.time)} {self._agent(s.subject)} {deed}"

    def go(self, s: Go) -> str:
        """शुक्रवार को अध्यापिका नानबाई के साथ बंदरगाह पैदल गई।"""
        verb = self.word("motions", s.motion, int(is_female(s.subject)))
        deed = f"{self._oblique(s.companion)} के साथ {self.word('places', s.place, 1)} {verb}"
        return f"{self.word('times', s.time)} {self._subject(s.subject)} {deed}"

    def weather_scene(self, s: WeatherScene) -> str:
        """सुबह गाँव में बारिश हो रही थी, लेकिन अध्यापिका नाची।"""
        scene = f"{self.word('times', s.time)} {self.word('places', s.place)} {self.word('weather', s.weather)}"
        deed = self.word("activities", s.activity, int(is_female(s.subject)))
        return f"{scene}, लेकिन {self._actor(s.subject, s.activity)} {deed}"

    def because(self, s: Because) -> str:
        """अध्यापिका ख़ुश थी क्योंकि नानबाई ने एक लाल गेंद पाई।"""
        reason = f"{self._oblique(s.other)} ने {self._done('verbs', s.verb, s.thing)}"
        return f"{self._feeling(s.subject, s.feeling)} क्योंकि {reason}"

    def exists(self, s: Exists) -> str:
        """रसोई में खिड़की के पास तीन पुराने लैंप थे।"""
        verb = self._was(self.word("nouns", s.thing.noun), s.thing.number > 1)
        return f"{self.word('places', s.place)} {self.word('landmarks', s.landmark)} {self.thing(s.thing)} {verb}"

    def spot(self, s: Spot) -> str:
        """अध्यापिका ने सावधानी से पलंग के नीचे एक पुरानी चाबी छिपाई।"""
        where = f"{self.word('adverbs', s.adverb)} {self.word('landmarks', s.landmark)}"
        return f"{self._agent(s.subject)} {where} {self._done('spots', s.verb, s.thing)}"

    def possession(self, s: Possession) -> str:
        """पुस्तकालय में अध्यापिका का पुराना थैला मेज़ के नीचे था।"""
        gender = self.word("nouns", s.thing.noun)
        thing = self.thing(Thing(s.thing.noun, s.thing.adjective, 1, True))
        owner = f"{self._oblique(s.owner)} {'की' if gender == 'f' else 'का'}"
        place, where = self.word("places", s.place), self.word("landmarks", s.landmark)
        return f"{place} {owner} {thing} {where} {self._was(gender)}"

    def want(self, s: Want) -> str:
        """अध्यापिका बाज़ार में एक पुरानी चाबी ख़रीदना चाहती थी (ने ... ख़रीदने का फ़ैसला किया)।"""
        infinitive = self.word("verbs", s.verb, 1)
        rest = f"{self.word('places', s.place)} {self.thing(s.thing)}"
        if s.decided:
            return f"{self._agent(s.subject)} {rest} {infinitive[:-1]}े का फ़ैसला किया"
        wish = "चाहती थी" if is_female(s.subject) else "चाहता था"
        return f"{self._subject(s.subject)} {rest} {infinitive} {wish}"

    def tell(self, s: Tell) -> str:
        """रात को अध्यापिका ने नानबाई को बताया कि क़िला ख़ाली था।"""
        _, _, gender, place = self.lexicon["places"][s.place]
        clause = f"{self.word('times', s.time)} {self._agent(s.subject)} {self._oblique(s.listener)} को बताया कि"
        return f"{clause} {place} {self.word('states', s.state, int(gender == 'f'))} {self._was(gender)}"

    def not_go(self, s: NotGo) -> str:
        """सोमवार को अध्यापिका बाज़ार नहीं गई क्योंकि बारिश हो रही थी।"""
        verb = f"नहीं {'गई' if is_female(s.subject) else 'गया'}"
        clause = f"{self.word('times', s.time)} {self._subject(s.subject)} {self.word('places', s.place, 1)} {verb}"
        return f"{clause} क्योंकि {self.word('weather', s.weather)}"

    def spend(self, s: Spend) -> str:
        """अध्यापिका नानबाई के साथ पार्क में तीन घंटे तक नाची।"""
        duration = f"{self.word('numbers', s.number)} {self.word('units', s.unit)} तक"
        deed = self.word("activities", s.activity, int(is_female(s.subject)))
        where = f"{self._oblique(s.companion)} के साथ {self.word('places', s.place)}"
        return f"{self._actor(s.subject, s.activity)} {where} {duration} {deed}"

    def purpose(self, s: Purpose) -> str:
        """अध्यापिका एक पुरानी चाबी ख़रीदने के लिए बाज़ार दौड़कर गई।"""
        aim = f"{self.thing(s.thing)} {self.word('verbs', s.verb, 1)[:-1]}े के लिए"
        verb = self.word("motions", s.motion, int(is_female(s.subject)))
        return f"{self._subject(s.subject)} {aim} {self.word('places', s.place, 1)} {verb}"

    def meet(self, s: Meet) -> str:
        """कल अध्यापिका ने पुल पर नानबाई से मुलाक़ात की।"""
        deed = self.word("meetings", s.verb).format(self._oblique(s.person))
        return f"{self.word('times', s.time)} {self._agent(s.subject)} {self.word('places', s.place)} {deed}"

    def although(self, s: Although) -> str:
        """अध्यापिका भूखी थी, लेकिन उसने बाज़ार में दो गोल केक बेचे।"""
        deed = f"{self.word('places', s.place)} {self._done('verbs', s.verb, s.thing)}"
        return f"{self._feeling(s.subject, s.feeling)}, लेकिन उसने {deed}"
