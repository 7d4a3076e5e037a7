"""Samples what a document says: two to five sentence records with a shared cast, place and main thing.

Comes in: a seeded random.Random. Goes out: a document plan, still without words of any language.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from data_prep.demo_corpus.concepts import (
    ADJECTIVES_BY_CLASS,
    EMOTIONS,
    FINDING_ADVERBS,
    INDOOR_PLACES,
    INTENDED_VERBS,
    INVENTORY,
    JOINT_ACTIVITIES,
    NOUN_CLASSES,
    NUMBERS,
    OPEN_PLACES,
    VERB_CLASSES,
    WOODED_PLACES,
    noun_class,
)
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
    Sentence,
    Spend,
    Spot,
    Subject,
    Tell,
    Thing,
    Want,
    WeatherScene,
)

DocumentPlan = tuple[Sentence, ...]

SENTENCES_PER_DOCUMENT = (2, 3, 3, 4, 4, 5)
SINGLE_SHARE = 0.65
MAIN_THING_SHARE = 0.4
PROTAGONIST_SHARE = 0.75
MAIN_PLACE_SHARE = 0.4


@dataclass
class _Scene:
    """What the sentences of one document have in common; changes as sentences are added."""

    random: Random
    cast: tuple[str, str, str]
    main_place: str
    main_thing: Thing
    introduced: bool = False
    last_subject: str = ""

    def pick(self, section: str) -> str:
        return self.random.choice(INVENTORY[section])

    def place(self) -> str:
        return self.main_place if self.random.random() < MAIN_PLACE_SHARE else self.pick("places")

    def subject(self) -> Subject:
        person = self.cast[0] if self.random.random() < PROTAGONIST_SHARE else self.cast[1]
        return Subject(person, person == self.last_subject)

    def furnished_place(self) -> tuple[str, str]:
        """A place and a landmark that can be there: furniture indoors, a tree elsewhere."""
        landmark = self.pick("landmarks")
        return self.random.choice(WOODED_PLACES if landmark == "under_tree" else INDOOR_PLACES), landmark

    def other(self, subject: Subject) -> str:
        return self.random.choice([person for person in self.cast if person != subject.person])

    def thing(self, classes: Sequence[str]) -> Thing:
        """The document's main thing (definite after its first mention), or a new one of these classes."""
        if noun_class(self.main_thing.noun) in classes and self.random.random() < MAIN_THING_SHARE:
            definite, self.introduced = self.introduced, True
            return Thing(self.main_thing.noun, self.main_thing.adjective, 1, definite)
        number = 1 if self.random.random() < SINGLE_SHARE else self.random.choice(NUMBERS)
        return new_thing(self.random, classes, number)

    def deed(self, verbs: Sequence[str]) -> tuple[str, Thing]:
        verb = self.random.choice(verbs)
        return verb, self.thing(VERB_CLASSES[verb])


def new_thing(random: Random, classes: Sequence[str], number: int, definite: bool = False) -> Thing:
    """A thing of one of the classes, with an adjective that suits it; every noun is equally likely."""
    noun = random.choice([noun for name in classes for noun in NOUN_CLASSES[name]])
    return Thing(noun, random.choice(ADJECTIVES_BY_CLASS[noun_class(noun)]), number, definite)


def sample_document(random: Random) -> DocumentPlan:
    """A plan of two to five sentences, no two of the same pattern; a pronoun only where its person just acted."""
    first, second, third = random.sample(INVENTORY["people"], 3)
    main_thing = new_thing(random, tuple(NOUN_CLASSES), 1)
    scene = _Scene(random, (first, second, third), random.choice(INVENTORY["places"]), main_thing)
    count = random.choice(SENTENCES_PER_DOCUMENT)
    plan: list[Sentence] = []
    for pattern in random.sample(_PATTERNS, count):
        sentence = pattern(scene)
        subject = getattr(sentence, "subject", None)
        scene.last_subject = subject.person if isinstance(subject, Subject) else ""
        plan.append(sentence)
    return tuple(plan)


