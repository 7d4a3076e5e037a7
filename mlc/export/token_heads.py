"""A GLM's token heads in an export, and how they are compared with the model's.

In:  a pre-trained GLM (mlc.tasks.token_heads), the export's tokenizer, sample texts.
Out: config.json and model.safetensors with the backbone and its trained heads, and comparisons.

Letters: R rows, L columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from mlc.errors import MlcError, UsageError
from mlc.export.compare import LOGIT_LIMITS, Comparison, compare_tensors
from mlc.export.transformers_folder import Dtype, auto_class_name, open_pretrained, write_pretrained_heads
from mlc.model.generation_glm import MlcGlmForBlankInfilling
from mlc.tasks.loading import LoadedModel
from mlc.tasks.locate import ModelSource, read_description
from mlc.tasks.token_heads import Head, load_heads, trained_heads

Heads = Mapping[Head, PreTrainedModel]
FILLED_TOKENS = 8
"""Of the blanks that are compared."""


def check_heads(source: ModelSource, formats: Sequence[str], dtype: str) -> None:
    """Refuse heads where there are none, or where the files cannot hold them.

    Raises:
        UsageError: one of these.
    """
    if not trained_heads(source, read_description(source.folder)):
        raise UsageError(
            "the model has no token head that was trained",
            found=f"{source.kind} {source.name}",
            needed="a GLM with objectives.glm.weight or objectives.mlm.weight above 0",
            where="--heads",
            hint="leave out --heads: the encoder alone",
        )
    if "transformers" not in formats or dtype == "int8":
        raise UsageError(
            "heads are weights that transformers opens",
            found=f"--format {formats[0]}, --dtype {dtype}",
            needed="--format transformers (or sentence-transformers, which holds it), --dtype fp32, bf16 or fp16",
            where="--heads",
        )


def write_heads(loaded: LoadedModel, folder: Path, dtype: Dtype) -> Heads:
    """Write the model with its trained heads; errors as in `load_heads` and `write_pretrained_heads`.

    Returns:
        The models, each with one head.
    """
    heads = load_heads(loaded.source, trained_heads(loaded.source, loaded.description))
    write_pretrained_heads(list(heads.values()), folder, dtype)
    return heads


def compare_heads(
    heads: Heads, folder: Path, special_ids: Mapping[str, int], texts: Sequence[str], dtype: Dtype
) -> list[Comparison]:
    """Open the export by the Auto class of each head, and compare what it scores, and what it writes.

    Args:
        heads: of `write_heads`.
        folder: the export, with its tokenizer.
        special_ids: of the model.
        texts: each gets a hole in its middle.
        dtype: of the export.

    Raises:
        MlcError: something differs by more than the limit.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    rows = [tokenizer(text, truncation=True)["input_ids"] for text in texts]
    found: list[Comparison] = []
    for head, needed in heads.items():
        opened = open_pretrained(folder, getattr(transformers, auto_class_name(type(needed))), dtype)
        compare = _compare_blanks if head == "glm" else _compare_masked
        found += compare(needed, opened, rows, special_ids, dtype)
    return found


def _compare_blanks(
    needed: Any, opened: Any, rows: Sequence[Sequence[int]], special_ids: Mapping[str, int], dtype: Dtype
) -> list[Comparison]:
    holed = [_with_hole(row, special_ids["[MASK]"]) for row in rows]
    pairs = [(_score_blank(needed, row, special_ids), _score_blank(opened, row, special_ids)) for row in holed]
    scored = compare_tensors("logits of blanks", "transformers", pairs, LOGIT_LIMITS[dtype])
    if dtype != "fp32":
        return [scored]
    for row in holed:
        one, other = _fill(needed, row, special_ids), _fill(opened, row, special_ids)
        if one != other:
            raise MlcError("the export fills a blank otherwise", found=str(other[0][:10]), needed=str(one[0][:10]))
    return [scored, Comparison("fillings", "transformers", len(rows), 0.0, None, 0.0)]


def _compare_masked(
    needed: Any, opened: Any, rows: Sequence[Sequence[int]], special_ids: Mapping[str, int], dtype: Dtype
) -> list[Comparison]:
    mark = special_ids["[MLM]"]
    holed = [_with_hole(row, mark) for row in rows]
    pairs = [(_score_masked(needed, row, mark), _score_masked(opened, row, mark)) for row in holed]
    return [compare_tensors("logits of masked tokens", "transformers", pairs, LOGIT_LIMITS[dtype])]


def _fill(model: MlcGlmForBlankInfilling, part_a: Sequence[int], special_ids: Mapping[str, int]) -> list[list[int]]:
    """As a card's example does it."""
    return model.fill(
        part_a,
        blank=special_ids["[MASK]"],
        start=special_ids["[sop]"],
        end=special_ids["[eop]"],
        banned=[number for name, number in special_ids.items() if name != "[eop]"],
        max_new_tokens=FILLED_TOKENS,
    )


def _with_hole(row: Sequence[int], mark: int) -> list[int]:
    """The token in the middle replaced; of [CLS] [SEP] alone, the mark between them."""
    middle = len(row) // 2
    return [*row[:middle], mark, *row[middle + (len(row) > 2) :]]


@torch.inference_mode()
def _score_blank(model: Any, part_a: Sequence[int], special_ids: Mapping[str, int]) -> Tensor:
    """Logits (V,) of the first token of the blank."""
    place, columns = part_a.index(special_ids["[MASK]"]), len(part_a)
    output = model(
        input_ids=torch.tensor([[*part_a, special_ids["[sop]"]]]),
        part_a_lengths=torch.tensor([columns]),
        position_ids=torch.tensor([[*range(columns), place]]),
        block_position_ids=torch.tensor([[*[0] * columns, 1]]),
        logits_index=torch.tensor([columns]),
    )
    logits: Tensor = output.logits[0].float()
    return logits


@torch.inference_mode()
def _score_masked(model: Any, row: Sequence[int], mark: int) -> Tensor:
    """Logits (V,) of the masked token."""
    logits: Tensor = model(input_ids=torch.tensor([row])).logits[0, row.index(mark)].float()
    return logits
