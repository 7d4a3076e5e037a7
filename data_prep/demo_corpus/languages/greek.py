"""Greek: lexicon and sentence patterns (three genders, articles that lose their -ν before some sounds)."""

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

# people: nominative, accusative, genitive. nouns: gender, nominative, accusative, plural. verbs: past, form after να.
# adjectives: masculine, feminine, neuter and their plurals. feelings: masculine, feminine; states: also neuter.
# places: gender, nominative, accusative.
TABLE = """
[people: 3]
teacher=δασκάλα/δασκάλα/δασκάλας; doctor=γιατρός/γιατρό/γιατρού; nurse=νοσοκόμα/νοσοκόμα/νοσοκόμας
baker=φούρναρης/φούρναρη/φούρναρη; neighbour=γειτόνισσα/γειτόνισσα/γειτόνισσας; farmer=αγρότης/αγρότη/αγρότη
student=φοιτήτρια/φοιτήτρια/φοιτήτριας; singer=τραγουδίστρια/τραγουδίστρια/τραγουδίστριας
driver=οδηγός/οδηγό/οδηγού; cook=μάγειρας/μάγειρα/μάγειρα; gardener=κηπουρός/κηπουρό/κηπουρού
grandmother=γιαγιά/γιαγιά/γιαγιάς; grandfather=παππούς/παππού/παππού; aunt=θεία/θεία/θείας; uncle=θείος/θείο/θείου
painter=ζωγράφος/ζωγράφο/ζωγράφου; writer=συγγραφέας/συγγραφέα/συγγραφέα; soldier=στρατιώτης/στρατιώτη/στρατιώτη
fisherman=ψαράς/ψαρά/ψαρά; tailor=ράφτης/ράφτη/ράφτη; lawyer=δικηγόρος/δικηγόρο/δικηγόρου
engineer=μηχανικός/μηχανικό/μηχανικού; carpenter=ξυλουργός/ξυλουργό/ξυλουργού
waiter=σερβιτόρος/σερβιτόρο/σερβιτόρου; queen=βασίλισσα/βασίλισσα/βασίλισσας; king=βασιλιάς/βασιλιά/βασιλιά
journalist=δημοσιογράφος/δημοσιογράφο/δημοσιογράφου; dancer=χορεύτρια/χορεύτρια/χορεύτριας
postman=ταχυδρόμος/ταχυδρόμο/ταχυδρόμου; policeman=αστυνομικός/αστυνομικό/αστυνομικού
princess=πριγκίπισσα/πριγκίπισσα/πριγκίπισσας; prince=πρίγκιπας/πρίγκιπα/πρίγκιπα
[nouns: 4]
apple=n/μήλο/μήλο/μήλα; cake=f/τούρτα/τούρτα/τούρτες; orange=n/πορτοκάλι/πορτοκάλι/πορτοκάλια; egg=n/αυγό/αυγό/αυγά
fish=n/ψάρι/ψάρι/ψάρια; tomato=f/ντομάτα/ντομάτα/ντομάτες; onion=n/κρεμμύδι/κρεμμύδι/κρεμμύδια
potato=f/πατάτα/πατάτα/πατάτες; lemon=n/λεμόνι/λεμόνι/λεμόνια; pear=n/αχλάδι/αχλάδι/αχλάδια
melon=n/πεπόνι/πεπόνι/πεπόνια; banana=f/μπανάνα/μπανάνα/μπανάνες; carrot=n/καρότο/καρότο/καρότα
cucumber=n/αγγούρι/αγγούρι/αγγούρια; book=n/βιβλίο/βιβλίο/βιβλία; letter=n/γράμμα/γράμμα/γράμματα
postcard=f/κάρτα/κάρτα/κάρτες; report=f/αναφορά/αναφορά/αναφορές; newspaper=f/εφημερίδα/εφημερίδα/εφημερίδες
map=m/χάρτης/χάρτη/χάρτες; coat=n/παλτό/παλτό/παλτά; hat=n/καπέλο/καπέλο/καπέλα
shirt=n/πουκάμισο/πουκάμισο/πουκάμισα; dress=n/φόρεμα/φόρεμα/φορέματα; scarf=n/κασκόλ/κασκόλ/κασκόλ
skirt=f/φούστα/φούστα/φούστες; bag=f/τσάντα/τσάντα/τσάντες; jacket=n/σακάκι/σακάκι/σακάκια
cup=n/φλιτζάνι/φλιτζάνι/φλιτζάνια; plate=n/πιάτο/πιάτο/πιάτα; knife=n/μαχαίρι/μαχαίρι/μαχαίρια
vase=n/βάζο/βάζο/βάζα; bottle=n/μπουκάλι/μπουκάλι/μπουκάλια; key=n/κλειδί/κλειδί/κλειδιά
lamp=f/λάμπα/λάμπα/λάμπες; alarm_clock=n/ξυπνητήρι/ξυπνητήρι/ξυπνητήρια; chair=f/καρέκλα/καρέκλα/καρέκλες
mirror=m/καθρέφτης/καθρέφτη/καθρέφτες; umbrella=f/ομπρέλα/ομπρέλα/ομπρέλες; guitar=f/κιθάρα/κιθάρα/κιθάρες
radio=n/ραδιόφωνο/ραδιόφωνο/ραδιόφωνα; bicycle=n/ποδήλατο/ποδήλατο/ποδήλατα; basket=n/καλάθι/καλάθι/καλάθια
ring=n/δαχτυλίδι/δαχτυλίδι/δαχτυλίδια; candle=n/κερί/κερί/κεριά; bell=f/καμπάνα/καμπάνα/καμπάνες
doll=f/κούκλα/κούκλα/κούκλες; ball=f/μπάλα/μπάλα/μπάλες; suitcase=f/βαλίτσα/βαλίτσα/βαλίτσες
blanket=f/κουβέρτα/κουβέρτα/κουβέρτες
[adjectives: 6]
small=μικρός/μικρή/μικρό/μικροί/μικρές/μικρά; big=μεγάλος/μεγάλη/μεγάλο/μεγάλοι/μεγάλες/μεγάλα
sweet=γλυκός/γλυκιά/γλυκό/γλυκοί/γλυκές/γλυκά; fresh=φρέσκος/φρέσκια/φρέσκο/φρέσκοι/φρέσκες/φρέσκα
expensive=ακριβός/ακριβή/ακριβό/ακριβοί/ακριβές/ακριβά; cheap=φτηνός/φτηνή/φτηνό/φτηνοί/φτηνές/φτηνά
beautiful=όμορφος/όμορφη/όμορφο/όμορφοι/όμορφες/όμορφα
round=στρογγυλός/στρογγυλή/στρογγυλό/στρογγυλοί/στρογγυλές/στρογγυλά
heavy=βαρύς/βαριά/βαρύ/βαριοί/βαριές/βαριά
strange=παράξενος/παράξενη/παράξενο/παράξενοι/παράξενες/παράξενα
green=πράσινος/πράσινη/πράσινο/πράσινοι/πράσινες/πράσινα
yellow=κίτρινος/κίτρινη/κίτρινο/κίτρινοι/κίτρινες/κίτρινα; old=παλιός/παλιά/παλιό/παλιοί/παλιές/παλιά
new=καινούριος/καινούρια/καινούριο/καινούριοι/καινούριες/καινούρια
long=μακρύς/μακριά/μακρύ/μακριοί/μακριές/μακριά; short=κοντός/κοντή/κοντό/κοντοί/κοντές/κοντά
interesting=ενδιαφέρων/ενδιαφέρουσα/ενδιαφέρον/ενδιαφέροντες/ενδιαφέρουσες/ενδιαφέροντα
important=σημαντικός/σημαντική/σημαντικό/σημαντικοί/σημαντικές/σημαντικά
dirty=βρώμικος/βρώμικη/βρώμικο/βρώμικοι/βρώμικες/βρώμικα; red=κόκκινος/κόκκινη/κόκκινο/κόκκινοι/κόκκινες/κόκκινα
blue=γαλάζιος/γαλάζια/γαλάζιο/γαλάζιοι/γαλάζιες/γαλάζια; white=άσπρος/άσπρη/άσπρο/άσπροι/άσπρες/άσπρα
black=μαύρος/μαύρη/μαύρο/μαύροι/μαύρες/μαύρα; clean=καθαρός/καθαρή/καθαρό/καθαροί/καθαρές/καθαρά
[verbs: 2]
buy=αγόρασε/αγοράσει; sell=πούλησε/πουλήσει; find=βρήκε/βρει; lose=έχασε/χάσει; choose=διάλεξε/διαλέξει
look_for=αναζήτησε/αναζητήσει; order=παρήγγειλε/παραγγείλει; examine=εξέτασε/εξετάσει; draw=ζωγράφισε/ζωγραφίσει
praise=επαίνεσε/επαινέσει; see=είδε/δει; recognise=αναγνώρισε/αναγνωρίσει; wash=έπλυνε/πλύνει
repair=επισκεύασε/επισκευάσει; damage=χάλασε/χαλάσει; read=διάβασε/διαβάσει; write=έγραψε/γράψει; eat=έφαγε/φάει
cut=έκοψε/κόψει; taste=δοκίμασε/δοκιμάσει; clean=καθάρισε/καθαρίσει
[gifts: 1]
give=έδωσε; show=έδειξε; send=έστειλε; lend=δάνεισε
[spots: 1]
leave=άφησε; hide=έκρυψε; find=βρήκε
[meetings: 1]
meet=συνάντησε; see=είδε; greet=χαιρέτησε; recognise=αναγνώρισε; look_for=αναζήτησε
[motions: 1]
go=πήγε; run=έτρεξε; return=επέστρεψε; drive=πήγε με αυτοκίνητο; walk=πήγε με τα πόδια; come=ήρθε
[activities: 1]
sleep=κοιμήθηκε; dance=χόρεψε; sing=τραγούδησε; work=δούλεψε; laugh=γέλασε; wait=περίμενε; rest=ξεκουράστηκε
play=έπαιξε; cry=έκλαψε; study=μελέτησε
[feelings: 2]
happy=χαρούμενος/χαρούμενη; sad=λυπημένος/λυπημένη; angry=θυμωμένος/θυμωμένη; worried=ανήσυχος/ανήσυχη
surprised=έκπληκτος/έκπληκτη; calm=ήρεμος/ήρεμη; tired=κουρασμένος/κουρασμένη; hungry=πεινασμένος/πεινασμένη
thirsty=διψασμένος/διψασμένη; sick=άρρωστος/άρρωστη
[places: 3]
market=f/αγορά/αγορά; garden=m/κήπος/κήπο; park=n/πάρκο/πάρκο; school=n/σχολείο/σχολείο
hospital=n/νοσοκομείο/νοσοκομείο; library=f/βιβλιοθήκη/βιβλιοθήκη; station=m/σταθμός/σταθμό
restaurant=n/εστιατόριο/εστιατόριο; church=f/εκκλησία/εκκλησία; village=n/χωριό/χωριό; forest=n/δάσος/δάσος
beach=f/παραλία/παραλία; museum=n/μουσείο/μουσείο; theatre=n/θέατρο/θέατρο; kitchen=f/κουζίνα/κουζίνα
office=n/γραφείο/γραφείο; factory=n/εργοστάσιο/εργοστάσιο; castle=n/κάστρο/κάστρο; harbour=n/λιμάνι/λιμάνι
hotel=n/ξενοδοχείο/ξενοδοχείο; farm=n/αγρόκτημα/αγρόκτημα; island=n/νησί/νησί; airport=n/αεροδρόμιο/αεροδρόμιο
bridge=f/γέφυρα/γέφυρα
[states: 3]
empty=άδειος/άδεια/άδειο; quiet=ήσυχος/ήσυχη/ήσυχο; dirty=βρώμικος/βρώμικη/βρώμικο; clean=καθαρός/καθαρή/καθαρό
beautiful=όμορφος/όμορφη/όμορφο; dangerous=επικίνδυνος/επικίνδυνη/επικίνδυνο; dark=σκοτεινός/σκοτεινή/σκοτεινό
far=μακριά/μακριά/μακριά
[landmarks: 1]
on_table=πάνω στο τραπέζι; under_table=κάτω από το τραπέζι; by_window=δίπλα στο παράθυρο
behind_door=πίσω από την πόρτα; on_shelf=πάνω στο ράφι; under_bed=κάτω από το κρεβάτι
in_cupboard=μέσα στο ντουλάπι; under_tree=κάτω από το δέντρο; on_floor=στο πάτωμα; by_stove=δίπλα στη σόμπα
[times: 1]
monday=τη Δευτέρα; wednesday=την Τετάρτη; friday=την Παρασκευή; saturday=το Σάββατο; yesterday=χθες
morning=το πρωί; evening=το βράδυ; night=τη νύχτα; noon=το μεσημέρι; last_week=την περασμένη εβδομάδα
last_month=τον περασμένο μήνα; last_year=πέρυσι; spring=την άνοιξη; summer=το καλοκαίρι; autumn=το φθινόπωρο
winter=τον χειμώνα
[weather: 1]
rain=έβρεχε; snow=χιόνιζε; wind=φυσούσε δυνατός άνεμος; cold=έκανε κρύο; heat=έκανε ζέστη; fog=είχε ομίχλη
sun=έλαμπε ο ήλιος; storm=είχε καταιγίδα; clouds=είχε συννεφιά
[adverbs: 1]
slowly=αργά; quickly=γρήγορα; carefully=προσεκτικά; quietly=αθόρυβα; secretly=κρυφά; suddenly=ξαφνικά
gladly=πρόθυμα; patiently=υπομονετικά
[units: 1]
hour=ώρες; day=μέρες; week=εβδομάδες; month=μήνες
[numbers: 2]
2=δύο/δύο; 3=τρεις/τρία; 4=τέσσερις/τέσσερα; 5=πέντε/πέντε; 6=έξι/έξι; 7=επτά/επτά; 8=οκτώ/οκτώ; 9=εννέα/εννέα
10=δέκα/δέκα
"""