def _deal(scene: _Scene) -> Sentence:
    verb, thing = scene.deed(INVENTORY["verbs"])
    return Deal(scene.pick("times"), scene.subject(), verb, thing, scene.place())


def _manner(scene: _Scene) -> Sentence:
    verb, thing = scene.deed(INTENDED_VERBS)
    return Manner(scene.subject(), scene.pick("adverbs"), verb, thing, scene.place())


def _give(scene: _Scene) -> Sentence:
    subject = scene.subject()
    thing = scene.thing(tuple(NOUN_CLASSES))
    return Give(scene.pick("times"), subject, scene.pick("gifts"), thing, scene.other(subject))


def _go(scene: _Scene) -> Sentence:
    subject = scene.subject()
    return Go(scene.pick("times"), subject, scene.pick("motions"), scene.place(), scene.other(subject))


def _weather_scene(scene: _Scene) -> Sentence:
    time, weather, activity = scene.pick("times"), scene.pick("weather"), scene.pick("activities")
    place = scene.main_place if scene.main_place in OPEN_PLACES else scene.random.choice(OPEN_PLACES)
    return WeatherScene(time, place, weather, scene.subject(), activity)


def _because(scene: _Scene) -> Sentence:
    subject = scene.subject()
    verb, thing = scene.deed(INVENTORY["verbs"])
    return Because(subject, scene.random.choice(EMOTIONS), scene.other(subject), verb, thing)


def _exists(scene: _Scene) -> Sentence:
    number = 1 if scene.random.random() < SINGLE_SHARE else scene.random.choice(NUMBERS)
    thing = new_thing(scene.random, tuple(NOUN_CLASSES), number)
    place, landmark = scene.furnished_place()
    return Exists(place, landmark, thing)


def _spot(scene: _Scene) -> Sentence:
    thing = scene.thing(tuple(NOUN_CLASSES))
    verb = scene.pick("spots")
    adverb = scene.random.choice(FINDING_ADVERBS if verb == "find" else INVENTORY["adverbs"])
    return Spot(scene.subject(), adverb, verb, thing, scene.pick("landmarks"))


def _possession(scene: _Scene) -> Sentence:
    owner = scene.random.choice(scene.cast)
    thing = new_thing(scene.random, tuple(NOUN_CLASSES), 1, definite=True)
    place, landmark = scene.furnished_place()
    return Possession(owner, thing, landmark, place)


def _want(scene: _Scene) -> Sentence:
    verb, thing = scene.deed(INTENDED_VERBS)
    return Want(scene.subject(), scene.random.random() < 0.5, verb, thing, scene.place())


def _tell(scene: _Scene) -> Sentence:
    subject = scene.subject()
    return Tell(scene.pick("times"), subject, scene.other(subject), scene.place(), scene.pick("states"))


def _not_go(scene: _Scene) -> Sentence:
    return NotGo(scene.pick("times"), scene.subject(), scene.place(), scene.pick("weather"))


def _spend(scene: _Scene) -> Sentence:
    subject = scene.subject()
    number, unit = scene.random.choice(NUMBERS), scene.pick("units")
    return Spend(subject, scene.random.choice(JOINT_ACTIVITIES), scene.other(subject), scene.place(), number, unit)


def _purpose(scene: _Scene) -> Sentence:
    verb, thing = scene.deed(INTENDED_VERBS)
    return Purpose(scene.subject(), scene.pick("motions"), scene.place(), verb, thing)


def _meet(scene: _Scene) -> Sentence:
    subject = scene.subject()
    return Meet(scene.pick("times"), subject, scene.pick("meetings"), scene.other(subject), scene.place())


def _although(scene: _Scene) -> Sentence:
    verb, thing = scene.deed(INVENTORY["verbs"])
    return Although(scene.subject(), scene.pick("feelings"), verb, thing, scene.place())


_PATTERNS: tuple[Callable[[_Scene], Sentence], ...] = (
    _deal, _manner, _give, _go, _weather_scene, _because, _exists, _spot, _possession, _want, _tell, _not_go, _spend,
    _purpose, _meet, _although,
)  # fmt: skip
