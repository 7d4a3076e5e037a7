"""A model as one ONNX graph from token ids to embeddings, checked with onnxruntime.

In:  a model and its representation.
Out: onnx/model.onnx. Inputs: input_ids, attention_mask, int64 (batch, length); both sizes free, padding on the right.
     Outputs: last_hidden_state (batch, length, D), sentence_embedding (batch, E), pooled, projected, of norm 1; fp32.

The GLM is written down with padded rows (mlc.export.padded_glm): its own forward has shapes that depend on the data.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlc.errors import MlcError
from mlc.export.compare import Comparison, compare_tensors, compare_vectors, limit_of
from mlc.export.padded_glm import PaddedGlm
from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.modeling_glm import MlcGlmModel
from mlc.tasks.encoder import Representation, TextEncoder, pool_states
from mlc.tasks.loading import LoadedModel

ONNX_FILE = Path("onnx") / "model.onnx"
INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("last_hidden_state", "sentence_embedding")
SINGLE_FILE_BYTES = 1 << 30
"""Larger weights lie beside the graph in model.onnx.data: a protobuf file ends at 2 GiB."""
BATCH_ROWS = (1, 2, 5, 16)
"""Rows of the batches that are compared, each of texts of other lengths."""


class EmbeddingGraph(nn.Module):
    """What the graph computes.

    Args:
        loaded: the model in fp32; its modules are shared.
        representation: of the second output.
    """

    def __init__(self, loaded: LoadedModel, representation: Representation) -> None:
        super().__init__()
        own = isinstance(loaded.backbone, MlcGlmModel)
        self.encoder = PaddedGlm(loaded.backbone) if own else _Layers(loaded.backbone)  # type: ignore[arg-type]
        self.projection = loaded.projection if representation.projection else None
        self._query = loaded.pooling_query
        self._representation = representation

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask (R, L) -> states (R, L, D) and embeddings (R, E)."""
        layers = self.encoder(input_ids, attention_mask)
        chosen = self._representation
        pooled = pool_states(layers[chosen.layer], attention_mask.bool(), chosen.pooling, self._query)
        if self.projection is not None:
            pooled = self.projection(pooled)
        return layers[-1], F.normalize(pooled, dim=-1)


class _Layers(nn.Module):
    """All layers of an encoder of transformers, the last one as it is returned."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        return (*output.hidden_states[:-1], output.last_hidden_state)


def write_onnx(loaded: LoadedModel, representation: Representation, folder: Path) -> None:
    """Write onnx/model.onnx.

    Args:
        loaded: in fp32 on the CPU.
        representation: of the embeddings.
        folder: exists.

    Raises:
        MlcError: a library is missing, or torch cannot write this model as a graph.
    """
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    ids = torch.where(mask == 1, loaded.tokenizer.pad_id + 1, loaded.tokenizer.pad_id)
    example = dict(zip(INPUTS, (ids, mask), strict=True))
    write_graph(EmbeddingGraph(loaded, representation), loaded.backbone, example, OUTPUTS, folder)


def write_graph(
    graph: nn.Module, model: nn.Module, example: Mapping[str, Tensor], outputs: Sequence[str], folder: Path
) -> None:
    """Write a module as onnx/model.onnx.

    Args:
        graph: takes the example's tensors by their names, and gives a tensor for each of `outputs`.
        model: of transformers or this project, which the graph computes with.
        example: int64 (batch, length) each; both sizes become free.
        outputs: names.
        folder: exists.

    Raises:
        MlcError: a library is missing, or torch cannot write this model as a graph.
    """
    sizes = {0: "batch", 1: "length"}
    try:
        with _plain_attention(model), _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                graph.eval(),
                tuple(example.values()),
                dynamo=True,
                dynamic_shapes=dict.fromkeys(example, sizes),
                input_names=list(example),
                output_names=list(outputs),
                verbose=False,
            )
    except ImportError as error:
        raise _missing(error) from None
    except Exception as error:  # torch.onnx and torch.export raise errors of many kinds
        raise MlcError(
            "torch cannot write this model as an ONNX graph",
            found=" ".join(str(error).split())[:300],
            where=type(model).__name__,
        ) from error
    (folder / ONNX_FILE).parent.mkdir()
    program.save(folder / ONNX_FILE, external_data=_weight_bytes(model) > SINGLE_FILE_BYTES)


def open_graph(folder: Path) -> Any:
    """An onnxruntime session of onnx/model.onnx on the CPU, with torch's number of threads.

    Raises:
        MlcError: onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing(error) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(folder / ONNX_FILE), options, providers=["CPUExecutionProvider"])


def check_onnx(encoder: TextEncoder, folder: Path, texts: Sequence[str]) -> list[Comparison]:
    """Run the graph by onnxruntime on batches of several shapes and compare it with the model.

    Args:
        encoder: with the representation of the graph.
        folder: holds onnx/model.onnx.
        texts: at least one; all of them go through batches of 1, 2, 5 and 16 rows.

    Raises:
        MlcError: onnxruntime is missing or cannot read the graph, or the results differ.
    """
    session = open_graph(folder)
    needed = encoder.encode(texts)
    tokenized = encoder.model.tokenizer.tokenize(texts).ids
    limit = limit_of("fp32", "onnxruntime")
    results, states = [], []
    for rows in BATCH_ROWS:
        vectors = []
        for start in range(0, len(texts), rows):
            ids, mask = _pad(tokenized[start : start + rows], encoder.model.tokenizer.pad_id)
            found, embeddings = session.run(list(OUTPUTS), dict(zip(INPUTS, (ids.numpy(), mask.numpy()), strict=True)))
            vectors.append(embeddings)
            if start == 0:
                states.append(_both_states(encoder, ids, mask, torch.from_numpy(found)))
        results.append(compare_vectors("embeddings", "onnxruntime", needed, np.concatenate(vectors), limit))
    worst = max(results, key=lambda result: result.max_difference)
    return [worst, compare_tensors("last hidden states", "onnxruntime", states, limit)]


@torch.inference_mode()
def _both_states(encoder: TextEncoder, ids: Tensor, mask: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Of the tokens: what a model leaves in the padding has no meaning."""
    needed = encoder.model.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    return needed[mask.bool()], found[mask.bool()]


def _pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad_id)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


@contextmanager
def _plain_attention(backbone: nn.Module) -> Iterator[None]:
    """Attention as matrix products: the fused kernels of some models (mT5) do not trace with free sizes."""
    if backbone.config.model_type == MlcGlmConfig.model_type:  # type: ignore[union-attr]
        yield
        return
    before = backbone.config._attn_implementation  # type: ignore[union-attr]
    backbone.set_attn_implementation("eager")  # type: ignore[operator]
    try:
        yield
    finally:
        backbone.set_attn_implementation(before)  # type: ignore[operator]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about itself; its errors are raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _weight_bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _missing(error: ImportError) -> MlcError:
    return MlcError(
        "a library for ONNX is missing",
        found=str(error),
        needed="onnx, onnxscript and onnxruntime",
        hint="pip install 'mlc[export]'",
    )
