"""How long a text takes: percentiles of single texts and throughput, in fp32, bf16 and int8.

In:  texts (mlc.evaluate.task_data.read_texts).
Out: for each precision p50 and p99 in milliseconds of batches of one text, by length; texts and tokens a second in
     batches; the mean cosine of its embeddings with those of fp32.

int8: weights of linear layers are stored and multiplied in int8, activations are quantised for each batch
(torch.ao.quantization.quantize_dynamic), on CPUs only; embeddings and attention stay fp32.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mlc.errors import MlcError, UsageError
from mlc.evaluate.intervals import Bootstrap, Score
from mlc.evaluate.options import Evaluation, EvaluationOptions, TextVectors, progress_bar
from mlc.evaluate.results import TaskResult
from mlc.tasks.encoder import TextEncoder

LATENCY_PRECISIONS = ("fp32", "bf16", "int8")
BUCKETS = (16, 32, 64, 128, 256, 512)
"""Longest text of each bucket in tokens, [CLS] and [SEP] included; longer ones are one more bucket."""
WARM_UP_TEXTS = 10


def evaluate_latency(
    options: EvaluationOptions, texts: Sequence[str], *, precisions: Sequence[str], repeats: int = 1
) -> TaskResult:
    """Time every precision on the same texts, one after another; the machine should do nothing else.

    Args:
        repeats: times that each text is encoded alone.
    """
    different = list(dict.fromkeys(texts))
    encoder = load_for_latency(options, "fp32")
    reference = encoder.encode(different, batch_tokens=options.batch_tokens)
    cut = encoder.counts.cut
    lengths = np.array([len(ids) for ids in encoder.model.tokenizer.tokenize(different).ids])
    rows: dict[str, dict[str, Score]] = {}
    scores: dict[str, Score] = {}
    for precision in precisions:
        timed = encoder if precision == "fp32" else load_for_latency(options, precision)
        milliseconds_RN = single_times(timed, different, repeats, precision)
        seconds, vectors_ND = batch_time(timed, different, options.batch_tokens)
        cosine = np.einsum("nd,nd->n", vectors_ND.astype(np.float64), reference)
        speed = {
            "texts_per_second": Score(len(different) / seconds),
            "tokens_per_second": Score(float(lengths.sum()) / seconds),
            "cosine_with_fp32": Score(float(cosine.mean())),
        }
        times = percentiles(milliseconds_RN, options.bootstrap)
        scores |= {f"{precision}_{name}": score for name, score in {**times, **speed}.items()}
        rows[f"{precision}, all"] = {**times, **speed}
        for name, places in buckets(lengths).items():
            rows[f"{precision}, {name} tokens"] = percentiles(milliseconds_RN[:, places], options.bootstrap)
    vectors = TextVectors({text: k for k, text in enumerate(different)}, reference, cut)
    batch_tokens = options.batch_tokens or encoder.batch_tokens
    device = next(encoder.model.backbone.parameters()).device
    return TaskResult(
        task="latency",
        facts=Evaluation(encoder, options).facts(vectors),
        data=tuple(map(str, options.paths)),
        scores=scores,
        by={"length": rows},
        details={
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "batch_tokens": batch_tokens,
            "tokens": {"mean": float(lengths.mean()), "longest": int(lengths.max())},
        },
        notes=(
            f"milliseconds of one text, tokenizing included; {device.type}, {torch.get_num_threads()} threads; "
            f"throughput in batches of {batch_tokens} tokens; texts of {lengths.mean():.1f} tokens on average",
        ),
    )


def load_for_latency(options: EvaluationOptions, precision: str) -> TextEncoder:
    """The model in one precision; int8 on the CPU.

    Raises:
        MlcError: as `TextEncoder.load`, and where this torch cannot quantise.
    """
    base = replace(options, precision="fp32" if precision == "int8" else precision)
    encoder = Evaluation.load(base).encoder
    return quantised(encoder) if precision == "int8" else encoder


def quantised(encoder: TextEncoder) -> TextEncoder:
    """The same encoder on the CPU, the linear layers of its backbone in int8.

    Raises:
        MlcError: this torch, or this processor, has no quantised linear layers.
    """
    from torch.ao.quantization import quantize_dynamic

    backbone = copy.deepcopy(encoder.model.backbone).cpu().float()
    with_plain_linears(backbone)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.ao moves to torchao: said at every call
            quantize_dynamic(backbone, {nn.Linear}, dtype=torch.qint8, inplace=True)
    except (AttributeError, RuntimeError) as error:
        raise MlcError(
            "this torch cannot quantise linear layers", found=str(error)[:200], hint="--precisions fp32,bf16"
        ) from None
    return TextEncoder(replace(encoder.model, backbone=backbone), encoder.representation, device="cpu")


def with_plain_linears(module: nn.Module) -> None:
    """Replace subclasses of nn.Linear by nn.Linear with the same weights: torch quantises that type only."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and type(child) is not nn.Linear:
            plain = nn.Linear(child.in_features, child.out_features, bias=child.bias is not None)
            plain.weight, plain.bias = child.weight, child.bias
            setattr(module, name, plain)
        else:
            with_plain_linears(child)


