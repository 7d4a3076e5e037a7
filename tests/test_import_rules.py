"""Who may import whom (docs/architecture.md): one direction, DeepSpeed in one place, rank variables in one file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE = {"mlc", "mlc.errors", "mlc.languages", "mlc.files", "mlc.run_names"}
TENSOR_FILES = {"mlc.streamed_file", "mlc.tensor_files"}
RECIPE = {"mlc.config", "mlc.recipe", "mlc.recipe_objectives"}
LEAVES = {"mlc.checkpoint", "mlc.data", "mlc.model", "mlc.objectives", "mlc.distributed"}
MIDDLE = {"mlc.engine", "mlc.tasks"}
TOP = {"mlc.finetune", "mlc.evaluate", "mlc.export", "mlc.embed", "mlc.generate"}
SHARD_FORMAT = {"mlc.data.indexed", "mlc.data.manifest", "mlc.data.tokenizer_json"} | {
    f"mlc.data.{name}" for name in ("spacing", "text", "text_lines")
}

MAY_IMPORT: dict[str, set[str]] = {
    "mlc.errors": set(),
    "mlc.languages": set(),
    "mlc.files": set(),
    "mlc.run_names": set(),
    "mlc.streamed_file": {"mlc.files"},
    "mlc.tensor_files": {"mlc.errors", "mlc.files", "mlc.streamed_file"},
    "mlc.config": BASE,
    "mlc.recipe_objectives": BASE | {"mlc.config"},
    "mlc.recipe": BASE | {"mlc.config", "mlc.recipe_objectives"},
    **{leaf: BASE | TENSOR_FILES | {*RECIPE, leaf} for leaf in LEAVES},
    "mlc.engine": BASE | TENSOR_FILES | {*RECIPE, "mlc.engine"} | LEAVES,
    "mlc.tasks": BASE | TENSOR_FILES | {*RECIPE, "mlc.tasks"} | LEAVES,
    **{top: BASE | TENSOR_FILES | {*RECIPE, top} | LEAVES | MIDDLE for top in TOP},
    "data_prep": BASE | {"mlc.config", "data_prep"} | SHARD_FORMAT,
    # Recipes are refused before they wait in a queue.
    "launchers": BASE | {*RECIPE, "mlc.finetune.recipe", "data_prep.recipe", "launchers"},
}
ANYTHING = {"mlc.cli", "mlc.__main__", "mlc"}
RANK_VARIABLES = ("WORLD_SIZE", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "PMI_RANK")
RANK_FILES = {"mlc/distributed/ranks.py", "data_prep/ranks.py"}


def _sources() -> list[Path]:
    return [path for package in ("mlc", "data_prep", "launchers") for path in sorted((ROOT / package).rglob("*.py"))]


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    """Full names of all modules a file imports, lazy imports included."""
    package = _module(path) if path.name == "__init__.py" else _module(path).rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names if _is_module(f"{base}.{alias.name}")}
    return found


def _is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _owner(module: str, names: set[str]) -> str | None:
    """The longest of `names` that is the module or a package around it."""
    fitting = [name for name in names if module == name or module.startswith(f"{name}.")]
    return max(fitting, key=len, default=None)


def forbidden_imports(path: Path) -> list[str]:
    module = _module(path)
    if module in ANYTHING:
        return []
    owner = _owner(module, set(MAY_IMPORT))
    assert owner is not None, f"{module} belongs to no package of the design"
    allowed = MAY_IMPORT[owner]
    ours = {name for name in _imports(path) if name.split(".")[0] in ("mlc", "data_prep", "launchers")}
    return sorted(name for name in ours if name not in allowed and _owner(name, allowed - {"mlc"}) is None)


@pytest.mark.parametrize("path", _sources(), ids=_module)
def test_imports_point_one_way(path: Path) -> None:
    assert forbidden_imports(path) == []


def test_the_rule_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    offender = tmp_path / "mlc" / "objectives" / "loss.py"
    offender.parent.mkdir(parents=True)
    for name in ("__init__", "distributed"):
        (tmp_path / "mlc" / f"{name}.py").touch()
    offender.write_text("def f():\n    from mlc.distributed import gather\n")
    assert forbidden_imports(offender) == ["mlc.distributed"]


def test_deepspeed_is_imported_in_the_engine_only() -> None:
    users = {_module(path) for path in _sources() if any(name.split(".")[0] == "deepspeed" for name in _imports(path))}
    assert users
    assert all(user.startswith("mlc.engine.") for user in users)


def test_data_prep_never_imports_torch() -> None:
    for path in (ROOT / "data_prep").rglob("*.py"):
        assert not any(name.split(".")[0] in ("torch", "transformers") for name in _imports(path)), path


def test_rank_variables_are_read_in_one_file() -> None:
    users = set()
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in RANK_VARIABLES:
                users.add(str(path.relative_to(ROOT)))
    assert users <= RANK_FILES
    assert "mlc/distributed/ranks.py" in users
