"""Build the model a recipe asks for.

In:  a `ModelSection`, an `ObjectivesSection`, what the shards' manifest says of the vocabulary, a seed.
Out: a `TrainingModel` whose new weights are a function of (seed, parameter name).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from mlc.errors import RecipeError
from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.heads import BoundedTemperature, LanguageAdversary
from mlc.model.initialise import DEFAULT_STD, Gathered, draw, initialise, whole
from mlc.model.modeling_glm import MlcGlmModel
from mlc.model.registration import register_auto_classes
from mlc.model.training_model import TrainingModel
from mlc.recipe import ModelSection
from mlc.recipe_objectives import ObjectivesSection

POSITIONS_BEFORE_FIRST = {"xlm-roberta", "roberta", "camembert", "xlm-roberta-xl", "xmod", "data2vec-text"}
"""Model types that number positions from pad_token_id + 1, and so need that many more of them."""


def build_training_model(
    model: ModelSection,
    vocab_size: int,
    special_ids: Mapping[str, int],
    max_positions: int,
    seed: int,
    *,
    objectives: ObjectivesSection | None = None,
    num_languages: int = 0,
    gathered: Gathered = whole,
) -> TrainingModel:
    """Build the model and draw its initial weights.

    Args:
        model: the recipe's section.
        vocab_size: ids of the tokenizer.
        special_ids: ids of the special tokens; "[PAD]" is needed.
        max_positions: longest row the model must take, in tokens.
        seed: of the run.
        objectives: the recipe's section; which heads for training alone there are. None = none of them.
        num_languages: languages of the shards, which the language adversary tells apart.
        gathered: see `initialise`; for a model that is built under deepspeed.zero.Init. Weights that are loaded
            (`model.path`) can't be built that way: partition that model afterwards.

    Raises:
        RecipeError: the section names a model that can't be loaded, or can't be used so.
    """
    if model.architecture == "glm":
        config = glm_config(model, vocab_size, special_ids, max_positions)
        backbone: nn.Module = MlcGlmModel(config)
    else:
        config = _hugging_face_config(model)
        if not model.path:
            config.vocab_size, config.pad_token_id = vocab_size, special_ids["[PAD]"]
        _check_hugging_face(config, model, max_positions)
        backbone = encoder_of(_load_weights(model.path) if model.path else AutoModel.from_config(config).float())
        _check_width(backbone, model)
        if model.path:
            _grow_vocabulary(backbone, vocab_size, seed)
            config.vocab_size = backbone.get_input_embeddings().num_embeddings  # type: ignore[operator]
    built = wrap_backbone(backbone, model, config, objectives, num_languages)
    initialise(built, seed, gathered=gathered, include=lambda name: not (model.path and name.startswith("backbone.")))
    return built


def wrap_backbone(
    backbone: nn.Module,
    model: ModelSection,
    config: PretrainedConfig,
    objectives: ObjectivesSection | None = None,
    num_languages: int = 0,
) -> TrainingModel:
    """A `TrainingModel` around `backbone` as the recipe's sections say; `config` is what rebuilds the backbone.

    Without `objectives` it has no heads for training alone, as a model folder has none.
    """
    temperature, adversary = None, None
    contrast = objectives.info_nce if objectives else None
    if contrast and contrast.learn_temperature:
        temperature = BoundedTemperature(contrast.temperature, contrast.temperature_bounds)
    if objectives and objectives.language_adversary.weight:
        section = objectives.language_adversary
        width = model.projection_size or int(config.hidden_size)
        adversary = LanguageAdversary(width, section.hidden_size, num_languages, section.reversal)
    return TrainingModel(
        backbone,
        config,
        pooling=model.pooling,
        layer=model.layer,
        projection_size=model.projection_size,
        temperature=temperature,
        language_adversary=adversary,
    )


def glm_config(
    model: ModelSection, vocab_size: int, special_ids: Mapping[str, int], max_positions: int
) -> MlcGlmConfig:
    """The GLM's configuration that a recipe's section means."""
    return MlcGlmConfig(
        vocab_size=vocab_size,
        hidden_size=model.hidden_size,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        intermediate_size=model.feed_forward_size,
        hidden_dropout=model.dropout,
        max_position_embeddings=max_positions,
        pad_token_id=special_ids["[PAD]"],
    )


def encoder_of(model: PreTrainedModel) -> nn.Module:
    """The model itself, or the encoder of an encoder-decoder; without a pooler, which nothing here would train."""
    encoder: Any = model.get_encoder() if model.config.is_encoder_decoder else model
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return cast(nn.Module, encoder)


def _hugging_face_config(model: ModelSection) -> PretrainedConfig:
    register_auto_classes()
    source = model.path or model.config
    key = "model.path" if model.path else "model.config"
    if not model.path and not Path(source).exists():
        raise RecipeError("there is no such configuration", found=source, needed="a folder or a config.json", where=key)
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError("this is no model transformers can load", found=str(error), where=key) from None


def _load_weights(path: str) -> PreTrainedModel:
    try:
        loaded, report = AutoModel.from_pretrained(path, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise RecipeError(
            "the weights can't be loaded",
            found=str(error),
            needed="a folder with model.safetensors",
            where="model.path",
        ) from None
    names = {name for name, _ in encoder_of(loaded).named_parameters()}
    prefix = "encoder." if loaded.config.is_encoder_decoder else ""
    missing = sorted(name for name in report["missing_keys"] if name.removeprefix(prefix) in names)
    if missing or report["mismatched_keys"]:
        raise RecipeError(
            "the folder does not have all weights of the encoder",
            found=f"missing {missing[:5]}, of another shape {list(report['mismatched_keys'])[:5]}",
            where=path,
        )
    return loaded.float()


def _check_hugging_face(config: PretrainedConfig, model: ModelSection, max_positions: int) -> None:
    where = model.path or model.config
    layers = int(config.num_hidden_layers)
    if not -1 <= model.layer <= layers:
        raise RecipeError("there is no such layer", found=f"model.layer = {model.layer}", needed=f"-1 or 0..{layers}")
    available = getattr(config, "max_position_embeddings", None)
    if available is not None and config.model_type in POSITIONS_BEFORE_FIRST:
        available -= (config.pad_token_id or 0) + 1
    if available is not None and available < max_positions:
        raise RecipeError(
            "the encoder has too few positions",
            found=f"max_position_embeddings for {available} tokens",
            needed=f"{max_positions} (data.max_tokens)",
            where=where,
        )


def _check_width(backbone: nn.Module, model: ModelSection) -> None:
    embeddings, width = backbone.get_input_embeddings(), backbone.config.hidden_size  # type: ignore[operator, union-attr]
    if embeddings.embedding_dim != width:
        raise RecipeError(
            "the encoder's embeddings are not as wide as its states, so the head can't be tied",
            found=f"embeddings {embeddings.embedding_dim}, states {width}",
            where=model.path or model.config,
        )


def _grow_vocabulary(backbone: nn.Module, vocab_size: int, seed: int) -> None:
    """Give a loaded encoder an embedding for every id of the tokenizer."""
    rows = backbone.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if rows >= vocab_size:
        return
    backbone.resize_token_embeddings(vocab_size, mean_resizing=False)  # type: ignore[operator]
    weight = backbone.get_input_embeddings().weight  # type: ignore[operator]
    std = getattr(backbone.config, "initializer_range", None) or DEFAULT_STD  # type: ignore[union-attr]
    with torch.no_grad():
        weight[rows:] = draw(weight[rows:].shape, std, seed, f"new embedding rows from {rows}")
