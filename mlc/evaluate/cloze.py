"""Classification by a word in a blank, with a model that was fine-tuned so, or by pre-training alone.

In:  a GLM's run, labelled texts, a pattern and a verbalizer.
Out: a `TaskResult`: accuracy, macro F1 and their like by language.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlc.config import parse_recipe
from mlc.errors import RecipeError, UsageError
from mlc.tasks.examples import ClassificationExample
from mlc.tasks.fast_tokenizer_of import open_fast_tokenizer
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.learned.cloze import Cloze, cloze_settings
from mlc.tasks.learned.cloze_model import MlcGlmForCloze, new_cloze_model, part_b_tokens
from mlc.tasks.learned.cloze_settings import ClozeSection
from mlc.tasks.learned.models import FinetunedModel, HeadSettings, configured, load_finetuned
from mlc.tasks.locate import ModelSource, read_description


def read_wording(pattern: str, verbalizer: Path | None) -> ClozeSection | None:
    """The wording of the command line; None where it says nothing.

    Args:
        pattern: goes before that of the file; "" = the file's.
        verbalizer: TOML with the keys of a recipe's [cloze].

    Raises:
        UsageError: a pattern without a verbalizer.
        RecipeError: the file cannot be read, or its content is refused.
    """
    if verbalizer is None:
        if pattern:
            raise UsageError("a pattern needs words", needed="--verbalizer FILE.toml", where="--pattern")
        return None
    try:
        table: dict[str, Any] = tomllib.loads(verbalizer.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError("the verbalizer cannot be read", found=str(error), where=str(verbalizer)) from None
    if pattern:
        table["pattern"] = pattern
    return parse_recipe(table, ClozeSection, where=str(verbalizer))


def load_cloze(
    source: ModelSource,
    wording: ClozeSection | None,
    examples: Sequence[ClassificationExample],
    *,
    max_tokens: int | None = None,
) -> FinetunedModel:
    """A model that fills in classes.

    Args:
        source: a checkpoint of `mlc train`, or a run of `mlc finetune` whose task was a cloze.
        wording: goes before that of the fine-tuned run; a pre-trained model has none.
        examples: that it will see; a wording is checked against them.
        max_tokens: longest row; None = as the model was trained.

    Raises:
        UsageError: the model has no Part B, or there is no wording.
        RecipeError: the wording does not fit the examples or the tokenizer.
        CheckpointError: a file is missing or damaged.
    """
    part_b_tokens(source)
    description = read_description(source.folder)
    if source.kind == "finetuned":
        loaded = load_finetuned(source)
        assert isinstance(loaded.task, Cloze), "it has the ids of a blank"
        if wording is None and max_tokens is None:
            return loaded
        wording, labels = wording or loaded.task.cloze.section, () if wording else loaded.task.settings.labels
        longest = max_tokens or loaded.task.settings.max_tokens
    else:
        loaded, labels, longest = None, (), max_tokens or int(description["max_tokens"])
    if wording is None:
        raise UsageError(
            "a pre-trained model has no pattern and no words for classes",
            needed="--pattern and --verbalizer FILE.toml",
            where=source.name,
            hint="docs/cloze.md has examples",
        )
    task = Cloze(cloze_settings(wording, examples, labels, longest)).with_start(source)
    encoder = PieceEncoder(open_fast_tokenizer(source, max_tokens=longest))
    task.check(encoder, examples)
    config = configured(source, task, HeadSettings(0))
    if loaded is None:
        return FinetunedModel(source, new_cloze_model(source, config).eval(), task, encoder, description)
    model = MlcGlmForCloze(config).float()
    model.load_state_dict(loaded.model.state_dict())
    return replace(loaded, model=model.eval(), task=task, encoder=encoder)
