"""The model of a retrieval run: any encoder as a `TrainingModel`, so that it is saved, read and exported as one.

In:  where a model is (mlc.tasks.locate), the recipe's section.
Out: `RetrievalStart`: what is known of it without its weights, its tokenizer among that; and the model.

A start that was trained with a contrast keeps its layer, pooling and projection; any other gets the recipe's pooling of
its last layer. A Hugging Face tokenizer is kept as tokenizer.json, which checkpoints of our own runs may have too.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from mlc.data.corruption import SpecialTokens
from mlc.data.manifest import SPECIAL_TOKENS, TOKENIZER_NAMES, TokenizerKind
from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.finetune.recipe import FinetuneModelSection
from mlc.model.build import encoder_of, wrap_backbone
from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.initialise import initialise
from mlc.model.registration import register_auto_classes
from mlc.model.saving import load_training_model
from mlc.model.training_model import TrainingModel
from mlc.recipe import ModelSection
from mlc.tasks.fast_tokenizer_of import open_fast_tokenizer
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.learned.models import set_dropout
from mlc.tasks.loading import PROJECTION_FILE, PROJECTION_KEY, load_model, tokenizer_kind
from mlc.tasks.locate import ModelSource, read_description
from mlc.tasks.tokenizers import RunTokenizer, check_length, position_limit

_ABSENT = -1


@dataclass(frozen=True)
class RetrievalStart:
    """What a run starts from.

    Attributes:
        source: where its weights are.
        section: what of its states becomes the vector, among other things; as mlc.json has it.
        tokenizer_file: content of what makes the ids.
        tokenizer_kind: of that file.
        special_ids: by the names of mlc.data.manifest.SPECIAL_TOKENS; [PAD], [CLS] and [SEP] at least.
        vocab_size: ids are below it.
    """

    source: ModelSource
    section: ModelSection
    tokenizer_file: bytes
    tokenizer_kind: TokenizerKind
    special_ids: Mapping[str, int]
    vocab_size: int

    @property
    def file_name(self) -> str:
        """What the tokenizer's file is called in a model folder."""
        return TOKENIZER_NAMES[self.tokenizer_kind]

    @property
    def special(self) -> SpecialTokens:
        """Ids for rows without blanks and masks; of the others those that there are."""
        ids = {name: self.special_ids.get(name, _ABSENT) for name in SPECIAL_TOKENS}
        return SpecialTokens.from_ids(ids, self.vocab_size)

    def tokenizer(self, max_tokens: int) -> RunTokenizer:
        """As `mlc.tasks.encoder.TextEncoder` will tokenise with the saved model."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / self.file_name
            file.write_bytes(self.tokenizer_file)
            return RunTokenizer(file, self.tokenizer_kind, self.special_ids, max_tokens)

    def description(self) -> dict[str, Any]:
        """Its part of the saved model's mlc.json."""
        return {
            "model": self.section.model_dump(mode="json"),
            "vocab_size": self.vocab_size,
            "special_ids": dict(self.special_ids),
            "tokenizer_sha256": hashlib.sha256(self.tokenizer_file).hexdigest(),
            "tokenizer_kind": self.tokenizer_kind,
            "contrastive": True,
        }


def open_start(source: ModelSource, model: FinetuneModelSection, max_tokens: int) -> RetrievalStart:
    """What is known of a start without its weights.

    Args:
        source: of `find_model`.
        model: the recipe's section.
        max_tokens: longest text, special tokens included.

    Raises:
        UsageError: a model that was fine-tuned for another task.
        MlcError: no tokenizer or configuration can be read, texts are not [CLS] text [SEP] to the model, or it takes
            less than `max_tokens`.
    """
    if source.kind == "finetuned":
        raise UsageError(
            "retrieval starts from an encoder, not from a model with another task's head",
            found=source.name,
            needed="a run of mlc train, an export, or a Hugging Face encoder",
            where="model.start",
        )
    if source.kind == "huggingface":
        return _hugging_face_start(source, model, max_tokens)
    description = read_description(source.folder)
    config = _configuration(source.name)
    if config.model_type != MlcGlmConfig.model_type:  # the GLM's number is no limit: its positions are rotary
        check_length(max_tokens, position_limit(config), source.name)
    kind = tokenizer_kind(description)
    file = source.folder / TOKENIZER_NAMES[kind]
    if not file.is_file():
        raise CheckpointError("the tokenizer is missing", needed=file.name, where=str(file))
    return RetrievalStart(
        source,
        _section_of(source, description, config, model),
        file.read_bytes(),
        kind,
        description["special_ids"],
        int(description["vocab_size"]),
    )


