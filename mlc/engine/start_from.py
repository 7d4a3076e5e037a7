"""`[start]` of a recipe: a new run's first weights from another model.

In:  a recipe, its shards, and what `start.model` names.
Out: refusals before a model is built; an engine whose fp32 master weights are those of the start, where it has them; a
     report, printed and in `start.json`.

The values of a parameter are a function of the start, the recipe and the shards, so any number of ranks and any ZeRO
stage begin with the same. Every rank makes one whole parameter at a time and keeps its own part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from mlc.checkpoint.record import RECORD_NAME, Record
from mlc.checkpoint.verify import damage
from mlc.data.batches import longest_row
from mlc.data.manifest import TOKENIZER_NAMES, Manifest, TokenizerKind
from mlc.data.token_match import Vocabulary, match_tokens, open_vocabulary
from mlc.distributed.agree import from_rank_0
from mlc.engine.engine_state import EngineState
from mlc.engine.preflight import check_model_tokenizer
from mlc.engine.resume import newest_readable
from mlc.errors import CheckpointError, MlcError, RecipeError
from mlc.files import write_json
from mlc.model.build import encoder_of, glm_config, wrap_backbone
from mlc.model.modeling_glm import MlcGlmModel
from mlc.model.saving import EXPORT_FORMAT, EXPORT_INFO, FORMAT, INFO, REQUIRED_INFO, read_info
from mlc.model.start import StartPlan, StartTarget, plan_start
from mlc.model.start_source import StartKind, StartSource
from mlc.model.start_table import TableRows, rows_of, same_rows
from mlc.recipe import TrainRecipe

REPORT_NAME = "start.json"
"""In the run folder: what became of every parameter."""
HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt")
"""Patterns of what is fetched of a model on the hub; no pickles."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_NEEDED = (
    "a run folder, a checkpoint (step-00001000), an export, or a Hugging Face folder (with config.json) or hub name"
)
_KEY = "start.model"


@dataclass(frozen=True)
class FoundStart:
    """What `start.model` names.

    Attributes:
        kind: see `StartSource`.
        folder: of the weights.
        info: content of its mlc.json; empty for an encoder as transformers saves it.
        checkpoint: the checkpoint whose model it is, which can be verified.
    """

    kind: StartKind
    folder: Path
    info: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None

    def open(self) -> AbstractContextManager[StartSource]:
        """Its weights."""
        return StartSource(self.folder, self.kind, self.info)


def find_start(model: str) -> FoundStart:
    """What `start.model` names. Nothing but descriptions is read.

    Raises:
        RecipeError: there is no such model, or the folder holds none.
        CheckpointError: a run without a checkpoint, or a checkpoint that is not complete.
    """
    path = Path(model).expanduser()
    if not path.exists():
        return FoundStart("huggingface", _from_hub(model, path))
    if (path / RECORD_NAME).is_file():
        return _of_checkpoint(path)
    if (path / "checkpoints").is_dir():
        newest = newest_readable(path)
        if newest is None:
            raise RecipeError(
                "the run to start from has no complete checkpoint",
                found=model,
                where=_KEY,
                hint="let it reach its first checkpoint, or name another model",
            )
        return _of_checkpoint(newest.folder)
    if (path / INFO).is_file():
        info = _without_adapters(read_info(path, {FORMAT: REQUIRED_INFO, EXPORT_FORMAT: EXPORT_INFO}), path)
        return FoundStart("export" if info["format"] == EXPORT_FORMAT else "checkpoint", path, info)
    if (path / "config.json").is_file():
        return FoundStart("huggingface", path)
    raise RecipeError("there is no model to start from", found=model, needed=_NEEDED, where=_KEY)


def verified(found: FoundStart) -> FoundStart:
    """The same, once every byte of a checkpoint's model has been compared with its record.

    Raises:
        CheckpointError: a file is missing or differs.
    """
    if found.checkpoint is None:
        return found
    record = Record.read(found.checkpoint)
    files = {name: facts for name, facts in record.files.items() if name.startswith("model/")}
    problem = damage(found.checkpoint, replace(record, files=files))
    if problem is not None:
        raise CheckpointError(
            "the checkpoint to start from is damaged",
            found=problem,
            where=str(found.checkpoint),
            hint="name an older checkpoint of that run in start.model",
        )
    return found


