"""A fine-tuned model on test data of its task: scores of every language, and the difference to a second model.

In:  a fine-tuned model (mlc.tasks.learned.predict), examples with gold answers.
Out: a `TaskResult`; a JSON line an example, with its answer, where asked.

Every language counts the same in a mean; zero-shot is the mean over languages that were not trained on. Two models are
compared by a paired bootstrap (Koehn 2004): the same draws of examples for both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlc.errors import UsageError
from mlc.evaluate.intervals import Score, mean_over_sets, scores_of
from mlc.evaluate.options import progress_bar
from mlc.evaluate.results import ModelFacts, TaskResult
from mlc.evaluate.results import Scores as Figures
from mlc.files import write_atomically
from mlc.tasks.example_sets import check_labels
from mlc.tasks.examples import QuestionExample, RankingExample, TaskExample
from mlc.tasks.features_spans import Answered
from mlc.tasks.learned.predict import Predictor, check_texts
from mlc.tasks.learned.ranking import check_groups
from mlc.tasks.scores import Scores, difference, interval

ALL = "all"
"""Name of the set of examples whose language is not known, as in test.json."""
UNITS = {"token_classification": "words", "question_answering": "questions", "ranking": "pairs"}
"""What loses its end where it is longer than the model takes."""


@dataclass(frozen=True)
class Answers:
    """What one model says.

    Attributes:
        answers: to each example.
        sets: scores by language.
    """

    predictor: Predictor
    answers: list[Any]
    sets: Mapping[str, Scores]


@dataclass(frozen=True)
class ScoringSettings:
    """How models are scored.

    Attributes:
        task: as the user named it.
        data: sources, as the user named them.
        metric: the score that counts; "" = the task's main one.
        trained: languages trained on; None = as the model says.
        resamples: of the intervals.
        batch_tokens: longest row x rows of one batch; None = by device.
        set_aside: how many bad records were left out, by problem.
    """

    task: str
    data: tuple[str, ...]
    metric: str = ""
    trained: tuple[str, ...] | None = None
    resamples: int = 1000
    batch_tokens: int | None = None
    set_aside: Mapping[str, int] | None = None


def check_fit(predictor: Predictor, examples: Sequence[TaskExample]) -> None:
    """Refuse examples that the model cannot answer, before any is answered.

    Raises:
        DataError: a label outside the model's set, another number of texts, or a query without right or without wrong
            passages; with file and line.
    """
    check_texts(examples, predictor.task)
    check_groups([example for example in examples if isinstance(example, RankingExample)])
    if predictor.task.settings.labels:
        check_labels(examples, predictor.task.settings.labels)


def evaluate_finetuned(
    predictor: Predictor,
    examples: Sequence[TaskExample],
    settings: ScoringSettings,
    *,
    model: str,
    against: tuple[str, Predictor] | None = None,
    predictions: Path | None = None,
) -> TaskResult:
    """Score a model, and where there is a second one what it is better by.

    Args:
        examples: with gold answers, of one kind.
        model: as the user named it.
        against: a second model: its name, and itself.
        predictions: a JSON-lines file to write.

    Raises:
        DataError, UsageError: the examples do not fit a model, or there is no such score.
    """
    check_fit(predictor, examples)
    if against is not None:
        check_fit(against[1], examples)
    one = answer(predictor, examples, settings)
    other = None if against is None else answer(against[1], examples, settings)
    if predictions is not None:
        write_predictions(predictions, examples, one, other)
    main = _metric(one.sets, settings.metric)
    trained = predictor.trained_languages if settings.trained is None else settings.trained
    rows = {language: _ordered(found, main) for language, found in one.sets.items()}
    scores = means(one.sets, trained, main)
    details = _details(one, settings, main, trained)
    notes = list(_notes(one, settings, trained))
    if against is not None and other is not None:
        for language, found in difference_rows(one.sets, other.sets, main).items():
            rows[language] = {**rows[language], **found}
        scores = {**scores, **mean_differences(one.sets, other.sets, trained, main)}
        details["against"] = {"model": against[0], **_identity(against[1]), "by_language": _sets(other.sets)}
        notes.append(f"difference: {model} - {against[0]} in {main}; where the interval leaves out 0 it is significant")
    return TaskResult(
        task=settings.task,
        facts=_facts(one, model),
        data=settings.data,
        scores=scores,
        by={"language": rows},
        details=details,
        notes=tuple(notes),
    )


def answer(predictor: Predictor, examples: Sequence[TaskExample], settings: ScoringSettings) -> Answers:
    """Answer all examples and score each language."""
    with progress_bar("answering", len(examples)) as advance:
        answers = predictor.predict(examples, batch_tokens=settings.batch_tokens, progress=advance)
    by_language: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        by_language.setdefault(example.place.language or ALL, []).append(place)
    sets = {
        language: predictor.task.score(
            [examples[place] for place in places], [answers[place] for place in places], resamples=settings.resamples
        )
        for language, places in sorted(by_language.items())
    }
    return Answers(predictor, answers, sets)


def means(sets: Mapping[str, Scores], trained: Sequence[str], main: str) -> dict[str, Score]:
    """Means of all scores over languages, the main one first, then over languages that were not trained on."""
    names = _names(sets, main)
    found = {name: mean_over_sets(sets, name) for name in names}
    others = {language: sets[language] for language in zero_shot_languages(sets, trained)}
    if others:
        found |= {f"{name}_zero_shot": mean_over_sets(others, name) for name in names}
    return found


def zero_shot_languages(sets: Mapping[str, Scores], trained: Sequence[str]) -> list[str]:
    """Those that were not trained on; none where it is not known what was."""
    return [language for language in sets if trained and language not in trained and language != ALL]


def difference_rows(ones: Mapping[str, Scores], others: Mapping[str, Scores], name: str) -> dict[str, Figures]:
    """The second model's score and what the first is better by, for each language."""
    rows: dict[str, Figures] = {}
    for language, one in ones.items():
        found = difference(one, others[language], name)
        rows[language] = {
            "against": scores_of(others[language], [name])[name],
            "difference": Score(found.value, found.low, found.high, one.examples),
        }
    return rows