def retrieval_model(start: RetrievalStart, *, max_tokens: int, dropout: float | None, seed: int) -> TrainingModel:
    """The model, in fp32 and whole, with its token heads frozen: nothing trains them.

    Args:
        start: what it is.
        max_tokens: longest text, special tokens included.
        dropout: of all layers; None = as configured.
        seed: of heads that the start does not have.

    Raises:
        MlcError: weights are missing, damaged, or do not fit.
    """
    backbone, config, others = _weights(start)
    config = copy.deepcopy(config)
    if isinstance(config, MlcGlmConfig):
        config.admit(max_tokens)
    if dropout is not None:
        set_dropout(config, dropout)
        register_auto_classes()
        rebuilt = encoder_of(AutoModel.from_config(config)).float()
        rebuilt.load_state_dict(backbone.state_dict())
        backbone = rebuilt
    model = wrap_backbone(backbone, start.section, config)
    initialise(model, seed, include=lambda name: not name.startswith("backbone."))
    own = model.state_dict()
    model.load_state_dict({name: value for name, value in others.items() if name in own}, strict=False)
    for head in (model.glm_transform, model.mlm_transform, model.glm_bias, model.mlm_bias):
        head.requires_grad_(False)
    return model.train()


def _weights(start: RetrievalStart) -> tuple[nn.Module, Any, dict[str, Tensor]]:
    """Encoder, its configuration, and what else the start has, by name in a `TrainingModel`."""
    if start.source.kind == "checkpoint":
        trained, _ = load_training_model(start.source.folder)
        return trained.backbone, trained.backbone_config, dict(trained.state_dict())
    loaded = load_model(start.source)
    others: dict[str, Tensor] = {}
    if loaded.projection is not None:
        others["projection.weight"] = loaded.projection.weight.detach()
    if loaded.pooling_query is not None:
        others["attention_pooling.query"] = loaded.pooling_query
    return loaded.backbone, loaded.config, others


def _section_of(
    source: ModelSource, description: Mapping[str, Any], config: Any, model: FinetuneModelSection
) -> ModelSection:
    """The section of a checkpoint, or one for an export; with the recipe's pooling where no contrast was trained."""
    if source.kind == "checkpoint":
        section = ModelSection.model_validate_json(json.dumps(description["model"]))
        trained = {} if description["contrastive"] else {"pooling": model.pooling, "layer": -1, "projection_size": 0}
        return section.model_copy(update=trained)
    contrast = description["contrast"] or {"pooling": model.pooling, "layer": -1, "projection": False}
    sizes: dict[str, Any] = {"architecture": "huggingface", "path": source.name}
    if config.model_type == MlcGlmConfig.model_type:
        sizes = {
            "architecture": "glm",
            "layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
            "heads": config.num_attention_heads,
            "feed_forward_size": config.intermediate_size,
            "dropout": config.hidden_dropout,
        }
    projection_size = _projection_size(source.folder / PROJECTION_FILE) if contrast["projection"] else 0
    return ModelSection(**sizes, pooling=contrast["pooling"], layer=contrast["layer"], projection_size=projection_size)


def _projection_size(file: Path) -> int:
    try:
        with safe_open(file, framework="pt") as opened:
            return int(opened.get_slice(PROJECTION_KEY).get_shape()[0])
    except (OSError, SafetensorError) as error:
        raise CheckpointError("the projection cannot be read", found=str(error), where=str(file)) from None


def _hugging_face_start(source: ModelSource, model: FinetuneModelSection, max_tokens: int) -> RetrievalStart:
    tokenizer: Any = open_fast_tokenizer(source, max_tokens=max_tokens)
    single = PieceEncoder(tokenizer).single
    before, after = (part.tolist() for part in single.parts)
    if len(before) != 1 or len(after) != 1:
        raise MlcError(
            "retrieval reads [CLS] text [SEP], and this model reads texts otherwise",
            found=f"{len(before)} special tokens before the text and {len(after)} behind it",
            needed="one each",
            where=source.name,
        )
    ids = {
        "[PAD]": tokenizer.pad_token_id or 0,
        "[UNK]": tokenizer.unk_token_id,
        "[CLS]": before[0],
        "[SEP]": after[0],
        "[MLM]": tokenizer.mask_token_id,
    }
    return RetrievalStart(
        source,
        ModelSection(architecture="huggingface", path=source.name, pooling=model.pooling),
        tokenizer.backend_tokenizer.to_str().encode(),
        "hugging_face",
        {name: int(number) for name, number in ids.items() if number is not None},
        int(_configuration(source.name).vocab_size),
    )


def _configuration(name: str) -> Any:
    register_auto_classes()
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        found = " ".join(str(error).split())[:300]
        raise MlcError("the model's configuration cannot be read", found=found, where=name) from None