def check_start(recipe: TrainRecipe, manifest: Manifest) -> None:
    """Refuse a start that cannot be, before a model is built; no weights are read.

    Raises:
        RecipeError: no such model; a tokenizer or sizes that do not fit.
        CheckpointError: its files are missing or damaged.
    """
    found = find_start(recipe.start.model)
    check_vocabulary(recipe, manifest, found)
    with torch.device("meta"):
        model = _model_of(recipe, manifest)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    target = _target(model, model.backbone_config, shapes, recipe.run.seed)
    same = same_rows(target.shapes[target.table][0], manifest.tokenizer.vocab_size)
    with found.open() as source:
        plan_start(source, target, recipe.start, same, same_vocabulary=True)


def check_vocabulary(recipe: TrainRecipe, manifest: Manifest, found: FoundStart) -> None:
    """Refuse another tokenizer than the start's, unless embeddings are to be carried over.

    Raises:
        RecipeError: it is another one; or the start's cannot be opened.
    """
    if recipe.start.vocabulary == "carry":
        old_vocabulary(found)
        return
    if found.kind == "huggingface":
        check_model_tokenizer(str(found.folder), _KEY, manifest)
        return
    tokenizer = manifest.tokenizer
    differing = found.info.get("tokenizer_sha256") not in (None, tokenizer.sha256)
    if differing or dict(found.info["special_ids"]) != dict(tokenizer.special_ids):
        raise RecipeError(
            "the shards were made with another tokenizer than the start's",
            found=f"tokenizer {tokenizer.sha256[:12]} in {recipe.data.shards}",
            needed=f"tokenizer {str(found.info.get('tokenizer_sha256'))[:12]} of {found.folder}",
            where=_KEY,
            hint="carry the embeddings over: --set start.vocabulary=carry",
        )


def begin(recipe: TrainRecipe, manifest: Manifest, engine: Any, state: EngineState) -> None:
    """Give a new engine the weights of the start; a collective.

    Rank 0 compares a checkpoint's files with their hashes, prints the report and writes it into the run folder.

    Args:
        recipe: with a `start.model`.
        manifest: of the shards.
        engine: new, with drawn weights.
        state: of that engine.

    Raises:
        MlcError: the start is gone, damaged, or does not fit.
    """
    # A run may save meanwhile: all ranks take the checkpoint that rank 0 has found.
    found = from_rank_0(lambda: verified(find_start(recipe.start.model)))
    if found.kind == "huggingface":  # of the hub, every machine has a copy of its own
        found = find_start(recipe.start.model)
    check_vocabulary(recipe, manifest, found)
    target = _target(engine.module, engine.module.backbone_config, state.shapes(), recipe.run.seed)
    with found.open() as source:
        rows, is_same = _rows(recipe, manifest, found, source, target)
        plan = plan_start(source, target, recipe.start, rows, same_vocabulary=is_same)
        values = _Values(plan)
        state.restore(values, values, optimizer_steps=0, loss_scaler={})
    from_rank_0(lambda: _tell(plan, Path(recipe.run.folder)))


class _Values:
    """A plan's values as `EngineState.restore` reads what was saved: in ranges. What is not carried stays."""

    def __init__(self, plan: StartPlan) -> None:
        self._plan = plan

    def read_into(self, key: str, start: int, out: Tensor) -> None:
        """See `mlc.engine.engine_state.RangeReader`."""
        value = self._plan.value(key)
        if value is not None:
            out.copy_(value.reshape(-1)[start : start + len(out)])


def old_vocabulary(found: FoundStart) -> Vocabulary:
    """The start's tokenizer.

    Raises:
        RecipeError: there is none, or it cannot be compared with another.
    """
    try:
        if found.kind == "huggingface":
            return _hugging_face_vocabulary(found.folder)
        kind: TokenizerKind = found.info.get("tokenizer_kind", "sentencepiece")
        file = found.folder / TOKENIZER_NAMES[kind]
        return open_vocabulary(file, kind, found.info["special_ids"], int(found.info["vocab_size"]))
    except (MlcError, OSError, ValueError, KeyError) as error:
        raise RecipeError(
            "the start's tokenizer cannot be used, so no embeddings can be carried over",
            found=" ".join(str(error).split())[:300],
            where=f"start.model = {found.folder}",
            hint='build the shards with the start\'s tokenizer, and start.vocabulary = "same"',
        ) from None


