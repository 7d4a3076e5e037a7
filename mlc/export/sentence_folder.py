"""What makes a transformers folder a sentence-transformers folder as well: its modules, beside the model.

In:  a folder as mlc.export.transformers_folder writes it, with the tokenizer; the model and its representation.
Out: modules.json, config_sentence_transformers.json, sentence_bert_config.json, and a folder for each module after the
     Transformer: Pooling, Dense (the projection: no bias, no activation), Normalize.

The Transformer module reads any layer by itself (`modality_config`: which of the model's outputs are the token
embeddings), so an earlier layer needs neither code nor another model. Attention pooling does: sentence-transformers has
none, so `attention_pooling.py` lies in the folder, and with it `trust_remote_code=True` is needed whatever the model.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlc.errors import MlcError
from mlc.files import write_json
from mlc.tasks.encoder import LAST_LAYER, Representation
from mlc.tasks.loading import LoadedModel

MODULES_FILE = "modules.json"
_POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
_TOKENS = "token_embeddings"


def write_sentence_modules(loaded: LoadedModel, representation: Representation, folder: Path, max_tokens: int) -> None:
    """Write the modules.

    Args:
        loaded: the model, in fp32.
        representation: what `encode` is to give.
        folder: it holds the model and the tokenizer already; they are opened to see what the library makes of them.
        max_tokens: longest input, special tokens included.

    Raises:
        MlcError: the library is not installed, or cannot read this layer of this model.
    """
    Transformer, Pooling, Dense, Normalize = _module_classes()
    from mlc.export.attention_pooling import AttentionPooling

    settings: dict[str, Any] = {"max_seq_length": max_tokens, "do_lower_case": False}
    path = _output_path(loaded, representation)
    if path != "last_hidden_state":
        settings["modality_config"] = {"text": {"method": "forward", "method_output_name": path}}
        settings["module_output_name"] = _TOKENS
    write_json(folder / "sentence_bert_config.json", settings)
    modules: list[Any] = []
    if representation.pooling == "attention":
        pooling = AttentionPooling(loaded.width)
        assert loaded.pooling_query is not None
        pooling.query.data = loaded.pooling_query.clone()
        shutil.copyfile(inspect.getfile(AttentionPooling), folder / "attention_pooling.py")
        modules.append(pooling)
    else:
        modules.append(Pooling(loaded.width, pooling_mode=_POOLINGS[representation.pooling]))
    if representation.projection and loaded.projection is not None:
        rows, columns = loaded.projection.weight.shape
        weight = loaded.projection.weight.detach().clone()
        modules.append(Dense(columns, rows, bias=False, activation_function=None, init_weight=weight))
    described = [_described(0, Transformer, "")]
    for place, module in enumerate([*modules, Normalize()], start=1):
        name = f"{place}_{type(module).__name__}"
        (folder / name).mkdir()
        module.save(str(folder / name))
        described.append(_described(place, type(module), name))
    (folder / MODULES_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    write_json(folder / "config_sentence_transformers.json", _library_config())


def needs_remote_code(representation: Representation, *, own_code: bool) -> bool:
    """Whether `SentenceTransformer(folder)` needs `trust_remote_code=True`."""
    return own_code or representation.pooling == "attention"


def encode_with_sentence_transformers(folder: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors (n, E) as `SentenceTransformer(folder).encode` gives them.

    The code in the folder is not run: modules and models of this project are the installed ones.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import import_from_string

    from mlc.export.attention_pooling import AttentionPooling
    from mlc.model.registration import register_auto_classes

    register_auto_classes()
    described = json.loads((folder / MODULES_FILE).read_text(encoding="utf-8"))
    if all(module["type"].startswith("sentence_transformers.") for module in described):
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    else:
        own = {_reference(AttentionPooling): AttentionPooling}
        classes = [own.get(module["type"]) or import_from_string(module["type"]) for module in described]
        modules = [
            found.load(str(folder), subfolder=module["path"], local_files_only=True)
            for found, module in zip(classes, described, strict=True)
        ]
        model = SentenceTransformer(modules=modules, device="cpu")
    vectors = model.encode(list(texts), convert_to_tensor=True, show_progress_bar=False, batch_size=8)
    result: NDArray[np.float32] = vectors.float().numpy()
    return result


def _output_path(loaded: LoadedModel, representation: Representation) -> str | list[str | int]:
    """Which of the outputs the library's Transformer module takes as token embeddings."""
    last = representation.layer in (LAST_LAYER, loaded.layers)
    if not loaded.config.is_encoder_decoder or _opens_as_encoder(loaded.config):
        return "last_hidden_state" if last else ["hidden_states", representation.layer]
    if last:
        return "encoder_last_hidden_state"
    raise MlcError(
        "sentence-transformers opens this model with its decoder, which hides all layers of the encoder but the last",
        found=f"{loaded.config.model_type}, layer {representation.layer}",
        where="--format sentence-transformers",
        hint="export it for transformers: mlc export MODEL OUT --format transformers",
    )


def _opens_as_encoder(config: Any) -> bool:
    """Whether the library opens only the encoder of this encoder-decoder."""
    from sentence_transformers.base.modules import transformer

    return any(isinstance(config, known) for known, *_ in transformer._ENCODER_ONLY_MODELS)


def _module_classes() -> tuple[Any, Any, Any, Any]:
    try:
        from sentence_transformers.base.modules.dense import Dense
        from sentence_transformers.base.modules.normalize import Normalize
        from sentence_transformers.base.modules.transformer import Transformer
        from sentence_transformers.sentence_transformer.modules.pooling import Pooling
    except ImportError as error:
        raise MlcError(
            "sentence-transformers is needed",
            found=str(error),
            needed="version 6 or newer",
            hint="pip install 'mlc[export]'",
        ) from None
    return Transformer, Pooling, Dense, Normalize


def _described(place: int, module_class: type, path: str) -> dict[str, Any]:
    return {"idx": place, "name": str(place), "path": path, "type": _reference(module_class)}


def _reference(module_class: type) -> str:
    """How modules.json names a class; one of ours lies beside it as a file."""
    module = module_class.__module__
    return f"{module.rpartition('.')[2] if module.startswith('mlc.') else module}.{module_class.__name__}"


def _library_config() -> Mapping[str, Any]:
    import sentence_transformers
    import transformers

    return {
        "model_type": "SentenceTransformer",
        "__version__": {
            "sentence_transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "pytorch": torch.__version__,
        },
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
