"""Whole builds: the same bytes alone and under mpirun, restarts, verify and inspect."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_corpus import WORDS, build_in, text
from typer.testing import CliRunner

from data_prep.command import app, build, inspect, verify
from data_prep.verify import find_faults
from mlc.data.manifest import Manifest
from mlc.errors import MlcError, RecipeError, ShardError

MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def hashes(folder: Path) -> dict[str, str]:
    """Of every file but build.json, which says when and how the build was done."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "build.json"
    }


def test_what_a_build_holds(corpus: Path) -> None:
    manifest = build_in(corpus)
    assert {entry.name: (entry.documents, entry.sequences) for entry in manifest.shards} == {
        "documents/de": (35, 105),
        "documents/en": (42, 123),
        "documents/zh": (35, 105),
        "pairs/en-de": (30, 30),
        "pairs/en-zh": (30, 30),
    }
    assert Manifest.read(corpus / "out") == manifest
    assert find_faults(manifest) == []
    en, de, zh = (manifest.groups(manifest.entry(f"documents/{language}")) for language in WORDS)
    assert de.tolist() == zh.tolist() == en[5:40].tolist()  # the same ids are the same documents
    assert len(set(en.tolist())) == 41  # 40 ids, and -1 for plain text
    assert en[40:].tolist() == [-1, -1]
    pair_groups = [manifest.groups(manifest.entry(f"pairs/en-{language}")) for language in ("de", "zh")]
    assert pair_groups[0].tolist() == pair_groups[1].tolist()
    assert not set(pair_groups[0].tolist()) & set(en.tolist())
    english, german = manifest.open(manifest.entry("pairs/en-de"))
    assert english.num_sequences == german.num_sequences == 30
    expected = {
        f"{prefix}.{suffix}" for entry in manifest.shards for prefix in entry.prefixes for suffix in ("bin", "idx")
    }
    expected |= {entry.groups_file for entry in manifest.shards} | {"tokenizer.model", "manifest.json"}
    expected |= {"tokens.json", "tokens.svg"}
    assert set(hashes(corpus / "out")) == expected  # nothing temporary is left


def test_the_text_comes_back(corpus: Path) -> None:
    from data_prep.tokenizer import Tokenizer

    manifest = build_in(corpus)
    tokenizer = Tokenizer(corpus / "out" / manifest.tokenizer.file)
    _, german = manifest.open(manifest.entry("pairs/en-de"))
    assert [tokenizer.decode(german.sequence(i)) for i in range(30)] == [text("de", i, 8) for i in range(30)]
    (english,) = manifest.open(manifest.entry("documents/en"))
    assert [tokenizer.decode(english.sequence(s)) for s in range(120, 123)] == [
        "First one.",
        "Second one!",
        "Another document.",
    ]


def test_two_builds_are_the_same_to_the_byte(corpus: Path) -> None:
    first, second = build_in(corpus, "one"), build_in(corpus, "two")
    assert hashes(corpus / "one") == hashes(corpus / "two")
    assert first.sha256 == second.sha256
    assert build_in(corpus, "three", "build.seed=2", "tokenizer.sample_bytes=4000").sha256 != first.sha256


PROGRAM = """
import sys
from data_prep.command import build
from mlc.errors import MlcError
try:
    build(sys.argv[1], [f"build.output={sys.argv[2]}"])
except MlcError as error:
    print("refused:", error, flush=True)
    sys.exit(error.exit_code)
"""


