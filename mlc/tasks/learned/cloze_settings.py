"""How a class becomes a word in a blank: patterns and verbalizers, by language.

In:  the [cloze] table of a recipe, or a file of the same keys.
Out: a validated `ClozeSection`; a language's pattern in parts.

    pattern = "{text} It was [MASK]."
    verbalizer = { positive = ["good", "great"], negative = "bad" }
    languages.de = { pattern = "{text} Es war [MASK].", verbalizer = { positive = "gut", negative = "schlecht" } }

Source: pattern-verbalizer pairs, Schick & Schuetze 2021 ("PET", section 3.1); in a GLM's blank, Du et al. 2022, 2.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Annotated, Literal, Self

import pydantic

from mlc.config import Section
from mlc.data.text import clean_text
from mlc.languages import language_code

BLANK = "[MASK]"
FIELDS = ("text", "text_pair")
Begin = Literal["start", "word", "inside"]
"""Of a part: it begins the text, follows a space, or goes on without one."""


def _as_words(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Words = Annotated[tuple[str, ...], pydantic.BeforeValidator(_as_words), pydantic.Field(min_length=1)]
Verbalizer = dict[str, Words]


@dataclass(frozen=True)
class PatternPart:
    """A piece of a pattern.

    Attributes:
        kind: "literal", one of `FIELDS`, or "blank".
        text: of a literal, without spaces around it; else "".
        begin: how it follows what is before it.
    """

    kind: str
    text: str
    begin: Begin


def parse_pattern(pattern: str) -> tuple[PatternPart, ...]:
    """The parts of a pattern. "{{" and "}}" stand for braces.

    Raises:
        ValueError: not exactly one [MASK], no {text}, a field twice, or another field than `FIELDS`.
    """
    try:
        pieces = _joined(Formatter().parse(clean_text(pattern)))
    except ValueError as error:
        raise ValueError(f"the pattern {pattern!r} cannot be read: {error}") from None
    parts: list[PatternPart] = []
    begin: Begin = "start"

    def add(kind: str, text: str = "") -> None:
        nonlocal begin
        parts.append(PatternPart(kind, text, begin))
        begin = "inside"

    for literal, field, extra in pieces:
        for number, text in enumerate(literal.split(BLANK)):
            if number:
                add("blank")
            if text.startswith(" ") and begin == "inside":
                begin = "word"
            if text.strip(" "):
                add("literal", text.strip(" "))
                begin = "word" if text.endswith(" ") else begin
        if field is None:
            continue
        if field not in FIELDS or extra:
            raise ValueError(f"the pattern {pattern!r} names {{{field}}}; needed {{text}}, or {{text_pair}} beside it")
        add(field)
    _check_parts(pattern, [part.kind for part in parts])
    return tuple(parts)


def _joined(pieces: Iterable[tuple[str, str | None, str | None, str | None]]) -> list[tuple[str, str | None, str]]:
    """(text, the field behind it, its format); `Formatter` ends a text at every written brace too."""
    found: list[tuple[str, str | None, str]] = []
    text = ""
    for literal, field, form, conversion in pieces:
        text += literal
        if field is not None:
            found.append((text, field, (form or "") + (conversion or "")))
            text = ""
    return [*found, (text, None, "")]


def _check_parts(pattern: str, kinds: list[str]) -> None:
    if kinds.count("blank") != 1:
        raise ValueError(f"the pattern {pattern!r} has {kinds.count('blank')} times {BLANK}; needed once")
    if "text" not in kinds:
        raise ValueError(f"the pattern {pattern!r} leaves the text out; needed {{text}}")
    twice = [field for field in FIELDS if kinds.count(field) > 1]
    if twice:
        raise ValueError(f"the pattern {pattern!r} names {{{twice[0]}}} twice")


class ClozeWording(Section):
    """What one language has of its own."""

    pattern: str = ""
    """Empty = the default one."""
    verbalizer: Verbalizer = pydantic.Field(default_factory=dict)
    """Empty = the default one; else every label's words."""

    @pydantic.model_validator(mode="after")
    def _can_be_read(self) -> Self:
        if self.pattern:
            parse_pattern(self.pattern)
        check_words(self.verbalizer)
        return self


class ClozeSection(Section):
    """Patterns and verbalizers of a task whose classes are words in a blank."""

    pattern: str
    """A text with {text}, {text_pair} where the data has one, and [MASK]."""
    verbalizer: Verbalizer
    """The word, or words, that stand for each label."""
    length_normalised: bool = False
    """A word's log probability is divided by its tokens, [eop] included."""
    languages: dict[str, ClozeWording] = pydantic.Field(default_factory=dict)
    """Wordings of single languages; others have the one above."""

    @pydantic.model_validator(mode="after")
    def _can_be_read(self) -> Self:
        parse_pattern(self.pattern)
        if len(self.verbalizer) < 2:
            raise ValueError(f"verbalizer has {len(self.verbalizer)} labels; needed two or more")
        check_words(self.verbalizer)
        seen: dict[str, str] = {}
        for code, wording in self.languages.items():
            other = seen.setdefault(language_code(code), code)
            if other != code:
                raise ValueError(f"languages.{other} and languages.{code} are the same language")
            if wording.verbalizer and wording.verbalizer.keys() != self.verbalizer.keys():
                odd = sorted(wording.verbalizer.keys() ^ self.verbalizer.keys())
                raise ValueError(
                    f"languages.{code}.verbalizer has other labels than verbalizer: {', '.join(odd)} in one of them"
                )
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the verbalizer."""
        return tuple(self.verbalizer)

    def wording(self, language: str) -> tuple[tuple[PatternPart, ...], Mapping[str, tuple[str, ...]]]:
        """The pattern and the verbalizer of a language."""
        own = {language_code(code): wording for code, wording in self.languages.items()}.get(language)
        pattern = own.pattern if own and own.pattern else self.pattern
        return parse_pattern(pattern), own.verbalizer if own and own.verbalizer else self.verbalizer

    def where(self, language: str, key: Literal["pattern", "verbalizer"]) -> str:
        """The key of a recipe that says so."""
        code = next((code for code in self.languages if language_code(code) == language), None)
        is_own = code is not None and bool(getattr(self.languages[code], key))
        return f"cloze.languages.{code}.{key}" if is_own else f"cloze.{key}"


def check_words(verbalizer: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse words of nothing, and one word that stands for two labels.

    Raises:
        ValueError: there is one.
    """
    owner: dict[str, str] = {}
    for label, words in verbalizer.items():
        for word in words:
            if not clean_text(word):
                raise ValueError(f"verbalizer.{label} has a word without text: {word!r}")
            if clean_text(word) in owner:
                raise ValueError(f"verbalizer has {word!r} twice: for {owner[clean_text(word)]} and for {label}")
            owner[clean_text(word)] = label


@dataclass(frozen=True)
class ClozeTokens:
    """Ids with a role: [MASK], [sop], [eop]."""

    blank: int
    start: int
    end: int


@dataclass(frozen=True)
class ClozeSettings:
    """What a model that fills in classes has to know.

    Attributes:
        section: patterns and verbalizers.
        tokens: None before a model is known.
    """

    section: ClozeSection
    tokens: ClozeTokens | None = None
