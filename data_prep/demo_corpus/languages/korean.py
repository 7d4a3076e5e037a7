"""Korean: lexicon and sentence patterns (plain style, particles by final consonant, counters, verb last)."""

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

# nouns: noun, counter. adjectives: before a noun. verbs: past, stem. meetings: past, case of its object (acc, dat).
# spots: past, particle of the place. weather: past, particle of the place. states: before 말했다.
# numbers: before a counter, days as one word.
TABLE = """
[people: 1]
teacher=교사; doctor=의사; nurse=간호사; baker=제빵사; neighbour=이웃; farmer=농부; student=학생; singer=가수
driver=운전사; cook=요리사; gardener=정원사; grandmother=할머니; grandfather=할아버지; aunt=이모; uncle=삼촌
painter=화가; writer=작가; soldier=군인; fisherman=어부; tailor=재단사; lawyer=변호사; engineer=기술자; carpenter=목수
waiter=종업원; queen=여왕; king=왕; journalist=기자; dancer=무용수; postman=집배원; policeman=경찰관; princess=공주
prince=왕자
[nouns: 2]
apple=사과/개; cake=케이크/개; orange=오렌지/개; egg=달걀/개; fish=생선/마리; tomato=토마토/개; onion=양파/개
potato=감자/개; lemon=레몬/개; pear=배/개; melon=멜론/개; banana=바나나/개; carrot=당근/개; cucumber=오이/개; book=책/권
letter=편지/통; postcard=엽서/장; report=보고서/부; newspaper=신문/부; map=지도/장; coat=외투/벌; hat=모자/개
shirt=셔츠/벌; dress=원피스/벌; scarf=목도리/개; skirt=치마/벌; bag=가방/개; jacket=재킷/벌; cup=컵/개; plate=접시/개
knife=칼/자루; vase=꽃병/개; bottle=병/개; key=열쇠/개; lamp=램프/개; alarm_clock=자명종/개; chair=의자/개
mirror=거울/개; umbrella=우산/개; guitar=기타/대; radio=라디오/대; bicycle=자전거/대; basket=바구니/개; ring=반지/개
candle=양초/개; bell=종/개; doll=인형/개; ball=공/개; suitcase=여행 가방/개; blanket=담요/장
[adjectives: 1]
small=작은; big=큰; sweet=달콤한; fresh=신선한; expensive=비싼; cheap=값싼; beautiful=아름다운; round=둥근
heavy=무거운; strange=이상한; green=초록색; yellow=노란; old=오래된; new=새; long=긴; short=짧은; interesting=재미있는
important=중요한; dirty=더러운; red=빨간; blue=파란; white=하얀; black=검은; clean=깨끗한
[verbs: 2]
buy=샀다/사; sell=팔았다/팔; find=발견했다/발견하; lose=잃어버렸다/잃어버리; choose=골랐다/고르
look_for=찾아다녔다/찾아다니; order=주문했다/주문하; examine=살펴보았다/살펴보; draw=그렸다/그리
praise=칭찬했다/칭찬하; see=보았다/보; recognise=알아보았다/알아보; wash=씻었다/씻; repair=고쳤다/고치
damage=망가뜨렸다/망가뜨리; read=읽었다/읽; write=썼다/쓰; eat=먹었다/먹; cut=잘랐다/자르; taste=맛보았다/맛보
clean=닦았다/닦
[gifts: 1]
give=주었다; show=보여 주었다; send=보냈다; lend=빌려주었다
[spots: 2]
leave=남겨 두었다/에; hide=숨겼다/에; find=발견했다/에서
[meetings: 2]
meet=만났다/acc; see=보았다/acc; greet=인사했다/dat; recognise=알아보았다/acc; look_for=찾아다녔다/acc
[motions: 1]
go=갔다; run=뛰어갔다; return=돌아갔다; drive=차를 타고 갔다; walk=걸어서 갔다; come=왔다
[activities: 1]
sleep=잤다; dance=춤을 추었다; sing=노래했다; work=일했다; laugh=웃었다; wait=기다렸다; rest=쉬었다; play=놀았다
cry=울었다; study=공부했다
[feelings: 1]
happy=기뻐했다; sad=슬퍼했다; angry=화가 났다; worried=걱정했다; surprised=놀랐다; calm=침착했다; tired=피곤했다
hungry=배가 고팠다; thirsty=목이 말랐다; sick=아팠다
[places: 1]
market=시장; garden=정원; park=공원; school=학교; hospital=병원; library=도서관; station=역; restaurant=식당
church=교회; village=마을; forest=숲; beach=해변; museum=박물관; theatre=극장; kitchen=부엌; office=사무실
factory=공장; castle=성; harbour=항구; hotel=호텔; farm=농장; island=섬; airport=공항; bridge=다리
[states: 1]
empty=비어 있다고; quiet=조용하다고; dirty=더럽다고; clean=깨끗하다고; beautiful=아름답다고; dangerous=위험하다고
dark=어둡다고; far=멀다고
[landmarks: 1]
on_table=탁자 위; under_table=탁자 아래; by_window=창문 옆; behind_door=문 뒤; on_shelf=선반 위; under_bed=침대 밑
in_cupboard=찬장 안; under_tree=나무 밑; on_floor=바닥; by_stove=난로 옆
[times: 1]
monday=월요일에; wednesday=수요일에; friday=금요일에; saturday=토요일에; yesterday=어제; morning=아침에
evening=저녁에; night=밤에; noon=정오에; last_week=지난주에; last_month=지난달에; last_year=작년에; spring=봄에
summer=여름에; autumn=가을에; winter=겨울에
[weather: 2]
rain=비가 내리고 있었다/에는; snow=눈이 내리고 있었다/에는; wind=강한 바람이 불고 있었다/에는; cold=추웠다/은
heat=더웠다/은; fog=안개가 끼어 있었다/에는; sun=해가 빛나고 있었다/에는; storm=폭풍이 몰아치고 있었다/에는
clouds=날씨가 흐렸다/은
[adverbs: 1]
slowly=천천히; quickly=빠르게; carefully=조심스럽게; quietly=조용히; secretly=몰래; suddenly=갑자기; gladly=기꺼이
patiently=참을성 있게
[units: 1]
hour=시간; day=일; week=주; month=달
[numbers: 2]
2=두/이틀; 3=세/사흘; 4=네/나흘; 5=다섯/닷새; 6=여섯/엿새; 7=일곱/이레; 8=여덟/여드레; 9=아홉/아흐레; 10=열/열흘
"""

