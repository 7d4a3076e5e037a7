"""English: lexicon and sentence patterns."""

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

# people: name. nouns: singular, plural. verbs: past, infinitive. places: preposition, noun.
TABLE = """
[people: 1]
teacher=teacher; doctor=doctor; nurse=nurse; baker=baker; neighbour=neighbour; farmer=farmer; student=student
singer=singer; driver=driver; cook=cook; gardener=gardener; grandmother=grandmother; grandfather=grandfather
aunt=aunt; uncle=uncle; painter=painter; writer=writer; soldier=soldier; fisherman=fisherman; tailor=tailor
lawyer=lawyer; engineer=engineer; carpenter=carpenter; waiter=waiter; queen=queen; king=king
journalist=journalist; dancer=dancer; postman=postman; policeman=policeman; princess=princess; prince=prince
[nouns: 2]
apple=apple/apples; cake=cake/cakes; orange=orange/oranges; egg=egg/eggs; fish=fish/fish; tomato=tomato/tomatoes
onion=onion/onions; potato=potato/potatoes; lemon=lemon/lemons; pear=pear/pears; melon=melon/melons
banana=banana/bananas; carrot=carrot/carrots; cucumber=cucumber/cucumbers
book=book/books; letter=letter/letters; postcard=postcard/postcards; report=report/reports
newspaper=newspaper/newspapers; map=map/maps
coat=coat/coats; hat=hat/hats; shirt=shirt/shirts; dress=dress/dresses; scarf=scarf/scarves; skirt=skirt/skirts
bag=bag/bags; jacket=jacket/jackets
cup=cup/cups; plate=plate/plates; knife=knife/knives; vase=vase/vases; bottle=bottle/bottles
key=key/keys; lamp=lamp/lamps; alarm_clock=alarm clock/alarm clocks; chair=chair/chairs; mirror=mirror/mirrors
umbrella=umbrella/umbrellas; guitar=guitar/guitars; radio=radio/radios; bicycle=bicycle/bicycles
basket=basket/baskets; ring=ring/rings; candle=candle/candles; bell=bell/bells; doll=doll/dolls; ball=ball/balls
suitcase=suitcase/suitcases; blanket=blanket/blankets
[adjectives: 1]
small=small; big=big; sweet=sweet; fresh=fresh; expensive=expensive; cheap=cheap; beautiful=beautiful; round=round
heavy=heavy; strange=strange; green=green; yellow=yellow; old=old; new=new; long=long; short=short
interesting=interesting; important=important; dirty=dirty; red=red; blue=blue; white=white; black=black; clean=clean
[verbs: 2]
buy=bought/buy; sell=sold/sell; find=found/find; lose=lost/lose; choose=chose/choose; look_for=looked for/look for
order=ordered/order; examine=examined/examine; draw=drew/draw; praise=praised/praise; see=saw/see
recognise=recognised/recognise; wash=washed/wash; repair=repaired/repair; damage=damaged/damage; read=read/read
write=wrote/write; eat=ate/eat; cut=cut/cut; taste=tasted/taste; clean=cleaned/clean
[gifts: 1]
give=gave; show=showed; send=sent; lend=lent
[spots: 1]
leave=left; hide=hid; find=found
[meetings: 1]
meet=met; see=saw; greet=greeted; recognise=recognised; look_for=looked for
[motions: 1]
go=went; run=ran; return=returned; drive=drove; walk=walked; come=came
[activities: 1]
sleep=slept; dance=danced; sing=sang; work=worked; laugh=laughed; wait=waited; rest=rested; play=played; cry=cried
study=studied
[feelings: 1]
happy=happy; sad=sad; angry=angry; worried=worried; surprised=surprised; calm=calm; tired=tired; hungry=hungry
thirsty=thirsty; sick=sick
[places: 2]
market=at/market; garden=in/garden; park=in/park; school=at/school; hospital=in/hospital; library=in/library
station=at/station; restaurant=in/restaurant; church=in/church; village=in/village; forest=in/forest; beach=on/beach
museum=in/museum; theatre=in/theatre; kitchen=in/kitchen; office=in/office; factory=in/factory; castle=in/castle
harbour=in/harbour; hotel=in/hotel; farm=on/farm; island=on/island; airport=at/airport; bridge=on/bridge
[states: 1]
empty=empty; quiet=quiet; dirty=dirty; clean=clean; beautiful=beautiful; dangerous=dangerous; dark=dark; far=far away
[landmarks: 1]
on_table=on the table; under_table=under the table; by_window=by the window; behind_door=behind the door
on_shelf=on the shelf; under_bed=under the bed; in_cupboard=in the cupboard; under_tree=under the tree
on_floor=on the floor; by_stove=by the stove
[times: 1]
monday=on Monday; wednesday=on Wednesday; friday=on Friday; saturday=on Saturday; yesterday=yesterday
morning=in the morning; evening=in the evening; night=at night; noon=at noon; last_week=last week
last_month=last month; last_year=last year; spring=in spring; summer=in summer; autumn=in autumn; winter=in winter
[weather: 1]
rain=it was raining; snow=it was snowing; wind=a strong wind was blowing; cold=it was cold; heat=it was hot
fog=it was foggy; sun=the sun was shining; storm=there was a storm; clouds=it was cloudy
[adverbs: 1]
slowly=slowly; quickly=quickly; carefully=carefully; quietly=quietly; secretly=secretly; suddenly=suddenly
gladly=gladly; patiently=patiently
[units: 1]
hour=hours; day=days; week=weeks; month=months
[numbers: 1]
2=two; 3=three; 4=four; 5=five; 6=six; 7=seven; 8=eight; 9=nine; 10=ten
"""


