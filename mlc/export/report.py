"""What an export can be, and what is told of one.

In:  nothing. Out: formats, checked against dtypes, and `ExportReport`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlc.errors import UsageError
from mlc.export.compare import Comparison
from mlc.export.transformers_folder import DTYPES
from mlc.tasks.encoder import Representation

Format = Literal["transformers", "sentence-transformers", "onnx"]
FORMATS: tuple[Format, ...] = ("transformers", "sentence-transformers", "onnx")


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it was checked.

    Attributes:
        checkpoint: name of what was exported.
        representation: of an encoder's embeddings; None for a fine-tuned model.
        formats: of the folder; sentence-transformers' is one of transformers as well.
        comparisons: all of them; the first is of the token ids.
        max_difference: largest difference of an element of an embedding (of a fine-tuned model: of a logit), over all
            programs that read the export.
        texts_compared: texts on which the tokenizers gave the same ids.
        weight_bytes: of the files of weights, ONNX included.
        skipped: newer checkpoints that are not complete.
    """

    folder: Path
    checkpoint: str
    step: int | None
    representation: Representation | None
    formats: tuple[str, ...]
    dtype: str
    comparisons: tuple[Comparison, ...]
    max_difference: float
    texts_compared: int
    weight_bytes: int
    skipped: tuple[str, ...] = ()


def check_formats(formats: Sequence[str], dtype: str) -> tuple[Format, ...]:
    """The formats in their usual order, with those that they hold.

    Raises:
        UsageError: one is unknown, or they do not go together with the dtype.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UsageError("no such format", found=", ".join(unknown), needed=", ".join(FORMATS), where="--format")
    if dtype not in DTYPES:
        raise UsageError("no such dtype", found=dtype, needed=", ".join(DTYPES), where="--dtype")
    chosen = {*formats, *(["transformers"] if "sentence-transformers" in formats else [])}
    if dtype == "int8" and "sentence-transformers" in chosen:
        raise UsageError(
            "sentence-transformers does not open weights in int8",
            where="--dtype",
            hint="mlc export MODEL OUT --format sentence-transformers --dtype bf16, or --format transformers",
        )
    if dtype != "fp32" and chosen == {"onnx"}:
        raise UsageError("an ONNX graph is written in fp32", found=dtype, needed="fp32", where="--dtype")
    return tuple(name for name in FORMATS if name in chosen)


def holds_weights(file: Path) -> bool:
    """Whether a file of an export is one of weights."""
    return file.suffix == ".safetensors" or file.name.startswith("model.onnx")
