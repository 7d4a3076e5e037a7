"""The [cleaning] table of a recipe: each step is a table of its own, and is off where there is none.

In:  TOML, through `mlc.config`.
Out: a frozen `CleaningSection`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from mlc.config import NonNegative, Positive, Section

Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class LengthSection(Section):
    """Drops what is too short or too long; of a pair, either side."""

    smallest_characters: NonNegative = 0
    largest_characters: Positive | None = None
    smallest_words: NonNegative = 0
    """Words between white space; in languages that write none, characters."""
    largest_words: Positive | None = None


class RepetitionSection(Section):
    """Largest shares of a text that may repeat itself: the limits of Gopher (Rae et al. 2021, table A1)."""

    smallest_words: NonNegative = 50
    """Shorter texts are not judged: a phrase that comes twice is soon a fifth of them."""
    duplicate_lines: Share = 0.30
    duplicate_line_characters: Share = 0.20
    duplicate_paragraphs: Share = 0.30
    duplicate_paragraph_characters: Share = 0.20
    frequent_ngrams: Annotated[tuple[Share, ...], pydantic.Field(min_length=3, max_length=3)] = (0.20, 0.18, 0.16)
    """Share of the characters in the most frequent 2, 3 and 4 words in a row."""
    duplicate_ngrams: Annotated[tuple[Share, ...], pydantic.Field(min_length=6, max_length=6)] = (
        0.15, 0.14, 0.13, 0.12, 0.11, 0.10)  # fmt: skip
    """Share of the characters in 5, 6, ... 10 words in a row that came before."""


class LanguageSection(Section):
    """Drops a text that is not in the language the recipe says; of a pair, either side."""

    smallest_share: Share = 0.3
    """So much of the text must be in the declared language, or in one that is hardly told from it."""
    smallest_characters: NonNegative = 20
    """A shorter text is not judged."""
    characters: Positive = 1000
    """How much of a text's beginning is looked at."""


class PairsSection(Section):
    """Drops pairs that are hardly translations. Documents of one language pass."""

    largest_length_ratio: Annotated[float, pydantic.Field(ge=1, allow_inf_nan=False)] | None = None
    """UTF-8 bytes of the longer side over those of the shorter."""
    length_allowance: NonNegative = 30
    """Bytes added to both sides before they are compared: "Yes." may be a long word elsewhere."""
    largest_similarity: Share | None = None
    """A pair is a copy when its sides, without case, spaces and punctuation, are equal to more than this share."""
    copy_characters: Positive = 20
    """Sides with fewer letters and digits are not compared: names and numbers are alike in every language."""


class PersonalDataSection(Section):
    """Replaces e-mail addresses, telephone numbers and public IP addresses by <EMAIL>, <PHONE> and <IP>."""

    emails: bool = True
    phones: bool = True
    ips: bool = True
    phone_region: str = ""
    """ISO 3166 code, such as "DE": also finds this country's numbers without +49, and more that are none."""


class ContaminationSection(Section):
    """Drops documents that share a row of words with evaluation sets (Brown et al. 2020, appendix C)."""

    paths: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    """Files of the evaluation sets, or globs: JSON lines, csv, tsv, Parquet (every text in them counts) or plain
    text; also compressed."""
    ngram_words: Annotated[int, pydantic.Field(ge=2, le=64)] = 13
    """So many words in a row; in scripts that write no spaces, three letters for each."""
    smallest_words: Annotated[int, pydantic.Field(ge=2, le=64)] = 8
    """An evaluation text between this and `ngram_words` counts as a whole; a shorter one does not count."""


class CleaningSection(Section):
    """Steps on normalised documents, in this order. Each is off unless its table is there."""

    length: LengthSection | None = None
    pairs: PairsSection | None = None
    repetition: RepetitionSection | None = None
    language: LanguageSection | None = None
    contamination: ContaminationSection | None = None
    personal_data: PersonalDataSection | None = None
    chinese_words: Literal["jieba"] | None = None
    """Puts spaces between the words of languages "zh" and "yue"."""
    tokenise: Literal["moses"] | None = None
    """Sets punctuation apart with spaces, as Moses' tokenizer does, in languages that write spaces."""
