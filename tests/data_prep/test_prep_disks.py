"""Builds on real file systems that are too small, read-only, or turn read-only: a clear message, and nothing lost."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from faults_for_tests import SmallDisk, failing_disk
from small_corpus import build_in

from data_prep import stages
from data_prep.command import build
from data_prep.verify import find_faults
from mlc.data.manifest import Manifest
from mlc.errors import MlcError

DUPLICATES = ("duplicates.exact=true", "duplicates.near=true")
"""Their stages write files too."""


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "build.json"
    }


def build_on(disk: Path, corpus: Path, *, workers: int = 1) -> Manifest:
    overrides = [f"build.output={disk / 'out'}", "build.unit_bytes=700", *DUPLICATES]
    return build(corpus / "prep.toml", overrides, workers=workers).manifest


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_small_disk_that_is_given_more_and_more_room(corpus: Path, tmp_path: Path, workers: int) -> None:
    """Every start gets 96 KiB more, so that the disk fills up in one stage after the other."""
    build_in(corpus, "alone", "build.unit_bytes=700", *DUPLICATES)
    reached, refusals = set(), []
    with SmallDisk(tmp_path / "disk", mib=4) as disk:
        ballast = disk.folder / "ballast"
        disk.fill()
        while True:
            try:
                manifest = build_on(disk.folder, corpus, workers=workers)
                break
            except MlcError as error:
                refusals.append((error.exit_code, str(error)))
            assert not (disk.folder / "out/manifest.json").exists()
            reached.add(max(stage_reached(disk.folder / "out"), default=""))
            size = ballast.stat().st_size
            assert size > 0, "4 MiB are not enough"
            os.truncate(ballast, max(0, size - (96 << 10)))
        assert len(reached) >= 3, reached
        for exit_code, message in refusals:
            assert exit_code == 1
            for part in ("No space left on device", str(disk.folder), "free space or name another build.output, then"):
                assert part in message
        assert find_faults(manifest) == []
        assert contents(disk.folder / "out") == contents(corpus / "alone")


def stage_reached(output: Path) -> list[str]:
    """Kinds of finished work."""
    order = ("sample", "fingerprints", "units", "joined")
    return [f"{place} {name}" for place, name in enumerate(order) if any((output / ".work" / name).glob("*"))]


def test_a_target_that_is_read_only(corpus: Path, tmp_path: Path) -> None:
    """A new build is refused; a finished one is still found, and not damaged by an attempt to replace it."""
    with SmallDisk(tmp_path / "disk", mib=4) as disk:
        built = build_on(disk.folder, corpus)
        before = contents(disk.folder)
        subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
        refused = "a file of the build cannot be read or written; found Read-only file system"
        with pytest.raises(MlcError, match=refused) as error:
            build(corpus / "prep.toml", [f"build.output={disk.folder / 'new'}"])
        assert str(disk.folder / "new") in str(error.value)
        assert build_on(disk.folder, corpus) == built
        with pytest.raises(MlcError, match=refused):
            build(corpus / "prep.toml", [f"build.output={disk.folder / 'out'}"], overwrite=True)
        assert contents(disk.folder) == before
        assert find_faults(Manifest.read(disk.folder / "out")) == []


def test_a_target_that_turns_read_only(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel does after an error of the disk; the finished units are there when it can be written again."""
    with failing_disk(tmp_path / "disk") as fail:
        real = stages.Stages.join

        def join(self: stages.Stages) -> list[stages.Task]:
            fail()
            return real(self)

        monkeypatch.setattr(stages.Stages, "join", join)
        with pytest.raises(MlcError, match="Read-only file system") as error:
            build_on(tmp_path / "disk", corpus)
        assert str(tmp_path / "disk/out") in str(error.value)
        assert list((tmp_path / "disk/out/.work/units").glob("*.json"))
        assert not (tmp_path / "disk/out/manifest.json").exists()
