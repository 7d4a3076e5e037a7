"""Many tasks on one or more models, in one command.

In:  a suite: a TOML file of models and tasks (docs/evaluate.md).
Out: `SuiteItem`s, one a model and task, with options that are checked before anything runs; a line of the results file
     for each that is finished, so that a suite that was stopped goes on where it was.
"""

from __future__ import annotations

import inspect
import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Protocol, get_args, get_type_hints

import pydantic

from mlc.config import Section, digest, parse_recipe
from mlc.errors import DataError, RecipeError
from mlc.evaluate import commands_of_finetuned as finetuned
from mlc.evaluate import commands_of_pairs as pairs
from mlc.evaluate import commands_of_texts as texts
from mlc.evaluate.commands_of_finetuned import FinetunedOptions
from mlc.evaluate.intervals import Score
from mlc.evaluate.options import EvaluationOptions
from mlc.evaluate.score_tables import TableRow, task_row
from mlc.tasks.locate import ModelSource


class Result(Protocol):
    """What a task found."""

    def to_json(self) -> dict[str, Any]:
        """In the shape of all tasks."""
        ...


Run = Callable[..., Result]
_OWN_KEYS = ("task", "model", "models")
_NOT_IN_A_SUITE = ("model", "more", "json_file")
PLACE = "{model}"
"""In any option: the name of the model."""


class SuiteFile(Section):
    """The TOML file."""

    results: str
    """JSON lines, one a finished task of a model."""
    models: dict[str, str]
    """Name of the row -> MODEL."""
    options: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Options of every task that has them."""
    tasks: dict[str, dict[str, Any]]
    """Name of the column -> "task", "model" and "models" where they differ, and the task's options."""


@dataclass(frozen=True)
class SuiteItem:
    """One task on one model.

    Attributes:
        name: of the column.
        model_name: of the row.
        task: command of mlc evaluate.
        run: the function of that command.
        options: its first argument; own: its other ones.
    """

    name: str
    model_name: str
    task: str
    run: Run
    options: EvaluationOptions | FinetunedOptions
    own: Mapping[str, Any]

    def key(self, source: ModelSource) -> str:
        """What the result depends on: the task, its options, and which checkpoint MODEL stands for now."""
        content = [self.task, asdict(self.options), dict(self.own), source.name, source.step]
        return digest(json.loads(json.dumps(content, default=str)))


def task_functions() -> dict[str, Run]:
    """The commands of mlc evaluate that take options and return a result, by name."""
    found: tuple[Run, ...] = (
        pairs.mining, pairs.sts, pairs.documents, pairs.alignment, pairs.passages,
        texts.clusters, texts.probe, texts.latency,
        finetuned.classification, finetuned.regression, finetuned.ner, finetuned.qa, finetuned.reranking,
        finetuned.xnli, finetuned.pawsx, finetuned.sentiment, finetuned.topics, finetuned.fake_news,
    )  # fmt: skip
    return {"retrieval": retrieval, **{function.__name__.replace("_", "-"): function for function in found}}


def retrieval(options: EvaluationOptions, scoring: Annotated[str, "cosine, csls or margin"] = "cosine") -> Result:
    """`mlc evaluate retrieval` with the options that all tasks on embeddings share."""
    from mlc.evaluate.command import run_retrieval

    return run_retrieval(
        options.model,
        options.paths,
        languages=options.wanted_languages,
        layer=options.layer,
        pooling=options.pooling or None,
        projection=options.projection,
        precision=options.precision,
        threads=options.threads,
        limit=options.limit,
        max_tokens=options.max_tokens,
        batch_tokens=options.batch_tokens,
        scoring=scoring,
        bootstrap=options.bootstrap,
    )


