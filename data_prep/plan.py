"""From a recipe to the list of shards to build, before any work starts.

In:  a `PrepRecipe`.
Out: one `ShardPlan` for each shard, in the order of the manifest, with every file found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_prep.cleaning.evaluation_texts import find_evaluation_sets
from data_prep.cleaning.segmentation import check_libraries
from data_prep.encoding.reference import files_of
from data_prep.readers.source import Format, SourceFormat, format_of
from data_prep.recipe import ALL, LANGUAGE, DocumentsSection, FilesSection, PairsSection, PrepRecipe
from data_prep.segment import Split
from data_prep.source_files import find_codes, find_files, state_of
from mlc.config import digest
from mlc.errors import RecipeError


@dataclass(frozen=True)
class Source:
    """Files of one table of the recipe that go into one shard.

    Attributes:
        files: or the one data set.
        reading: how their records are read.
        sequences: how a document is split; pairs are not split.
        second_files: of moses: those of the second side, one for each file.
        sorted_by: languages of a table whose files hold several: of their records, those of the shard's own are meant
            (data_prep.sorting). Empty: all records.
    """

    files: tuple[Path, ...]
    reading: SourceFormat
    max_documents: int | None = None
    sequences: Split = "line"
    second_files: tuple[Path, ...] = ()
    sorted_by: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of its files on disk; of files that several shards share, an equal part."""
        is_dataset = self.reading.format == "dataset"
        files = (*self.files, *self.second_files)
        return sum(state_of(file, is_dataset).size_bytes for file in files) // max(1, len(self.sorted_by))


