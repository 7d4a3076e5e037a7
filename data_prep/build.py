"""The build: recipe to shards and manifest, alone or by several ranks, with the same bytes.

In:  a `PrepRecipe`.
Out: the output folder: tokenizer.model, documents/, pairs/, rejected/, and manifest.json, which is written last: a
     folder without it holds no finished build, and building again starts over.

Each rank takes whole shards; no byte of a shard depends on which rank built it.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import mlc
from data_prep.plan import ShardPlan, plan_shards, share_out, sources_digest
from data_prep.prepare import Rejects, prepare
from data_prep.progress import Progress
from data_prep.ranks import Ranks
from data_prep.recipe import PrepRecipe
from data_prep.sample import Candidates, balanced_sample, choose_candidates
from data_prep.shards import sha256_of, write_shard
from data_prep.tokenizer import Tokenizer, train_tokenizer
from mlc.data.manifest import MANIFEST_NAME, Manifest, ShardEntry, TokenizerInfo
from mlc.errors import MlcError, RecipeError, ShardError
from mlc.files import write_atomically

TOKENIZER_NAME = "tokenizer.model"
MARKER_NAME = ".mlc-build"
"""In the output folder from a build's start to its end: what lies there is ours to clear away."""
_WORK_FOLDER = ".work"
_SHARD_FOLDERS = ("documents", "pairs")

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class BuildResult:
    """What a build came to; `built` is false where a finished build was found up to date."""

    manifest: Manifest
    built: bool


def build_shards(recipe: PrepRecipe, where: str, ranks: Ranks, overwrite: bool, progress: Progress) -> BuildResult:
    """Build, or find that it was built.

    Args:
        recipe: what to build.
        where: the recipe's path, for errors.
        ranks: who works together; all call this with the same arguments.
        overwrite: replace a finished build of another recipe or of other sources.
        progress: shown to the person.

    Raises:
        RecipeError: a source is missing, or the output holds another build and `overwrite` is false, or other files.
        DataError: the text cannot be used.
        MlcError: a file cannot be read or written (a full disk), or another rank failed.
    """
    output = Path(recipe.build.output)
    started = time.monotonic()
    plans = ranks.on_first(_guarded(output, plan_shards, recipe, where))
    state = ranks.on_first(_guarded(output, sources_digest, plans, recipe.tokenizer.path))
    finished = ranks.on_first(_guarded(output, _start, recipe, output, state, overwrite))
    if finished is not None:
        return BuildResult(finished, built=False)
    mine = share_out(plans, ranks.size)[ranks.rank]

    if recipe.tokenizer.path:
        ranks.on_first(_guarded(output, _copy_tokenizer, Path(recipe.tokenizer.path), output / TOKENIZER_NAME))
    else:
        found = ranks.everywhere(_guarded(output, _candidates, mine, recipe, output, progress))
        by_name = {name: candidates for part in found for name, candidates in part.items()}
        ranks.on_first(_guarded(output, _train, by_name, recipe, output, progress))
    tokenized = time.monotonic()

    entries = ranks.everywhere(_guarded(output, _write, mine, recipe, output, progress))
    ended = time.monotonic()
    timing = {
        "seconds_tokenizer": round(tokenized - started, 3),
        "seconds_shards": round(ended - tokenized, 3),
        "seconds": round(ended - started, 3),
        "ranks": ranks.size,
    }
    every = [entry for part in entries for entry in part]
    manifest = ranks.on_first(_guarded(output, _finish, recipe, output, every, state, timing))
    return BuildResult(manifest, built=True)


def _guarded(output: Path, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
    """The work as a call without arguments; what the file system refuses becomes an `MlcError`."""

    def run() -> T:
        try:
            return work(*args, **kwargs)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise MlcError(
                "a file of the build cannot be read or written",
                found=error.strerror or str(error),
                where=str(error.filename or output),
                hint="free space or name another build.output, then build again" if full else None,
            ) from error

    return run


def _start(recipe: PrepRecipe, output: Path, state: str, overwrite: bool) -> Manifest | None:
    """The finished build in the output folder, if it is the one asked for; otherwise the folder is made ready."""
    if (output / MANIFEST_NAME).exists():
        if not overwrite:
            return _up_to_date(recipe, output, state)
        (output / MARKER_NAME).touch()
        _remove_build(output)
    elif output.is_dir() and any(output.iterdir()) and not (output / MARKER_NAME).exists():
        raise RecipeError(
            "the output folder holds other files than a build's",
            found=", ".join(sorted(path.name for path in output.iterdir())[:5]),
            needed="a folder that is new or empty, or was left by a build",
            where=f"build.output = {output}",
        )
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER_NAME).touch()
    shutil.rmtree(output / _WORK_FOLDER, ignore_errors=True)
    shutil.rmtree(output / "rejected", ignore_errors=True)
    for folder in (output, *(output / name for name in _SHARD_FOLDERS)):
        for left_over in folder.glob("*.tmp"):  # of a build that was killed
            left_over.unlink(missing_ok=True)
    return None