def read_suite(file: Path) -> tuple[SuiteFile, list[SuiteItem]]:
    """Read a suite and check every option of every task.

    Raises:
        RecipeError: the file cannot be read, names a task or an option that there is not, or a value does not fit.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError("the suite cannot be read", found=str(error), where=str(file)) from None
    suite = parse_recipe(table, SuiteFile, where=str(file))
    items: list[SuiteItem] = []
    used: set[str] = set()
    for name, section in suite.tasks.items():
        chosen = section.get("models", list(suite.models))
        unknown = [model for model in chosen if model not in suite.models]
        if unknown:
            raise RecipeError(
                "no such model", found=", ".join(unknown), needed=", ".join(suite.models),
                where=f"{file}: tasks.{name}.models",
            )  # fmt: skip
        for model_name in chosen:
            item, taken = _item(suite, name, model_name, f"{file}: tasks.{name}")
            items.append(item)
            used |= taken
    if not items:
        raise RecipeError("there is nothing to do", needed="models and tasks", where=str(file))
    lost = sorted(set(suite.options) - used)
    if lost:
        raise RecipeError("no task has this option", found=", ".join(lost), where=f"{file}: options")
    return suite, items


def _item(suite: SuiteFile, name: str, model_name: str, where: str) -> tuple[SuiteItem, set[str]]:
    """A task on a model, and which of the common options it took."""
    section = suite.tasks[name]
    task = str(section.get("task", name))
    functions = task_functions()
    if task not in functions:
        raise RecipeError("no such task", found=task, needed=", ".join(functions), where=f"{where}.task")
    run = functions[task]
    signature = list(inspect.signature(run, eval_str=True).parameters.values())
    options_type: type[Any] = signature[0].annotation
    hints = get_type_hints(options_type, include_extras=True)
    shared = {
        _option_name(one.name, hints[one.name]): one for one in fields(options_type) if one.name not in _NOT_IN_A_SUITE
    }
    own = {_option_name(one.name, one.annotation): one for one in signature[1:]}
    annotations = {name: hints[one.name] for name, one in shared.items()}
    annotations |= {name: one.annotation for name, one in own.items()}
    given = {key: value for key, value in suite.options.items() if key in annotations}
    taken = set(given)
    given |= {key: value for key, value in section.items() if key not in _OWN_KEYS}
    unknown = sorted(set(given) - set(annotations))
    if unknown:
        needed = ", ".join(sorted(annotations))
        raise RecipeError(f"{task} has no such option", found=", ".join(unknown), needed=needed, where=where)
    required = {name for name, one in shared.items() if one.default is MISSING}
    required |= {name for name, one in own.items() if one.default is inspect.Parameter.empty}
    missing = sorted(required - set(given))
    if missing:
        raise RecipeError(f"{task} needs this option", found="nothing", needed=", ".join(missing), where=where)
    values = {
        key: _value(annotations[key], _filled(value, model_name), f"{where}.{key}") for key, value in given.items()
    }
    model = str(section.get("model", suite.models[model_name])).replace(PLACE, model_name)
    options = options_type(model=model, **{one.name: values[key] for key, one in shared.items() if key in values})
    options.check()
    own_values = {one.name: values[key] for key, one in own.items() if key in values}
    return SuiteItem(name, model_name, task, run, options, own_values), taken


def _option_name(name: str, annotation: Any) -> str:
    """The name of a parameter's option as a key: "set_aside" for --set-aside."""
    for fact in get_args(annotation)[1:]:
        # Inside Annotated, typer holds the first name as the default.
        names = [text for text in (getattr(fact, "default", None), *(getattr(fact, "param_decls", None) or ())) if text]
        if names and str(names[0]).startswith("--"):
            return str(names[0]).partition("/")[0].removeprefix("--").replace("-", "_")
    return name


def _filled(value: Any, model_name: str) -> Any:
    if isinstance(value, list):
        return [_filled(part, model_name) for part in value]
    return value.replace(PLACE, model_name) if isinstance(value, str) else value


def _value(annotation: Any, value: Any, where: str) -> Any:
    """A value of TOML as the command takes it; a list where the command takes words with commas between them."""
    inner, *facts = get_args(annotation)
    if isinstance(value, list) and inner is str:
        value = ",".join(map(str, value))
    try:
        # JSON mode makes paths of strings and still refuses "3" for 3.
        found = pydantic.TypeAdapter(inner).validate_json(json.dumps(value), strict=True)
    except (pydantic.ValidationError, TypeError) as error:
        needed = error.errors()[0]["msg"] if isinstance(error, pydantic.ValidationError) else str(error)
        raise RecipeError("the value is refused", found=repr(value), needed=needed, where=where) from None
    for fact in facts:
        least, most = getattr(fact, "min", None), getattr(fact, "max", None)
        if found is not None and ((least is not None and found < least) or (most is not None and found > most)):
            needed = " and ".join(
                f"{sign} {bound}" for sign, bound in ((">=", least), ("<=", most)) if bound is not None
            )
            raise RecipeError("the value is refused", found=repr(value), needed=needed, where=where)
    return found


def read_results(file: Path) -> dict[str, dict[str, Any]]:
    """Lines of a results file by their keys; a line that was torn by a kill is cut off.

    Raises:
        DataError: the file is no results file.
    """
    if not file.exists():
        return {}
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        lines = [json.loads(line) for line in whole.decode().splitlines()]
        found = {line["key"]: line for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        needed = "the results of mlc evaluate suite, or no file"
        raise DataError("this is no results file", found=repr(error), needed=needed, where=str(file)) from None
    if len(whole) < len(content):
        os.truncate(file, len(whole))
    return found


def append_result(file: Path, item: SuiteItem, key: str, result: Result) -> dict[str, Any]:
    """Append a finished task, durably.

    Raises:
        OSError: the file cannot be written.
    """
    line = {"item": item.name, "model_name": item.model_name, "key": key, "result": result.to_json()}
    with file.open("ab") as stream:
        stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return line


def suite_rows(items: Sequence[SuiteItem], results: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[TableRow]:
    """A row a model, a column a task: its main score, and that over languages that were not trained on.

    Args:
        results: JSON of the results by (name of the task, name of the model); what failed is not there.
    """
    rows: dict[str, dict[str, Score]] = {}
    for item in items:
        cells = rows.setdefault(item.model_name, {})
        result = results.get((item.name, item.model_name))
        if result is None:
            continue
        row, main = task_row(result, item.name), next(iter(result["scores"]), "")
        for ending, score in (("", row.mean), (", zero-shot", row.zero_shot)):
            if score is not None:
                cells[f"{item.name}: {main}{ending}"] = score
    return [TableRow(name, "main scores", cells) for name, cells in rows.items()]