def _hugging_face_vocabulary(folder: Path) -> Vocabulary:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError("transformers has no fast tokenizer for it")
    ids = {
        "[PAD]": tokenizer.pad_token_id,
        "[UNK]": tokenizer.unk_token_id,
        "[CLS]": tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id,
        "[SEP]": tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id,
        "[MLM]": tokenizer.mask_token_id,
    }
    with TemporaryDirectory(prefix="mlc-start-") as name:
        file = Path(name) / "tokenizer.json"
        file.write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
        known = {name: number for name, number in ids.items() if number is not None}
        return open_vocabulary(file, "hugging_face", known, len(tokenizer))


def _rows(
    recipe: TrainRecipe, manifest: Manifest, found: FoundStart, source: StartSource, target: StartTarget
) -> tuple[TableRows, bool]:
    """What the rows of the token embeddings start from, and whether ids mean the same in both models."""
    needed, available = target.shapes[target.table][0], int(source.config.vocab_size)
    tokenizer = manifest.tokenizer
    if recipe.start.vocabulary == "same" or found.info.get("tokenizer_sha256") == tokenizer.sha256:
        return same_rows(needed, available), True
    new = open_vocabulary(manifest.folder / tokenizer.file, tokenizer.kind, tokenizer.special_ids, tokenizer.vocab_size)
    old = old_vocabulary(found)
    if old.size > available:
        old = replace(old, forms={number: form for number, form in old.forms.items() if number < available})
    match = match_tokens(old, new)
    return rows_of(torch.from_numpy(match.starts), torch.from_numpy(match.old_ids), match.counts(), needed), False


def _model_of(recipe: TrainRecipe, manifest: Manifest) -> Any:
    """The model that the recipe means, without values."""
    section, tokenizer = recipe.model, manifest.tokenizer
    if section.architecture == "glm":
        longest = longest_row(recipe.data, recipe.objectives)
        config: Any = glm_config(section, tokenizer.vocab_size, tokenizer.special_ids, longest)
        backbone: nn.Module = MlcGlmModel(config)
    else:
        config = AutoConfig.from_pretrained(section.config)
        config.vocab_size, config.pad_token_id = tokenizer.vocab_size, tokenizer.special_ids["[PAD]"]
        backbone = encoder_of(AutoModel.from_config(config))
    return wrap_backbone(backbone, section, config, recipe.objectives, num_languages=2)


def _target(model: Any, config: Any, shapes: Mapping[str, tuple[int, ...]], seed: int) -> StartTarget:
    table = next(name for name, parameter in model.named_parameters() if parameter is model.lm_head.weight)
    return StartTarget(config, shapes, table, seed)


def _of_checkpoint(folder: Path) -> FoundStart:
    Record.read(folder)
    return FoundStart("checkpoint", folder / "model", _without_adapters(read_info(folder / "model"), folder), folder)


def _without_adapters(info: dict[str, Any], folder: Path) -> dict[str, Any]:
    if info.get("lora") is not None:
        raise RecipeError(
            "the model to start from has adapters beside its weights",
            found=f"adapters of rank {info['lora']['rank']}",
            needed="merged weights, as an export has",
            where=str(folder),
            hint=f"mlc export {folder} OUT, then start.model = OUT",
        )
    return info


def _from_hub(model: str, path: Path) -> Path:
    if not _HUB_NAME.fullmatch(model) or ("/" in model and path.parent.is_dir()):
        raise RecipeError("there is no such model", found=model, needed=_NEEDED, where=_KEY)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(model, allow_patterns=list(HUB_FILES)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise RecipeError(
            "there is no such model, neither here nor on the hub",
            found=f"{model}: {' '.join(str(error).split())[:200]}",
            needed=_NEEDED,
            where=_KEY,
        ) from None


def _tell(plan: StartPlan, run_folder: Path) -> None:
    for line in plan.report.lines():
        print(line, flush=True)
    write_json(run_folder / REPORT_NAME, plan.report.to_json())