def single_times(encoder: TextEncoder, texts: Sequence[str], repeats: int, what: str) -> NDArray[np.float64]:
    """(repeats, N) milliseconds of each text alone, after a warm-up on the longest, the shortest and some others."""
    by_length = sorted(texts, key=len)
    for text in [*by_length[:1], *by_length[-1:], *texts[:WARM_UP_TEXTS]]:
        encoder.encode([text])
    times = np.empty((repeats, len(texts)))
    with progress_bar(f"{what}, one by one", repeats * len(texts)) as advance:
        for repeat in range(repeats):
            for place, text in enumerate(texts):
                start = time.perf_counter()
                encoder.encode([text])  # brings the vector to the CPU, so a GPU has finished
                times[repeat, place] = 1000 * (time.perf_counter() - start)
                if place % 50 == 49:
                    advance(50)
    return times


def batch_time(
    encoder: TextEncoder, texts: Sequence[str], batch_tokens: int | None
) -> tuple[float, NDArray[np.float32]]:
    """(seconds for all texts, their vectors), after a tenth of them as a warm-up."""
    encoder.encode(texts[: max(1, len(texts) // 10)], batch_tokens=batch_tokens)
    start = time.perf_counter()
    vectors = encoder.encode(texts, batch_tokens=batch_tokens)
    return time.perf_counter() - start, vectors


def percentiles(milliseconds_RN: NDArray[np.float64], bootstrap: Bootstrap) -> dict[str, Score]:
    """p50 and p99 with intervals over texts, in milliseconds."""
    values = milliseconds_RN.ravel()
    fewer = replace(bootstrap, resamples=min(bootstrap.resamples, 200))

    def at(percent: int) -> Score:
        return fewer.statistic(lambda places: float(np.percentile(values[places], percent)), len(values))

    return {"p50_ms": at(50), "p99_ms": at(99)}


def buckets(lengths: NDArray[np.int64]) -> Mapping[str, NDArray[np.int64]]:
    """{"17-32": places of the texts of so many tokens}, without empty ones."""
    edges = [0, *BUCKETS, int(max(lengths.max(), BUCKETS[-1])) + 1]
    names = [f"{a + 1}-{b}" for a, b in zip(edges, BUCKETS, strict=False)] + [f"over {BUCKETS[-1]}"]
    places = [np.flatnonzero((lengths > a) & (lengths <= b)) for a, b in pairwise(edges)]
    return {name: own for name, own in zip(names, places, strict=True) if len(own)}


def check_precisions(precisions: Sequence[str]) -> tuple[str, ...]:
    """Refuse what cannot be timed.

    Raises:
        UsageError: an unknown precision, or none.
    """
    unknown = [name for name in precisions if name not in LATENCY_PRECISIONS]
    if unknown or not precisions:
        raise UsageError(
            "no such precision",
            found=", ".join(unknown) or "none",
            needed=", ".join(LATENCY_PRECISIONS),
            where="--precisions",
        )
    return tuple(precisions)
