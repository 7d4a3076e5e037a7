"""The concepts a document can be about, independent of any language.

Comes in: nothing. Goes out: the inventory (section -> concept names) that every language's lexicon must cover, and
which concepts go together (a lamp can be repaired, an apple cannot).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Sex = Literal["f", "m"]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PEOPLE: Mapping[str, Sex] = {
    "teacher": "f", "doctor": "m", "nurse": "f", "baker": "m", "neighbour": "f", "farmer": "m", "student": "f",
    "singer": "f", "driver": "m", "cook": "m", "gardener": "m", "grandmother": "f", "grandfather": "m", "aunt": "f",
    "uncle": "m", "painter": "f", "writer": "f", "soldier": "m", "fisherman": "m", "tailor": "m", "lawyer": "m",
    "engineer": "m", "carpenter": "m", "waiter": "m", "queen": "f", "king": "m", "journalist": "f", "dancer": "f",
    "postman": "m", "policeman": "m", "princess": "f", "prince": "m",
}  # fmt: skip
"""People by role. The sex is part of the meaning; languages without gender simply do not show it."""

NOUN_CLASSES: Mapping[str, tuple[str, ...]] = {
    "food": _names("apple cake orange egg fish tomato onion potato lemon pear melon banana carrot cucumber"),
    "text": _names("book letter postcard report"),
    "print": _names("newspaper map"),
    "clothing": _names("coat hat shirt dress scarf skirt bag jacket"),
    "dish": _names("cup plate knife vase bottle"),
    "thing": _names(
        "key lamp alarm_clock chair mirror umbrella guitar radio bicycle basket ring candle bell doll ball suitcase "
        "blanket"
    ),
}

ADJECTIVES_BY_CLASS: Mapping[str, tuple[str, ...]] = {
    "food": _names("small big sweet fresh expensive cheap beautiful round heavy strange green yellow"),
    "text": _names("old new long interesting important strange beautiful expensive"),
    "print": _names("old new big small interesting important strange cheap dirty"),
    "clothing": _names(
        "old new long short red blue green white black yellow beautiful expensive cheap dirty clean strange"
    ),
    "dish": _names("old new small big red blue green white black yellow beautiful heavy expensive dirty clean"),
    "thing": _names(
        "old new small big red blue green white black yellow beautiful heavy expensive cheap dirty strange"
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

JOINT_ACTIVITIES: tuple[str, ...] = _names("dance sing work laugh wait rest play cry study")
"""What one does with a companion for some time."""

FINDING_ADVERBS: tuple[str, ...] = ("quickly", "suddenly", "quietly")
"""The adverbs that suit finding, which is not done on purpose."""

INDOOR_PLACES: tuple[str, ...] = _names(
    "school hospital library station restaurant church museum theatre kitchen office factory castle hotel airport"
)
"""Where furniture stands."""

OPEN_PLACES: tuple[str, ...] = _names("market garden park village forest beach harbour farm island bridge")
"""Where there is weather."""

WOODED_PLACES: tuple[str, ...] = _names("garden park village forest farm island")
"""Where trees stand."""

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
    "places": _names(
        "market garden park school hospital library station restaurant church village forest beach museum theatre "
        "kitchen office factory castle harbour hotel farm island airport bridge"
    ),
    "states": ("empty", "quiet", "dirty", "clean", "beautiful", "dangerous", "dark", "far"),
    "landmarks": _names(
        "on_table under_table by_window behind_door on_shelf under_bed in_cupboard under_tree on_floor by_stove"
    ),
    "times": _names(
        "monday wednesday friday saturday yesterday morning evening night noon last_week last_month last_year spring "
        "summer autumn winter"
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
