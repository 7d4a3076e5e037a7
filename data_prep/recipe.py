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

ALL = ("*",)
"""Instead of codes: all that names of files have in the place of {language} or {second}."""
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
    keep_cleaned: bool = True
    """Documents are cleaned once and kept on disk until they are encoded, where several stages need them."""
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
    """Either an existing tokenizer (`path`) or the size of a SentencePiece model to train (`vocab_size`)."""

    path: str = ""
    """A SentencePiece model; or a tokenizer.json of Hugging Face's tokenizers, or a folder with one."""
    model_type: Literal["bpe", "unigram"] = "bpe"
    vocab_size: Annotated[int, pydantic.Field(ge=0, le=LARGEST_VOCABULARY)] = 0
    """Ids of a new model: special tokens, 256 byte pieces, the rest learned."""
    character_coverage: Annotated[float, pydantic.Field(ge=0.98, le=1)] = 0.9995
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
            raise ValueError("needs exactly one of path (an existing tokenizer) and vocab_size (train one)")
        if self.vocab_size and self.vocab_size < SMALLEST_VOCABULARY:
            raise ValueError(f"vocab_size = {self.vocab_size}, must be >= {SMALLEST_VOCABULARY}")
        return self


class FilesSection(Section):
    """What tables of documents and of pairs have in common: where their records are."""

    paths: tuple[str, ...] = ()
    """Files or globs; plain, .gz, .zst, .xz or .bz2. A glob's files are read in the order of their names."""
    dataset: str = ""
    """Instead of `paths`: a data set of Hugging Face's `datasets`, a folder or a name on the hub."""
    config: str = ""
    """dataset: its configuration; empty: the only one."""
    split: str = "train"
    """dataset: which of its splits."""
    revision: str = ""
    """dataset: a commit, branch or tag on the hub; empty: the newest."""
    streaming: bool = False
    """dataset: read over the network, or from its files, as it is used, without preparing it on disk."""
    header: bool = True
    """csv, tsv: the first line names the columns; else fields are their numbers from 0, as "0"."""
    delimiter: str = ""
    """csv, tsv: one character; empty: a comma, or a tab."""

    @pydantic.model_validator(mode="after")
    def _paths_or_dataset(self) -> Self:
        if bool(self.paths) == bool(self.dataset):
            raise ValueError("needs exactly one of paths (files or globs) and dataset (a folder or name on the hub)")
        of_datasets = ("config", "split", "revision", "streaming")
        given = [key for key in of_datasets if key in self.model_fields_set]
        if given and not self.dataset:
            raise ValueError(f"{given[0]} is a key of data sets: it needs dataset, and no paths")
        if self.dataset and "format" in self.model_fields_set:
            raise ValueError("dataset has no format: it knows its own")
        return self

    def filled(self, placeholder: str, value: str) -> Self:
        """The table for one language: with `value` for the placeholder in its paths, data set and field names."""

        def replaced(content: object) -> object:
            if isinstance(content, tuple):
                return tuple(replaced(part) for part in content)
            return content.replace(placeholder, value) if isinstance(content, str) else content

        return self.model_copy(update={key: replaced(getattr(self, key)) for key in type(self).model_fields})

    def check_placeholder(self, placeholder: str, key: str) -> None:
        """Refuse a table of several languages whose files do not differ.

        Raises:
            ValueError: a path, or all of dataset, config and split, lack the placeholder.
        """
        if self.dataset:
            if not any(placeholder in name for name in (self.dataset, self.config, self.split)):
                raise ValueError(f"{key} needs {placeholder} in dataset, config or split")
            return
        for path in self.paths:
            if placeholder not in path:
                raise ValueError(f'{key} needs {placeholder} in every path, "{path}" has none')


