"""What every language must offer: a lexicon that covers the inventory, and one method per sentence pattern.

Comes in: sentence records (sentences.py). Goes out: finished sentences of one language, with a capital and a full stop.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping

from data_prep.demo_corpus.concepts import INVENTORY, PEOPLE
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

Forms = tuple[str, ...]


class Lexicon:
    """Word forms of one language, read from a compact table.

    The table has a line `[section: count]` before each section (count = forms per entry) and entries
    `concept=form/form`, separated by semicolons or line ends.

    Raises:
        ValueError: a concept of the inventory is missing, unknown or given twice, or has another number of forms.
    """

    def __init__(self, table: str) -> None:
        self._sections: dict[str, dict[str, Forms]] = {}
        section, count = "", 0
        for line in table.strip().splitlines():
            if line.startswith("["):
                section, _, number = line.strip("[] ").partition(":")
                count = int(number)
                self._sections[section] = {}
                continue
            for entry in filter(None, (part.strip() for part in line.split(";"))):
                concept, _, value = entry.partition("=")
                forms = tuple(value.split("/"))
                if len(forms) != count or not all(forms) or concept in self._sections[section]:
                    raise ValueError(f"[{section}] {entry}: needed one entry of {count} forms")
                self._sections[section][concept] = forms
        for name, concepts in INVENTORY.items():
            if set(concepts) != set(self._sections.get(name, {})):
                difference = sorted(set(concepts) ^ set(self._sections.get(name, {})))
                raise ValueError(f"[{name}] missing or unknown: {difference}")

    def __getitem__(self, section: str) -> Mapping[str, Forms]:
        return self._sections[section]

    def get(self, section: str, concept: str | int, form: int = 0) -> str:
        """One form of one concept."""
        return self._sections[section][str(concept)][form]


class Realiser(ABC):
    """Turns sentence records into one language."""

    code: str
    lexicon: Lexicon
    full_stop = "."

    def sentence(self, plan: Sentence) -> str:
        """The finished sentence."""
        text = unicodedata.normalize("NFC", self._words(plan))
        return self.capital(text[0]) + text[1:] + self.full_stop

    def capital(self, letter: str) -> str:
        """The upper-case form of a letter; languages without case return it as it is."""
        return letter.upper()

    def word(self, section: str, concept: str | int, form: int = 0) -> str:
        """One form of one concept of the lexicon."""
        return self.lexicon.get(section, concept, form)

    def _words(self, plan: Sentence) -> str:
        method = getattr(self, _METHODS[type(plan)])
        text: str = method(plan)
        return text

    @abstractmethod
    def thing(self, thing: Thing) -> str:
        """A thing as a direct object."""

    @abstractmethod
    def deal(self, s: Deal) -> str:
        """See the record's docstring for the meaning; likewise below."""

    @abstractmethod
    def manner(self, s: Manner) -> str: ...  # noqa: D102

    @abstractmethod
    def give(self, s: Give) -> str: ...  # noqa: D102

    @abstractmethod
    def go(self, s: Go) -> str: ...  # noqa: D102

    @abstractmethod
    def weather_scene(self, s: WeatherScene) -> str: ...  # noqa: D102

    @abstractmethod
    def because(self, s: Because) -> str: ...  # noqa: D102

    @abstractmethod
    def exists(self, s: Exists) -> str: ...  # noqa: D102

    @abstractmethod
    def spot(self, s: Spot) -> str: ...  # noqa: D102

    @abstractmethod
    def possession(self, s: Possession) -> str: ...  # noqa: D102

    @abstractmethod
    def want(self, s: Want) -> str: ...  # noqa: D102

    @abstractmethod
    def tell(self, s: Tell) -> str: ...  # noqa: D102

    @abstractmethod
    def not_go(self, s: NotGo) -> str: ...  # noqa: D102

    @abstractmethod
    def spend(self, s: Spend) -> str: ...  # noqa: D102

    @abstractmethod
    def purpose(self, s: Purpose) -> str: ...  # noqa: D102

    @abstractmethod
    def meet(self, s: Meet) -> str: ...  # noqa: D102

    @abstractmethod
    def although(self, s: Although) -> str: ...  # noqa: D102


_METHODS: Mapping[type, str] = {
    Deal: "deal", Manner: "manner", Give: "give", Go: "go", WeatherScene: "weather_scene", Because: "because",
    Exists: "exists", Spot: "spot", Possession: "possession", Want: "want", Tell: "tell", NotGo: "not_go",
    Spend: "spend", Purpose: "purpose", Meet: "meet", Although: "although",
}  # fmt: skip


def is_female(who: Subject | str) -> bool:
    """Whether a person of the inventory is a woman."""
    return PEOPLE[who.person if isinstance(who, Subject) else who] == "f"


def join(*parts: str) -> str:
    """The parts that are not empty, with single spaces between them (a dropped subject is an empty part)."""
    return " ".join(part for part in parts if part)
