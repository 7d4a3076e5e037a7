"""The recipe of a build: which files become which shards, with which tokenizer.

In:  a TOML file, read through `mlc.config.read_recipe`.
Out: a frozen `PrepRecipe`; `bytes_digest` is the part of it that decides about the bytes of the shards.

Paths are relative to the working directory, as in every recipe of this project.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal, Self

import pydantic

from data_prep.cleaning.section import CleaningSection
from data_prep.duplicates.section import DuplicatesSection
from data_prep.encoding.training import LARGEST_VOCABULARY
from mlc.config import NonNegative, Positive, Section, digest

LANGUAGE = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")
SMALLEST_VOCABULARY = 300  # special tokens, 256 byte pieces, and a few characters


class BuildSection(Section):
    """Where the shards go and when a build gives up."""

    output: str
    """Folder of the shards; made if it is missing."""
    seed: NonNegative = 1
    """Chooses the tokenizer's training sample."""
    max_rejected_fraction: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.01
    """The build stops when more than this share of a shard's records could not be read."""
    unit_bytes: Annotated[int, pydantic.Field(ge=1)] = 32 << 20
    """Of source files on disk in one piece of work, about."""


class NormaliseSection(Section):
    """What is done to text before it is split and tokenised."""

    nfc: bool = True
    """Unicode NFC: letters and their accents composed."""
    whitespace: bool = True
    """Every kind of line end becomes a line feed, every other run of white space one space, ends are trimmed."""
    control_characters: Literal["remove", "reject", "keep"] = "remove"
    """Control characters, byte-order marks and noncharacters: taken out, or the record set aside, or left alone.
    Joiners (U+200C, U+200D) are text in many scripts and always stay."""


class TokenizerSection(Section):
    """Either an existing SentencePiece model (`path`) or the size of one to train (`vocab_size`)."""

    path: str = ""
    model_type: Literal["bpe", "unigram"] = "bpe"
    vocab_size: Annotated[int, pydantic.Field(ge=0, le=LARGEST_VOCABULARY)] = 0
    """Ids of a new model: special tokens, 256 byte pieces, the rest learned."""
    character_coverage: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.9995
    """Share of the sample's characters that get a piece of their own; the others are spelled in bytes."""
    language_exponent: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.5
    """Languages share the training sample in proportion to (their bytes) ** language_exponent."""
    sample_bytes: Positive = 50_000_000
    """UTF-8 bytes of text to train on, all languages together."""
    split_digits: bool = True
    """Every digit is a piece of its own, so numbers are written alike in every language."""
    max_piece_characters: Annotated[int, pydantic.Field(ge=1, le=64)] = 16

    @pydantic.model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.path) == bool(self.vocab_size):
            raise ValueError("needs exactly one of path (an existing .model) and vocab_size (train one)")
        if self.vocab_size and self.vocab_size < SMALLEST_VOCABULARY:
            raise ValueError(f"vocab_size = {self.vocab_size}, must be >= {SMALLEST_VOCABULARY}")
        return self


class DocumentsSection(Section):
    """Files of documents in one language, or in several through a path with {language}."""

    language: str = ""
    languages: tuple[str, ...] = ()
    """Instead of `language`: one shard for each, from paths with {language} in them."""
    paths: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    """Files or globs; plain, .gz or .zst. A glob's files are read in the order of their names."""
    format: Literal["auto", "text", "jsonl", "csv", "tsv", "parquet"] = "auto"
    """auto: by the file's name, also compressed; text where that says nothing."""
    text_field: str = "text"
    id_field: str = "id"
    """Names the document; documents of the same id in two languages are the same document. Not of plain text."""
    group_field: str = ""
    """Field to match documents of several languages by, if it is not `id_field`; then every record needs it."""
    header: bool = True
    """csv, tsv: the first line names the columns; else fields are their numbers from 0, as "0"."""
    delimiter: str = ""
    """csv, tsv: one character; empty: a comma, or a tab."""
    separator: Literal["blank_line", "line"] = "blank_line"
    """text: what ends a document."""
    sequences: Literal["line", "sentence"] = "line"
    """A document's sequences: its lines, or its sentences (split by the end marks of many scripts)."""
    max_documents: Positive | None = None
    """Take the first so many usable documents of each language, and no more."""

    @pydantic.model_validator(mode="after")
    def _languages_and_paths_fit(self) -> Self:
        if bool(self.language) == bool(self.languages):
            raise ValueError("needs exactly one of language and languages")
        _check_codes((self.language,) if self.language else self.languages)
        if self.languages:
            _check_placeholder(self.paths, "{language}", "languages")
        return self

    def by_language(self) -> dict[str, tuple[str, ...]]:
        """{language: its paths}."""
        names = (self.language,) if self.language else self.languages
        return {name: tuple(path.replace("{language}", name) for path in self.paths) for name in names}