def mean_differences(
    ones: Mapping[str, Scores], others: Mapping[str, Scores], trained: Sequence[str], name: str
) -> dict[str, Score]:
    """The same of means over languages: the draws of both models are paired in each language."""
    untrained = zero_shot_languages(ones, trained)
    groups = {"": list(ones), **({"_zero_shot": untrained} if untrained else {})}
    found: dict[str, Score] = {}
    for ending, languages in groups.items():
        of_others = mean_over_sets({language: others[language] for language in languages}, name)
        values = [ones[k].scores[name].value - others[k].scores[name].value for k in languages]
        draws = np.mean([ones[k].draws[name] - others[k].draws[name] for k in languages], axis=0)
        found[f"against{ending}"] = of_others
        found[f"difference{ending}"] = Score(float(np.mean(values)), *interval(draws), of_others.n)
    return found


def write_predictions(file: Path, examples: Sequence[TaskExample], one: Answers, other: Answers | None) -> None:
    """A JSON line an example, in their order: {"file", "line", "language", what was asked, "answer", "against"?}.

    Raises:
        OSError: the file cannot be written.
    """
    may_be_none = {e.place.language for e in examples if isinstance(e, QuestionExample) and not e.answers}
    lines = []
    for place, example in enumerate(examples):
        content = {key: value for key, value in asdict(example).items() if key != "place"}
        shown = [
            _shown(given.answers[place], example.place.language in may_be_none)
            for given in (one, other)
            if given is not None
        ]
        where = {"file": example.place.file, "line": example.place.line, "language": example.place.language}
        line = {**where, **content, **dict(zip(("answer", "against"), shown, strict=False))}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomically(file, "".join(lines).encode())


def _shown(given: Any, may_be_none: bool) -> Any:
    """An answer as it is scored."""
    return given.text(0.0 if may_be_none else None) if isinstance(given, Answered) else given


def _metric(sets: Mapping[str, Scores], name: str) -> str:
    first = next(iter(sets.values()))
    if name and name not in first.scores:
        raise UsageError("no such score", found=name, needed=", ".join(first.scores), where="--metric")
    return name or first.main


def _names(sets: Mapping[str, Scores], main: str) -> list[str]:
    return [main, *(name for name in next(iter(sets.values())).scores if name != main)]


def _ordered(found: Scores, main: str) -> Figures:
    return scores_of(found, _names({"": found}, main))


def _sets(sets: Mapping[str, Scores]) -> dict[str, Any]:
    return {language: found.to_json() for language, found in sets.items()}


def _identity(predictor: Predictor) -> dict[str, Any]:
    source = predictor.finetuned.source
    return {"checkpoint": source.name, "step": source.step, "trained": list(predictor.trained_languages)}


def _details(one: Answers, settings: ScoringSettings, main: str, trained: Sequence[str]) -> dict[str, Any]:
    task, counts = one.predictor.task.settings, one.predictor.counts
    return {
        "kind": task.kind,
        "labels": list(task.labels),
        "score": main,
        "trained": [language for language in one.sets if language in trained],
        "rows": counts.rows,
        "cut_unit": UNITS.get(task.kind, "texts"),
        "set_aside": dict(settings.set_aside or {}),
        "details": {language: dict(found.details) for language, found in one.sets.items()},
    }


def _facts(one: Answers, model: str) -> ModelFacts:
    predictor = one.predictor
    source = predictor.finetuned.source
    return ModelFacts(
        model=model,
        checkpoint=source.name,
        step=source.step,
        representation={},
        precision=predictor.precision,
        max_tokens=predictor.task.settings.max_tokens,
        texts=predictor.counts.examples,
        cut=predictor.counts.cut,
        skipped_checkpoints=source.skipped,
    )


def _notes(one: Answers, settings: ScoringSettings, trained: Sequence[str]) -> Sequence[str]:
    task, counts = one.predictor.task.settings, one.predictor.counts
    unseen = zero_shot_languages(one.sets, trained)
    notes = [
        f"trained on {', '.join(trained) or 'no language that is known'}; zero-shot: {', '.join(unseen) or 'none'}"
    ]
    if counts.cut:
        unit = UNITS.get(task.kind, "texts")
        of = f"of {counts.examples} " if unit != "words" else ""
        notes.append(f"{counts.cut} {of}{unit} are longer than {task.max_tokens} tokens and were cut")
    if counts.rows > counts.examples:
        notes.append(f"{counts.examples} examples were read in {counts.rows} rows")
    notes += [f"set aside: {count} x {problem}" for problem, count in (settings.set_aside or {}).items()]
    return notes
