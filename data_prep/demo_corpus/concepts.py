"""The concepts a document can be about, independent of any language.

Comes in: nothing. Goes out: the inventory (section -> concept names) that every language's lexicon must cover, and which
concepts go together (a lamp can be repaired, an apple cannot).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Sex = Literal["f", "m"]

PEOPLE: Mapping[str, Sex] = {
    "teacher": "f", "doctor": "m", "nurse": "f", "baker": "m", "neighbour": "f", "farmer": "m", "student": "f",
    "singer": "f", "driver": "m", "cook": "m", "gardener": "m", "grandmother": "f", "grandfather": "m", "aunt": "f",
    "uncle": "m", "painter": "f", "writer": "f", "soldier": "m", "fisherman": "m", "tailor": "m", "lawyer": "m",
    "engineer": "m", "carpenter": "m", "waiter": "m", "queen": "f", "king": "m", "journalist": "f", "dancer": "f",
    "postman": "m", "policeman": "m", "princess": "f", "prince": "m",
}  # fmt: skip
"""People by role. The sex is part of the meaning; languages without gender simply do not show it."""

NOUN_CLASSES: Mapping[str, tuple[str, ...]] = {
    "food": tuple("apple cake orange egg fish tomato onion potato lemon pear melon banana carrot cucumber".split()),
    "text": tuple("book letter postcard report".split()),
    "print": tuple("newspaper map".split()),
    "clothing": tuple("coat hat shirt dress scarf skirt bag jacket".split()),
    "dish": tuple("cup plate knife vase bottle".split()),
    "thing": tuple(
        "key lamp alarm_clock chair mirror umbrella guitar radio bicycle basket ring candle bell doll ball suitcase "
        "blanket".split()
    ),
}

ADJECTIVES_BY_CLASS: Mapping[str, tuple[str, ...]] = {
    "food": tuple("small big sweet fresh expensive cheap beautiful round heavy strange green yellow".split()),
    "text": tuple("old new long short interesting important strange beautiful expensive".split()),
    "print": tuple("old new big small interesting important strange cheap dirty".split()),
    "clothing": tuple(
        "old new long short red blue green white black yellow beautiful expensive cheap dirty clean strange".split()
    ),
    "dish": tuple("old new small big red blue green white black yellow beautiful heavy expensive dirty clean".split()),
    "thing": tuple(
        "old new small big red blue green white black yellow beautiful heavy expensive cheap dirty strange".split()
    ),
}

_ANYTHING = tuple(NOUN_CLASSES)
VERB_CLASSES: Mapping[str, tuple[str, ...]] = {
    "buy": _ANYTHING, "sell": _ANYTHING, "find": _ANYTHING, "lose": _ANYTHING, "choose": _ANYTHING,
    "look_for": _ANYTHING, "order": _ANYTHING, "examine": _ANYTHING, "draw": _ANYTHING, "praise": _ANYTHING,
    "see": _ANYTHING, "recognise": _ANYTHING, "wash": ("food", "dish"), "repair": ("thing",),
    "damage": ("thing",), "read": ("text", "print"), "write": ("text",), "eat": ("food",), "cut": ("food",),
    "taste": ("food",), "clean": ("dish", "thing"),
}  # fmt: skip
"""What can be done to which class of thing."""

INTENDED_VERBS: tuple[str, ...] = tuple(
    verb for verb in VERB_CLASSES if verb not in {"find", "lose", "damage", "see", "recognise"}
)
"""Verbs that make sense after "wanted to", "in order to" and with an adverb of manner."""

EMOTIONS: tuple[str, ...] = ("happy", "sad", "angry", "worried", "surprised", "calm")
"""Feelings that another person's deed can cause."""

NUMBERS: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8, 9, 10)

_NOUNS = tuple(noun for nouns in NOUN_CLASSES.values() for noun in nouns)
_ADJECTIVES = tuple(dict.fromkeys(adjective for group in ADJECTIVES_BY_CLASS.values() for adjective in group))

INVENTORY: Mapping[str, tuple[str, ...]] = {
    "people": tuple(PEOPLE),
    "nouns": _NOUNS,
    "adjectives": _ADJECTIVES,
    "verbs": tuple(VERB_CLASSES),
    "gifts": ("give", "show", "send", "lend"),
    "spots": ("leave", "hide", "find"),
    "meetings": ("meet", "see", "greet", "recognise", "look_for"),
    "motions": ("go", "run", "return", "drive", "walk", "come"),
    "activities": ("sleep", "dance", "sing", "work", "laugh", "wait", "rest", "play", "cry", "study"),
    "feelings": (*EMOTIONS, "tired", "hungry", "thirsty", "sick"),
    "places": tuple(
        "market garden park school hospital library station restaurant church village forest beach museum theatre "
        "kitchen office factory castle harbour hotel farm island airport bridge".split()
    ),
    "states": ("empty", "quiet", "dirty", "clean", "beautiful", "dangerous", "dark", "far"),
    "landmarks": tuple(
        "on_table under_table by_window behind_door on_shelf under_bed in_cupboard under_tree on_floor by_stove".split()
    ),
    "times": tuple(
        "monday wednesday friday saturday yesterday morning evening night noon last_week last_month last_year spring "
        "summer autumn winter".split()
    ),
    "weather": ("rain", "snow", "wind", "cold", "heat", "fog", "sun", "storm", "clouds"),
    "adverbs": ("slowly", "quickly", "carefully", "quietly", "secretly", "suddenly", "gladly", "patiently"),
    "units": ("hour", "day", "week", "month"),
    "numbers": tuple(str(number) for number in NUMBERS),
}
"""Section of a lexicon -> the concepts it must hold, no more and no fewer."""


def noun_class(noun: str) -> str:
    """The class (food, text, ...) a noun belongs to; KeyError for a noun that is not in the inventory."""
    for name, nouns in NOUN_CLASSES.items():
        if noun in nouns:
            return name
    raise KeyError(noun)
