"""`mlc generate`: fill the blanks of texts, or continue them.

In:  the command line; texts from --text, a file, or standard input.
Out: the filled texts, a line each, or JSON lines; MlcError goes up to mlc.cli, which owns exit codes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from mlc.data import text_lines
from mlc.errors import DataError, UsageError
from mlc.files import write_atomically
from mlc.tasks.text_files import plain_name, read_records

if TYPE_CHECKING:
    from mlc.generate.filling import FilledText, Precision
    from mlc.model.decoding_glm import Decoding

PRECISIONS = ("fp32", "bf16")
EXAMPLES = (
    "mlc generate runs/base --text 'The committee [MASK] on Tuesday.'",
    "mlc generate runs/base --data texts.jsonl --out filled.jsonl --json --samples 5 --temperature 0.8 --top-p 0.95",
    "mlc generate runs/base --beams 4 < texts.txt",
)


@dataclass(frozen=True)
class Source:
    """A text as it was given.

    Attributes:
        text: with its marks.
        where: for messages.
        line: of the file or of standard input, or number of the --text, from 1.
        identity: "id" of a JSON record; None without one.
    """

    text: str
    where: str
    line: int
    identity: Any = None


def generate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Run folder (newest checkpoint), a checkpoint, or an export with heads."),
    ],
    text: Annotated[list[str] | None, typer.Option("--text", help="A text; may be given several times.")] = None,
    data: Annotated[Path | None, typer.Option(help='Texts: .txt, a line each, or .jsonl with "text".')] = None,
    out: Annotated[Path | None, typer.Option(help="Write here. Default: standard output.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest content of one blank, in tokens.")] = 40,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 = most probable tokens; above, they are drawn.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from the k most probable tokens; 0 = all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the fewest tokens of this probability; 1 = all.")] = 1.0,
    beams: Annotated[int, typer.Option(min=1, help="Beam search of this width, for texts with one blank.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="Beams: log probability / length ** this.")] = 1.0,
    samples: Annotated[int, typer.Option(min=1, help="Fillings of each text.")] = 1,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int | None, typer.Option(min=1, help="Intra-op threads. Default: torch's.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON lines with the pieces and their log probability.")
    ] = False,
) -> None:
    r"""Fill the blanks of texts: \[MASK] = some words, \[sMASK] = a sentence, \[gMASK] = the rest. Without any: go on.

    Texts come from --text, --data, or standard input, a line each. The model must be a GLM trained with
    objectives.glm. Every text gives one line, or as many as --samples says.
    """
    run_generate(
        model,
        text or [],
        data,
        out,
        settings={
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "beams": beams,
            "length_penalty": length_penalty,
            "samples": samples,
        },
        seed=seed,
        precision=precision,
        threads=threads,
        as_json=as_json,
    )


def run_generate(
    model: str,
    texts: Sequence[str],
    data: Path | None = None,
    out: Path | None = None,
    *,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    precision: str = "fp32",
    threads: int | None = None,
    as_json: bool = False,
) -> None:
    """Read the texts, fill them, write them; what can be refused is refused before the model loads.

    Args:
        settings: of `mlc.model.decoding_glm.Decoding`.

    Raises:
        UsageError: options contradict one another, or the model cannot fill blanks.
        DataError: a text cannot be used.
    """
    if precision not in PRECISIONS:
        raise UsageError("no such precision", found=precision, needed=" or ".join(PRECISIONS), where="--precision")
    if texts and data is not None:
        raise UsageError("texts come from one place", found="--text and --data", needed="one of them")
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError("the folder does not exist", found=str(out.parent), where="--out")
    say = Console(stderr=True)
    sources = read_sources(texts, data, say)
    from mlc.generate.marked_text import read_marks

    marked = [read_marks(source.text, source.where) for source in sources]
    decoding = _decoding(settings or {})

    from mlc.generate.filling import BlankFiller

    filler = BlankFiller.load(model, precision=cast("Precision", precision), threads=threads)
    prompts = filler.prompts(marked, decoding)
    for name in filler.source.skipped:
        say.print(f"skipped, not complete: {name}", markup=False, highlight=False)
    for mark in filler.untrained(marked):
        say.print(
            f"the model was trained without {mark} blanks (its recipe's objectives.glm): do not expect much",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    start = time.perf_counter()
    with _progress(len(marked), say) as advance:
        filled = filler.fill(marked, prompts, decoding, seed=seed, progress=advance)
    _write(list(_lines(sources, filled, as_json)), out)
    tokens = sum(len(piece.tokens) for samples in filled for one in samples for piece in one.pieces)
    seconds = time.perf_counter() - start
    say.print(f"{len(marked)} texts, {tokens} tokens, {seconds:.1f} s", markup=False, highlight=False)


def read_sources(texts: Sequence[str], data: Path | None, say: Console) -> list[Source]:
    """The texts of --text, --data or standard input, in their order.

    Raises:
        UsageError: the file is of another kind.
        DataError: it cannot be read, a record has no "text", or there are no texts.
    """
    if texts:
        found = [Source(text, f"--text {number}", number) for number, text in enumerate(texts, 1)]
    elif data is None:
        if sys.stdin.isatty():
            say.print("texts from standard input, a line each; Ctrl-D ends them", markup=False, highlight=False)
        lines = enumerate(sys.stdin.read().splitlines(), 1)
        found = [Source(line, f"standard input:{number}", number) for number, line in lines]
    elif plain_name(data).endswith(".jsonl"):
        found = [_source_of(record, data, number) for number, record in read_records(data)]
    elif plain_name(data).endswith(".txt"):
        found = [Source(line, f"{data}:{number}", number) for number, line in _text_lines(data)]
    else:
        raise UsageError("no such kind of file", found=data.name, needed=".txt or .jsonl", where="--data")
    if not found:
        raise DataError("there are no texts", where=str(data or "standard input"))
    return found


def _text_lines(data: Path) -> Iterator[tuple[int, str]]:
    for number, line in text_lines.read_lines(data):
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            raise DataError("this is not UTF-8", found=str(error), where=f"{data}:{number}") from None


def _source_of(record: dict[str, Any], data: Path, number: int) -> Source:
    where = f"{data}:{number}"
    text = record.get("text")
    if not isinstance(text, str):
        raise DataError('the record has no "text"', found=f"keys {', '.join(record)}", needed="a string", where=where)
    return Source(text, where, number, record.get("id"))


def _decoding(settings: dict[str, Any]) -> Decoding:
    from mlc.model.decoding_glm import Decoding

    try:
        return Decoding(**settings)
    except ValueError as error:
        raise UsageError("these settings do not go together", found=str(error)) from None


def _lines(sources: Sequence[Source], filled: Sequence[Sequence[FilledText]], as_json: bool) -> Iterator[str]:
    for source, samples in zip(sources, filled, strict=True):
        for number, sample in enumerate(samples):
            if not as_json:
                yield " ".join(sample.text.splitlines())  # a piece of bytes may be a line end
                continue
            identity = {} if source.identity is None else {"id": source.identity}
            pieces = [asdict(piece) for piece in sample.pieces]
            content = {"line": source.line, **identity, "sample": number, "text": sample.text, "pieces": pieces}
            yield json.dumps(content, ensure_ascii=False)


def _write(lines: Sequence[str], out: Path | None) -> None:
    content = "".join(line + "\n" for line in lines)
    if out is None:
        sys.stdout.write(content)
        sys.stdout.flush()
    else:
        write_atomically(out, content.encode())


def _progress(texts: int, console: Console) -> Any:
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar() -> Iterator[Any]:
        columns = (TextColumn("filling"), BarColumn(), MofNCompleteColumn(), TextColumn("texts"), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task("filling", total=texts)
            yield lambda done: shown.advance(task, done)

    return bar()
