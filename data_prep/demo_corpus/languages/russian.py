"""Russian: lexicon and sentence patterns (three genders, six cases, verbs in the past agree with their subject)."""

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

# people: nominative, genitive, dative, accusative, instrumental. nouns: gender, nominative, accusative, genitive,
# genitive plural. adjectives, and verbs likewise by subject: masculine, feminine. verbs end with the infinitive.
# places: in, to, gender, nominative. units: after 2-4, after 5-10.
TABLE = """
[people: 5]
teacher=учительница/учительницы/учительнице/учительницу/учительницей; doctor=врач/врача/врачу/врача/врачом
nurse=медсестра/медсестры/медсестре/медсестру/медсестрой; baker=пекарь/пекаря/пекарю/пекаря/пекарем
neighbour=соседка/соседки/соседке/соседку/соседкой; farmer=фермер/фермера/фермеру/фермера/фермером
student=студентка/студентки/студентке/студентку/студенткой; singer=певица/певицы/певице/певицу/певицей
driver=водитель/водителя/водителю/водителя/водителем; cook=повар/повара/повару/повара/поваром
gardener=садовник/садовника/садовнику/садовника/садовником
grandmother=бабушка/бабушки/бабушке/бабушку/бабушкой; grandfather=дедушка/дедушки/дедушке/дедушку/дедушкой
aunt=тётя/тёти/тёте/тётю/тётей; uncle=дядя/дяди/дяде/дядю/дядей
painter=художница/художницы/художнице/художницу/художницей
writer=писательница/писательницы/писательнице/писательницу/писательницей
soldier=солдат/солдата/солдату/солдата/солдатом; fisherman=рыбак/рыбака/рыбаку/рыбака/рыбаком
tailor=портной/портного/портному/портного/портным; lawyer=адвокат/адвоката/адвокату/адвоката/адвокатом
engineer=инженер/инженера/инженеру/инженера/инженером; carpenter=плотник/плотника/плотнику/плотника/плотником
waiter=официант/официанта/официанту/официанта/официантом; queen=королева/королевы/королеве/королеву/королевой
king=король/короля/королю/короля/королём
journalist=журналистка/журналистки/журналистке/журналистку/журналисткой
dancer=танцовщица/танцовщицы/танцовщице/танцовщицу/танцовщицей
postman=почтальон/почтальона/почтальону/почтальона/почтальоном
policeman=полицейский/полицейского/полицейскому/полицейского/полицейским
princess=принцесса/принцессы/принцессе/принцессу/принцессой; prince=принц/принца/принцу/принца/принцем
[nouns: 5]
apple=n/яблоко/яблоко/яблока/яблок; cake=m/торт/торт/торта/тортов; orange=m/апельсин/апельсин/апельсина/апельсинов
egg=n/яйцо/яйцо/яйца/яиц; fish=f/рыба/рыбу/рыбы/рыб; tomato=m/помидор/помидор/помидора/помидоров
onion=f/луковица/луковицу/луковицы/луковиц; potato=f/картофелина/картофелину/картофелины/картофелин
lemon=m/лимон/лимон/лимона/лимонов; pear=f/груша/грушу/груши/груш; melon=f/дыня/дыню/дыни/дынь
banana=m/банан/банан/банана/бананов; carrot=f/морковка/морковку/морковки/морковок
cucumber=m/огурец/огурец/огурца/огурцов; book=f/книга/книгу/книги/книг; letter=n/письмо/письмо/письма/писем
postcard=f/открытка/открытку/открытки/открыток; report=m/отчёт/отчёт/отчёта/отчётов
newspaper=f/газета/газету/газеты/газет; map=f/карта/карту/карты/карт; coat=n/пальто/пальто/пальто/пальто
hat=f/шляпа/шляпу/шляпы/шляп; shirt=f/рубашка/рубашку/рубашки/рубашек; dress=n/платье/платье/платья/платьев
scarf=m/шарф/шарф/шарфа/шарфов; skirt=f/юбка/юбку/юбки/юбок; bag=f/сумка/сумку/сумки/сумок
jacket=f/куртка/куртку/куртки/курток; cup=f/чашка/чашку/чашки/чашек; plate=f/тарелка/тарелку/тарелки/тарелок
knife=m/нож/нож/ножа/ножей; vase=f/ваза/вазу/вазы/ваз; bottle=f/бутылка/бутылку/бутылки/бутылок
key=m/ключ/ключ/ключа/ключей; lamp=f/лампа/лампу/лампы/ламп
alarm_clock=m/будильник/будильник/будильника/будильников; chair=m/стул/стул/стула/стульев
mirror=n/зеркало/зеркало/зеркала/зеркал; umbrella=m/зонт/зонт/зонта/зонтов; guitar=f/гитара/гитару/гитары/гитар
radio=m/радиоприёмник/радиоприёмник/радиоприёмника/радиоприёмников
bicycle=m/велосипед/велосипед/велосипеда/велосипедов; basket=f/корзина/корзину/корзины/корзин
ring=n/кольцо/кольцо/кольца/колец; candle=f/свеча/свечу/свечи/свечей; bell=m/колокол/колокол/колокола/колоколов
doll=f/кукла/куклу/куклы/кукол; ball=m/мяч/мяч/мяча/мячей; suitcase=m/чемодан/чемодан/чемодана/чемоданов
blanket=n/одеяло/одеяло/одеяла/одеял
[adjectives: 1]
small=маленький; big=большой; sweet=сладкий; fresh=свежий; expensive=дорогой; cheap=дешёвый; beautiful=красивый
round=круглый; heavy=тяжёлый; strange=странный; green=зелёный; yellow=жёлтый; old=старый; new=новый; long=длинный
short=короткий; interesting=интересный; important=важный; dirty=грязный; red=красный; blue=синий; white=белый
black=чёрный; clean=чистый
[verbs: 3]
buy=купил/купила/купить; sell=продал/продала/продать; find=нашёл/нашла/найти; lose=потерял/потеряла/потерять
choose=выбрал/выбрала/выбрать; look_for=искал/искала/искать; order=заказал/заказала/заказать
examine=осмотрел/осмотрела/осмотреть; draw=нарисовал/нарисовала/нарисовать; praise=похвалил/похвалила/похвалить
see=увидел/увидела/увидеть; recognise=узнал/узнала/узнать; wash=вымыл/вымыла/вымыть
repair=починил/починила/починить; damage=повредил/повредила/повредить; read=прочитал/прочитала/прочитать
write=написал/написала/написать; eat=съел/съела/съесть; cut=разрезал/разрезала/разрезать
taste=попробовал/попробовала/попробовать; clean=почистил/почистила/почистить
[gifts: 2]
give=дал/дала; show=показал/показала; send=отправил/отправила; lend=одолжил/одолжила
[spots: 2]
leave=оставил/оставила; hide=спрятал/спрятала; find=нашёл/нашла
[meetings: 2]
meet=встретил/встретила; see=увидел/увидела; greet=поприветствовал/поприветствовала; recognise=узнал/узнала
look_for=искал/искала
[motions: 2]
go=пошёл/пошла; run=побежал/побежала; return=вернулся/вернулась; drive=поехал на машине/поехала на машине
walk=пошёл пешком/пошла пешком; come=пришёл/пришла
[activities: 2]
sleep=спал/спала; dance=танцевал/танцевала; sing=пел/пела; work=работал/работала; laugh=смеялся/смеялась
wait=ждал/ждала; rest=отдыхал/отдыхала; play=играл/играла; cry=плакал/плакала; study=учился/училась
[feelings: 2]
happy=был счастлив/была счастлива; sad=был грустен/была грустна; angry=был сердит/была сердита
worried=был обеспокоен/была обеспокоена; surprised=был удивлён/была удивлена; calm=был спокоен/была спокойна
tired=устал/устала; hungry=был голоден/была голодна; thirsty=хотел пить/хотела пить; sick=был болен/была больна
[places: 4]
market=на рынке/на рынок/m/рынок; garden=в саду/в сад/m/сад; park=в парке/в парк/m/парк
school=в школе/в школу/f/школа; hospital=в больнице/в больницу/f/больница
library=в библиотеке/в библиотеку/f/библиотека; station=на вокзале/на вокзал/m/вокзал
restaurant=в ресторане/в ресторан/m/ресторан; church=в церкви/в церковь/f/церковь
village=в деревне/в деревню/f/деревня; forest=в лесу/в лес/m/лес; beach=на пляже/на пляж/m/пляж
museum=в музее/в музей/m/музей; theatre=в театре/в театр/m/театр; kitchen=на кухне/на кухню/f/кухня
office=в офисе/в офис/m/офис; factory=на фабрике/на фабрику/f/фабрика; castle=в замке/в замок/m/замок
harbour=в порту/в порт/m/порт; hotel=в гостинице/в гостиницу/f/гостиница; farm=на ферме/на ферму/f/ферма
island=на острове/на остров/m/остров; airport=в аэропорту/в аэропорт/m/аэропорт; bridge=на мосту/на мост/m/мост
[states: 2]
empty=был пустым/была пустой; quiet=был тихим/была тихой; dirty=был грязным/была грязной
clean=был чистым/была чистой; beautiful=был красивым/была красивой; dangerous=был опасным/была опасной
dark=был тёмным/была тёмной; far=был далеко/была далеко
[landmarks: 1]
on_table=на столе; under_table=под столом; by_window=у окна; behind_door=за дверью; on_shelf=на полке
under_bed=под кроватью; in_cupboard=в шкафу; under_tree=под деревом; on_floor=на полу; by_stove=у плиты
[times: 1]
monday=в понедельник; wednesday=в среду; friday=в пятницу; saturday=в субботу; yesterday=вчера; morning=утром
evening=вечером; night=ночью; noon=в полдень; last_week=на прошлой неделе; last_month=в прошлом месяце
last_year=в прошлом году; spring=весной; summer=летом; autumn=осенью; winter=зимой
[weather: 1]
rain=шёл дождь; snow=шёл снег; wind=дул сильный ветер; cold=было холодно; heat=было жарко; fog=стоял туман
sun=светило солнце; storm=бушевала буря; clouds=было облачно
[adverbs: 1]
slowly=медленно; quickly=быстро; carefully=осторожно; quietly=тихо; secretly=тайно; suddenly=внезапно
gladly=охотно; patiently=терпеливо
[units: 2]
hour=часа/часов; day=дня/дней; week=недели/недель; month=месяца/месяцев
[numbers: 1]
2=два; 3=три; 4=четыре; 5=пять; 6=шесть; 7=семь; 8=восемь; 9=девять; 10=десять
"""

