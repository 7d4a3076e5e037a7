"""Texts a second: `TextEncoder.encode` beside sentence-transformers' `SentenceTransformer.encode`, on the same model.

    python benchmarks/embedding_throughput.py            # two models made on the spot, fp32 and bf16
    python benchmarks/embedding_throughput.py --model exported/base --texts corpus.txt --rounds 9 --threads 2
    python benchmarks/embedding_throughput.py --sizes mid --precisions fp32 --json throughput.json

In:  texts, a line each (default: the demo corpus); a Hugging Face folder with a fast tokenizer (default: random weights
     of XLM-R's architecture and a tokenizer trained on the texts).
Out: a table: medians of the rounds, their ratio and its spread, and how far the vectors are apart.

Each system runs in a process of its own and keeps its model. Rounds alternate, and so does who begins; the other
process waits meanwhile. A round takes strings to float32 unit vectors in memory: tokenizing, forward passes, mean
pooling, normalising. Both get the same threads, longest input and texts in the same order; sentence-transformers its
default batch of 32 texts, or each of --batch-sizes. Ratios are of two rounds that follow one another. Where other
programs share the cores, seconds of processor time say more than those of the clock: both ratios are given.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

SIZES = {"small": (4, 256), "mid": (6, 384), "base": (12, 768)}
"""Layers and width of the models that are made here; 64 a head, 4 x width in the feed-forward layers."""
SYSTEMS = ("mlc", "sentence-transformers")
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
DEMO_DOCUMENTS = 120

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """What both systems are given."""

    model: Path
    precision: str
    texts: list[str]
    threads: int
    max_tokens: int
    batch_size: int


@dataclass(frozen=True)
class Took:
    """Seconds of a round: by the clock, and of processor time over all threads."""

    clock: float
    processor: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder instead of models made here")
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["small", "mid"], help="of models made here")
    parser.add_argument("--precisions", nargs="*", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--texts", type=Path, help="a file of texts, a line each; default: the demo corpus")
    parser.add_argument("--count", type=int, default=2000, help="texts of a round")
    parser.add_argument("--rounds", type=int, default=7, help="of each system, after one that warms up")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[32], help="texts a batch, sentence-transformers")
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--json", type=Path, help="write every number here")
    parser.add_argument("--serve", choices=SYSTEMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    texts = read_texts(options.texts, options.count)
    found = []
    print(f"{len(texts)} texts, {options.threads} threads, {options.rounds} rounds; load {os.getloadavg()[0]:.1f}")
    names = ["model", "precision", "batch", *(f"{system}, texts/s" for system in SYSTEMS)]
    names += ["ratio by the clock (least, greatest)", "by processor time", "least cosine", "largest difference"]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    with tempfile.TemporaryDirectory() as folder:
        models = [options.model] if options.model else [
            make_model(size, Path(folder) / size, texts, options.vocabulary) for size in options.sizes
        ]  # fmt: skip
        for model in models:
            for precision in options.precisions:
                for batch_size in options.batch_sizes:
                    case = Case(model, precision, texts, options.threads, options.max_tokens, batch_size)
                    found.append({"model": model.name, **measure(case, options.rounds)})
                    print(table_row(found[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def read_texts(file: Path | None, count: int) -> list[str]:
    """`count` texts in an order without meaning; fewer where there are no more."""
    if file is None:
        from data_prep.demo_corpus.corpus import generate

        records = [record for found in generate(DEMO_DOCUMENTS, 0, seed=1).train.values() for record in found]
        # Sentences and documents: lengths as different as those of a corpus.
        documents = [record["text"] for record in records]
        texts = [sentence for text in documents for sentence in text.split("\n")]
        texts += [text.replace("\n", " ") for text in documents]
    else:
        texts = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    random.Random(1).shuffle(texts)
    return texts[:count]


def make_model(size: str, folder: Path, texts: Sequence[str], vocab_size: int) -> Path:
    """A folder with an encoder of XLM-R's architecture and random weights, and a fast unigram tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", model_max_length=512,
    )  # fmt: skip
    fast.save_pretrained(folder)
    layers, width = SIZES[size]
    config = XLMRobertaConfig(
        vocab_size=len(fast), hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64,
        intermediate_size=4 * width, max_position_embeddings=514, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    XLMRobertaModel(config).save_pretrained(folder)
    return folder


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Both systems by turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        servers = {system: Server(system, case, folder) for system in SYSTEMS}
        try:
            for server in servers.values():
                server.round()
            took: dict[str, list[Took]] = {system: [] for system in SYSTEMS}
            for number in range(rounds):
                for system in SYSTEMS if number % 2 else SYSTEMS[::-1]:
                    took[system].append(servers[system].round())
            vectors = {system: server.vectors() for system, server in servers.items()}
        finally:
            for server in servers.values():
                server.stop()
    return {
        "precision": case.precision,
        "batch_size": case.batch_size,
        "texts": len(case.texts),
        "threads": case.threads,
        "texts_per_second": {
            system: len(case.texts) / statistics.median(one.clock for one in found) for system, found in took.items()
        },
        "texts_per_processor_second": {
            system: len(case.texts) / statistics.median(one.processor for one in found)
            for system, found in took.items()
        },
        "clock": _ratios([(a.clock, b.clock) for a, b in zip(*took.values(), strict=True)]),
        "processor": _ratios([(a.processor, b.processor) for a, b in zip(*took.values(), strict=True)]),
        **_distance(*vectors.values()),
    }


def _ratios(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Seconds of sentence-transformers over ours, over the rounds."""
    ratios = [theirs / ours for ours, theirs in pairs]
    return {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}


def _distance(ours: Vectors, theirs: Vectors) -> dict[str, float]:
    return {
        "least_cosine": float((ours * theirs).sum(1).min()),
        "largest_difference": float(np.abs(ours - theirs).max()),
    }


def table_row(found: dict[str, Any]) -> str:
    """A row of the table."""
    clock, speeds = found["clock"], found["texts_per_second"]
    cells = [found["model"], found["precision"], found["batch_size"], *(f"{speeds[system]:.0f}" for system in SYSTEMS)]
    cells += [f"{clock['median']:.2f} ({clock['least']:.2f}, {clock['greatest']:.2f})"]
    cells += [f"{found['processor']['median']:.2f}", f"{found['least_cosine']:.6f}"]
    return f"| {' | '.join(map(str, cells))} | {found['largest_difference']:.1e} |"


class Server:
    """A process with one system's model, which encodes the texts each time it is asked."""

    def __init__(self, system: str, case: Case, folder: Path) -> None:
        self._vectors = folder / f"{system}.npy"
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(case.threads), "RAYON_NUM_THREADS": str(case.threads),
            "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", system],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._ask({**case.__dict__, "model": str(case.model), "vectors": str(self._vectors)})

    def round(self) -> Took:
        """One pass over the texts."""
        return Took(**json.loads(self._ask({})))

    def vectors(self) -> Vectors:
        """Of the last round."""
        return cast(Vectors, np.load(self._vectors))

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _ask(self, question: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("a process has ended; its error is above")
        return answer


def serve(system: str) -> None:
    """Load what the first line of standard input asks for, then encode once a line."""
    import torch

    case = json.loads(sys.stdin.readline())
    torch.set_num_threads(case["threads"])
    encode = {"mlc": our_encode, "sentence-transformers": their_encode}[system](case)
    print("ready", flush=True)
    for _ in sys.stdin:
        start, start_cpu = time.perf_counter(), time.process_time()
        vectors = encode(case["texts"])
        took = Took(time.perf_counter() - start, time.process_time() - start_cpu)
        np.save(case["vectors"], vectors)
        print(json.dumps(asdict(took)), flush=True)


def our_encode(case: dict[str, Any]) -> Callable[[list[str]], Vectors]:
    """`TextEncoder.encode` with its defaults."""
    from mlc.tasks.encoder import TextEncoder

    encoder = TextEncoder.load(
        case["model"], pooling="mean", projection=False, layer=-1, precision=case["precision"],
        max_tokens=case["max_tokens"], device="cpu",
    )  # fmt: skip
    return encoder.encode


def their_encode(case: dict[str, Any]) -> Callable[[list[str]], Vectors]:
    """`SentenceTransformer.encode`."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    dtype = torch.bfloat16 if case["precision"] == "bf16" else torch.float32
    transformer = Transformer(case["model"], max_seq_length=case["max_tokens"], model_kwargs={"dtype": dtype})
    model = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")

    def encode(texts: list[str]) -> Vectors:
        vectors = model.encode(
            texts, batch_size=case["batch_size"], normalize_embeddings=True, show_progress_bar=False,
            convert_to_numpy=True,
        )  # fmt: skip
        return cast(Vectors, vectors.astype(np.float32))

    return encode


if __name__ == "__main__":
    main()
