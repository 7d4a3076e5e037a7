"""The scripts that build shards in many ways and sizes: what they compare, when they kill, what memory they see."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import prep_same_bytes
import prep_scale
import pytest
from prep_runs import Built
from small_corpus import build_in, write_corpus


def write_build(folder: Path) -> Path:
    for name, content in {
        "documents/en.bin": "tokens",
        "documents/en.idx": "index",
        "build.json": '{"timing": {"seconds": 1}}',
        "manifest.json": '{"shards": [1], "recipe_sha256": "aa", "sha256": "bb"}',
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_equal_builds_have_no_difference(tmp_path: Path) -> None:
    one, other = write_build(tmp_path / "one"), write_build(tmp_path / "other")
    (other / "build.json").write_text('{"timing": {"seconds": 2}}')
    assert Built.of(one).difference(Built.of(other)) == ""
    assert Built.of(one).shard_files == 2


@pytest.mark.parametrize(
    ("name", "content", "difference"),
    [
        ("documents/en.bin", "Tokens", "documents/en.bin differs"),
        (".work-12/units/en.0.bin", "left over", ".work-12/units/en.0.bin is in one alone"),
        ("manifest.json", '{"shards": [2], "recipe_sha256": "aa", "sha256": "bb"}', "manifest: shards"),
    ],
)
@pytest.mark.parametrize("same_recipe", [True, False])
def test_every_other_byte_is_a_difference(
    tmp_path: Path, name: str, content: str, difference: str, same_recipe: bool
) -> None:
    one, other = write_build(tmp_path / "one"), write_build(tmp_path / "other")
    (other / name).parent.mkdir(parents=True, exist_ok=True)
    (other / name).write_text(content)
    assert Built.of(one).difference(Built.of(other), same_recipe=same_recipe) == difference


def test_digests_of_the_recipe_count_where_it_is_the_same(tmp_path: Path) -> None:
    one, other = write_build(tmp_path / "one"), write_build(tmp_path / "other")
    (other / "manifest.json").write_text('{"shards": [1], "recipe_sha256": "cc", "sha256": "dd"}')
    assert Built.of(one).difference(Built.of(other)) == "manifest: recipe_sha256"
    assert Built.of(one).difference(Built.of(other), same_recipe=False) == ""


def test_moments_of_a_build() -> None:
    stages = {"start": 1.0, "encode": 4.0, "join": 0.0, "finish": 0.5}
    assert prep_same_bytes.place_in(stages, 0.25) == ("start", 0.25)
    assert prep_same_bytes.place_in(stages, 1.0) == ("encode", 0.0)
    assert prep_same_bytes.place_in(stages, 5.25) == ("finish", 0.25)


def test_memory_of_a_command_and_of_what_it_starts() -> None:
    child = "import time; held = bytearray(200 << 20); time.sleep(0.1)"  # it is looked at every 10 ms
    program = f"import subprocess, sys; held = bytearray(60 << 20); subprocess.run([sys.executable, '-c', {child!r}])"
    peak = prep_scale.peak_memory([sys.executable, "-c", program])
    assert 60 < peak.parent < 120
    assert 200 < peak.worker < 260


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path) / "corpus"


SMALL = ("--tokenizer-vocab", "340", "--unit-bytes", "2000", "--recipes", "plain", "--ranks")


@pytest.mark.slow
def test_all_ways_to_build_in_small(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = prep_same_bytes.main([str(corpus), *SMALL, "2", "--kills", "2", "--scratch", str(corpus)])
    shown = capsys.readouterr()
    assert code == 0, shown.out
    rows = shown.out.strip().splitlines()[2:]
    assert len(rows) == 8
    assert all(row.endswith("| 9 | the same |") for row in rows)
    assert "killed 2 times and started again (hit " in shown.out
    assert "kill 2 of 2: " in shown.err


@pytest.mark.slow
def test_a_byte_that_differs_is_the_end(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = prep_same_bytes.timed

    def timed(command: Sequence[str], more: dict[str, str] | None = None) -> float:
        seconds = real(command, more)
        if "--workers" in command:
            (output,) = (word.partition("=")[2] for word in command if word.startswith("build.output="))
            with (Path(output) / "documents/de.bin").open("ab") as file:
                file.write(b"!")
        return seconds

    monkeypatch.setattr(prep_same_bytes, "timed", timed)
    assert prep_same_bytes.main([str(corpus), *SMALL, "--kills", "0"]) == 1
    rows = [row for row in capsys.readouterr().out.splitlines() if "documents/de.bin differs" in row]
    assert len(rows) == 1
    assert "--workers 2" in rows[0]


@pytest.mark.slow
def test_memory_and_large_files_in_small(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = build_in(tmp_path, "first")
    tokenizer = manifest.folder / manifest.tokenizer.file
    small = ["--copies", "2", "--line-megabytes", "65", "--file-megabytes", "1", "--parts", "memory", "files"]
    code = prep_scale.main([str(corpus), "--tokenizer", str(tokenizer), *small])
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert "| too_long 1 |" in shown
    assert "The command's peak grows by " in shown
