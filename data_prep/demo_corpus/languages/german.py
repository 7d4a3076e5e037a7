"""German: lexicon and sentence patterns (three genders, four cases, verb second, verb last in subordinate clauses)."""

from __future__ import annotations

from data_prep.demo_corpus.realiser import Lexicon, Realiser, is_female, join
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

# people: nominative, accusative and dative, genitive. nouns: gender, singular, plural. verbs: past, infinitive.
# spots and motions: past, separated particle or "-". places: in/at, to, nominative with article.
# weather: after the verb's inversion with {} for the place; subordinate clause. adjectives: stem.
TABLE = """
[people: 3]
teacher=Lehrerin/Lehrerin/Lehrerin; doctor=Arzt/Arzt/Arztes; nurse=Krankenschwester/Krankenschwester/Krankenschwester
baker=Bäcker/Bäcker/Bäckers; neighbour=Nachbarin/Nachbarin/Nachbarin; farmer=Bauer/Bauern/Bauern
student=Studentin/Studentin/Studentin; singer=Sängerin/Sängerin/Sängerin; driver=Fahrer/Fahrer/Fahrers
cook=Koch/Koch/Kochs; gardener=Gärtner/Gärtner/Gärtners; grandmother=Großmutter/Großmutter/Großmutter
grandfather=Großvater/Großvater/Großvaters; aunt=Tante/Tante/Tante; uncle=Onkel/Onkel/Onkels
painter=Malerin/Malerin/Malerin; writer=Schriftstellerin/Schriftstellerin/Schriftstellerin
soldier=Soldat/Soldaten/Soldaten; fisherman=Fischer/Fischer/Fischers; tailor=Schneider/Schneider/Schneiders
lawyer=Anwalt/Anwalt/Anwalts; engineer=Ingenieur/Ingenieur/Ingenieurs; carpenter=Tischler/Tischler/Tischlers
waiter=Kellner/Kellner/Kellners; queen=Königin/Königin/Königin; king=König/König/Königs
journalist=Journalistin/Journalistin/Journalistin; dancer=Tänzerin/Tänzerin/Tänzerin
postman=Briefträger/Briefträger/Briefträgers; policeman=Polizist/Polizisten/Polizisten
princess=Prinzessin/Prinzessin/Prinzessin; prince=Prinz/Prinzen/Prinzen
[nouns: 3]
apple=m/Apfel/Äpfel; cake=m/Kuchen/Kuchen; orange=f/Orange/Orangen; egg=n/Ei/Eier; fish=m/Fisch/Fische
tomato=f/Tomate/Tomaten; onion=f/Zwiebel/Zwiebeln; potato=f/Kartoffel/Kartoffeln; lemon=f/Zitrone/Zitronen
pear=f/Birne/Birnen; melon=f/Melone/Melonen; banana=f/Banane/Bananen; carrot=f/Karotte/Karotten
cucumber=f/Gurke/Gurken; book=n/Buch/Bücher; letter=m/Brief/Briefe; postcard=f/Postkarte/Postkarten
report=m/Bericht/Berichte; newspaper=f/Zeitung/Zeitungen; map=f/Landkarte/Landkarten; coat=m/Mantel/Mäntel
hat=m/Hut/Hüte; shirt=n/Hemd/Hemden; dress=n/Kleid/Kleider; scarf=m/Schal/Schals; skirt=m/Rock/Röcke
bag=f/Tasche/Taschen; jacket=f/Jacke/Jacken; cup=f/Tasse/Tassen; plate=m/Teller/Teller; knife=n/Messer/Messer
vase=f/Vase/Vasen; bottle=f/Flasche/Flaschen; key=m/Schlüssel/Schlüssel; lamp=f/Lampe/Lampen
alarm_clock=m/Wecker/Wecker; chair=m/Stuhl/Stühle; mirror=m/Spiegel/Spiegel; umbrella=m/Regenschirm/Regenschirme
guitar=f/Gitarre/Gitarren; radio=n/Radio/Radios; bicycle=n/Fahrrad/Fahrräder; basket=m/Korb/Körbe; ring=m/Ring/Ringe
candle=f/Kerze/Kerzen; bell=f/Glocke/Glocken; doll=f/Puppe/Puppen; ball=m/Ball/Bälle; suitcase=m/Koffer/Koffer
blanket=f/Decke/Decken
[adjectives: 1]
small=klein; big=groß; sweet=süß; fresh=frisch; expensive=teur; cheap=billig; beautiful=schön; round=rund
heavy=schwer; strange=seltsam; green=grün; yellow=gelb; old=alt; new=neu; long=lang; short=kurz
interesting=interessant; important=wichtig; dirty=schmutzig; red=rot; blue=blau; white=weiß; black=schwarz
clean=sauber
[verbs: 2]
buy=kaufte/kaufen; sell=verkaufte/verkaufen; find=fand/finden; lose=verlor/verlieren; choose=wählte/wählen
look_for=suchte/suchen; order=bestellte/bestellen; examine=untersuchte/untersuchen; draw=zeichnete/zeichnen
praise=lobte/loben; see=sah/sehen; recognise=erkannte/erkennen; wash=wusch/waschen; repair=reparierte/reparieren
damage=beschädigte/beschädigen; read=las/lesen; write=schrieb/schreiben; eat=aß/essen; cut=schnitt/schneiden
taste=probierte/probieren; clean=putzte/putzen
[gifts: 1]
give=gab; show=zeigte; send=schickte; lend=lieh
[spots: 2]
leave=ließ/zurück; hide=versteckte/-; find=fand/-
[meetings: 1]
meet=traf; see=sah; greet=begrüßte; recognise=erkannte; look_for=suchte
[motions: 2]
go=ging/-; run=rannte/-; return=kehrte/zurück; drive=fuhr/-; walk=ging zu Fuß/-; come=kam/-
[activities: 1]
sleep=schlief; dance=tanzte; sing=sang; work=arbeitete; laugh=lachte; wait=wartete; rest=ruhte; play=spielte
cry=weinte; study=lernte
[feelings: 1]
happy=glücklich; sad=traurig; angry=wütend; worried=besorgt; surprised=überrascht; calm=ruhig; tired=müde
hungry=hungrig; thirsty=durstig; sick=krank
[places: 3]
market=auf dem Markt/zum Markt/der Markt; garden=im Garten/in den Garten/der Garten; park=im Park/in den Park/der Park
school=in der Schule/zur Schule/die Schule; hospital=im Krankenhaus/ins Krankenhaus/das Krankenhaus
library=in der Bibliothek/in die Bibliothek/die Bibliothek; station=am Bahnhof/zum Bahnhof/der Bahnhof
restaurant=im Restaurant/ins Restaurant/das Restaurant; church=in der Kirche/in die Kirche/die Kirche
village=im Dorf/ins Dorf/das Dorf; forest=im Wald/in den Wald/der Wald; beach=am Strand/zum Strand/der Strand
museum=im Museum/ins Museum/das Museum; theatre=im Theater/ins Theater/das Theater
kitchen=in der Küche/in die Küche/die Küche; office=im Büro/ins Büro/das Büro
factory=in der Fabrik/in die Fabrik/die Fabrik; castle=im Schloss/ins Schloss/das Schloss
harbour=im Hafen/zum Hafen/der Hafen; hotel=im Hotel/ins Hotel/das Hotel
farm=auf dem Bauernhof/zum Bauernhof/der Bauernhof; island=auf der Insel/auf die Insel/die Insel
airport=am Flughafen/zum Flughafen/der Flughafen; bridge=auf der Brücke/zur Brücke/die Brücke
[states: 1]
empty=leer; quiet=still; dirty=schmutzig; clean=sauber; beautiful=schön; dangerous=gefährlich; dark=dunkel
far=weit weg
[landmarks: 1]
on_table=auf dem Tisch; under_table=unter dem Tisch; by_window=neben dem Fenster; behind_door=hinter der Tür
on_shelf=auf dem Regal; under_bed=unter dem Bett; in_cupboard=im Schrank; under_tree=unter dem Baum
on_floor=auf dem Boden; by_stove=neben dem Herd
[times: 1]
monday=am Montag; wednesday=am Mittwoch; friday=am Freitag; saturday=am Samstag; yesterday=gestern
morning=am Morgen; evening=am Abend; night=in der Nacht; noon=am Mittag; last_week=letzte Woche
last_month=letzten Monat; last_year=letztes Jahr; spring=im Frühling; summer=im Sommer; autumn=im Herbst
winter=im Winter
[weather: 2]
rain=regnete es {}/es regnete; snow=schneite es {}/es schneite
wind=wehte {} ein starker Wind/ein starker Wind wehte; cold=war es {} kalt/es kalt war; heat=war es {} heiß/es heiß war
fog=war es {} neblig/es neblig war; sun=schien {} die Sonne/die Sonne schien
storm=gab es {} einen Sturm/es einen Sturm gab; clouds=war es {} bewölkt/es bewölkt war
[adverbs: 1]
slowly=langsam; quickly=schnell; carefully=vorsichtig; quietly=leise; secretly=heimlich; suddenly=plötzlich
gladly=gern; patiently=geduldig
[units: 1]
hour=Stunden; day=Tage; week=Wochen; month=Monate
[numbers: 1]
2=zwei; 3=drei; 4=vier; 5=fünf; 6=sechs; 7=sieben; 8=acht; 9=neun; 10=zehn
"""