_ENDINGS = {
    # masculine ending -> feminine nominative, feminine accusative, neuter, nominative plural, genitive plural
    "hard": ("ая", "ую", "ое", "ые", "ых"),
    "velar": ("ая", "ую", "ое", "ие", "их"),
    "hissing": ("ая", "ую", "ее", "ие", "их"),
    "soft": ("яя", "юю", "ее", "ие", "их"),
}


def _adjective_type(masculine: str) -> str:
    """Which row of endings an adjective takes, from its masculine nominative."""
    ending, last = masculine[-2:], masculine[-3]
    if last in "кгх" or (last in "шжчщ" and ending == "ой"):
        return "velar"
    if last in "шжчщ":
        return "hissing"
    return "soft" if ending == "ий" else "hard"


def adjective(masculine: str, form: str) -> str:
    """An adjective in the form m, f, f-acc, n, plural or gen-plural (old: старый, старая, старую, ...)."""
    if form == "m":
        return masculine
    row = _ENDINGS[_adjective_type(masculine)]
    return masculine[:-2] + row[("f", "f-acc", "n", "plural", "gen-plural").index(form)]


class Russian(Realiser):
    """Russian; no articles; 2-4 take the genitive singular, 5-10 the genitive plural."""

    code = "ru"
    lexicon = Lexicon(TABLE)

    def thing(self, thing: Thing) -> str:
        """Accusative: старую лампу; три старые лампы; пять старых ламп."""
        gender, _, accusative, _, _ = self.lexicon["nouns"][thing.noun]
        if thing.number > 1:
            return self._counted(thing)
        masculine = self.word("adjectives", thing.adjective)
        return f"{adjective(masculine, 'f-acc' if gender == 'f' else gender)} {accusative}"

    def _nominative(self, thing: Thing) -> str:
        gender, nominative, *_ = self.lexicon["nouns"][thing.noun]
        if thing.number > 1:
            return self._counted(thing)
        return f"{adjective(self.word('adjectives', thing.adjective), gender)} {nominative}"

    def _counted(self, thing: Thing) -> str:
        gender, _, _, genitive, genitive_plural = self.lexicon["nouns"][thing.noun]
        masculine = self.word("adjectives", thing.adjective)
        number = self._number(thing.number, gender)
        if thing.number > 4:
            return f"{number} {adjective(masculine, 'gen-plural')} {genitive_plural}"
        # After 2-4 a feminine noun has its adjective in the nominative plural, the others in the genitive plural.
        return f"{number} {adjective(masculine, 'plural' if gender == 'f' else 'gen-plural')} {genitive}"

    def _number(self, number: int, gender: str) -> str:
        return "две" if number == 2 and gender == "f" else self.word("numbers", number)

    def _pronoun(self, subject: Subject) -> str:
        return "она" if is_female(subject) else "он"

    def _subject(self, subject: Subject) -> str:
        return self._pronoun(subject) if subject.pronoun else self.word("people", subject.person)

    def _past(self, section: str, verb: str, who: Subject | str) -> str:
        return self.word(section, verb, int(is_female(who)))

    def _with(self, person: str) -> str:
        name = self.word("people", person, 4)
        cluster = name[0] in "сзшж" and name[1] not in "аеёиоуыэюя"
        return f"{'со' if cluster else 'с'} {name}"

    def _opening(self, time: str, subject: Subject) -> str:
        return f"{self.word('times', time)} {self._subject(subject)}"

    def deal(self, s: Deal) -> str:
        """В понедельник учительница купила старый ключ на рынке."""
        deed = f"{self._past('verbs', s.verb, s.subject)} {self.thing(s.thing)} {self.word('places', s.place)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def manner(self, s: Manner) -> str:
        """Учительница медленно прочитала длинное письмо в парке."""
        deed = f"{self.word('adverbs', s.adverb)} {self._past('verbs', s.verb, s.subject)} {self.thing(s.thing)}"
        return f"{self._subject(s.subject)} {deed} {self.word('places', s.place)}"

    def give(self, s: Give) -> str:
        """Вечером учительница показала пекарю старый ключ."""
        deed = f"{self._past('gifts', s.verb, s.subject)} {self.word('people', s.receiver, 2)} {self.thing(s.thing)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def go(self, s: Go) -> str:
        """В пятницу учительница пошла пешком в порт с пекарем."""
        deed = f"{self._past('motions', s.motion, s.subject)} {self.word('places', s.place, 1)}"
        return f"{self._opening(s.time, s.subject)} {deed} {self._with(s.companion)}"

    def weather_scene(self, s: WeatherScene) -> str:
        """Утром в деревне шёл дождь, но учительница танцевала."""
        scene = f"{self.word('times', s.time)} {self.word('places', s.place)} {self.word('weather', s.weather)}"
        return f"{scene}, но {self._subject(s.subject)} {self._past('activities', s.activity, s.subject)}"

    def because(self, s: Because) -> str:
        """Учительница была счастлива, потому что пекарь нашёл красный мяч."""
        reason = f"{self.word('people', s.other)} {self._past('verbs', s.verb, s.other)} {self.thing(s.thing)}"
        feeling = self._past("feelings", s.feeling, s.subject)
        return f"{self._subject(s.subject)} {feeling}, потому что {reason}"

    def exists(self, s: Exists) -> str:
        """На кухне у окна было три старые лампы."""
        gender = self.word("nouns", s.thing.noun)
        verb = "было" if s.thing.number > 1 else {"m": "был", "f": "была", "n": "было"}[gender]
        return f"{self.word('places', s.place)} {self.word('landmarks', s.landmark)} {verb} {self._nominative(s.thing)}"

    def spot(self, s: Spot) -> str:
        """Учительница осторожно спрятала старый ключ под кроватью."""
        deed = f"{self.word('adverbs', s.adverb)} {self._past('spots', s.verb, s.subject)} {self.thing(s.thing)}"
        return f"{self._subject(s.subject)} {deed} {self.word('landmarks', s.landmark)}"

    def possession(self, s: Possession) -> str:
        """В библиотеке старая сумка учительницы была под столом."""
        verb = {"m": "был", "f": "была", "n": "было"}[self.word("nouns", s.thing.noun)]
        thing = f"{self._nominative(s.thing)} {self.word('people', s.owner, 1)}"
        return f"{self.word('places', s.place)} {thing} {verb} {self.word('landmarks', s.landmark)}"

    def want(self, s: Want) -> str:
        """Учительница хотела купить старый ключ на рынке."""
        verb = ("решил" if s.decided else "хотел") + ("а" if is_female(s.subject) else "")
        deed = f"{verb} {self.word('verbs', s.verb, 2)} {self.thing(s.thing)}"
        return f"{self._subject(s.subject)} {deed} {self.word('places', s.place)}"

    def tell(self, s: Tell) -> str:
        """Ночью учительница сказала пекарю, что замок был пустым."""
        verb = "сказала" if is_female(s.subject) else "сказал"
        _, _, gender, place = self.lexicon["places"][s.place]
        clause = f"{self._opening(s.time, s.subject)} {verb} {self.word('people', s.listener, 2)}"
        return f"{clause}, что {place} {self.word('states', s.state, int(gender == 'f'))}"

    def not_go(self, s: NotGo) -> str:
        """В понедельник учительница не пошла на рынок, потому что шёл дождь."""
        deed = f"не {'пошла' if is_female(s.subject) else 'пошёл'} {self.word('places', s.place, 1)}"
        return f"{self._opening(s.time, s.subject)} {deed}, потому что {self.word('weather', s.weather)}"

    def spend(self, s: Spend) -> str:
        """Учительница три часа танцевала с пекарем в парке."""
        gender = "f" if s.unit == "week" else "m"
        duration = f"{self._number(s.number, gender)} {self.word('units', s.unit, int(s.number > 4))}"
        deed = f"{self._past('activities', s.activity, s.subject)} {self._with(s.companion)}"
        return f"{self._subject(s.subject)} {duration} {deed} {self.word('places', s.place)}"

    def purpose(self, s: Purpose) -> str:
        """Учительница побежала на рынок, чтобы купить старый ключ."""
        clause = f"{self._past('motions', s.motion, s.subject)} {self.word('places', s.place, 1)}"
        return f"{self._subject(s.subject)} {clause}, чтобы {self.word('verbs', s.verb, 2)} {self.thing(s.thing)}"

    def meet(self, s: Meet) -> str:
        """Вчера учительница встретила пекаря на мосту."""
        deed = f"{self._past('meetings', s.verb, s.subject)} {self.word('people', s.person, 3)}"
        return f"{self._opening(s.time, s.subject)} {deed} {self.word('places', s.place)}"

    def although(self, s: Although) -> str:
        """Учительница была голодна, но она продала два круглых торта на рынке."""
        deed = f"{self._past('verbs', s.verb, s.subject)} {self.thing(s.thing)} {self.word('places', s.place)}"
        feeling = self._past("feelings", s.feeling, s.subject)
        return f"{self._subject(s.subject)} {feeling}, но {self._pronoun(s.subject)} {deed}"