class PairsSection(Section):
    """JSONL files of sentence pairs: of two languages, or of one with several through a path with {second}."""

    languages: tuple[str, ...] = ()
    first: str = ""
    seconds: tuple[str, ...] = ()
    """Instead of `languages`: pairs of `first` with each of these, from paths with {second} in them."""
    paths: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    format: Literal["auto", "jsonl", "csv", "tsv", "parquet", "tmx"] = "auto"
    """auto: by the file's name, jsonl where that says nothing."""
    fields: tuple[str, ...] = ()
    """Names of the two text fields; {second} stands for the language. Empty: the language codes."""
    group_fields: tuple[str, ...] | None = None
    """Fields whose values together name the meaning of a pair: pairs of equal values are translations of one another.
    Not given: source and id, where a record has both."""
    max_documents: Positive | None = None
    """Take the first so many usable pairs of each pair of languages, and no more."""

    @pydantic.model_validator(mode="after")
    def _languages_and_paths_fit(self) -> Self:
        if bool(self.languages) == bool(self.first) or bool(self.first) != bool(self.seconds):
            raise ValueError('needs either languages = ["en", "de"] or first = "en" with seconds = ["de", ...]')
        if self.languages and len(self.languages) != 2:
            raise ValueError(f"languages names {len(self.languages)} languages, must be 2")
        if self.fields and len(self.fields) != 2:
            raise ValueError(f"fields names {len(self.fields)} fields, must be 2")
        _check_codes(self.languages or (self.first, *self.seconds))
        if self.seconds:
            _check_placeholder(self.paths, "{second}", "seconds")
        return self

    def by_languages(self) -> dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, str]]]:
        """{(first, second): (its paths, its two field names)}."""
        couples = (
            [(self.languages[0], self.languages[1])] if self.languages else [(self.first, s) for s in self.seconds]
        )
        found = {}
        for couple in couples:
            paths = tuple(path.replace("{second}", couple[1]) for path in self.paths)
            fields = tuple(name.replace("{second}", couple[1]) for name in self.fields or couple)
            found[couple] = (paths, (fields[0], fields[1]))
        return found


class PrepRecipe(Section):
    """Everything `mlc prep build` needs."""

    build: BuildSection
    normalise: NormaliseSection = NormaliseSection()
    cleaning: CleaningSection = CleaningSection()
    duplicates: DuplicatesSection = DuplicatesSection()
    tokenizer: TokenizerSection
    documents: tuple[DocumentsSection, ...] = ()
    pairs: tuple[PairsSection, ...] = ()

    @pydantic.model_validator(mode="after")
    def _any(self) -> Self:
        if not (self.documents or self.pairs):
            raise ValueError("names no text: give at least one [[documents]] or [[pairs]] table")
        return self

    @property
    def bytes_digest(self) -> str:
        """sha256 of what decides about the shards' bytes: not of where they go, nor of when the build gives up."""
        table = json.loads(self.model_dump_json())
        del table["build"]["output"], table["build"]["max_rejected_fraction"]
        return digest(table)


def _check_codes(languages: tuple[str, ...]) -> None:
    for language in languages:
        if not LANGUAGE.fullmatch(language):
            raise ValueError(f'"{language}" is no language code: letters, digits and hyphens, such as "en" or "pt-BR"')
    if len(set(languages)) != len(languages):
        raise ValueError(f"a language is named twice: {', '.join(languages)}")


def _check_placeholder(paths: tuple[str, ...], placeholder: str, key: str) -> None:
    for path in paths:
        if placeholder not in path:
            raise ValueError(f'{key} needs {placeholder} in every path, "{path}" has none')
