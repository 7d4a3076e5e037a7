"""What all tasks on embeddings have in common: the options, the loaded model, texts that become vectors, the report.

In:  the command line, as `EvaluationOptions`.
Out: `Evaluation`, which every task gets; a printed table and a JSON file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_type_hints

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from mlc.errors import MlcError, UsageError
from mlc.evaluate.intervals import Bootstrap
from mlc.evaluate.results import ModelFacts, TaskResult, print_result
from mlc.files import write_json

if TYPE_CHECKING:
    from mlc.tasks.encoder import Precision, Progress, TextEncoder

PRECISIONS = ("fp32", "bf16")
Floats = NDArray[np.float32]
Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Options of every task; each field is one option of its commands (`evaluation_command`)."""

    model: Annotated[str, typer.Option(help="Run folder, checkpoint, export, Hugging Face folder or name.")]
    data: Annotated[list[Path], typer.Option(help="Files or folders of test data; may be given several times.")]
    more: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="More data, as --data.")] = None
    languages: Annotated[str, typer.Option(help="Only these of --data, comma-separated: de,fr.")] = ""
    limit: Annotated[int | None, typer.Option(min=2, help="Only the first N of each file or pair of languages.")] = None
    layer: Annotated[int | None, typer.Option(help="-1 = last, 0 = embeddings, k = block k; else as trained.")] = None
    pooling: Annotated[str, typer.Option(help="mean, cls, last or attention. Default: as trained.")] = ""
    projection: Annotated[
        bool | None, typer.Option("--projection/--no-projection", help="Apply the projection. Default: as trained.")
    ] = None
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32"
    threads: Annotated[int | None, typer.Option(min=1, help="Intra-op threads. Default: torch's.")] = None
    max_tokens: Annotated[int | None, typer.Option(min=3, help="Longest text. Default: as trained.")] = None
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of one batch, padding included. Default: by device.")
    ] = None
    resamples: Annotated[int, typer.Option(min=2, help="Bootstrap resamples of the intervals.")] = 1000
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples, and of what a task draws.")] = 0
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None

    @property
    def paths(self) -> list[Path]:
        """All of --data."""
        return [*self.data, *(self.more or [])]

    @property
    def wanted_languages(self) -> tuple[str, ...]:
        """Codes as the user wrote them; none = all."""
        return split_codes(self.languages)

    @property
    def bootstrap(self) -> Bootstrap:
        """How intervals are made."""
        return Bootstrap(self.resamples, self.seed)

    def check(self) -> None:
        """Refuse what can be refused before data are read.

        Raises:
            UsageError: an unknown precision, or no folder for the JSON file.
        """
        if self.precision not in PRECISIONS:
            raise UsageError(
                "no such precision", found=self.precision, needed=" or ".join(PRECISIONS), where="--precision"
            )
        check_folder(self.json_file, "--json")


def split_codes(codes: str) -> tuple[str, ...]:
    """ "de, fr" -> ("de", "fr")."""
    return tuple(code.strip() for code in codes.split(",") if code.strip())


def parse_rows(text: str, option: str) -> slice:
    """ "10:20" -> slice(10, 20); either side may be empty.

    Raises:
        UsageError: it is no such range.
    """
    start, colon, stop = text.partition(":")
    try:
        found = slice(int(start) if start else None, int(stop) if stop else None)
    except ValueError:
        colon = ""
    if not colon or (found.start or 0) < 0 or (found.stop is not None and found.stop <= (found.start or 0)):
        raise UsageError("these are no rows", found=text, needed="A:B, A: or :B, with A below B", where=option)
    return found


def check_folder(file: Path | None, option: str) -> None:
    """Refuse a file to write whose folder does not exist.

    Raises:
        UsageError: it does not.
    """
    if file is not None and not file.absolute().parent.is_dir():
        raise UsageError("the folder does not exist", found=str(file.parent), where=option)


def check_choice(found: str, choices: Sequence[Choice], option: str) -> Choice:
    """The one of `choices` that the user named.

    Raises:
        UsageError: none has that name.
    """
    for choice in choices:
        if choice == found:
            return choice
    raise UsageError(f"{option} has no such value", found=found, needed=", ".join(choices), where=option)


@dataclass(frozen=True)
class TextVectors:
    """Every different text encoded once.

    Attributes:
        places: text -> row of `vectors_UD`.
        vectors_UD: unit vectors.
        cut: how many of the texts were longer than the model takes.
    """

    places: dict[str, int]
    vectors_UD: Floats
    cut: int

    def of(self, texts: Iterable[str]) -> Floats:
        """(n, D), row k for text k."""
        return self.vectors_UD[[self.places[text] for text in texts]]