class DocumentsSection(FilesSection):
    """Files of documents in one language, or in several: by a path with {language}, or by a field of each record."""

    language: str = ""
    languages: tuple[str, ...] = ()
    """Instead of `language`: one shard for each, from paths with {language} in them or by `language_field`. "*": those
    that the paths hold."""
    language_field: str = ""
    """Field with the code of each record's language, compared exactly; the same files serve all `languages` then."""
    format: Literal["auto", "text", "jsonl", "csv", "tsv", "parquet"] = "auto"
    """auto: by the file's name, also compressed; text where that says nothing."""
    text_field: str = "text"
    id_field: str = "id"
    """Names the document; documents of the same id in two languages are the same document. Not of plain text."""
    group_field: str = ""
    """Field to match documents of several languages by, if it is not `id_field`; then every record needs it."""
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
        if self.language_field:
            if self.language:
                raise ValueError("language_field needs languages, those to take; language says it of all records")
            if self.languages == ALL:
                raise ValueError('language_field needs the codes to take: "*" would need all files read first')
            if any("{language}" in name for name in (*self.paths, self.dataset, self.config, self.split)):
                raise ValueError("language_field says the language: no {language} in paths, dataset, config or split")
        elif self.languages:
            self.check_placeholder("{language}", "languages")
            _check_all(self.languages, self.dataset, "languages")
        return self

    def by_language(self) -> dict[str, Self]:
        """{language: the table for it}."""
        names = (self.language,) if self.language else self.languages
        return {name: self.filled("{language}", name) for name in names}


class PairsSection(FilesSection):
    """Sentence pairs: of two languages, or of one with several through a path with {second}."""

    languages: tuple[str, ...] = ()
    first: str = ""
    seconds: tuple[str, ...] = ()
    """Instead of `languages`: pairs of `first` with each of these, from paths with {second} in them. "*": with those
    that the paths hold."""
    second_paths: tuple[str, ...] = ()
    """moses: files of the second side, as many as `paths` names, in the same order."""
    format: Literal["auto", "jsonl", "csv", "tsv", "parquet", "tmx", "moses"] = "auto"
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
        _check_codes(self.languages or ((self.first,) if self.seconds == ALL else (self.first, *self.seconds)))
        if self.seconds:
            self.check_placeholder("{second}", "seconds")
            _check_all(self.seconds, self.dataset, "seconds")
        return self

    @pydantic.model_validator(mode="after")
    def _sides_of_moses_fit(self) -> Self:
        if (self.format == "moses") != bool(self.second_paths):
            raise ValueError('format = "moses" and second_paths, the files of the second side, need each other')
        if self.format == "moses" and (self.fields or self.group_fields):
            raise ValueError("lines of moses files have no fields: fields and group_fields name none")
        if self.seconds and not all("{second}" in path for path in self.second_paths):
            raise ValueError("seconds needs {second} in every path of second_paths")
        return self

    def by_languages(self) -> dict[tuple[str, str], Self]:
        """{(first, second): the table for them}."""
        if self.languages:
            first, second = self.languages
            return {(first, second): self.filled("{second}", second)}
        return {(self.first, second): self.filled("{second}", second) for second in self.seconds}


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
        """sha256 of what decides about the shards' bytes: not of where they go, nor of how the build is done."""
        table = json.loads(self.model_dump_json())
        for key in ("output", "max_rejected_fraction", "keep_cleaned"):
            del table["build"][key]
        return digest(table)


def _check_all(codes: tuple[str, ...], dataset: str, key: str) -> None:
    if codes == ALL and dataset:
        raise ValueError(f'{key} = ["*"] looks at names of files, and a data set has none: give the codes')


def _check_codes(languages: tuple[str, ...]) -> None:
    for language in languages if languages != ALL else ():
        if not LANGUAGE.fullmatch(language):
            raise ValueError(f'"{language}" is no language code: letters, digits and hyphens, such as "en" or "pt-BR"')
    if len(set(languages)) != len(languages):
        raise ValueError(f"a language is named twice: {', '.join(languages)}")
