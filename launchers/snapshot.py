"""What a job runs: a copy of the code as it was when the job was submitted, and what is known of its version.

In:  the installed packages, and the git repository they lie in, if any.
Out: `code/` in the submission's folder; a `CodeVersion`; `changes.patch` where files differ from the commit.

A job may wait for days and come back for weeks; edits of the working tree in the meantime change nothing in it.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import launchers

PACKAGES = ("mlc", "data_prep", "launchers")
NAMED_BY_RECIPES = ("ds_configs", "recipes")
"""Folders whose differences are told as well; a job reads them from the working folder."""
NAMED_VERSIONS = ("mlc", "torch", "deepspeed", "transformers", "numpy", "sentencepiece")
GIT_SECONDS = 30.0


@dataclass(frozen=True)
class CodeVersion:
    """Of what was copied.

    Attributes:
        git_commit: None outside a repository.
        changed: whether files differ from it; changes.patch says how.
        versions: {package or "python": version} at submission.
    """

    git_commit: str | None
    changed: bool
    versions: dict[str, str]


def snapshot(folder: Path) -> CodeVersion:
    """Copy the code to `folder/code`, and its differences from the commit to `folder/changes.patch`."""
    root = Path(launchers.__file__).resolve().parent.parent
    for name in PACKAGES:
        shutil.copytree(root / name, folder / "code" / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    # A tree that happens to lie in somebody's repository is not a version of it.
    if _git(root, "ls-files", "--error-unmatch", "mlc/__init__.py") is None:
        return CodeVersion(None, False, _versions())
    commit = _git(root, "rev-parse", "HEAD")
    patch = _git(root, "diff", "--binary", "--no-ext-diff", "--no-color", "HEAD", "--", *PACKAGES, *NAMED_BY_RECIPES)
    new_files = _git(root, "ls-files", "--others", "--exclude-standard", "--", *PACKAGES)
    if patch:
        (folder / "changes.patch").write_text(patch, encoding="utf-8", errors="surrogateescape", newline="")
    return CodeVersion((commit or "").strip() or None, bool(patch or new_files), _versions())


def _git(root: Path, *arguments: str) -> str | None:
    """What git says; None where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, timeout=GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # A difference holds files as they are, in whatever encoding and with whatever line ends.
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in NAMED_VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