_GENDERS = ("m", "f", "n")
_KEEPS_N = ("α", "ά", "ε", "έ", "η", "ή", "ι", "ί", "ο", "ό", "υ", "ύ", "ω", "ώ", "κ", "π", "τ", "ξ", "ψ",
            "γκ", "μπ", "ντ")  # fmt: skip


def feminine_article(next_word: str, prefix: str = "τη") -> str:
    """την before a vowel or κ π τ ξ ψ γκ μπ ντ (τσ, τζ begin with τ), else τη; likewise στην and στη."""
    return prefix + "ν" if next_word.lower().startswith(_KEEPS_N) else prefix


class Greek(Realiser):
    """Greek; subject pronouns are dropped; σε joins the article."""

    code = "el"
    lexicon = Lexicon(TABLE)

    def thing(self, thing: Thing) -> str:
        """Accusative: ένα παλιό κλειδί; την παλιά λάμπα; τρεις παλιές λάμπες."""
        gender, _, noun, plural = self.lexicon["nouns"][thing.noun]
        forms = self.lexicon["adjectives"][thing.adjective]
        if thing.number > 1:
            many = self._masculine_accusative_plural(forms[3]) if gender == "m" else forms[3 + _GENDERS.index(gender)]
            return f"{self._number(thing.number, gender)} {many} {plural}"
        # ενδιαφέρων is the one adjective whose masculine accusative is not the neuter form.
        masculine = forms[2] if not forms[0].endswith("ων") else forms[5]
        adjective = masculine if gender == "m" else forms[_GENDERS.index(gender)]
        return f"{self._article(gender, adjective, thing.definite)} {adjective} {noun}"

    def _article(self, gender: str, next_word: str, definite: bool) -> str:
        if not definite:
            return {"m": "έναν", "f": "μια", "n": "ένα"}[gender]
        return {"m": "τον", "n": "το"}.get(gender) or feminine_article(next_word)

    def _nominative(self, thing: Thing) -> str:
        gender, noun, _, plural = self.lexicon["nouns"][thing.noun]
        place = _GENDERS.index(gender)
        forms = self.lexicon["adjectives"][thing.adjective]
        if thing.number > 1:
            return f"{self._number(thing.number, gender)} {forms[3 + place]} {plural}"
        article = (("ο", "η", "το") if thing.definite else ("ένας", "μια", "ένα"))[place]
        return f"{article} {forms[place]} {noun}"

    def _masculine_accusative_plural(self, nominative: str) -> str:
        if nominative.endswith("οί"):
            return nominative[:-2] + "ούς"
        return nominative[:-2] + "ους" if nominative.endswith("οι") else nominative

    def _number(self, number: int, gender: str) -> str:
        return self.word("numbers", number, int(gender == "n"))

    def _person(self, person: str, case: str = "acc") -> str:
        name = self.word("people", person, ("nom", "acc", "gen").index(case))
        if case != "acc":
            return f"{({'nom': 'η', 'gen': 'της'} if is_female(person) else {'nom': 'ο', 'gen': 'του'})[case]} {name}"
        return f"{feminine_article(name) if is_female(person) else 'τον'} {name}"

    def _to_person(self, person: str) -> str:
        return "σ" + self._person(person)

    def _subject(self, subject: Subject) -> str:
        return "" if subject.pronoun else self._person(subject.person, "nom")

    def _at(self, place: str) -> str:
        gender, _, noun = self.lexicon["places"][place]
        article = {"m": "στον", "n": "στο"}.get(gender) or feminine_article(noun, "στη")
        return f"{article} {noun}"

    def _opening(self, time: str, subject: Subject) -> str:
        return join(self.word("times", time), self._subject(subject))

    def _feeling(self, subject: Subject, feeling: str) -> str:
        return join(self._subject(subject), "ήταν", self.word("feelings", feeling, int(is_female(subject))))

    def deal(self, s: Deal) -> str:
        """Τη Δευτέρα η δασκάλα αγόρασε ένα παλιό κλειδί στην αγορά."""
        deed = f"{self.word('verbs', s.verb)} {self.thing(s.thing)} {self._at(s.place)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def manner(self, s: Manner) -> str:
        """Η δασκάλα διάβασε αργά ένα μακρύ γράμμα στο πάρκο."""
        verb = f"{self.word('verbs', s.verb)} {self.word('adverbs', s.adverb)}"
        return join(self._subject(s.subject), verb, self.thing(s.thing), self._at(s.place))

    def give(self, s: Give) -> str:
        """Το βράδυ η δασκάλα έδειξε στον φούρναρη ένα παλιό κλειδί."""
        deed = f"{self.word('gifts', s.verb)} {self._to_person(s.receiver)} {self.thing(s.thing)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def go(self, s: Go) -> str:
        """Την Παρασκευή η δασκάλα πήγε με τα πόδια στο λιμάνι μαζί με τον φούρναρη."""
        deed = f"{self.word('motions', s.motion)} {self._at(s.place)} μαζί με {self._person(s.companion)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def weather_scene(self, s: WeatherScene) -> str:
        """Το πρωί έβρεχε στο χωριό, αλλά η δασκάλα χόρεψε."""
        scene = f"{self.word('times', s.time)} {self.word('weather', s.weather)} {self._at(s.place)}"
        return f"{scene}, αλλά {join(self._subject(s.subject), self.word('activities', s.activity))}"

    def because(self, s: Because) -> str:
        """Η δασκάλα ήταν χαρούμενη επειδή ο φούρναρης βρήκε μια κόκκινη μπάλα."""
        reason = f"{self._person(s.other, 'nom')} {self.word('verbs', s.verb)} {self.thing(s.thing)}"
        return f"{self._feeling(s.subject, s.feeling)} επειδή {reason}"

    def exists(self, s: Exists) -> str:
        """Στην κουζίνα υπήρχαν τρεις παλιές λάμπες δίπλα στο παράθυρο."""
        verb = "υπήρχαν" if s.thing.number > 1 else "υπήρχε"
        return f"{self._at(s.place)} {verb} {self._nominative(s.thing)} {self.word('landmarks', s.landmark)}"

    def spot(self, s: Spot) -> str:
        """Η δασκάλα έκρυψε προσεκτικά ένα παλιό κλειδί κάτω από το κρεβάτι."""
        verb = f"{self.word('spots', s.verb)} {self.word('adverbs', s.adverb)}"
        return join(self._subject(s.subject), verb, self.thing(s.thing), self.word("landmarks", s.landmark))

    def possession(self, s: Possession) -> str:
        """Στη βιβλιοθήκη η παλιά τσάντα της δασκάλας ήταν κάτω από το τραπέζι."""
        thing = self._nominative(Thing(s.thing.noun, s.thing.adjective, 1, True))
        where = self.word("landmarks", s.landmark)
        return f"{self._at(s.place)} {thing} {self._person(s.owner, 'gen')} ήταν {where}"

    def want(self, s: Want) -> str:
        """Η δασκάλα ήθελε να αγοράσει ένα παλιό κλειδί στην αγορά."""
        verb = f"{'αποφάσισε' if s.decided else 'ήθελε'} να {self.word('verbs', s.verb, 1)}"
        return join(self._subject(s.subject), verb, self.thing(s.thing), self._at(s.place))

    def tell(self, s: Tell) -> str:
        """Τη νύχτα η δασκάλα είπε στον φούρναρη ότι το κάστρο ήταν άδειο."""
        gender, noun, _ = self.lexicon["places"][s.place]
        place = _GENDERS.index(gender)
        clause = f"{self._opening(s.time, s.subject)} είπε {self._to_person(s.listener)} ότι"
        return f"{clause} {('ο', 'η', 'το')[place]} {noun} ήταν {self.word('states', s.state, place)}"

    def not_go(self, s: NotGo) -> str:
        """Τη Δευτέρα η δασκάλα δεν πήγε στην αγορά επειδή έβρεχε."""
        clause = f"{self._opening(s.time, s.subject)} δεν πήγε {self._at(s.place)}"
        return f"{clause} επειδή {self.word('weather', s.weather)}"

    def spend(self, s: Spend) -> str:
        """Η δασκάλα χόρεψε με τον φούρναρη στο πάρκο για τρεις ώρες."""
        duration = f"για {self._number(s.number, 'f')} {self.word('units', s.unit)}"
        deed = f"{self.word('activities', s.activity)} με {self._person(s.companion)}"
        return join(self._subject(s.subject), deed, self._at(s.place), duration)

    def purpose(self, s: Purpose) -> str:
        """Η δασκάλα έτρεξε στην αγορά για να αγοράσει ένα παλιό κλειδί."""
        clause = join(self._subject(s.subject), self.word("motions", s.motion), self._at(s.place))
        return f"{clause} για να {self.word('verbs', s.verb, 1)} {self.thing(s.thing)}"

    def meet(self, s: Meet) -> str:
        """Χθες η δασκάλα συνάντησε τον φούρναρη στη γέφυρα."""
        deed = f"{self.word('meetings', s.verb)} {self._person(s.person)} {self._at(s.place)}"
        return f"{self._opening(s.time, s.subject)} {deed}"

    def although(self, s: Although) -> str:
        """Η δασκάλα ήταν πεινασμένη, αλλά πούλησε δύο στρογγυλές τούρτες στην αγορά."""
        deed = f"{self.word('verbs', s.verb)} {self.thing(s.thing)} {self._at(s.place)}"
        return f"{self._feeling(s.subject, s.feeling)}, αλλά {deed}"