# (article, adjective ending) of the accusative singular by gender.
_INDEFINITE = {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")}
_DEFINITE = {"m": ("den", "en"), "f": ("die", "e"), "n": ("das", "e")}
_NOMINATIVE = {"m": "der", "f": "die", "n": "das"}


class German(Realiser):
    """German; the finite verb stands second, so a time in front moves the subject behind it."""

    code = "de"
    lexicon = Lexicon(TABLE)

    def thing(self, thing: Thing) -> str:
        """Accusative: einen alten Schlüssel; den alten Schlüssel; drei alte Schlüssel."""
        stem = self.word("adjectives", thing.adjective)
        gender, singular, plural = self.lexicon["nouns"][thing.noun]
        if thing.number > 1:
            return f"{self.word('numbers', thing.number)} {stem}e {plural}"
        article, ending = (_DEFINITE if thing.definite else _INDEFINITE)[gender]
        return f"{article} {stem}{ending} {singular}"

    def _person(self, person: str, case: str) -> str:
        articles = {"nom": "der", "acc": "den", "dat": "dem", "gen": "des"}
        feminine = {"nom": "die", "acc": "die", "dat": "der", "gen": "der"}
        form = {"nom": 0, "acc": 1, "dat": 1, "gen": 2}[case]
        return f"{(feminine if is_female(person) else articles)[case]} {self.word('people', person, form)}"

    def _pronoun(self, subject: Subject) -> str:
        return "sie" if is_female(subject) else "er"

    def _subject(self, subject: Subject) -> str:
        return self._pronoun(subject) if subject.pronoun else self._person(subject.person, "nom")

    def _particle(self, section: str, verb: str) -> str:
        particle = self.word(section, verb, 1)
        return "" if particle == "-" else particle

    def _moved(self, motion: str, subject: str, *rest: str) -> str:
        """Inverted clause of motion: verb, subject, the rest, and at its end what belongs to the verb."""
        verb, _, manner = self.word("motions", motion).partition(" ")
        return join(verb, subject, *rest[:-1], manner, rest[-1], self._particle("motions", motion))

    def deal(self, s: Deal) -> str:
        """Am Montag kaufte die Lehrerin einen alten Schlüssel auf dem Markt."""
        verb, subject = self.word("verbs", s.verb), self._subject(s.subject)
        return f"{self.word('times', s.time)} {verb} {subject} {self.thing(s.thing)} {self.word('places', s.place)}"

    def manner(self, s: Manner) -> str:
        """Die Lehrerin las langsam einen langen Brief im Park (adverb and place in the middle field)."""
        verb = f"{self.word('verbs', s.verb)} {self.word('places', s.place)} {self.word('adverbs', s.adverb)}"
        return f"{self._subject(s.subject)} {verb} {self.thing(s.thing)}"

    def give(self, s: Give) -> str:
        """Am Abend zeigte die Lehrerin dem Bäcker einen alten Schlüssel."""
        clause = f"{self.word('times', s.time)} {self.word('gifts', s.verb)} {self._subject(s.subject)}"
        return f"{clause} {self._person(s.receiver, 'dat')} {self.thing(s.thing)}"

    def go(self, s: Go) -> str:
        """Am Freitag ging die Lehrerin mit dem Bäcker zu Fuß zum Hafen."""
        companion, place = "mit " + self._person(s.companion, "dat"), self.word("places", s.place, 1)
        return f"{self.word('times', s.time)} {self._moved(s.motion, self._subject(s.subject), companion, place)}"

    def weather_scene(self, s: WeatherScene) -> str:
        """Am Morgen regnete es im Dorf, aber die Lehrerin tanzte."""
        scene = self.word("weather", s.weather).format(self.word("places", s.place))
        deed = f"{self._subject(s.subject)} {self.word('activities', s.activity)}"
        return f"{self.word('times', s.time)} {scene}, aber {deed}"

    def because(self, s: Because) -> str:
        """Die Lehrerin war glücklich, weil der Bäcker einen roten Ball fand."""
        reason = f"{self._person(s.other, 'nom')} {self.thing(s.thing)} {self.word('verbs', s.verb)}"
        return f"{self._subject(s.subject)} war {self.word('feelings', s.feeling)}, weil {reason}"

    def exists(self, s: Exists) -> str:
        """In der Küche gab es neben dem Fenster drei alte Lampen."""
        return f"{self.word('places', s.place)} gab es {self.word('landmarks', s.landmark)} {self.thing(s.thing)}"

    def spot(self, s: Spot) -> str:
        """Die Lehrerin versteckte vorsichtig einen alten Schlüssel unter dem Bett."""
        verb = f"{self.word('spots', s.verb)} {self.word('adverbs', s.adverb)}"
        where = self.word("landmarks", s.landmark)
        return join(self._subject(s.subject), verb, self.thing(s.thing), where, self._particle("spots", s.verb))

    def possession(self, s: Possession) -> str:
        """In der Bibliothek war die alte Tasche der Lehrerin unter dem Tisch."""
        gender, noun, _ = self.lexicon["nouns"][s.thing.noun]
        # After a definite article the nominative singular ends in -e in all three genders.
        thing = f"{_NOMINATIVE[gender]} {self.word('adjectives', s.thing.adjective)}e {noun}"
        where = self.word("landmarks", s.landmark)
        return f"{self.word('places', s.place)} war {thing} {self._person(s.owner, 'gen')} {where}"

    def want(self, s: Want) -> str:
        """Die Lehrerin wollte auf dem Markt einen alten Schlüssel kaufen (beschloss, ... zu kaufen)."""
        rest = f"{self.word('places', s.place)} {self.thing(s.thing)}"
        infinitive = self.word("verbs", s.verb, 1)
        if s.decided:
            return f"{self._subject(s.subject)} beschloss, {rest} zu {infinitive}"
        return f"{self._subject(s.subject)} wollte {rest} {infinitive}"

    def tell(self, s: Tell) -> str:
        """In der Nacht sagte die Lehrerin dem Bäcker, dass das Schloss leer war."""
        clause = f"{self.word('times', s.time)} sagte {self._subject(s.subject)} {self._person(s.listener, 'dat')}"
        return f"{clause}, dass {self.word('places', s.place, 2)} {self.word('states', s.state)} war"

    def not_go(self, s: NotGo) -> str:
        """Am Montag ging die Lehrerin nicht zum Markt, weil es regnete."""
        clause = f"{self.word('times', s.time)} ging {self._subject(s.subject)} nicht {self.word('places', s.place, 1)}"
        return f"{clause}, weil {self.word('weather', s.weather, 1)}"

    def spend(self, s: Spend) -> str:
        """Die Lehrerin tanzte drei Stunden lang mit dem Bäcker im Park."""
        duration = f"{self.word('numbers', s.number)} {self.word('units', s.unit)} lang"
        clause = f"{self._subject(s.subject)} {self.word('activities', s.activity)} {duration}"
        return f"{clause} mit {self._person(s.companion, 'dat')} {self.word('places', s.place)}"

    def purpose(self, s: Purpose) -> str:
        """Die Lehrerin rannte zum Markt, um einen alten Schlüssel zu kaufen."""
        verb = join(self.word("motions", s.motion), self.word("places", s.place, 1))
        clause = join(self._subject(s.subject), verb, self._particle("motions", s.motion))
        return f"{clause}, um {self.thing(s.thing)} zu {self.word('verbs', s.verb, 1)}"

    def meet(self, s: Meet) -> str:
        """Gestern traf die Lehrerin den Bäcker auf der Brücke."""
        clause = f"{self.word('times', s.time)} {self.word('meetings', s.verb)} {self._subject(s.subject)}"
        return f"{clause} {self._person(s.person, 'acc')} {self.word('places', s.place)}"

    def although(self, s: Although) -> str:
        """Die Lehrerin war hungrig, aber sie verkaufte auf dem Markt zwei runde Kuchen."""
        deed = f"{self._pronoun(s.subject)} {self.word('verbs', s.verb)} {self.word('places', s.place)}"
        feeling = self.word("feelings", s.feeling)
        return f"{self._subject(s.subject)} war {feeling}, aber {deed} {self.thing(s.thing)}"
