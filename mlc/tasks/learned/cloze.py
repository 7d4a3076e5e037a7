"""Classification by a word in a blank: few-shot and zero-shot use of a GLM's blank infilling.

In:  one text or two with a class. Out: a class for each.
Source: Du et al. 2022, "GLM", section 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlc.errors import DataError, RecipeError
from mlc.tasks.examples import ClassificationExample
from mlc.tasks.features import class_labels
from mlc.tasks.features_pieces import PieceEncoder, Progress
from mlc.tasks.learned.cloze_model import MlcGlmForCloze, part_b_tokens
from mlc.tasks.learned.cloze_rows import ClozeRows, TokenisedPattern, tokenize_cloze
from mlc.tasks.learned.cloze_settings import ClozeSection, ClozeSettings
from mlc.tasks.learned.sequences import Classification
from mlc.tasks.learned.task import TaskSettings
from mlc.tasks.locate import ModelSource


@dataclass(frozen=True)
class Cloze(Classification):
    """The class whose words are the most probable in the blank; cross entropy over the classes' scores."""

    @property
    def auto_class(self) -> Any:
        """MlcGlmForCloze."""
        return MlcGlmForCloze

    @property
    def cloze(self) -> ClozeSettings:
        """Patterns, verbalizers, ids."""
        assert self.settings.cloze is not None, "a cloze has them"
        return self.settings.cloze

    # Classification's rows are of texts alone.
    def rows(  # type: ignore[override]
        self, encoder: PieceEncoder, examples: Sequence[ClassificationExample], progress: Progress | None = None
    ) -> ClozeRows:
        """An example's rows count as one."""
        assert self.cloze.tokens is not None, "with_start comes first"
        rows = tokenize_cloze(
            encoder,
            examples,
            self.cloze.section,
            self.cloze.tokens,
            max_tokens=self.settings.max_tokens,
            labels=self.settings.labels,
            progress=progress,
        )
        if any(example.label is None for example in examples):
            return rows
        return rows.with_labels(class_labels(examples, self.settings.labels))

    def with_start(self, source: ModelSource) -> Cloze:
        """The task on a model.

        Raises:
            UsageError: the model has no Part B.
        """
        cloze = replace(self.cloze, tokens=part_b_tokens(source))
        return Cloze(replace(self.settings, cloze=cloze))

    def check(self, encoder: PieceEncoder, examples: Sequence[ClassificationExample]) -> None:
        """Refuse what can be refused before a model is built.

        Raises:
            RecipeError: words or patterns that cannot be tokenised, or of which the tokenizer leaves too little.
        """
        for language in sorted({example.place.language for example in examples}):
            section, settings = self.cloze.section, self.settings
            TokenisedPattern.of(encoder, section, language, settings.labels, settings.max_tokens)


def cloze_settings(
    section: ClozeSection, examples: Sequence[ClassificationExample], labels: Sequence[str], max_tokens: int
) -> TaskSettings:
    """The settings of a task on examples.

    Args:
        labels: classes that the recipe names in this order; none = those of the verbalizer.

    Raises:
        RecipeError: `labels` and verbalizer differ, or a pattern and the examples have other texts.
        DataError: an example's label has no words, or some examples have one text and others two.
    """
    if labels and set(labels) != set(section.labels):
        odd = sorted(set(labels) ^ set(section.labels))
        raise RecipeError(
            "labels and verbalizer differ",
            found=f"{', '.join(odd)} in one of them alone",
            needed="words for every label, and no others",
            where="cloze.verbalizer",
        )
    has_pairs = examples[0].text_pair is not None
    for example in examples:
        if (example.text_pair is not None) != has_pairs:
            raise DataError("some examples have one text and others two", where=str(example.place))
        if example.label is not None and example.label not in section.verbalizer:
            raise DataError(
                "a label has no words",
                found=example.label,
                needed=f"one of the verbalizer: {', '.join(section.labels)}",
                where=str(example.place),
                hint=f'add verbalizer."{example.label}"',
            )
    for language in sorted({example.place.language for example in examples}):
        pattern, _ = section.wording(language)
        if any(part.kind == "text_pair" for part in pattern) != has_pairs:
            raise RecipeError(
                "the pattern does not fit the data",
                found="no {text_pair}" if has_pairs else "{text_pair}",
                needed=f"a place for each of {'two texts' if has_pairs else 'one text'}: {examples[0].place}",
                where=section.where(language, "pattern"),
            )
    return TaskSettings(
        kind="classification",
        labels=tuple(labels) or section.labels,
        max_tokens=max_tokens,
        has_pairs=has_pairs,
        cloze=ClozeSettings(section),
    )
