"""What is copied at submission, and what is known of its version, in a git repository and outside of one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from recipes_for_tests import ROOT

from launchers.snapshot import PACKAGES

SHOW = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from launchers.snapshot import snapshot
print(json.dumps(asdict(snapshot(Path(sys.argv[1])))))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the packages, in no repository."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tree" / ".gitignore").write_text("__pycache__/\n*.pyc\n")
    return tmp_path / "tree"


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit_all(folder: Path) -> str:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return git(folder, "rev-parse", "HEAD")


def taken(tree: Path, folder: Path) -> dict[str, Any]:
    """The snapshot that the code of `tree` takes of itself, as a `CodeVersion`."""
    folder.mkdir()
    environ = {"PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin", "HOME": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SHOW, folder], capture_output=True, text=True, check=True, env=environ
    )
    return dict(json.loads(done.stdout))


def content(folder: Path) -> dict[str, bytes]:
    files = (path for name in PACKAGES for path in (folder / name).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if "__pycache__" not in path.parts}


def test_outside_of_a_repository(tree: Path, tmp_path: Path) -> None:
    version = taken(tree, tmp_path / "taken")
    assert (version["git_commit"], version["changed"]) == (None, False)
    assert version["versions"]["python"].startswith("3.")
    assert content(tmp_path / "taken" / "code") == content(tree)
    assert not list((tmp_path / "taken" / "code").rglob("__pycache__"))


def test_a_tree_in_somebody_elses_repository_is_no_version_of_it(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs.txt").write_text("x")
    (tmp_path / ".gitignore").write_text("tree/\n")
    commit_all(tmp_path)
    assert taken(tree, tmp_path / "taken")["git_commit"] is None


def test_a_commit_without_changes(tree: Path, tmp_path: Path) -> None:
    commit = commit_all(tree)
    # What lies beside the packages is no change of them.
    (tree / "notes.txt").write_text("x")
    version = taken(tree, tmp_path / "taken")
    assert (version["git_commit"], version["changed"]) == (commit, False)
    assert not (tmp_path / "taken" / "changes.patch").exists()


def test_changes_can_be_put_on_the_commit_again(tree: Path, tmp_path: Path) -> None:
    """Whatever is in them: another encoding, other line ends, bytes; and whatever git's settings are."""
    (tree / "recipes").mkdir()
    (tree / "recipes" / "a.toml").write_text("a = 1\n")
    commit = commit_all(tree)
    git(tree, "config", "color.ui", "always")
    git(tree, "config", "diff.external", "false")
    with (tree / "mlc" / "cli.py").open("ab") as file:
        file.write("# naïve\r\n# ".encode("latin-1") + "ü\n".encode())
    (tree / "launchers" / "templates" / "train.sbatch").write_bytes(bytes(range(256)))
    (tree / "recipes" / "a.toml").write_text("a = 2\n")
    (tree / "data_prep" / "build.py").unlink()
    version = taken(tree, tmp_path / "taken")
    assert (version["git_commit"], version["changed"]) == (commit, True)
    assert content(tmp_path / "taken" / "code") == content(tree)
    git(tmp_path, "clone", "--quiet", str(tree), "again")
    git(tmp_path / "again", "apply", "--whitespace=nowarn", str(tmp_path / "taken" / "changes.patch"))
    assert content(tmp_path / "again") == content(tree)
    assert (tmp_path / "again" / "recipes" / "a.toml").read_text() == "a = 2\n"


def test_a_new_file_is_a_change(tree: Path, tmp_path: Path) -> None:
    commit = commit_all(tree)
    (tree / "mlc" / "new.py").write_text("x = 1\n")
    version = taken(tree, tmp_path / "taken")
    assert (version["git_commit"], version["changed"]) == (commit, True)
    assert (tmp_path / "taken" / "code" / "mlc" / "new.py").read_text() == "x = 1\n"
