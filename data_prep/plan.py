"""From a recipe to the list of shards to build, before any work starts.

In:  a `PrepRecipe`.
Out: one `ShardPlan` for each shard, in the order of the manifest, with every file found.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.cleaning.evaluation_texts import find_files
from data_prep.readers.source import SourceFormat, format_of
from data_prep.recipe import DocumentsSection, PairsSection, PrepRecipe
from data_prep.segment import Split
from mlc.config import digest
from mlc.errors import RecipeError


@dataclass(frozen=True)
class Source:
    """Files of one table of the recipe that go into one shard.

    Attributes:
        reading: how their records are read.
        sequences: how a document is split; pairs are not split.
    """

    files: tuple[Path, ...]
    reading: SourceFormat
    max_documents: int | None = None
    sequences: Split = "line"


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
        return tuple(file for source in self.sources for file in source.files)


def plan_shards(recipe: PrepRecipe, where: str) -> tuple[ShardPlan, ...]:
    """Find every file and order the shards: documents, then pairs, each by name.

    Args:
        recipe: what to build.
        where: the recipe's path, for errors.

    Raises:
        RecipeError: a file is missing, a glob matches none, or a pair of languages is planned in both orders.
    """
    sources: dict[tuple[str, ...], list[Source]] = {}
    for i, documents in enumerate(recipe.documents):
        for language, paths in documents.by_language().items():
            files = _find(paths, f"{where}: documents[{i}].paths")
            sources.setdefault((language,), []).append(_documents_source(documents, files))
    for i, pairs in enumerate(recipe.pairs):
        for couple, (paths, fields) in pairs.by_languages().items():
            files = _find(paths, f"{where}: pairs[{i}].paths")
            if couple[::-1] in sources:
                raise RecipeError(
                    "the same two languages are paired in both orders",
                    found=f"{'-'.join(couple)} and {'-'.join(couple[::-1])}",
                    needed="one order in all [[pairs]] tables",
                    where=f"{where}: pairs[{i}]",
                )
            sources.setdefault(couple, []).append(_pairs_source(pairs, couple, fields, files))
    plans = [_plan(languages, found) for languages, found in sources.items()]
    _refuse_equal_file_names(plans, where)
    return tuple(sorted(plans, key=lambda plan: plan.name))


def sources_digest(plans: Sequence[ShardPlan], recipe: PrepRecipe) -> str:
    """Digest of the source files' names, sizes and times of change: tells whether a finished build is up to date.

    Files of an existing tokenizer and of evaluation sets count too.
    """
    files = [str(file) for plan in plans for file in plan.files]
    files += [recipe.tokenizer.path] if recipe.tokenizer.path else []
    if recipe.cleaning.contamination is not None:
        files += [str(path) for path in find_files(recipe.cleaning.contamination.paths)]
    return digest([[file, Path(file).stat().st_size, Path(file).stat().st_mtime_ns] for file in files])


def _documents_source(section: DocumentsSection, files: tuple[Path, ...]) -> Source:
    reading = SourceFormat(
        format=section.format,
        text_fields=(section.text_field,),
        group_fields=(section.group_field or section.id_field,),
        group_required=bool(section.group_field),
        separator=section.separator,
        delimiter=section.delimiter,
        header=section.header,
    )
    return Source(files, reading, section.max_documents, section.sequences)


def _pairs_source(
    section: PairsSection, languages: tuple[str, str], fields: tuple[str, str], files: tuple[Path, ...]
) -> Source:
    found = {format_of(file, section.format) for file in files}
    is_tmx = found == {"tmx"}
    reading = SourceFormat(
        format="jsonl" if found == {"text"} else section.format,
        text_fields=fields,
        group_fields=section.group_fields if section.group_fields is not None else () if is_tmx else ("source", "id"),
        group_required=section.group_fields is not None,
        languages=languages if is_tmx else (),
    )
    return Source(files, reading, section.max_documents, "whole")


def _plan(languages: tuple[str, ...], sources: list[Source]) -> ShardPlan:
    size = sum(file.stat().st_size for source in sources for file in source.files)
    if len(languages) == 1:
        return ShardPlan(f"documents/{languages[0]}", "documents", languages, tuple(sources), size)
    return ShardPlan(f"pairs/{'-'.join(languages)}", "pairs", languages, tuple(sources), size)


def _find(patterns: Sequence[str], where: str) -> tuple[Path, ...]:
    found: dict[Path, None] = {}
    for pattern in patterns:
        if glob.has_magic(pattern) and not Path(pattern).exists():
            matches = sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file())
            if not matches:
                raise RecipeError("no file matches", found=pattern, needed="at least one file", where=where)
            found.update(dict.fromkeys(matches))
        elif not Path(pattern).is_file():
            raise RecipeError("no such file", found=pattern, where=where)
        else:
            found[Path(pattern)] = None
    return tuple(found)


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