def mpirun(corpus: Path, output: str) -> subprocess.CompletedProcess[str]:
    command = [str(MPIRUN), "--allow-run-as-root", "--oversubscribe", "-n", "2", sys.executable, "-c", PROGRAM]
    return subprocess.run(
        [*command, str(corpus / "prep.toml"), str(corpus / output)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun: pip install 'mlc[mpi]'")
def test_two_ranks_write_the_bytes_of_one(corpus: Path) -> None:
    build_in(corpus, "alone")
    ended = mpirun(corpus, "together")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert Manifest.read(corpus / "together").timing["processes"] == 2
    assert hashes(corpus / "together") == hashes(corpus / "alone")


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun: pip install 'mlc[mpi]'")
def test_a_rank_that_fails_ends_all_with_its_error(corpus: Path) -> None:
    broken = corpus / "corpus/en-de.jsonl"
    broken.write_bytes(bytes(broken.stat().st_size))
    ended = mpirun(corpus, "together")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "pairs/en-de has no usable record" in ended.stdout or "records of pairs/en-de had to" in ended.stdout
    assert ended.stdout.count("refused:") == 2
    assert "Traceback" not in ended.stderr
    assert not (corpus / "together/manifest.json").exists()


def test_the_first_documents(corpus: Path) -> None:
    recipe = (corpus / "prep.toml").read_text()
    (corpus / "prep.toml").write_text(recipe.replace('language = "en"', 'language = "en"\nmax_documents = 1'))
    assert build_in(corpus).entry("documents/en").documents == 41


def test_a_finished_build_is_left_alone_and_another_is_not_overwritten(corpus: Path) -> None:
    build_in(corpus)
    marks = {path: path.stat().st_mtime_ns for path in (corpus / "out").rglob("*")}
    assert not build(corpus / "prep.toml").built
    assert {path: path.stat().st_mtime_ns for path in (corpus / "out").rglob("*")} == marks

    with pytest.raises(RecipeError, match=r"state of the recipe(.|\n)*--overwrite"):
        build_in(corpus, "out", "tokenizer.vocab_size=370")
    os.utime(corpus / "corpus/en.jsonl.zst", ns=(1, 1))
    with pytest.raises(RecipeError, match=r"state of the source files(.|\n)*--overwrite"):
        build_in(corpus)

    recipe = (corpus / "prep.toml").read_text()
    (corpus / "prep.toml").write_text(recipe.replace('["en", "de", "zh"]', '["en", "de"]'))
    manifest = build_in(corpus, overwrite=True)
    assert "documents/zh" not in {entry.name for entry in manifest.shards}
    assert not list((corpus / "out/documents").glob("zh.*"))  # nothing of the build before it is left


def test_what_a_killed_build_left_does_no_harm(corpus: Path) -> None:
    build_in(corpus, "clean")
    left = corpus / "out/documents"
    (corpus / "out").mkdir()
    (corpus / "out/.mlc-build").touch()
    (corpus / "out/.work").mkdir(parents=True)
    (corpus / "out/rejected/documents").mkdir(parents=True)
    left.mkdir()
    for path in (
        left / "en.bin.0123.tmp",
        left / "en.idx",
        left / "fr.idx",
        corpus / "out/rejected/documents/en.jsonl",
    ):
        path.write_text("half a file")
    build_in(corpus, "out")
    assert hashes(corpus / "out") == hashes(corpus / "clean")


def test_an_existing_tokenizer_is_used(corpus: Path) -> None:
    first = build_in(corpus, "first")
    recipe = (corpus / "prep.toml").read_text()
    recipe = recipe.replace("vocab_size = 360", f'path = "{corpus}/first/tokenizer.model"')
    (corpus / "prep.toml").write_text(recipe)
    second = build_in(corpus, "second")
    assert second.tokenizer == first.tokenizer
    assert [entry.files for entry in second.shards] == [entry.files for entry in first.shards]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_verify_lists_every_fault(corpus: Path) -> None:
    build_in(corpus)
    out = corpus / "out"
    verify(out, corpus / "good.json")
    assert json.loads((corpus / "good.json").read_text())["faults"] == []
    flip(out / "tokenizer.model", 99)
    flip(out / "documents/en.bin", 0)
    flip(out / "documents/de.idx", 40)
    (out / "documents/zh.groups.npy").write_bytes(b"short")
    (out / "pairs/en-de.de.bin").unlink()
    with pytest.raises(MlcError) as error:
        verify(out, corpus / "bad.json")
    assert error.value.exit_code == 1
    faults = json.loads((corpus / "bad.json").read_text())["faults"]
    for part in (
        "tokenizer.model: sha256",
        "en.bin: sha256",
        "de.idx: sha256",
        "de.idx: sequence 2",
        "zh.groups.npy: 5",
    ):
        assert any(part in fault for fault in faults), part
        assert part in str(error.value)
    assert any("en-de.de.bin: no such file" in fault for fault in faults)


def test_verify_looks_beyond_the_hashes(corpus: Path) -> None:
    """A file that was wrong when it was hashed: ids outside the vocabulary, special tokens, other counts."""
    import dataclasses

    from mlc.data.indexed import ShardWriter

    manifest = build_in(corpus)
    with ShardWriter(corpus / "out/documents/en", "uint16") as writer:
        writer.add_document([np.array([300, 4, 360]), np.array([], dtype=np.int64)])
    faults = "\n".join(find_faults(manifest))
    assert "token 2 is 360, the vocabulary has 360 ids" in faults
    assert "(1, 2) documents and sequences, the manifest says (42, 123)" in faults
    assert "sequence 1 is empty" in faults
    with ShardWriter(corpus / "out/documents/en", "uint16") as writer:
        writer.add_document([np.array([300, 4])])
    assert "holds the special token [MASK]" in "\n".join(find_faults(manifest))
    np.save(corpus / "out/documents/de.groups.npy", np.full(35, -2))
    assert "group number -2" in "\n".join(find_faults(manifest))
    doubled = dataclasses.replace(manifest, shards=manifest.shards[-1:] * 2)
    assert any("listed twice" in fault for fault in find_faults(doubled))


def test_inspect_shows_text_and_lengths(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_in(corpus)
    inspect(corpus / "out", 2, ("pairs/en-de",), corpus / "inspect.json")
    shown = capsys.readouterr().out
    assert text("en", 0, 8)[:30] in shown
    assert "pairs/en-de.de" in shown
    details = json.loads((corpus / "inspect.json").read_text())["details"]
    assert details["pairs/en-de"]["samples"][0] == [text("en", 0, 8), text("de", 0, 8)]
    assert sum(details["pairs/en-de"]["document_lengths"]["pairs/en-de.en"].values()) == 30
    with pytest.raises(ShardError, match="documents/fr"):
        inspect(corpus / "out", 2, ("documents/fr",))


def test_commands_write_json(corpus: Path) -> None:
    runner = CliRunner()
    recipe, report = str(corpus / "prep.toml"), str(corpus / "build.json")
    ended = runner.invoke(app, ["build", recipe, "--set", "tokenizer.vocab_size=350", "--json", report])
    assert ended.exit_code == 0, ended.output
    content = json.loads(Path(report).read_text())
    assert (content["status"], content["vocab_size"]) == ("built", 350)
    assert content["shards"][0]["name"] == "documents/de"
    assert runner.invoke(app, ["verify", str(corpus / "out")]).exit_code == 0
    assert runner.invoke(app, ["inspect", str(corpus / "out"), "--samples", "0"]).exit_code == 0
    for command in ("build", "verify", "inspect"):
        shown = runner.invoke(app, [command, "--help"])
        assert shown.exit_code == 0
        assert f"mlc prep {command}" in shown.output


def test_torch_is_never_imported() -> None:
    code = "import sys, data_prep.command; sys.exit('torch' in sys.modules or 'mpi4py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