@dataclass(frozen=True)
class Evaluation:
    """A loaded model with the options it is scored under."""

    encoder: TextEncoder
    options: EvaluationOptions

    @classmethod
    def load(cls, options: EvaluationOptions) -> Evaluation:
        """Open the model; errors as in `find_model` and `TextEncoder.load`."""
        from transformers.utils.logging import disable_progress_bar

        from mlc.tasks.encoder import TextEncoder

        disable_progress_bar()  # transformers' own: they tell of single files
        encoder = TextEncoder.load(
            options.model,
            layer=options.layer,
            pooling=options.pooling or None,
            projection=options.projection,
            precision=cast("Precision", options.precision),
            threads=options.threads,
            max_tokens=options.max_tokens,
        )
        return cls(encoder, options)

    def encode(self, texts: Iterable[str], what: str = "encoding") -> TextVectors:
        """Encode every different text once, with a progress bar called `what`.

        Raises:
            MlcError: a vector is not finite.
        """
        different = list(dict.fromkeys(texts))
        with progress_bar(what, len(different)) as advance:
            vectors_UD = self.encoder.encode(different, batch_tokens=self.options.batch_tokens, progress=advance)
        if not np.isfinite(vectors_UD).all():
            raise MlcError(
                "the model gives vectors that are not finite", hint="check the checkpoint, or use --precision fp32"
            )
        return TextVectors({text: place for place, text in enumerate(different)}, vectors_UD, self.encoder.counts.cut)

    def encoder_is_long(self, texts: Sequence[str]) -> list[bool]:
        """Which texts fill the model's longest input, or are longer."""
        return [len(ids) >= self.encoder.max_tokens for ids in self.encoder.model.tokenizer.tokenize(texts).ids]

    def facts(self, vectors: TextVectors) -> ModelFacts:
        """What was scored, for the report."""
        from mlc.tasks.encoder import describe

        encoder = self.encoder
        return ModelFacts(
            model=self.options.model,
            checkpoint=encoder.model.source.name,
            step=encoder.step,
            representation=dict(describe(encoder.representation, encoder.model.layers)),
            precision=encoder.precision,
            max_tokens=encoder.max_tokens,
            texts=len(vectors.places),
            cut=vectors.cut,
            skipped_checkpoints=encoder.model.source.skipped,
        )

    @property
    def data(self) -> tuple[str, ...]:
        """Where the test data came from, for the report."""
        return tuple(map(str, self.options.paths))


def report(result: TaskResult, options: EvaluationOptions, console: Console | None = None) -> TaskResult:
    """Print a result (None = to standard output), and write its JSON file where one was asked for."""
    print_result(result, console or Console())
    if options.json_file is not None:
        write_json(options.json_file, result.to_json())
    return result


@contextmanager
def progress_bar(what: str, total: int, unit: str = "texts") -> Iterator[Progress]:
    """A bar on standard error; yields what tells it how many were finished since the last call."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def examples_epilog(examples: Sequence[str]) -> str:
    """What `--help` shows below the options."""
    return "[bold]Examples:[/bold]\n\n" + "\n\n".join(f"  $ {example}" for example in examples)


def evaluation_command(
    app: typer.Typer, *examples: str, options: type[Any] = EvaluationOptions, name: str | None = None
) -> Callable[[Callable[..., TaskResult]], Callable[..., TaskResult]]:
    """Add a function to the commands of `app`, with every field of a dataclass of options as an option.

    The function's first parameter takes the `options`; its other parameters are options of its own. Its name (or
    `name`) and docstring become the command's. typer has no groups of options, so the signature is put together here.
    """

    def add(function: Callable[..., TaskResult]) -> Callable[..., TaskResult]:
        hints = get_type_hints(options, include_extras=True)
        shared = [_parameter(item.name, hints[item.name], item.default) for item in fields(options)]
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def command(**given: Any) -> None:
            chosen = options(**{item.name: given.pop(item.name) for item in shared})
            function(chosen, **given)

        required = [item for item in shared if item.default is inspect.Parameter.empty]
        optional = [item for item in shared if item.default is not inspect.Parameter.empty]
        parameters = [*required, *(_parameter(p.name, p.annotation, p.default) for p in own), *optional]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__doc__ = function.__doc__
        app.command(name or function.__name__, epilog=examples_epilog(examples))(command)
        return function

    return add


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    empty = inspect.Parameter.empty
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=empty if default in (MISSING, empty) else default,
        annotation=annotation,
    )
