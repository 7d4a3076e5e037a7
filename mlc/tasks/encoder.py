"""Texts to unit vectors, by any model this project can read.

In:  MODEL (see mlc.tasks.locate) and strings.
Out: float32 vectors of norm 1, in the order of the strings.
Letters: n texts, R rows of a batch, L columns, D width of the model, E size of an embedding (D, or the projection's).

The representation is by default the one the contrast was trained on (layer, pooling, projection, as the checkpoint's
mlc.json states them); a model that was never trained with a contrast has none, so the mean of its last layer is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mlc.errors import MlcError, UsageError
from mlc.tasks.loading import LoadedModel, load_model
from mlc.tasks.locate import find_model

Precision = Literal["fp32", "bf16"]
Floats = NDArray[np.float32]
Progress = Callable[[int], object]
"""Called with the number of texts finished since the last call."""

POOLINGS = ("mean", "cls", "last", "attention")
LAST_LAYER = -1
CPU_BATCH_TOKENS = 2048
"""On a CPU the states of a batch should stay in its caches: 16,384 tokens of width 384 take twice as long a token
(docs/benchmarks.md, "Embedding")."""
DEVICE_BATCH_TOKENS = 16384


@dataclass(frozen=True)
class Representation:
    """What of the model's states becomes the embedding.

    Attributes:
        layer: -1 = last hidden state; 0 = embeddings; k = output of block k.
        pooling: mean over all tokens, [CLS] and [SEP] included; cls = first token; last = last token; attention = mean
            with the weights of the trained query.
        projection: whether the trained projection is applied.
    """

    layer: int = LAST_LAYER
    pooling: str = "mean"
    projection: bool = False


@dataclass(frozen=True)
class EncodingCounts:
    """What the last call did: texts, how many of them were cut to `max_tokens`, tokens after cutting."""

    texts: int
    cut: int
    tokens: int


class TextEncoder:
    """A model in evaluation mode with its tokenizer; `load` makes one.

    Attributes:
        representation: what `encode` returns.
        counts: of the last `encode` or `encode_layers`.
        step: the checkpoint's optimizer step, where known.
    """

    def __init__(
        self,
        model: LoadedModel,
        representation: Representation,
        *,
        precision: Precision = "fp32",
        device: str | torch.device = "cpu",
    ) -> None:
        _check(model, representation)
        self.model = model
        self.representation = representation
        self.precision = precision
        self.counts = EncodingCounts(0, 0, 0)
        self._device = torch.device(device)
        self._backbone = model.backbone.eval().to(self._device)
        self._projection = model.projection.eval().to(self._device) if model.projection is not None else None
        self._pooling_query = model.pooling_query.to(self._device) if model.pooling_query is not None else None

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        layer: int | None = None,
        pooling: str | None = None,
        projection: bool | None = None,
        precision: Precision = "fp32",
        threads: int | None = None,
        max_tokens: int | None = None,
        device: str | None = None,
    ) -> Self:
        """Open a model for encoding.

        Args:
            model: run folder, checkpoint, export, Hugging Face folder or hub name.
            layer, pooling, projection: replace the default representation in part; a layer other than the one they were
                trained on goes without projection unless `projection` is True, and without attention pooling unless
                `pooling` says so.
            precision: bf16 = the backbone computes in bfloat16; pooling and projection are fp32 in both.
            threads: torch's intra-op threads of this process; None = as they are.
            max_tokens: longest input, [CLS] and [SEP] included; None = as in training.
            device: torch device; None = a GPU where there is one.

        Raises:
            MlcError: the model is missing, incomplete or without safetensors, or lacks what is asked for.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        loaded = load_model(find_model(model), max_tokens=max_tokens)
        chosen = choose_representation(loaded, layer=layer, pooling=pooling, projection=projection)
        return cls.of_loaded(loaded, chosen, precision=precision, device=device)

    @classmethod
    def of_loaded(
        cls,
        loaded: LoadedModel,
        representation: Representation,
        *,
        precision: Precision = "fp32",
        device: str | None = None,
    ) -> Self:
        """As `load`, of a model that is in memory already; in bf16 its backbone is converted in place.

        Raises:
            MlcError: the model lacks what the representation asks for.
        """
        _check(loaded, representation)
        if precision == "bf16":
            for parameter in loaded.backbone.parameters():  # not the buffers: rotary frequencies must stay exact
                parameter.data = parameter.data.bfloat16()
        chosen_device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(loaded, representation, precision=precision, device=chosen_device)

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens; longer texts are cut and counted in `counts`."""
        return self.model.tokenizer.max_tokens

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch, padding included, where the caller of `encode` names none."""
        return batch_tokens_of(self._device)

    @property
    def step(self) -> int | None:
        """The checkpoint's optimizer step, where known."""
        step = self.model.description.get("step", self.model.source.step)
        return None if step is None else int(step)

    def with_representation(self, representation: Representation) -> TextEncoder:
        """The same model with another representation; the weights are shared."""
        return TextEncoder(self.model, representation, precision=self.precision, device=self._device)

    def encode(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, progress: Progress | None = None
    ) -> Floats:
        """Encode texts.

        Args:
            texts: any number, in any order.
            batch_tokens: longest text x texts of one batch; texts of similar length share a batch. None = what is fast
                on the device.
            progress: called after every batch.

        Returns:
            (n, E) float32, norm 1, row k for text k. In fp32 a text's vector depends on its batch by less than 1e-5:
            only the order of floating-point sums inside matrix products differs.
        """
        (vectors,) = self._encode(texts, [self.representation], batch_tokens, progress)
        return vectors

    def encode_layers(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, progress: Progress | None = None
    ) -> dict[int, Floats]:
        """Mean-pooled unit vectors of every layer, unprojected: {0: embeddings, k: output of block k}, each (n, D)."""
        layers = range(self.model.layers + 1)
        vectors = self._encode(texts, [Representation(layer) for layer in layers], batch_tokens, progress)
        return dict(zip(layers, vectors, strict=True))

    def _encode(
        self,
        texts: Sequence[str],
        representations: Sequence[Representation],
        batch_tokens: int | None,
        progress: Progress | None,
    ) -> list[Floats]:
        if isinstance(texts, str):
            raise UsageError("encode takes a list of texts", found="one string", needed='["..."]')
        tokenized = self.model.tokenizer.tokenize(texts)
        lengths = [len(ids) for ids in tokenized.ids]
        self.counts = EncodingCounts(len(texts), tokenized.cut, sum(lengths))
        results = [np.empty((len(texts), self._width(r)), dtype=np.float32) for r in representations]
        for places in batches_by_length(lengths, self.batch_tokens if batch_tokens is None else batch_tokens):
            ids_RL, lengths_R = self._pad([tokenized.ids[place] for place in places])
            for result, vectors_RE in zip(results, self._embed(ids_RL, lengths_R, representations), strict=True):
                result[places] = vectors_RE.cpu().numpy()
            if progress is not None:
                progress(len(places))
        return results

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        lengths = [len(row) for row in rows]
        ids_RL = np.full((len(rows), max(lengths)), self.model.tokenizer.pad_id, dtype=np.int64)
        for place, row in enumerate(rows):
            ids_RL[place, : len(row)] = row
        return torch.from_numpy(ids_RL).to(self._device), torch.tensor(lengths, device=self._device)

    @torch.inference_mode()
    def _embed(self, ids_RL: Tensor, lengths_R: Tensor, representations: Sequence[Representation]) -> list[Tensor]:
        mask_RL = torch.arange(ids_RL.shape[1], device=self._device) < lengths_R[:, None]
        every_layer = any(r.layer not in (LAST_LAYER, self.model.layers) for r in representations)
        output = self._backbone(input_ids=ids_RL, attention_mask=mask_RL.long(), output_hidden_states=every_layer)
        vectors = []
        for representation in representations:
            if representation.layer in (LAST_LAYER, self.model.layers):
                states_RLD = output.last_hidden_state
            else:
                states_RLD = output.hidden_states[representation.layer]
            pooled_RD = pool_states(states_RLD.float(), mask_RL, representation.pooling, self._pooling_query)
            if representation.projection and self._projection is not None:
                pooled_RD = self._projection(pooled_RD)
            vectors.append(F.normalize(pooled_RD, dim=-1))
        return vectors

    def _width(self, representation: Representation) -> int:
        if representation.projection:
            return cast(nn.Linear, self._projection).out_features
        return self.model.width


