"""A fine-tuned model as one ONNX graph from token ids to logits, checked with onnxruntime.

In:  the model and sample rows of its task.
Out: onnx/model.onnx. Inputs: input_ids, attention_mask and, where the model has them, token_type_ids, int64
     (batch, length); both sizes free, padding on the right. Outputs: those of mlc.export.task_outputs.head_outputs, in
     fp32; what they hold in the padding has no meaning.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from mlc.export.compare import Comparison, limit_of
from mlc.export.onnx_graph import BATCH_ROWS, open_graph, write_graph
from mlc.export.padded_glm import PaddedGlm
from mlc.export.task_outputs import Inputs, SampleRows, head_outputs
from mlc.model.modeling_glm_tasks import MlcGlmTaskModel
from mlc.tasks.examples import TaskKind

EXAMPLE_ROWS = (0, 1, 2)


class TaskGraph(nn.Module):
    """What the graph computes.

    Args:
        model: in fp32; its modules are shared.
        names: of its outputs.
    """

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = _with_padded_rows(model) if isinstance(model, MlcGlmTaskModel) else model
        self._names = names

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Inputs (R, L) -> one tensor of logits for each name."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        return tuple(outputs[name] for name in self._names)


def write_task_graph(model: Any, rows: SampleRows, kind: TaskKind, folder: Path) -> None:
    """Write onnx/model.onnx; errors as in `write_graph`.

    Args:
        model: in fp32 on the CPU, with a task's head.
        rows: three or more.
        kind: of the task.
        folder: exists.
    """
    names = head_outputs(kind).names
    example = rows.batch(EXAMPLE_ROWS)
    if isinstance(model, MlcGlmTaskModel):
        example.pop("token_type_ids", None)  # it reads none
    write_graph(TaskGraph(model, names), model, example, names, folder)


def check_task_graph(rows: SampleRows, needed: Mapping[str, Tensor], folder: Path) -> Comparison:
    """Run the graph by onnxruntime on batches of several shapes; the worst comparison of them.

    Args:
        needed: logits of the model, as `SampleRows.logits` gives them.

    Raises:
        MlcError: onnxruntime is missing, or the results differ.
    """
    session = open_graph(folder)
    inputs = [put.name for put in session.get_inputs()]

    def run(batch: Inputs) -> dict[str, Tensor]:
        found = session.run(list(needed), {name: batch[name].numpy() for name in inputs})
        return dict(zip(needed, map(torch.from_numpy, found), strict=True))

    limit = limit_of("fp32", "onnxruntime")
    results = [rows.compare(needed, run, "onnxruntime", limit, rows_per_batch=count) for count in BATCH_ROWS]
    return max(results, key=lambda result: result.max_difference)


def _with_padded_rows(model: MlcGlmTaskModel) -> MlcGlmTaskModel:
    """The model with the same head around padded rows, which a graph can hold (mlc.export.padded_glm)."""
    padded = PaddedGlm(model.model)

    def encode(input_ids: Tensor, attention_mask: Tensor, output_hidden_states: object) -> BaseModelOutput:
        del output_hidden_states
        return BaseModelOutput(last_hidden_state=padded(input_ids, attention_mask)[-1])

    changed = copy.copy(model)
    changed._encode = encode  # type: ignore[method-assign, assignment]
    return changed
