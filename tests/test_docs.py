"""What the documentation says exists: keys, defaults, links, commands, recipes, metrics."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main

from data_prep.recipe import PrepRecipe
from mlc.checkpoint.record import Position
from mlc.cli import build_app
from mlc.config import Section, parse_recipe
from mlc.engine.metrics import CLOCK_KEYS
from mlc.finetune.recipe import FinetuneRecipe
from mlc.recipe import TrainRecipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("**/*.md")),
]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
COMMAND = re.compile(r"(?:^|\s)mlc((?:\s+[^\s#|;`]+)*)")
RECIPE_PATH = re.compile(r"\brecipes/[\w./-]+\.(?:toml|json)\b")
ROW = re.compile(r"^\| (`[^|]*`) \|([^|]*)\|([^|]*)\|", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def section_in(annotation: Any) -> type[Section] | None:
    """The table that a key holds, or a list of; None for a value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_in(part))), None)


def tables_of(section: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every table of a recipe that has keys of its own, by its dotted name."""
    for key, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner is not None:
            name = f"{prefix}{key}"
            yield name, inner
            yield from tables_of(inner, f"{name}.")


def chapters(text: str) -> dict[str, str]:
    """Text under each heading such as ### `[run]` or ### `[[data.sources]]`, by the name in the brackets."""
    parts = re.split(r"^### `\[+([\w.]+)\]+`$", text, flags=re.MULTILINE)[1:]
    ends = (re.split(r"^#", body, maxsplit=1, flags=re.MULTILINE)[0] for body in parts[1::2])
    return dict(zip(parts[0::2], ends, strict=True))


def shown_default(section: type[Section], key: str) -> str:
    field = section.model_fields[key]
    if field.is_required():
        return "required"
    default = field.default
    if isinstance(default, float):
        return f"`{default!r}`".replace("e-0", "e-")
    return f"`{json.dumps(default)}`"


@pytest.mark.parametrize(("table", "section"), list(tables_of(TrainRecipe)), ids=str)
def test_every_key_of_a_training_recipe_is_described_with_its_default(table: str, section: type[Section]) -> None:
    chapter = chapters((ROOT / "docs" / "recipes.md").read_text()).get(table, "")
    described = {key.strip("`"): default.strip() for key, _, default in ROW.findall(chapter)}
    own = [key for key, field in section.model_fields.items() if section_in(field.annotation) is None]
    lists = [key for key, field in section.model_fields.items() if key not in own and field.is_required()]
    missing = [key for key in own + lists if key not in described]
    assert not missing, f"docs/recipes.md does not describe {missing} under [{table}]"
    defaults = {key: shown_default(section, key) for key in own + lists}
    wrong = {key: described[key] for key, default in defaults.items() if described[key] != default}
    assert not wrong, f"[{table}]: needed {[defaults[key] for key in wrong]}, found {wrong}"
    views = {"spans", "translations", "text", "ranked", "pair"} if table == "data.sources" else set()
    assert set(described) <= set(defaults) | views, f"docs/recipes.md describes keys that [{table}] does not have"


@pytest.mark.parametrize(("table", "section"), list(tables_of(PrepRecipe)), ids=str)
def test_every_key_of_a_prep_recipe_is_described(table: str, section: type[Section]) -> None:
    chapter = chapters((ROOT / "docs" / "data_prep.md").read_text()).get(table, "")
    first_cells = " ".join(re.findall(r"^\|([^|]*)\|", chapter, flags=re.MULTILINE))
    missing = [key for key in section.model_fields if f"`{key}`" not in first_cells]
    assert not missing, f"docs/data_prep.md does not describe {missing} under [{table}]"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links to files that do not exist, or to headings that their page does not have."""
    broken = []
    for link in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    return broken


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(FENCE.sub("", text)))
    return {heading.strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page: Path) -> None:
    assert wrong_commands(page.read_text()) == []


def wrong_commands(text: str) -> list[str]:
    """Commands in code that the command line would not take: an unknown subcommand or option."""
    wrong = []
    for arguments in commands(text):
        command: Any = typer.main.get_command(build_app())
        words = arguments.split()
        while getattr(command, "commands", None):
            words = command.with_command(words) if hasattr(command, "with_command") else words
            if not words or words[0].startswith("-"):
                break
            command = command.commands.get(words.pop(0).rstrip(".,:"))
        options = {word.strip("[]").partition("=")[0] for word in words if word.strip("[]").startswith("--")}
        if command is None or not options <= known_options(command):
            wrong.append(f"mlc {arguments}")
    return wrong


def known_options(command: Any) -> set[str]:
    """Of a command; of a group, where the reader chooses the command, those of all its commands."""
    own = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
    return own.union({"--help"}, *map(known_options, getattr(command, "commands", {}).values()))


def commands(text: str) -> Iterator[str]:
    """What follows `mlc` in shell lines and inline code."""
    shell = [line for language, body in FENCE.findall(text) if language in ("", "sh") for line in body.splitlines()]
    for code in shell + INLINE_CODE.findall(FENCE.sub("", text)):
        for arguments in COMMAND.findall(code):
            # An ellipsis stands for a task of the reader's choice.
            if arguments.strip() and not arguments.split()[0].startswith(("-", "=")):
                yield arguments.replace("...", "").strip()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_recipes_that_are_named_exist(page: Path) -> None:
    missing = sorted({path for path in RECIPE_PATH.findall(page.read_text()) if not (ROOT / path).exists()})
    assert missing == []


def test_every_shipped_recipe_is_listed() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text()
    shipped = sorted(path.name for path in (ROOT / "recipes").glob("*.toml"))
    assert [name for name in shipped if f"`recipes/{name}`" not in text] == []


def test_shown_recipes_are_valid() -> None:
    shown = 0
    for page in PAGES:
        for language, body in FENCE.findall(page.read_text()):
            table = tomllib.loads(body) if language == "toml" else {}
            kinds = (("task", FinetuneRecipe), ("objectives", TrainRecipe), ("build", PrepRecipe))
            for key, section in kinds:
                if key in table:
                    parse_recipe(table, section, where=name_of(page))
                    shown += 1
    assert shown >= 4  # README: training and prep; data_prep.md: prep; finetune.md


def test_every_metric_is_described() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = [row.split("|") for row in text.splitlines() if row.startswith("| `")]
    clocks = {key for row in rows for key in INLINE_CODE.findall(row[1]) if row[3].strip() == "yes"}
    described = {key for row in rows for key in INLINE_CODE.findall(row[1])}
    engine = ROOT / "mlc" / "engine"
    written = literal_metrics((engine / "loop.py").read_text(), "_report")
    for function in ("objective_metrics", "speed_metrics"):
        written |= literal_metrics((engine / "step_metrics.py").read_text(), function)
    position = {field.name for field in fields(Position)}
    assert position | {"loss", "lr", "mfu"} <= written | position
    assert (written | position) - described == set()
    assert {key for key in clocks if not key.startswith(("seconds/", "memory/"))} == set(CLOCK_KEYS)
    assert {f"seconds/{part}" for part in ("data", "forward", "backward", "optimizer", "step", "checkpoint")} <= clocks


def literal_metrics(source: str, name: str) -> set[str]:
    """Keys that a function spells out."""
    (function,) = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == name
    )
    found = set()
    for node in ast.walk(function):
        keys: list[ast.expr | None] = []
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "metrics":
            keys = [node.slice]
        elif isinstance(node, ast.Dict):
            keys = node.keys
        found |= {key.value for key in keys if isinstance(key, ast.Constant)}
    return found


def test_the_checks_can_fail() -> None:
    page = ROOT / "README.md"
    assert broken_links(page, "[a](docs/nowhere.md) [b](docs/recipes.md#nowhere) [c](docs/recipes.md)") == [
        "docs/nowhere.md",
        "docs/recipes.md#nowhere",
    ]
    assert wrong_commands(
        "`mlc fly`, `mlc prep fly SHARDS`, `mlc train R --sett a.b=1`, `mlc train R --set a.b=1`"
    ) == [
        "mlc fly",
        "mlc prep fly SHARDS",
        "mlc train R --sett a.b=1",
    ]
    assert wrong_commands("```\ntorchrun --nproc-per-node 2 -m mlc fly R\n```\n") == ["mlc fly R"]
    assert dict(tables_of(TrainRecipe)).keys() >= {"run", "data.sources", "objectives.glm"}
