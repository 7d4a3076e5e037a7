"""Encoding: MB of UTF-8 text a second, by one process and by two, each library alone and `data_prep`'s encoder.

    python benchmarks/tokenizer_speed.py CORPUS                          # trains a tokenizer on CORPUS first
    python benchmarks/tokenizer_speed.py CORPUS --tokenizer tokenizer.model --megabytes 200

CORPUS is a folder of .jsonl or .jsonl.zst files with a field "text", or of .txt files. Lines are read and cleaned as in
a build before the clock starts; every row encodes the same ones, in the same order, in chunks. Hugging Face's library
gets the same BPE model as a tokenizer.json. Libraries that are slow take the beginning of every chunk.
Rows are measured one after the other in every round; the median of the rounds is shown. A row of two processes has
each of them encode every second chunk; the time is that of the slower one.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from data_prep.encoding.engine import Encoder, check_sample
from data_prep.encoding.merge_list import merge_list_json
from data_prep.encoding.training import ModelSettings, train_model
from mlc.data.text import clean_text

TRAINING_BYTES_A_FILE = 200_000
COMPARED_LINES = 5_000
LONGEST_SECONDS = 1800  # of one row: a process that failed says nothing


@dataclass(frozen=True)
class Row:
    """A way to encode, and the share of every chunk it gets."""

    name: str
    start: Callable[[Path], Callable[[bytes], int]]
    share: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="a SentencePiece BPE model; default: trained on the corpus")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="of a tokenizer that is trained")
    parser.add_argument("--megabytes", type=float, default=200, help="of text; default 200")
    parser.add_argument("--chunk-mib", type=float, default=4, help="text encoded at once; default 4")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    files = sorted(path for path in options.corpus.rglob("*") if path.suffix in (".jsonl", ".zst", ".txt"))
    if not files:
        raise SystemExit(f"no .jsonl, .jsonl.zst or .txt below {options.corpus}")
    with tempfile.TemporaryDirectory() as folder:
        model = options.tokenizer or train(files, options.vocabulary, Path(folder))
        chunks = list(chunks_of(files, int(options.megabytes * 1e6), int(options.chunk_mib * (1 << 20))))
        encoder = Encoder(model)
        sample = [line for chunk in chunks for line in chunk.decode().split("\n")[::20]][:COMPARED_LINES]
        print(
            f"{sum(map(len, chunks)) / 1e6:.1f} MB in {len(chunks)} chunks; {encoder.vocab_size} ids; {encoder.engine}"
        )
        print(f"{check_sample(encoder, sample):,} lines: ids equal to SentencePiece's\n")
        report(measure(model, chunks, options.rounds))


def measure(model: Path, chunks: list[bytes], rounds: int) -> dict[tuple[str, int], list[float]]:
    """{(row, processes): MB/s of each round}."""
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for row in ROWS:
            for processes in (1, 2):
                mine = [beginning(chunk, row.share) for chunk in chunks]
                found.setdefault((row.name, processes), []).append(speed(row, model, mine, processes))
    return found


def beginning(chunk: bytes, share: float) -> bytes:
    """Whole lines, up to that share of the chunk and the rest of a line."""
    end = chunk.find(b"\n", int(len(chunk) * share))
    return chunk if end < 0 else chunk[:end]


def speed(row: Row, model: Path, chunks: list[bytes], processes: int) -> float:
    """MB/s; the clock starts when every process has loaded its tokenizer and encoded a little."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(processes), context.Queue()

    def work(number: int) -> None:
        encode = row.start(model)
        encode(chunks[0][: chunks[0].index(b"\n")])
        barrier.wait()
        started = time.perf_counter()
        for chunk in chunks[number::processes]:
            encode(chunk)
        results.put(time.perf_counter() - started)

    workers = [context.Process(target=work, args=(number,)) for number in range(processes)]
    for worker in workers:
        worker.start()
    seconds = max(results.get(timeout=LONGEST_SECONDS) for _ in workers)
    for worker in workers:
        worker.join()
    return sum(map(len, chunks)) / 1e6 / seconds


