"""Everything about a run that can be refused before a model is built.

In:  a recipe and the number of ranks.
Out: the opened manifest, or an error that says what to change.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from mlc.checkpoint.record import checkpoint_folders
from mlc.config import digest
from mlc.data.batches import check_batch_size
from mlc.data.corpus import is_selected
from mlc.data.manifest import SPECIAL_TOKENS, TOKENIZER_NAMES, Manifest
from mlc.distributed.ranks import RankInfo
from mlc.engine.deepspeed_config import deepspeed_config
from mlc.engine.momentum import check_queue
from mlc.errors import RecipeError
from mlc.recipe import TrainRecipe

SENTENCEPIECE_NAMES = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model")

OFFSET_IDS = ("xlm-roberta", "xlm-roberta-xl", "camembert", "mbart", "xglm")
"""Model types whose ids are not those of their own SentencePiece model (fairseq put four special ids before them)."""


def check_run(recipe: TrainRecipe, world_size: int) -> Manifest:
    """Refuse what cannot work, before any model is built.

    Returns:
        The manifest of `data.shards`, its files checked to be there with the stated sizes.

    Raises:
        RecipeError, ShardError: see mlc.errors; both end the command with exit code 2.
    """
    config = deepspeed_config(recipe, world_size)
    check_queue(recipe, config)
    _check_gradient_cosines(recipe, config)
    # A run that goes on with more ranks has fewer micro-batches (mlc.engine.changes.plan_of).
    goes_on = bool(checkpoint_folders(Path(recipe.run.folder)))
    check_batch_size(recipe.data.samples_per_step, 1 if goes_on else recipe.data.micro_batches, world_size)
    manifest = Manifest.read(recipe.data.shards)
    manifest.check()
    _check_tokenizer(recipe, manifest)
    _check_adversary(recipe, manifest)
    return manifest


def _check_adversary(recipe: TrainRecipe, manifest: Manifest) -> None:
    languages = {
        language
        for source in recipe.data.sources
        for entry in manifest.shards
        if is_selected(entry, source)
        for language in entry.languages
    }
    if recipe.objectives.language_adversary.weight and len(languages) < 2:
        raise RecipeError(
            "the language adversary has nothing to tell apart",
            found=", ".join(sorted(languages)) or "no language",
            needed="2 languages or more in data.sources",
            hint="--set objectives.language_adversary.weight=0",
        )


def _check_gradient_cosines(recipe: TrainRecipe, config: dict[str, Any]) -> None:
    stage = config["zero_optimization"]["stage"]
    if recipe.log.gradient_cosine_every and stage != 3:
        raise RecipeError(
            "log.gradient_cosine_every needs ZeRO stage 3: it reads this rank's shards of the gradient",
            found=f"stage {stage}",
            needed="stage 3, or log.gradient_cosine_every = 0",
            where=recipe.deepspeed.config,
            hint="--set deepspeed.config=ds_configs/zero3.json",
        )


def run_identity(recipe: TrainRecipe, manifest: Manifest) -> dict[str, str]:
    """Digests of what a run is trained on; a continuation compares them (mlc.engine.changes)."""
    return {
        "recipe": digest(json.loads(recipe.model_dump_json())),
        "encoder": digest(_encoder_config(recipe)),
        "shards": manifest.sha256,
        "tokenizer": manifest.tokenizer.digest,
    }


def environment(ranks: RankInfo) -> dict[str, Any]:
    """What a start ran on: for environment.json."""
    versions = {
        name: metadata.version(name)
        for name in ("mlc", "torch", "deepspeed", "transformers", "numpy", "sentencepiece", "tokenizers")
    }
    return {
        "command": sys.argv,
        "launcher": ranks.launcher,
        "world_size": ranks.world_size,
        "host": platform.node(),
        "platform": platform.platform(),
        "processor_cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _check_tokenizer(recipe: TrainRecipe, manifest: Manifest) -> None:
    if recipe.model.path:  # a model from scratch takes the shards' vocabulary
        check_model_tokenizer(recipe.model.path, "model.path", manifest)


def check_model_tokenizer(source: str, key: str, manifest: Manifest) -> None:
    """Refuse shards that were made with another tokenizer than a Hugging Face model's.

    Args:
        source: folder or hub name of the model.
        key: of the recipe, which names it.
        manifest: of the shards.

    Raises:
        RecipeError: the model cannot be read, or its ids are others.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source)
        vocab_size = int(config.vocab_size)
    except (OSError, ValueError) as error:
        raise RecipeError("no Hugging Face model can be read", found=f"{source}: {error}", where=key) from None
    if config.model_type in OFFSET_IDS and manifest.tokenizer.kind == "sentencepiece":
        raise RecipeError(
            "this model's token ids are not those of its SentencePiece model, with which the shards were made",
            found=f"{source}, of type {config.model_type}",
            needed="shards made with the model's tokenizer.json, or a model with SentencePiece's own ids, such as mT5",
            where=key,
            hint="build the shards with [tokenizer] path = the model's Hugging Face folder, which holds tokenizer.json",
        )
    most = vocab_size + len(SPECIAL_TOKENS)  # ours may come after the model's own
    if manifest.tokenizer.vocab_size > most or _other_tokenizer(Path(source), manifest):
        raise RecipeError(
            "the shards were made with another tokenizer than the model's",
            found=f"{manifest.tokenizer.vocab_size} ids, tokenizer {manifest.tokenizer.sha256[:12]}",
            needed=f"at most {most} ids, of the tokenizer of {source}",
            where=f"{key}, {manifest.folder}",
            hint="build the shards with that model's tokenizer ([tokenizer] path = ... in the data_prep recipe)",
        )


def _other_tokenizer(model: Path, manifest: Manifest) -> bool:
    """Whether a local model folder brings tokenizers of the shards' kind and none of them is the shards'."""
    tokenizer = manifest.tokenizer
    if tokenizer.kind == "hugging_face":
        file = model / TOKENIZER_NAMES[tokenizer.kind]
        return file.is_file() and _ids_and_rules(file) != _ids_and_rules(manifest.folder / tokenizer.file)
    files = [model / name for name in SENTENCEPIECE_NAMES if (model / name).is_file()]
    return bool(files) and all(hashlib.sha256(file.read_bytes()).hexdigest() != tokenizer.sha256 for file in files)


def _ids_and_rules(file: Path) -> Any:
    """What decides about ids in a tokenizer.json, as this version of its library writes it."""
    from tokenizers import Tokenizer

    try:
        content = json.loads(Tokenizer.from_file(str(file)).to_str())
    except Exception as error:  # tokenizers raises Exception itself
        raise RecipeError("no tokenizer.json can be read", found=str(error), where=str(file)) from None
    if isinstance(content["model"]["vocab"], list):  # saved again, scores of unigram models differ in the last digits
        content["model"]["vocab"] = [[piece, round(score, 6)] for piece, score in content["model"]["vocab"]]
    return [content[key] for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")]


def _encoder_config(recipe: TrainRecipe) -> str:
    """Content of the configuration that `model.config` names."""
    path = Path(recipe.model.config)
    path = path / "config.json" if path.is_dir() else path
    return path.read_text(encoding="utf-8") if recipe.model.config and path.is_file() else ""
