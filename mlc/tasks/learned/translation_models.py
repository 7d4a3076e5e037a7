"""New translation models on a pre-trained encoder.

In:  where a pre-trained model is, the settings of the task.
Out: a `transformers.EncoderDecoderModel`, or an `MlcGlmForBlankInfilling`, in fp32 on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from mlc.errors import MlcError, UsageError
from mlc.model.generation_glm import MlcGlmForBlankInfilling
from mlc.model.initialise import initialise
from mlc.model.saving import load_training_model
from mlc.tasks.fast_tokenizer_of import open_fast_tokenizer
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.learned.task import LearnedTask
from mlc.tasks.learned.translation_rows import Boundaries, boundaries
from mlc.tasks.learned.translation_settings import TranslationSettings
from mlc.tasks.locate import ModelSource
from mlc.tasks.token_heads import load_part_b


def writes_beside_encoder(task: LearnedTask) -> bool:
    """Whether the task's models have a decoder beside their encoder."""
    translation = task.settings.translation
    return translation is not None and translation.decoder == "encoder_decoder"


def new_part_b(source: ModelSource, config: Any) -> MlcGlmForBlankInfilling:
    """The backbone and the head of Part B of a pre-trained GLM.

    Args:
        source: that `check_part_b` takes.
        config: of the model, with the dropout that is wanted.

    Raises:
        CheckpointError: the weights are missing or damaged.
    """
    model = MlcGlmForBlankInfilling(config)
    model.load_state_dict(load_part_b(source).state_dict())
    return model


def new_encoder_decoder(source: ModelSource, config: Any, settings: TranslationSettings, *, seed: int) -> Any:
    """A pre-trained encoder with a new decoder; new weights are a function of (seed, name).

    The decoder is that of Rothe et al. 2020 (`BertGenerationDecoder`): post-norm blocks with cross attention, learned
    positions, a head tied to its token embeddings. It is as wide as the encoder. Its token embeddings begin as the
    encoder's, where those are as wide as the encoder.

    Args:
        source: checkpoint, export, Hugging Face folder or hub name.
        config: of the encoder, with the dropout that is wanted.
        settings: layers and heads of the decoder, longest target.
        seed: of what is new.

    Raises:
        UsageError: the heads do not divide the width.
        MlcError: the encoder's weights cannot be loaded.
    """
    from transformers import EncoderDecoderModel

    ids = boundaries(PieceEncoder(open_fast_tokenizer(source)))
    model = EncoderDecoderModel(encoder_decoder_config(config, settings, ids)).float()
    initialise(model, seed)
    # A pooler's weights may be missing, and nothing reads them.
    weights = {name: value for name, value in _encoder_weights(source).items() if "pooler" not in name}
    missing, unexpected = model.encoder.load_state_dict(weights, strict=False)
    if unexpected or any("pooler" not in name for name in missing):
        found = f"missing {missing[:3]}, unexpected {unexpected[:3]}"
        raise MlcError("the weights don't fit the encoder", found=found, where=source.name)
    own = model.decoder.get_input_embeddings().weight
    given = model.encoder.get_input_embeddings().weight
    if own.shape == given.shape:
        with torch.no_grad():
            own.copy_(given)
    return model


def encoder_decoder_config(encoder: Any, settings: TranslationSettings, ids: Boundaries) -> Any:
    """The configuration of `new_encoder_decoder`.

    Raises:
        UsageError: the heads do not divide the width.
    """
    from transformers import BertGenerationConfig, EncoderDecoderConfig

    width, heads = int(encoder.hidden_size), settings.heads or int(encoder.num_attention_heads)
    if width % heads:
        raise UsageError(
            "the decoder's heads must divide its width", found=f"{heads} heads, width {width}",
            where="translation.heads",
        )  # fmt: skip
    dropout = getattr(encoder, "hidden_dropout", getattr(encoder, "hidden_dropout_prob", 0.1))
    decoder = BertGenerationConfig(
        vocab_size=encoder.vocab_size,
        hidden_size=width,
        num_hidden_layers=settings.layers or int(encoder.num_hidden_layers),
        num_attention_heads=heads,
        intermediate_size=4 * width,
        hidden_act="gelu",
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=settings.max_target_tokens + 1,
        initializer_range=width**-0.5,  # every matrix keeps the size of what it reads, however narrow the model
        is_decoder=True,
        add_cross_attention=True,
        pad_token_id=ids.pad,
        bos_token_id=ids.start,
        eos_token_id=ids.end,
    )
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = ids.start, ids.end, ids.pad
    return config


def _encoder_weights(source: ModelSource) -> dict[str, Tensor]:
    if source.kind == "checkpoint":
        return dict(load_training_model(source.folder)[0].backbone.state_dict())
    from transformers import AutoModel

    try:
        encoder, report = AutoModel.from_pretrained(
            source.name,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        found = " ".join(str(error).split())[:300]
        raise MlcError("transformers cannot load the encoder", found=found, where=source.name) from None
    lost = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if lost:
        raise MlcError("weights of the encoder are missing", found=f"no {', '.join(lost[:5])}", where=source.name)
    weights: dict[str, Tensor] = encoder.state_dict()
    return weights
