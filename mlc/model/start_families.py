"""Which tensors of a trained encoder become which parameters of a GLM, and how.

In:  a `StartSource` of a known family: a GLM; BERT and RoBERTa (XLM-R); ModernBERT; EuroBERT.
Out: for each parameter of a GLM a `Carried`, which makes its value when it is asked for.

The GLM's block reads the stream through RMS norms, has no biases, a gated SiLU, and turns half of each head's features
by the place in the text (mlc.model.modeling_glm). What another encoder does otherwise is said in `Carried.note`.

* **Norms that centre** (ModernBERT): LN(x) = RMS norm of x - mean(x). If all that is added to the stream has mean 0
  over the features, so has the stream, and both norms agree (Jiang et al. 2023, "Pre-RMSNorm and Pre-CRMSNorm
  transformers"). So embeddings and matrices that write to the stream are centred.
* **gelu** of a gated layer: gelu(a) ~ silu(1.702 a) / 1.702, off by 0.02 at most (Hendrycks & Gimpel 2016, section 2).
* **gelu** of an ungated layer: gelu(a) ~ silu(4 a) a / 8, a squared ReLU made smooth; for a ~ N(0, 1) the two correlate
  at 0.92, and 1/8 is the least-squares factor. A gated ReLU whose two matrices are one is a squared ReLU, which trains
  well (So et al. 2021, "Primer").
* **Norms behind the sum** (BERT) normalise the stream itself, which no pre-norm block does: each norm's scale goes to
  the norm that reads the same states. Its bias has no place.

Shape letters: V vocabulary, D width, H heads, d width of a head, F feed-forward width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mlc.errors import RecipeError
from mlc.model.build import POSITIONS_BEFORE_FIRST
from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.start_carried import (
    EMBEDDINGS,
    FINAL_NORM,
    Carried,
    EncoderSizes,
    Family,
    centred,
    query_key_weight,
    rotary_order,
    same,
)
from mlc.model.start_source import BACKBONE, StartSource

BERT_TYPES = ("bert", "roberta", "xlm-roberta", "camembert")
GELUS = ("gelu", "gelu_new", "gelu_pytorch_tanh")
GELU_AS_SILU = 1.702
GELU_AS_SQUARE = (4.0, 0.125)
"""Factors of the gate and of the up projection where both are the same matrix."""


def family_of(source: StartSource) -> Family:
    """How a GLM can be made from this encoder.

    Raises:
        RecipeError: it is of no family that this module knows, or does something that a GLM has no place for.
    """
    kind = source.config.model_type
    if kind == MlcGlmConfig.model_type:
        return _Glm(source)
    if kind in BERT_TYPES:
        _check_activation(source, source.config.hidden_act, GELUS)
        return _Bert(source)
    if kind == "modernbert":
        _check_activation(source, source.config.hidden_activation, (*GELUS, "silu"))
        return _ModernBert(source)
    if kind == "eurobert":
        _check_activation(source, source.config.hidden_act, ("silu",))
        return _EuroBert(source)
    raise RecipeError(
        "no GLM can be made from an encoder of this type",
        found=kind,
        needed=", ".join((MlcGlmConfig.model_type, *BERT_TYPES, "modernbert", "eurobert")),
        where=f"start.model = {source.folder}",
        hint='train the encoder itself: model.architecture = "huggingface", model.path = its folder, no [start]',
    )


class _Glm:
    """Another GLM: everything has its name already."""

    def __init__(self, source: StartSource) -> None:
        self._source = source
        config = source.config
        self.sizes = EncoderSizes(
            config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size
        )
        default = MlcGlmConfig().rotary_base
        if config.rotary_base != default:
            raise RecipeError(
                "the start's positions turn at other frequencies than those of a new GLM",
                found=f"rotary_base = {config.rotary_base}",
                needed=str(default),
                where=f"start.model = {source.folder}",
            )

    def block(self, number: int) -> dict[str, Carried]:
        prefix = f"{BACKBONE}blocks.{number}."
        names = [name.removeprefix(prefix) for name in self._source.shapes if name.startswith(prefix)]
        return {name: same(self._source, prefix + name) for name in names}

    def ends(self) -> dict[str, Carried]:
        return {name: same(self._source, BACKBONE + name) for name in (EMBEDDINGS, FINAL_NORM)}


class _Bert:
    """BERT, RoBERTa and XLM-R: norms behind the sums, biases everywhere, learned absolute positions, no gate."""

    def __init__(self, source: StartSource) -> None:
        self._source = source
        config = source.config
        self.sizes = EncoderSizes(
            config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size
        )
        self._embeddings = f"{BACKBONE}embeddings."

    def block(self, number: int) -> dict[str, Carried]:
        source, prefix = self._source, f"{BACKBONE}encoder.layer.{number}."
        query, key = (f"{prefix}attention.self.{part}.weight" for part in ("query", "key"))
        order = torch.arange(self.sizes.hidden_size // self.sizes.heads)
        inner = f"{prefix}intermediate.dense.weight"
        return {
            "attention_norm.weight": self._attention_norm(number),
            "attention.query_key.weight": Carried(
                "exact",
                (query, key),
                "rows reordered; half of each head's features are turned by the place in the text, which the start "
                "adds to its embeddings instead; no biases",
                lambda: query_key_weight(source.read(query), source.read(key), self.sizes.heads, order),
            ),
            "attention.value.weight": same(source, f"{prefix}attention.self.value.weight", "no bias"),
            "attention.output.weight": same(source, f"{prefix}attention.output.dense.weight", "no bias"),
            "feed_forward_norm.weight": same(source, f"{prefix}attention.output.LayerNorm.weight", _BEFORE),
            "feed_forward.gate_up.weight": Carried(
                "adapted",
                (inner,),
                "gelu(a) becomes silu(4 a) a / 8, a smooth squared ReLU: gate 4 x the matrix, up 1/8 of it; no bias",
                lambda: torch.cat([source.read(inner) * factor for factor in GELU_AS_SQUARE]),
            ),
            "feed_forward.down.weight": same(source, f"{prefix}output.dense.weight", "no bias"),
        }

    def ends(self) -> dict[str, Carried]:
        last = f"{BACKBONE}encoder.layer.{self.sizes.layers - 1}.output.LayerNorm.weight"
        names = ("word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight")
        norm = ("LayerNorm.weight", "LayerNorm.bias")
        note = (
            "rows as the first block reads them: plus the mean position and token type 0, normed, x 1/sqrt(width), "
            "which the GLM takes back"
        )
        sources = tuple(self._embeddings + name for name in (*names, *norm))
        return {
            EMBEDDINGS: Carried("adapted", sources, note, self._table),
            FINAL_NORM: same(self._source, last, _BEFORE),
        }

    def _attention_norm(self, number: int) -> Carried:
        source = self._source
        if number:
            return same(source, f"{BACKBONE}encoder.layer.{number - 1}.output.LayerNorm.weight", _BEFORE)
        weight, bias = (f"{self._embeddings}LayerNorm.{part}" for part in ("weight", "bias"))

        def size() -> Tensor:
            return _constant((source.read(weight).square() + source.read(bias).square()).mean().sqrt(), source)

        return Carried("adapted", (weight, bias), _CONSTANT, size)

    def _table(self) -> Tensor:
        read, config = self._source.read, self._source.config
        tokens, positions, types, weight, bias = (
            read(self._embeddings + name)
            for name in (
                "word_embeddings.weight",
                "position_embeddings.weight",
                "token_type_embeddings.weight",
                "LayerNorm.weight",
                "LayerNorm.bias",
            )
        )
        first = config.pad_token_id + 1 if config.model_type in POSITIONS_BEFORE_FIRST else 0
        shift = positions[first:].mean(0) + types[0]
        normed = F.layer_norm(tokens + shift, weight.shape, weight, bias, config.layer_norm_eps)
        return normed.div_(math.sqrt(len(weight)))


class _ModernBert:
    """ModernBERT: norms before the branches, gated gelu, rotary positions, no biases."""

    def __init__(self, source: StartSource) -> None:
        self._source = source
        config = source.config
        self.sizes = EncoderSizes(
            config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size
        )
        self._factor = 1.0 if config.hidden_activation == "silu" else GELU_AS_SILU
        self._norm = f"{BACKBONE}embeddings.norm.weight"

    def block(self, number: int) -> dict[str, Carried]:
        source, prefix = self._source, f"{BACKBONE}layers.{number}."
        joined, inner = f"{prefix}attn.Wqkv.weight", f"{prefix}mlp.Wi.weight"
        kind = source.config.layer_types[number]
        base = float(source.config.rope_parameters[kind]["rope_theta"])
        order = rotary_order(self.sizes.hidden_size // self.sizes.heads, base, MlcGlmConfig().rotary_base)
        factor = self._factor
        gate = "" if factor == 1 else f"gelu(a) becomes silu({factor} a) / {factor}: gate x {factor}, up / {factor}"
        window = "" if kind == "full_attention" else "; attends to the whole text, the start to a window"
        return {
            "attention_norm.weight": self._attention_norm(number),
            "attention.query_key.weight": Carried(
                "exact",
                (joined,),
                _turned(base) + window,
                lambda: query_key_weight(self._third(joined, 0), self._third(joined, 1), self.sizes.heads, order),
            ),
            "attention.value.weight": Carried("exact", (joined,), "its third", lambda: self._third(joined, 2)),
            "attention.output.weight": self._writer(f"{prefix}attn.Wo.weight"),
            "feed_forward_norm.weight": same(source, f"{prefix}mlp_norm.weight"),
            "feed_forward.gate_up.weight": Carried(
                "exact",
                (inner,),
                gate,
                lambda: _scaled_halves(source.read(inner), factor, 1 / factor),
            ),
            "feed_forward.down.weight": self._writer(f"{prefix}mlp.Wo.weight"),
        }

    def ends(self) -> dict[str, Carried]:
        table, norm, source = f"{BACKBONE}embeddings.tok_embeddings.weight", self._norm, self._source

        def normed() -> Tensor:
            weight = source.read(norm)
            rows = F.layer_norm(source.read(table), weight.shape, weight, None, source.config.norm_eps)
            return (rows - rows.mean(1, keepdim=True)).div_(math.sqrt(len(weight)))

        note = "rows as the first block reads them: normed, centred, x 1/sqrt(width), which the GLM takes back"
        return {
            EMBEDDINGS: Carried("adapted", (table, norm), note, normed),
            FINAL_NORM: same(source, f"{BACKBONE}final_norm.weight"),
        }

    def _attention_norm(self, number: int) -> Carried:
        source, norm = self._source, self._norm
        if number:
            return same(source, f"{BACKBONE}layers.{number}.attn_norm.weight")
        return Carried(
            "adapted", (norm,), _CONSTANT, lambda: _constant(source.read(norm).square().mean().sqrt(), source)
        )

    def _writer(self, name: str) -> Carried:
        note = "centred, so that the GLM's norms, which do not centre, do what the start's do"
        return Carried("adapted", (name,), note, lambda: centred(self._source.read(name)))

    def _third(self, name: str, number: int) -> Tensor:
        return self._source.read(name).chunk(3)[number]


class _EuroBert:
    """EuroBERT: as a Llama that sees both sides. It differs from a GLM in the rotary positions alone."""

    def __init__(self, source: StartSource) -> None:
        self._source = source
        config = source.config
        self.sizes = EncoderSizes(
            config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size
        )
        self._head_width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        if self._head_width * config.num_attention_heads != config.hidden_size:
            raise RecipeError(
                "the start's heads are not as wide together as its states",
                found=f"{config.num_attention_heads} x {self._head_width}, states {config.hidden_size}",
                where=f"start.model = {source.folder}",
            )
        self._repeats = config.num_attention_heads // config.num_key_value_heads

    def block(self, number: int) -> dict[str, Carried]:
        source, prefix = self._source, f"{BACKBONE}layers.{number}."
        query, key, value = (f"{prefix}self_attn.{part}_proj.weight" for part in "qkv")
        gate, up = (f"{prefix}mlp.{part}_proj.weight" for part in ("gate", "up"))
        base = float(source.config.rope_parameters["rope_theta"])
        order = rotary_order(self._head_width, base, MlcGlmConfig().rotary_base)
        shared = f"; each key and value head {self._repeats} times" if self._repeats > 1 else ""
        return {
            "attention_norm.weight": same(source, f"{prefix}input_layernorm.weight"),
            "attention.query_key.weight": Carried(
                "exact",
                (query, key),
                _turned(base) + shared,
                lambda: query_key_weight(source.read(query), self._for_all_heads(key), self.sizes.heads, order),
            ),
            "attention.value.weight": Carried(
                "exact", (value,), shared.removeprefix("; "), lambda: self._for_all_heads(value)
            ),
            "attention.output.weight": same(source, f"{prefix}self_attn.o_proj.weight"),
            "feed_forward_norm.weight": same(source, f"{prefix}post_attention_layernorm.weight"),
            "feed_forward.gate_up.weight": Carried(
                "exact", (gate, up), "", lambda: torch.cat([source.read(gate), source.read(up)])
            ),
            "feed_forward.down.weight": same(source, f"{prefix}mlp.down_proj.weight"),
        }

    def ends(self) -> dict[str, Carried]:
        source, table = self._source, f"{BACKBONE}embed_tokens.weight"
        return {
            EMBEDDINGS: Carried(
                "exact",
                (table,),
                "x 1/sqrt(width), which the GLM takes back",
                lambda: source.read(table) / math.sqrt(self.sizes.hidden_size),
            ),
            FINAL_NORM: same(source, f"{BACKBONE}norm.weight"),
        }

    def _for_all_heads(self, name: str) -> Tensor:
        matrix = self._source.read(name)
        by_head = matrix.view(-1, self._head_width, matrix.shape[1])
        return by_head.repeat_interleave(self._repeats, dim=0).reshape(-1, matrix.shape[1])


_BEFORE = "from the norm behind the sum before it; no bias, no centring"
_CONSTANT = "one number, the root mean square of the normed embeddings: the start's first block has no norm before it"


def _turned(base: float) -> str:
    where = (
        "their own frequencies" if base == MlcGlmConfig().rotary_base else f"the nearest frequencies (base {base:g})"
    )
    return f"rows reordered: half of each head's rotary pairs keep {where}, the others are turned no more"


def _scaled_halves(matrix: Tensor, first: float, second: float) -> Tensor:
    upper, lower = matrix.chunk(2)
    return torch.cat([upper * first, lower * second])


def _constant(value: Tensor, source: StartSource) -> Tensor:
    return value.expand(source.config.hidden_size).clone()


def _check_activation(source: StartSource, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise RecipeError(
            "the GLM's gated SiLU cannot stand for this activation",
            found=found,
            needed=" or ".join(known),
            where=f"start.model = {source.folder}",
        )