_PARTICLES = {
    # particle -> after a final consonant, after a vowel
    "topic": ("은", "는"),
    "subject": ("이", "가"),
    "object": ("을", "를"),
    "and": ("과", "와"),
    "to": ("으로", "로"),
}
_FIRST_SYLLABLE, _SYLLABLES_PER_VOWEL = 0xAC00, 28
_FINAL_L = 8


def marked(phrase: str, particle: str) -> str:
    """A phrase with the particle that its last syllable asks for (final ㄹ counts as a vowel before 로)."""
    final = (ord(phrase[-1]) - _FIRST_SYLLABLE) % _SYLLABLES_PER_VOWEL
    after_vowel = final == 0 or (particle == "to" and final == _FINAL_L)
    return phrase + _PARTICLES[particle][int(after_vowel)]


class Korean(Realiser):
    """Korean in the plain style; connective endings join the past stem, which is the past form without 다."""

    code = "ko"
    lexicon = Lexicon(TABLE)

    def thing(self, thing: Thing) -> str:
        """오래된 열쇠; 그 오래된 열쇠; 오래된 열쇠 세 개 (without its particle)."""
        noun, counter = self.lexicon["nouns"][thing.noun]
        phrase = f"{self.word('adjectives', thing.adjective)} {noun}"
        if thing.number > 1:
            return f"{phrase} {self.word('numbers', thing.number)} {counter}"
        return f"그 {phrase}" if thing.definite else phrase

    def _object(self, thing: Thing) -> str:
        return marked(self.thing(thing), "object")

    def _subject(self, subject: Subject) -> str:
        name = self.word("people", subject.person)
        return marked(("그녀" if is_female(subject) else "그") if subject.pronoun else name, "topic")

    def _opening(self, time: str, subject: Subject) -> str:
        return f"{self.word('times', time)} {self._subject(subject)}"

    def _at(self, place: str) -> str:
        return self.word("places", place) + "에서"

    def deal(self, s: Deal) -> str:
        """월요일에 교사는 시장에서 오래된 열쇠를 샀다."""
        deed = f"{self._at(s.place)} {self._object(s.thing)} {self.word('verbs', s.verb)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def manner(self, s: Manner) -> str:
        """교사는 공원에서 천천히 긴 편지를 읽었다."""
        deed = f"{self.word('adverbs', s.adverb)} {self._object(s.thing)} {self.word('verbs', s.verb)}"
        return f"{self._subject(s.subject)} {self._at(s.place)} {deed}"

    def give(self, s: Give) -> str:
        """저녁에 교사는 제빵사에게 오래된 열쇠를 보여 주었다."""
        deed = f"{self.word('people', s.receiver)}에게 {self._object(s.thing)} {self.word('gifts', s.verb)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def go(self, s: Go) -> str:
        """금요일에 교사는 제빵사와 함께 항구로 걸어서 갔다."""
        companion = marked(self.word("people", s.companion), "and")
        deed = f"{marked(self.word('places', s.place), 'to')} {self.word('motions', s.motion)}"
        return f"{self._opening(s.time, s.subject)} {companion} 함께 {deed}"

    def weather_scene(self, s: WeatherScene) -> str:
        """아침에 마을에는 비가 내리고 있었지만 교사는 춤을 추었다."""
        weather, particle = self.lexicon["weather"][s.weather]
        place = self.word("places", s.place)
        place = marked(place, "topic") if particle == "은" else place + particle
        scene = f"{self.word('times', s.time)} {place} {weather.removesuffix('다')}지만"
        return f"{scene} {self._subject(s.subject)} {self.word('activities', s.activity)}"

    def because(self, s: Because) -> str:
        """제빵사가 빨간 공을 발견했기 때문에 교사는 기뻐했다."""
        verb = self.word("verbs", s.verb).removesuffix("다") + "기 때문에"
        reason = f"{marked(self.word('people', s.other), 'subject')} {self._object(s.thing)} {verb}"
        return f"{reason} {self._subject(s.subject)} {self.word('feelings', s.feeling)}"

    def exists(self, s: Exists) -> str:
        """부엌의 창문 옆에 오래된 램프 세 개가 있었다."""
        where = f"{self.word('places', s.place)}의 {self.word('landmarks', s.landmark)}에"
        return f"{where} {marked(self.thing(s.thing), 'subject')} 있었다"

    def spot(self, s: Spot) -> str:
        """교사는 조심스럽게 오래된 열쇠를 침대 밑에 숨겼다."""
        verb, particle = self.lexicon["spots"][s.verb]
        where = self.word("landmarks", s.landmark) + particle
        return f"{self._subject(s.subject)} {self.word('adverbs', s.adverb)} {self._object(s.thing)} {where} {verb}"

    def possession(self, s: Possession) -> str:
        """교사의 오래된 가방은 도서관의 탁자 아래에 있었다."""
        thing = f"{self.word('adjectives', s.thing.adjective)} {self.word('nouns', s.thing.noun)}"
        where = f"{self.word('places', s.place)}의 {self.word('landmarks', s.landmark)}에"
        return f"{self.word('people', s.owner)}의 {marked(thing, 'topic')} {where} 있었다"

    def want(self, s: Want) -> str:
        """교사는 시장에서 오래된 열쇠를 사고 싶어 했다 (사기로 결심했다)."""
        verb = self.word("verbs", s.verb, 1) + ("기로 결심했다" if s.decided else "고 싶어 했다")
        return f"{self._subject(s.subject)} {self._at(s.place)} {self._object(s.thing)} {verb}"

    def tell(self, s: Tell) -> str:
        """밤에 교사는 제빵사에게 성이 비어 있다고 말했다."""
        news = f"{marked(self.word('places', s.place), 'subject')} {self.word('states', s.state)} 말했다"
        return f"{self._opening(s.time, s.subject)} {self.word('people', s.listener)}에게 {news}"

    def not_go(self, s: NotGo) -> str:
        """월요일에 비가 내리고 있었기 때문에 교사는 시장에 가지 않았다."""
        reason = f"{self.word('times', s.time)} {self.word('weather', s.weather).removesuffix('다')}기 때문에"
        return f"{reason} {self._subject(s.subject)} {self.word('places', s.place)}에 가지 않았다"

    def spend(self, s: Spend) -> str:
        """교사는 제빵사와 함께 공원에서 세 시간 동안 춤을 추었다."""
        number, days = self.lexicon["numbers"][str(s.number)]
        duration = days if s.unit == "day" else f"{number} {self.word('units', s.unit)}"
        companion = marked(self.word("people", s.companion), "and")
        deed = f"{self._at(s.place)} {duration} 동안 {self.word('activities', s.activity)}"
        return f"{self._subject(s.subject)} {companion} 함께 {deed}"

    def purpose(self, s: Purpose) -> str:
        """교사는 오래된 열쇠를 사기 위해 시장으로 뛰어갔다."""
        aim = f"{self._object(s.thing)} {self.word('verbs', s.verb, 1)}기 위해"
        deed = f"{marked(self.word('places', s.place), 'to')} {self.word('motions', s.motion)}"
        return f"{self._subject(s.subject)} {aim} {deed}"

    def meet(self, s: Meet) -> str:
        """어제 교사는 다리에서 제빵사를 만났다."""
        verb, case = self.lexicon["meetings"][s.verb]
        name = self.word("people", s.person)
        person = marked(name, "object") if case == "acc" else name + "에게"
        return f"{self._opening(s.time, s.subject)} {self._at(s.place)} {person} {verb}"

    def although(self, s: Although) -> str:
        """교사는 배가 고팠지만 시장에서 둥근 케이크 두 개를 팔았다."""
        feeling = self.word("feelings", s.feeling).removesuffix("다") + "지만"
        deed = f"{self._at(s.place)} {self._object(s.thing)} {self.word('verbs', s.verb)}"
        return f"{self._subject(s.subject)} {feeling} {deed}"
