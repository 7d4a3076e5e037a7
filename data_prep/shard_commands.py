"""`mlc prep adopt`, `merge` and `split`: shards that are there already become other builds.

In:  arguments.
Out: a folder with a manifest, or two; a line for each on the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from data_prep.shard_tools.adopt import Foreign, adopt_shards
from data_prep.shard_tools.merge import merge_builds
from data_prep.shard_tools.split import split_build
from data_prep.verify import total_bytes
from mlc.data.manifest import Manifest
from mlc.errors import UsageError


class OnBytes(Protocol):
    """Told how many bytes more are done."""

    def __call__(self, count: int, /) -> None:
        """Count more."""


def add_shard_commands(app: typer.Typer) -> None:
    """Add the commands of this file to `mlc prep`."""
    app.command("adopt", epilog="Example: mlc prep adopt shards --tokenizer t.model --shard de=megatron/de_text")(adopt)
    app.command("merge", epilog="Example: mlc prep merge web books --output all")(merge)
    app.command("split", epilog="Example: mlc prep split all --first train --second dev --share 0.01")(split)


def adopt(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the manifest.")],
    tokenizer: Annotated[Path, typer.Option("--tokenizer", help="The SentencePiece model the shards were made with.")],
    shard: Annotated[
        list[str],
        typer.Option(
            "--shard",
            metavar="LANGUAGE=PREFIX",
            help="A language and its .bin/.idx without the suffix; of pairs de-fr=PREFIX,PREFIX. May be given again.",
        ),
    ],
) -> None:
    """Write a manifest for shards that Megatron or GPT-NeoX made; they stay where they are.

    Every id is compared with the vocabulary, and every file hashed.
    """
    foreign = [_foreign(text) for text in shard]
    sizes = [path.stat().st_size for each in foreign for path in map(_bin_path, each.prefixes) if path.is_file()]
    with bar("reading", sum(sizes)) as on_bytes:
        manifest = adopt_shards(output, tokenizer, foreign, on_bytes)
    _say(manifest)


def merge(
    builds: Annotated[list[Path], typer.Argument(metavar="SHARDS...", help="Builds with one tokenizer, in order.")],
    output: Annotated[Path, typer.Option("--output", help="A new folder.")],
) -> None:
    """Join builds that were made with the same tokenizer; shards of a language follow one another as given."""
    if len(builds) < 2:
        raise UsageError("there is nothing to merge", found=f"{len(builds)} build", needed="two or more")
    manifests = [Manifest.read(build) for build in builds]
    with bar("merging", _token_bytes(manifests)) as on_bytes:
        manifest = merge_builds(manifests, output, on_bytes)
    _say(manifest)


def split(
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="A build.")],
    first: Annotated[Path, typer.Option("--first", help="A new folder, for most documents.")],
    second: Annotated[Path, typer.Option("--second", help="A new folder, for the others.")],
    share: Annotated[float | None, typer.Option("--share", help="Of the documents that go into the second.")] = None,
    documents: Annotated[int | None, typer.Option("--documents", help="Or how many of all shards together.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another one, another split.")] = 1,
) -> None:
    """Divide a build in two, such as training and development; documents of one group stay together.

    So no translation of a document in one part lies in the other.
    """
    build = Manifest.read(shards)
    with bar("splitting", _token_bytes([build])) as on_bytes:
        parts = split_build(build, first, second, share=share, documents=documents, seed=seed, on_bytes=on_bytes)
    for manifest in parts:
        _say(manifest)


@contextmanager
def bar(what: str, bytes: int) -> Iterator[OnBytes]:
    """A progress bar on a terminal."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=bytes)
        yield lambda count: shown.advance(task, count)


def _foreign(text: str) -> Foreign:
    languages, equals, prefixes = text.partition("=")
    found = Foreign(tuple(languages.split("-")), tuple(map(Path, prefixes.split(","))))
    if not equals or not prefixes or len(found.languages) != len(found.prefixes) or len(found.languages) > 2:
        raise UsageError("this names no shard", found=text, needed="de=PREFIX, or de-fr=PREFIX,PREFIX", where="--shard")
    return found


def _bin_path(prefix: Path) -> Path:
    bare = prefix.name.removesuffix(".bin").removesuffix(".idx")
    return prefix.with_name(f"{bare}.bin")


def _token_bytes(manifests: list[Manifest]) -> int:
    return sum(total_bytes(manifest) for manifest in manifests)


def _say(manifest: Manifest) -> None:
    documents = sum(entry.documents for entry in manifest.shards)
    tokens = sum(entry.tokens for entry in manifest.shards)
    shards = len(manifest.shards)
    Console().print(
        f"{escape(str(manifest.folder))}: {shards} shards, {documents:,} documents, {tokens:,} tokens, "
        f"manifest {manifest.sha256[:12]}",
        highlight=False,
        soft_wrap=True,
    )