def _up_to_date(recipe: PrepRecipe, output: Path, state: str) -> Manifest:
    hint = "add --overwrite to replace it, or name another build.output"
    try:
        manifest = Manifest.read(output)
        manifest.check()
    except ShardError as error:
        raise ShardError("the output folder holds a damaged build", found=str(error), hint=hint) from None
    for name, found, needed in (
        ("recipe", manifest.recipe_sha256, recipe.bytes_digest),
        ("source files", manifest.sources_digest, state),
    ):
        if found != needed:
            raise RecipeError(
                f"the output folder holds a finished build of another state of the {name}",
                found=f"{found[:12]} in {output / MANIFEST_NAME}",
                needed=needed[:12],
                where="build.output",
                hint=hint,
            )
    return manifest


def _remove_build(output: Path) -> None:
    """The manifest goes first, so that nobody reads a mixture of two builds."""
    try:
        files = [name for entry in Manifest.read(output).shards for name in entry.files]
    except ShardError:
        files = []
    (output / MANIFEST_NAME).unlink()
    for name in files:
        (output / name).unlink(missing_ok=True)


def _copy_tokenizer(source: Path, target: Path) -> None:
    Tokenizer(source)
    write_atomically(target, source.read_bytes())


def _candidates(
    plans: Sequence[ShardPlan], recipe: PrepRecipe, output: Path, progress: Progress
) -> dict[str, list[Candidates]]:
    """{shard name: its candidates for the tokenizer's sample}."""
    found = {}
    progress.phase("sample", sum(plan.source_bytes for plan in plans))
    for plan in plans:
        progress.item(plan.name)
        with Rejects(output, plan.name) as rejects:
            found[plan.name] = choose_candidates(
                prepare(plan, recipe, rejects, progress.bytes),
                plan.languages,
                recipe.tokenizer.sample_bytes,
                recipe.build.seed,
                output / _WORK_FOLDER,
                plan.name.replace("/", "."),
            )
    return found


def _train(found: Mapping[str, list[Candidates]], recipe: PrepRecipe, output: Path, progress: Progress) -> None:
    progress.phase("train tokenizer")
    candidates = [each for name in sorted(found) for each in found[name]]
    section = recipe.tokenizer
    model = train_tokenizer(balanced_sample(candidates, section.sample_bytes, section.language_exponent), section)
    write_atomically(output / TOKENIZER_NAME, model)
    shutil.rmtree(output / _WORK_FOLDER)


def _write(plans: Sequence[ShardPlan], recipe: PrepRecipe, output: Path, progress: Progress) -> list[ShardEntry]:
    tokenizer = Tokenizer(output / TOKENIZER_NAME)
    entries = []
    progress.phase("shards", sum(plan.source_bytes for plan in plans))
    for plan in plans:
        progress.item(plan.name)
        entries.append(write_shard(plan, recipe, tokenizer, output, progress))
    return entries


def _finish(
    recipe: PrepRecipe, output: Path, entries: list[ShardEntry], state: str, timing: dict[str, float]
) -> Manifest:
    tokenizer = Tokenizer(output / TOKENIZER_NAME)
    manifest = Manifest(
        folder=output,
        tokenizer=TokenizerInfo(
            file=TOKENIZER_NAME,
            sha256=sha256_of(output / TOKENIZER_NAME),
            vocab_size=tokenizer.vocab_size,
            special_ids=tokenizer.special_ids,
        ),
        shards=tuple(sorted(entries, key=lambda entry: entry.name)),
        recipe_sha256=recipe.bytes_digest,
        created_by=f"mlc {mlc.__version__}",
        timing=timing,
        sources_digest=state,
    )
    _remove_unlisted(output, {name for entry in entries for name in entry.files})
    manifest.write(output)
    (output / MARKER_NAME).unlink()
    return manifest


def _remove_unlisted(output: Path, listed: set[str]) -> None:
    """Files of a build that was killed, of shards that the recipe no longer names."""
    for name in _SHARD_FOLDERS:
        for path in (output / name).glob("*"):
            if path.is_file() and path.relative_to(output).as_posix() not in listed:
                path.unlink()
