"""Translation of one direction: BLEU and chrF; simultaneous translation also how far it lags behind.

In:  a `Translator`, examples with references.
Out: a `TaskResult`, and the translations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlc.errors import DataError
from mlc.evaluate.intervals import Bootstrap, Score
from mlc.evaluate.options import progress_bar
from mlc.evaluate.results import ModelFacts, TaskResult
from mlc.evaluate.translation_latency import average_lagging, average_proportion
from mlc.languages import language_code
from mlc.tasks.examples import TranslationExample
from mlc.tasks.learned.translation_decoding import Translator
from mlc.tasks.learned.translation_settings import direction, direction_of
from mlc.tasks.scores_translation import score_translations
from mlc.tasks.task_files import read_task


@dataclass(frozen=True)
class TranslationQuestion:
    """What is asked.

    Attributes:
        model: as the user named it.
        data: sources, as the user named them.
        source, target: languages.
        beams: width of the search; 1 = greedy.
        simultaneous: whether words are written while the source is read.
        wait: k of wait-k; None = infinity.
        resamples, seed: of the intervals.
    """

    model: str
    data: tuple[str, ...]
    source: str
    target: str
    beams: int = 1
    simultaneous: bool = False
    wait: int | None = None
    resamples: int = 1000
    seed: int = 0


def read_direction(
    sources: Sequence[str | Path], source: str, target: str, limit: int | None = None
) -> tuple[list[TranslationExample], int]:
    """The examples of one direction, and how many others the data has.

    A pair that the data has the other way round is turned; one whose languages it does not say is taken as asked for.

    Raises:
        UsageError, DataError: see `read_task`; or no example is of this direction.
    """
    source, target = language_code(source), language_code(target)
    examples = read_task("translation", list(sources)).of(TranslationExample)
    found: list[TranslationExample] = []
    for example in examples:
        languages = (example.place.language or source, example.target_language or target)
        if languages == (source, target):
            found.append(replace(example, place=replace(example.place, language=source), target_language=target))
        elif languages == (target, source) and example.target is not None:
            place = replace(example.place, language=source)
            found.append(TranslationExample(example.target, example.source, target, place))
    if not found:
        there = sorted({direction_of(example) for example in examples})
        raise DataError(
            "the data has no example of this direction", found=", ".join(there), needed=direction(source, target),
            where=", ".join(map(str, sources)),
        )  # fmt: skip
    others = len(examples) - len(found)
    return found[:limit], others


def evaluate_translation(
    translator: Translator, examples: Sequence[TranslationExample], question: TranslationQuestion, *, others: int = 0
) -> tuple[TaskResult, list[str]]:
    """Translate all examples and score them.

    Args:
        examples: of one direction, with references.
        others: examples of other directions that the data has besides.

    Raises:
        UsageError: the target language was never written in training.
    """
    trained = translator.is_trained(question.source, question.target)
    texts = [example.source for example in examples]
    scores: dict[str, Score] = {}
    with progress_bar("translating", len(texts)) as advance:
        if question.simultaneous:
            written = translator.translate_simultaneously(
                texts, question.source, question.target, wait=question.wait, progress=advance
            )
            translations = [one.text for one in written]
            bootstrap = Bootstrap(question.resamples, question.seed)
            for name, measure in (("AL", average_lagging), ("AP", average_proportion)):
                scores[name] = bootstrap.mean(np.array([measure(one.read, one.source_words) for one in written]))
        else:
            translations = translator.translate(texts, question.target, beams=question.beams, progress=advance)
    references = [example.target or "" for example in examples]
    found = score_translations(
        references, translations, question.target, resamples=question.resamples, seed=question.seed
    )
    quality = {name: Score(score.value, score.low, score.high, len(examples)) for name, score in found.scores.items()}
    name = direction(question.source, question.target)
    result = TaskResult(
        task="translation",
        facts=_facts(translator, question, len(texts)),
        data=question.data,
        scores={**quality, **scores},
        details={
            "direction": name,
            "zero_resource": not trained,
            "trained_directions": list(translator.settings.directions),
            "decoder": translator.settings.decoder,
            "decoding": _decoding(question),
            "wait_k": question.wait if question.simultaneous else None,
            "examples": len(examples),
            "examples_of_other_directions": others,
            "empty": sum(not text for text in translations),
            **found.details,
        },
        notes=tuple(_notes(translator, question, name, trained, others, sum(not text for text in translations))),
    )
    return result, translations


def _decoding(question: TranslationQuestion) -> str:
    if question.simultaneous:
        return f"wait-{'infinity' if question.wait is None else question.wait}, greedy"
    return f"{question.beams} beams" if question.beams > 1 else "greedy"


def _notes(
    translator: Translator, question: TranslationQuestion, name: str, trained: bool, others: int, empty: int
) -> list[str]:
    known = ", ".join(translator.settings.directions)
    notes = [f"{name}: " + ("trained" if trained else f"ZERO-RESOURCE, never trained; trained were {known}")]
    notes.append(f"{_decoding(question)}; chrF and BLEU are 0..100, by sacrebleu")
    if question.simultaneous:
        notes.append("AL: words behind (lower is faster); AP: share of the source that had been read")
    if translator.cut:
        most = translator.task.settings.max_tokens
        notes.append(f"{translator.cut} texts are longer than {most} tokens and were cut")
    if others:
        notes.append(f"{others} examples of other directions were left out")
    if empty:
        notes.append(f"{empty} translations are empty")
    return notes


def _facts(translator: Translator, question: TranslationQuestion, texts: int) -> ModelFacts:
    source = translator.finetuned.source
    return ModelFacts(
        model=question.model,
        checkpoint=source.name,
        step=source.step,
        representation={},
        precision="fp32",
        max_tokens=translator.task.settings.max_tokens,
        texts=texts,
        cut=translator.cut,
        skipped_checkpoints=source.skipped,
    )