def report(found: dict[tuple[str, int], list[float]]) -> None:
    """Markdown; ratios are to gigatoken alone with as many processes."""
    print("| | 1 process, MB/s | 2 processes, MB/s | of gigatoken alone | lowest and highest round |")
    print("|---|---:|---:|---:|---|")
    middle = {key: statistics.median(values) for key, values in found.items()}
    for row in ROWS:
        one, two = middle[row.name, 1], middle[row.name, 2]
        ratios = " / ".join(f"{middle[row.name, n] / middle[ROWS[0].name, n]:.2f}" for n in (1, 2))
        spread = "; ".join(f"{min(found[row.name, n]):.1f}-{max(found[row.name, n]):.1f}" for n in (1, 2))
        print(f"| {row.name} | {one:.1f} | {two:.1f} | {ratios} | {spread} |")


def gigatoken_alone(model: Path) -> Callable[[bytes], int]:
    import gigatoken

    tokenizer = gigatoken.Tokenizer.from_sentencepiece(model)

    def encode(text: bytes) -> int:
        return len(tokenizer.encode_batch(gigatoken.BytesSource([text], separator=b"\n"), parallel=False))

    return encode


def our_encoder(model: Path) -> Callable[[bytes], int]:
    encoder = Encoder(model)
    return lambda text: len(encoder.encode_lines(text)[0])


def sentencepiece_alone(model: Path) -> Callable[[bytes], int]:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return lambda text: len(processor.encode(text.decode().split("\n"), num_threads=1))


def tokenizers_alone(model: Path) -> Callable[[bytes], int]:
    import tokenizers

    tokenizer: Any = tokenizers.Tokenizer.from_str(merge_list_json(model.read_bytes()))
    return lambda text: len(tokenizer.encode_batch_fast(text.decode().split("\n"), add_special_tokens=False))


ROWS = (
    Row("gigatoken alone", gigatoken_alone, 1.0),
    Row("data_prep.encoding.Encoder", our_encoder, 1.0),
    Row("SentencePiece alone", sentencepiece_alone, 0.05),
    Row("Hugging Face tokenizers alone", tokenizers_alone, 0.05),
)


def train(files: list[Path], vocabulary: int, folder: Path) -> Path:
    """A model from the beginning of every file."""
    sample = [line for path in files for line in up_to(lines_of(path), TRAINING_BYTES_A_FILE)]
    model = folder / "tokenizer.model"
    model.write_bytes(train_model(sample, ModelSettings("bpe", vocabulary, 0.9995, True, 16)))
    return model


def chunks_of(files: list[Path], total_bytes: int, chunk_bytes: int) -> Iterator[bytes]:
    """Lines between line feeds, file after file, each giving an equal share of the text at most."""
    chunk: list[str] = []
    size = 0
    for path in files:
        for line in up_to(lines_of(path), total_bytes // len(files)):
            chunk.append(line)
            size += len(line.encode()) + 1
            if size >= chunk_bytes:
                yield "\n".join(chunk).encode()
                chunk, size = [], 0
    if chunk:
        yield "\n".join(chunk).encode()


def up_to(lines: Iterator[str], limit_bytes: int) -> Iterator[str]:
    taken = 0
    for line in lines:
        taken += len(line.encode()) + 1
        if taken > limit_bytes:
            return
        yield line


def lines_of(path: Path) -> Iterator[str]:
    """Cleaned lines, none empty."""
    with path.open("rb") as raw:
        plain = zstandard.ZstdDecompressor().stream_reader(raw) if path.suffix == ".zst" else raw
        as_json = ".jsonl" in path.suffixes
        for row in io.TextIOWrapper(plain, encoding="utf-8"):  # type: ignore[arg-type]
            text = json.loads(row)["text"] if as_json else row
            yield from filter(None, map(clean_text, text.split("\n")))


if __name__ == "__main__":
    main()