class English(Realiser):
    """English: articles by sound, no gender on nouns."""

    code = "en"
    lexicon = Lexicon(TABLE)

    def thing(self, thing: Thing) -> str:
        """An old key; the old key; three old keys."""
        adjective = self.word("adjectives", thing.adjective)
        noun = self.word("nouns", thing.noun, int(thing.number > 1))
        if thing.number > 1:
            return f"{self.word('numbers', thing.number)} {adjective} {noun}"
        article = "the" if thing.definite else "an" if adjective[0] in "aeiou" else "a"
        return f"{article} {adjective} {noun}"

    def _person(self, person: str) -> str:
        return "the " + self.word("people", person)

    def _pronoun(self, subject: Subject) -> str:
        return "she" if is_female(subject) else "he"

    def _subject(self, subject: Subject) -> str:
        return self._pronoun(subject) if subject.pronoun else self._person(subject.person)

    def _at(self, place: str) -> str:
        return f"{self.word('places', place)} the {self.word('places', place, 1)}"

    def _to(self, place: str) -> str:
        return f"to the {self.word('places', place, 1)}"

    def _time(self, time: str) -> str:
        return self.word("times", time)

    def deal(self, s: Deal) -> str:
        """On Monday the teacher bought an old key at the market."""
        subject, verb = self._subject(s.subject), self.word("verbs", s.verb)
        return f"{self._time(s.time)} {subject} {verb} {self.thing(s.thing)} {self._at(s.place)}"

    def manner(self, s: Manner) -> str:
        """The teacher slowly read a long letter in the park."""
        adverb, verb = self.word("adverbs", s.adverb), self.word("verbs", s.verb)
        return f"{self._subject(s.subject)} {adverb} {verb} {self.thing(s.thing)} {self._at(s.place)}"

    def give(self, s: Give) -> str:
        """In the evening the teacher showed an old key to the baker."""
        clause = f"{self._time(s.time)} {self._subject(s.subject)} {self.word('gifts', s.verb)}"
        return f"{clause} {self.thing(s.thing)} to {self._person(s.receiver)}"

    def go(self, s: Go) -> str:
        """On Friday the teacher walked to the harbour with the baker."""
        clause = f"{self._time(s.time)} {self._subject(s.subject)} {self.word('motions', s.motion)}"
        return f"{clause} {self._to(s.place)} with {self._person(s.companion)}"

    def weather_scene(self, s: WeatherScene) -> str:
        """In the morning it was raining in the village, but the teacher danced."""
        scene = f"{self._time(s.time)} {self.word('weather', s.weather)} {self._at(s.place)}"
        return f"{scene}, but {self._subject(s.subject)} {self.word('activities', s.activity)}"

    def because(self, s: Because) -> str:
        """The teacher was happy because the baker found a red ball."""
        reason = f"{self._person(s.other)} {self.word('verbs', s.verb)} {self.thing(s.thing)}"
        return f"{self._subject(s.subject)} was {self.word('feelings', s.feeling)} because {reason}"

    def exists(self, s: Exists) -> str:
        """In the kitchen there were three old lamps by the window."""
        verb = "were" if s.thing.number > 1 else "was"
        return f"{self._at(s.place)} there {verb} {self.thing(s.thing)} {self.word('landmarks', s.landmark)}"

    def spot(self, s: Spot) -> str:
        """The teacher carefully hid an old key under the bed."""
        verb = f"{self.word('adverbs', s.adverb)} {self.word('spots', s.verb)}"
        return f"{self._subject(s.subject)} {verb} {self.thing(s.thing)} {self.word('landmarks', s.landmark)}"

    def possession(self, s: Possession) -> str:
        """In the library the teacher's old bag was under the table."""
        noun = f"{self.word('adjectives', s.thing.adjective)} {self.word('nouns', s.thing.noun)}"
        return f"{self._at(s.place)} {self._person(s.owner)}'s {noun} was {self.word('landmarks', s.landmark)}"

    def want(self, s: Want) -> str:
        """The teacher wanted to buy an old key at the market."""
        verb = f"{'decided' if s.decided else 'wanted'} to {self.word('verbs', s.verb, 1)}"
        return f"{self._subject(s.subject)} {verb} {self.thing(s.thing)} {self._at(s.place)}"

    def tell(self, s: Tell) -> str:
        """At night the teacher told the baker that the castle was empty."""
        clause = f"{self._time(s.time)} {self._subject(s.subject)} told {self._person(s.listener)} that"
        return f"{clause} the {self.word('places', s.place, 1)} was {self.word('states', s.state)}"

    def not_go(self, s: NotGo) -> str:
        """On Monday the teacher did not go to the market because it was raining."""
        clause = f"{self._time(s.time)} {self._subject(s.subject)} did not go {self._to(s.place)}"
        return f"{clause} because {self.word('weather', s.weather)}"

    def spend(self, s: Spend) -> str:
        """The teacher danced with the baker in the park for three hours."""
        duration = f"for {self.word('numbers', s.number)} {self.word('units', s.unit)}"
        clause = f"{self._subject(s.subject)} {self.word('activities', s.activity)} with {self._person(s.companion)}"
        return f"{clause} {self._at(s.place)} {duration}"

    def purpose(self, s: Purpose) -> str:
        """The teacher ran to the market to buy an old key."""
        clause = f"{self._subject(s.subject)} {self.word('motions', s.motion)} {self._to(s.place)}"
        return f"{clause} to {self.word('verbs', s.verb, 1)} {self.thing(s.thing)}"

    def meet(self, s: Meet) -> str:
        """Yesterday the teacher met the baker on the bridge."""
        clause = f"{self._time(s.time)} {self._subject(s.subject)} {self.word('meetings', s.verb)}"
        return f"{clause} {self._person(s.person)} {self._at(s.place)}"

    def although(self, s: Although) -> str:
        """The teacher was hungry, but she sold two round cakes at the market."""
        deed = f"{self._pronoun(s.subject)} {self.word('verbs', s.verb)} {self.thing(s.thing)} {self._at(s.place)}"
        return f"{self._subject(s.subject)} was {self.word('feelings', s.feeling)}, but {deed}"
