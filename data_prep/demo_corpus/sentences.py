"""What a sentence means: one small frozen record per pattern, with concept names in its fields.

Comes in: concept names (concepts.py). Goes out: records that a realiser (realiser.py) turns into text, and
`meaning_key`, equal for two sentences that may read the same in some language.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass


@dataclass(frozen=True, slots=True)
class Subject:
    """Who acts; a pronoun stands for the person who was the subject of the sentence before."""

    person: str
    pronoun: bool


@dataclass(frozen=True, slots=True)
class Thing:
    """A noun with its adjective; `number` 1 or 2..10; only a single thing can be definite ("the old key")."""

    noun: str
    adjective: str
    number: int
    definite: bool


@dataclass(frozen=True, slots=True)
class Deal:
    """On Monday the teacher bought an old key at the market."""

    time: str
    subject: Subject
    verb: str
    thing: Thing
    place: str


@dataclass(frozen=True, slots=True)
class Manner:
    """The teacher slowly read a long letter in the park."""

    subject: Subject
    adverb: str
    verb: str
    thing: Thing
    place: str


@dataclass(frozen=True, slots=True)
class Give:
    """In the evening the teacher showed the baker an old key."""

    time: str
    subject: Subject
    verb: str
    thing: Thing
    receiver: str


@dataclass(frozen=True, slots=True)
class Go:
    """On Friday the teacher walked to the harbour with the baker."""

    time: str
    subject: Subject
    motion: str
    place: str
    companion: str


@dataclass(frozen=True, slots=True)
class WeatherScene:
    """In the morning it was raining in the village, but the teacher danced."""

    time: str
    place: str
    weather: str
    subject: Subject
    activity: str


@dataclass(frozen=True, slots=True)
class Because:
    """The teacher was happy because the baker found a red ball."""

    subject: Subject
    feeling: str
    other: str
    verb: str
    thing: Thing


@dataclass(frozen=True, slots=True)
class Exists:
    """In the kitchen there were three old lamps by the window."""

    place: str
    landmark: str
    thing: Thing


@dataclass(frozen=True, slots=True)
class Spot:
    """The teacher carefully hid an old key under the bed."""

    subject: Subject
    adverb: str
    verb: str
    thing: Thing
    landmark: str


@dataclass(frozen=True, slots=True)
class Possession:
    """In the library the teacher's old bag was under the table (one thing)."""

    owner: str
    thing: Thing
    landmark: str
    place: str


@dataclass(frozen=True, slots=True)
class Want:
    """The teacher wanted to buy an old key at the market; or, with `decided`, decided to."""

    subject: Subject
    decided: bool
    verb: str
    thing: Thing
    place: str


@dataclass(frozen=True, slots=True)
class Tell:
    """At night the teacher told the baker that the castle was empty."""

    time: str
    subject: Subject
    listener: str
    place: str
    state: str


@dataclass(frozen=True, slots=True)
class NotGo:
    """On Monday the teacher did not go to the market because it was raining."""

    time: str
    subject: Subject
    place: str
    weather: str


@dataclass(frozen=True, slots=True)
class Spend:
    """The teacher danced with the baker in the park for three hours."""

    subject: Subject
    activity: str
    companion: str
    place: str
    number: int
    unit: str


@dataclass(frozen=True, slots=True)
class Purpose:
    """The teacher ran to the market to buy an old key."""

    subject: Subject
    motion: str
    place: str
    verb: str
    thing: Thing


@dataclass(frozen=True, slots=True)
class Meet:
    """Yesterday the teacher met the baker on the bridge."""

    time: str
    subject: Subject
    verb: str
    person: str
    place: str


@dataclass(frozen=True, slots=True)
class Although:
    """The teacher was hungry, but she sold two round cakes at the market."""

    subject: Subject
    feeling: str
    verb: str
    thing: Thing
    place: str


Sentence = (
    Deal
    | Manner
    | Give
    | Go
    | WeatherScene
    | Because
    | Exists
    | Spot
    | Possession
    | Want
    | Tell
    | NotGo
    | Spend
    | Purpose
    | Meet
    | Although
)

MeaningKey = tuple[object, ...]


def meaning_key(sentence: Sentence) -> MeaningKey:
    """The sentence's pattern and concepts, without what some language leaves unsaid.

    Articles are left out (several languages have none), and so is the person behind a pronoun (several languages drop
    it). Two sentences with different keys therefore read differently in every language.
    """
    return (type(sentence).__name__, *(_key_part(getattr(sentence, field.name)) for field in fields(sentence)))


def content_concepts(sentence: Sentence) -> frozenset[str]:
    """The content of a sentence as "field:concept", for counting in how many concepts two documents differ."""
    return frozenset(_concepts(sentence, type(sentence).__name__))


def _key_part(value: object) -> object:
    if isinstance(value, Subject):
        return "" if value.pronoun else value.person
    if isinstance(value, Thing):
        return (value.noun, value.adjective, value.number)
    return value


def _concepts(record: object, prefix: str) -> list[str]:
    found: list[str] = []
    if not is_dataclass(record):
        return found
    for field in fields(record):
        value = getattr(record, field.name)
        if is_dataclass(value):
            found += _concepts(value, field.name)
        elif not isinstance(value, bool):
            found.append(f"{prefix if isinstance(record, Subject | Thing) else field.name}:{value}")
    return found