@dataclass(frozen=True)
class ShardPlan:
    """One shard to build: its name ("documents/en", "pairs/en-de"), languages and sources in the recipe's order."""

    name: str
    kind: Literal["documents", "pairs"]
    languages: tuple[str, ...]
    sources: tuple[Source, ...]
    source_bytes: int

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Of the shard's indexed files, one for each language."""
        if self.kind == "documents":
            return (self.name,)
        return tuple(f"{self.name}.{language}" for language in self.languages)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every source file, in reading order."""
        return tuple(file for source in self.sources for file in (*source.files, *source.second_files))


def plan_shards(recipe: PrepRecipe, where: str) -> tuple[ShardPlan, ...]:
    """Find every file and order the shards: documents, then pairs, each by name.

    Args:
        recipe: what to build.
        where: the recipe's path, for errors.

    Raises:
        RecipeError: a file is missing, a glob matches none, a pair of languages is planned in both orders, or a step of
            cleaning needs a library that is not installed.
    """
    check_libraries(recipe.cleaning)
    sources: dict[tuple[str, ...], list[Source]] = {}
    for i, documents in enumerate(recipe.documents):
        place = f"{where}: documents[{i}]"
        for language, table in _with_codes(documents, place).by_language().items():
            with _errors_at(place):
                sources.setdefault((language,), []).append(_documents_source(table, place))
    for i, pairs in enumerate(recipe.pairs):
        place = f"{where}: pairs[{i}]"
        for couple, pairs_table in _pairs_with_codes(pairs, place).by_languages().items():
            if couple[::-1] in sources:
                raise RecipeError(
                    "the same two languages are paired in both orders",
                    found=f"{'-'.join(couple)} and {'-'.join(couple[::-1])}",
                    needed="one order in all [[pairs]] tables",
                    where=place,
                )
            with _errors_at(place):
                sources.setdefault(couple, []).append(_pairs_source(pairs_table, couple, place))
    plans = [_plan(languages, found) for languages, found in sources.items()]
    _refuse_equal_file_names(plans, where)
    return tuple(sorted(plans, key=lambda plan: plan.name))


def sources_digest(plans: Sequence[ShardPlan], recipe: PrepRecipe) -> str:
    """Digest of the source files' names, sizes and times of change: tells whether a finished build is up to date.

    Files of an existing tokenizer and of evaluation sets count too.
    """
    files = {
        file: source.reading.format == "dataset"
        for plan in plans
        for source in plan.sources
        for file in (*source.files, *source.second_files)
    }
    if recipe.tokenizer.path:
        files |= dict.fromkeys(files_of(Path(recipe.tokenizer.path)), False)
    if recipe.cleaning.contamination is not None:
        files |= dict.fromkeys(find_evaluation_sets(recipe.cleaning.contamination), False)
    states = [(file, state_of(file, is_dataset)) for file, is_dataset in files.items()]
    return digest([[str(file), state.size_bytes, state.changed_ns] for file, state in states])


def _with_codes(section: DocumentsSection, where: str) -> DocumentsSection:
    if section.languages != ALL:
        return section
    found = find_codes(section.paths, "{language}", LANGUAGE, f"{where}.paths")
    return section.model_copy(update={"languages": found})


def _pairs_with_codes(section: PairsSection, where: str) -> PairsSection:
    if section.seconds != ALL:
        return section
    found = find_codes(section.paths, "{second}", LANGUAGE, f"{where}.paths")
    return section.model_copy(update={"seconds": tuple(code for code in found if code != section.first)})


def _documents_source(section: DocumentsSection, where: str) -> Source:
    files = _files(section, where)
    formats = _formats(files, section, section.format)
    _check_table_keys(section, formats, where)
    if "tmx" in formats:
        raise RecipeError(
            "a translation memory holds pairs", found="tmx", needed="a [[pairs]] table for it", where=f"{where}.paths"
        )
    if section.language_field and "text" in formats:
        raise RecipeError(
            "plain text has no fields, so none with a language",
            found=str(next(file for file in files if format_of(file, section.format) == "text")),
            needed="JSON lines, tables, Parquet or a data set",
            where=f"{where}.language_field",
        )
    numbered = not section.header and not section.group_field and section.id_field == "id"
    reading = SourceFormat(
        format="dataset" if section.dataset else section.format,
        text_fields=(section.text_field,),
        group_fields=() if numbered else (section.group_field or section.id_field,),
        group_required=bool(section.group_field),
        language_field=section.language_field,
        separator=section.separator,
        delimiter=section.delimiter,
        header=section.header,
        config=section.config,
        split=section.split,
        revision=section.revision,
        streaming=section.streaming,
    )
    _check_column_numbers(reading, formats)
    sorted_by = section.languages if section.language_field else ()
    return Source(files, reading, section.max_documents, section.sequences, sorted_by=sorted_by)


def _pairs_source(section: PairsSection, languages: tuple[str, str], where: str) -> Source:
    files = _files(section, where)
    formats = _formats(files, section, section.format)
    _check_table_keys(section, formats, where)
    if len(formats) > 1 and formats & {"text", "tmx"}:
        raise RecipeError(
            "files of these formats cannot be in one table of pairs",
            found=", ".join(sorted(formats)),
            needed="one format, or only JSON lines, tables and Parquet",
            where=f"{where}.paths",
            hint="set format, or give the others a [[pairs]] table of their own",
        )
    second_files = find_files(section.second_paths, f"{where}.second_paths") if section.second_paths else ()
    if section.second_paths and len(second_files) != len(files):
        raise RecipeError(
            "files of the first side have none of the second beside them",
            found=f"{len(files)} files of paths, {len(second_files)} of second_paths",
            needed="as many of one as of the other, in the same order",
            where=where,
        )
    is_tmx = formats == {"tmx"}
    without_names = is_tmx or formats == {"moses"} or not section.header
    default_groups = () if without_names else ("source", "id")
    default_fields = languages if section.header else ("0", "1")
    reading = SourceFormat(
        format="dataset" if section.dataset else "jsonl" if formats == {"text"} else section.format,
        text_fields=section.fields or default_fields,
        group_fields=section.group_fields if section.group_fields is not None else default_groups,
        group_required=bool(section.group_fields),
        delimiter=section.delimiter,
        header=section.header,
        languages=languages if is_tmx else (),
        second_path=str(second_files[0]) if second_files else "",
        config=section.config,
        split=section.split,
        revision=section.revision,
        streaming=section.streaming,
    )
    _check_column_numbers(reading, formats)
    return Source(files, reading, section.max_documents, "whole", second_files)


def _files(section: FilesSection, where: str) -> tuple[Path, ...]:
    return (Path(section.dataset),) if section.dataset else find_files(section.paths, f"{where}.paths")


def _formats(files: Sequence[Path], section: FilesSection, stated: Format | Literal["auto"]) -> set[Format]:
    return {"dataset"} if section.dataset else {format_of(file, stated) for file in files}


def _check_table_keys(section: FilesSection, formats: set[Format], where: str) -> None:
    """Refuse keys of tables where there is none: they would be passed over in silence."""
    for key, is_given in (("header", not section.header), ("delimiter", bool(section.delimiter))):
        if is_given and not formats & {"csv", "tsv"}:
            raise RecipeError(
                f"{key} is for csv and tsv", found=", ".join(sorted(formats)), where=f"{where}.{key}",
                hint="set format, if the names of the files do not say that they are tables",
            )  # fmt: skip


def _check_column_numbers(reading: SourceFormat, formats: set[Format]) -> None:
    """Files whose format is found by their names are not looked at when a `SourceFormat` is made."""
    for found in formats & {"csv", "tsv"}:
        replace(reading, format=found)


@contextmanager
def _errors_at(where: str) -> Iterator[None]:
    """Errors of a table that do not know where it is say so."""
    try:
        yield
    except RecipeError as error:
        if error.where:
            raise
        raise RecipeError(error.problem, found=error.found, needed=error.needed, where=where) from None


def _plan(languages: tuple[str, ...], sources: list[Source]) -> ShardPlan:
    size = sum(source.bytes for source in sources)
    if len(languages) == 1:
        return ShardPlan(f"documents/{languages[0]}", "documents", languages, tuple(sources), size)
    return ShardPlan(f"pairs/{'-'.join(languages)}", "pairs", languages, tuple(sources), size)


def _refuse_equal_file_names(plans: Sequence[ShardPlan], where: str) -> None:
    """Codes with hyphens can spell the same name ("a-b" + "c", "a" + "b-c"); some file systems ignore case."""
    seen: dict[str, ShardPlan] = {}
    for plan in plans:
        other = seen.setdefault(plan.name.casefold(), plan)
        if other is not plan:
            raise RecipeError(
                "two shards would have the same file name",
                found=f"{other.languages} and {plan.languages}",
                where=where,
            )