def choose_representation(
    model: LoadedModel, *, layer: int | None = None, pooling: str | None = None, projection: bool | None = None
) -> Representation:
    """The trained representation (or the mean of the last layer, where none was trained), with given parts replaced."""
    trained = model.contrast
    default = Representation() if trained is None else Representation(**trained)
    same_layer = layer is None or _counted(layer, model.layers) == _counted(default.layer, model.layers)
    same_states = same_layer and pooling in (None, default.pooling)
    default_pooling = default.pooling if same_layer or default.pooling != "attention" else "mean"
    return Representation(
        layer=default.layer if layer is None else layer,
        pooling=default_pooling if pooling is None else pooling,
        projection=(default.projection and same_states) if projection is None else projection,
    )


def batch_tokens_of(device: torch.device) -> int:
    """Tokens of a batch, padding included, with which a device is fast."""
    return CPU_BATCH_TOKENS if device.type == "cpu" else DEVICE_BATCH_TOKENS


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Places of texts, longest first, in batches whose rows x longest row stays within `batch_tokens` (or one row)."""
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def pool_states(states_RLD: Tensor, mask_RL: Tensor, pooling: str, query_D: Tensor | None = None) -> Tensor:
    """Pool the states of right-padded rows: (R, L, D) and bool (R, L) -> (R, D). Attention pooling needs its query."""
    if pooling == "cls":
        return states_RLD[:, 0]
    if pooling == "last":
        return states_RLD[torch.arange(len(states_RLD), device=states_RLD.device), mask_RL.sum(1) - 1]
    if pooling == "attention":
        assert query_D is not None
        weight_RL = (states_RLD @ query_D).masked_fill(~mask_RL, -torch.inf).softmax(1)
        return (states_RLD * weight_RL.unsqueeze(-1)).sum(1)
    weight_RL1 = mask_RL.unsqueeze(-1).to(states_RLD.dtype)
    return (states_RLD * weight_RL1).sum(1) / weight_RL1.sum(1)


def _check(model: LoadedModel, representation: Representation) -> None:
    if not LAST_LAYER <= representation.layer <= model.layers:
        raise UsageError("no such layer", found=representation.layer, needed=f"-1 (last) or 0..{model.layers}")
    if representation.pooling not in POOLINGS:
        raise UsageError("no such pooling", found=representation.pooling, needed=", ".join(POOLINGS))
    if representation.pooling == "attention" and model.pooling_query is None:
        raise MlcError(
            "the model has no trained attention pooling",
            where=model.source.name,
            hint="choose another pooling: mlc evaluate ... --pooling mean",
        )
    if representation.projection and model.projection is None:
        raise MlcError(
            "the model has no trained projection",
            where=model.source.name,
            hint="leave the projection out: mlc evaluate ... --no-projection",
        )


def _counted(layer: int, layers: int) -> int:
    """The layer counted from 0 = embeddings."""
    return layers if layer == LAST_LAYER else layer


def describe(representation: Representation, layers: int) -> Mapping[str, Any]:
    """The representation as a JSON object; the layer is counted from 0 = embeddings."""
    layer = _counted(representation.layer, layers)
    return {"layer": layer, "pooling": representation.pooling, "projection": representation.projection}
