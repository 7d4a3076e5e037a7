"""Builds of what cannot be used: records set aside, builds that stop, and folders and disks that refuse."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import sentencepiece
import zstandard
from small_corpus import WORDS, build_in, text

from data_prep.command import inspect, verify
from data_prep.verify import find_faults
from mlc.data.manifest import Manifest
from mlc.errors import DataError, MlcError, RecipeError, ShardError

BAD_LINES = [b"\xff\xfe", b"{broken", b'{"id": "x"}', b'{"id": "y", "text": " "}', b'{"text": "\\ud800"}']


def spoil(corpus: Path, good: int) -> None:
    rows = [json.dumps({"id": f"g{i}", "text": text("en", i, 12)}).encode() for i in range(good)]
    content = b"\n".join([*rows[:7], *BAD_LINES, *rows[7:]])
    (corpus / "corpus/en.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(content))


def test_bad_records_are_set_aside_and_counted(corpus: Path) -> None:
    spoil(corpus, 93)  # with the two documents of more.txt: 5 of 100
    manifest = build_in(corpus, "out", "build.max_rejected_fraction=0.05")
    entry = manifest.entry("documents/en")
    reasons = {"broken_json": 1, "empty": 1, "missing_field": 1, "surrogate": 1, "undecodable": 1}
    assert entry.dropped == reasons
    assert entry.documents == 95
    rows = [json.loads(line) for line in (corpus / "out/rejected/documents/en.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [8, 9, 10, 11, 12]
    assert {row["reason"] for row in rows} == set(reasons)
    assert {row["file"] for row in rows} == {str(corpus / "corpus/en.jsonl.zst")}
    assert rows[1]["record"] == "{broken"


def test_too_many_bad_records_stop_the_build(corpus: Path) -> None:
    spoil(corpus, 93)
    with pytest.raises(DataError, match=r"documents/en.*5 of 100 \(5\.00%\).*undecodable 1.*at most 4\.90%") as error:
        build_in(corpus, "out", "build.max_rejected_fraction=0.049")
    assert error.value.exit_code == 1
    assert str(corpus / "out/rejected/documents/en.jsonl") in str(error.value)
    assert len((corpus / "out/rejected/documents/en.jsonl").read_text().splitlines()) == 5
    assert not (corpus / "out/manifest.json").exists()
    with pytest.raises(ShardError, match="no finished shards"):
        Manifest.read(corpus / "out")


def test_a_shard_without_records_stops_the_build(corpus: Path) -> None:
    (corpus / "corpus/en-de.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="pairs/en-de has no usable record"):
        build_in(corpus)


def test_a_folder_of_other_files_is_not_cleared(corpus: Path) -> None:
    (corpus / "out/documents").mkdir(parents=True)
    (corpus / "out/documents/thesis.tmp").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(RecipeError, match="other files than a build's; found documents"):
            build_in(corpus, overwrite=overwrite)
    assert (corpus / "out/documents/thesis.tmp").read_text() == "years of work"


def test_a_build_that_was_stopped_can_be_started_again(corpus: Path) -> None:
    good = (corpus / "corpus/en-de.jsonl").read_text()
    (corpus / "corpus/en-de.jsonl").write_text("\n")
    with pytest.raises(DataError):
        build_in(corpus)
    (corpus / "corpus/en-de.jsonl").write_text(good)
    assert find_faults(build_in(corpus)) == []
    assert not (corpus / "out/.mlc-build").exists()


def test_a_source_file_that_changes_between_two_runs(corpus: Path) -> None:
    """Of an interrupted build only the units of that file are done again; the end is that of a build from scratch."""
    build_in(corpus, "first")
    recipe = (corpus / "prep.toml").read_text()
    (corpus / "prep.toml").write_text(recipe.replace("vocab_size = 360", f'path = "{corpus}/first/tokenizer.model"'))
    pairs, german = corpus / "corpus/en-de.jsonl", corpus / "corpus/de.jsonl.zst"
    good = pairs.read_text()
    pairs.write_text("\n")
    records = []
    for _ in range(2):
        with pytest.raises(DataError, match="pairs/en-de has no usable record"):
            build_in(corpus)
        found = (corpus / "out/.work/units").glob("*.json")
        records.append({path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found})
        german.write_bytes(german.read_bytes() + zstandard.ZstdCompressor().compress(b'{"id": "new", "text": "neu"}\n'))
    assert records[1].items() > records[0].items()  # the same files: none of them was written again
    assert {name.rsplit(".", 2)[0] for name in records[1].keys() - records[0].keys()} == {"documents.de.000000"}
    pairs.write_text(good)
    built = build_in(corpus)
    assert built.entry("documents/de").documents == 35 + 2
    assert built.sha256 == build_in(corpus, "scratch").sha256


def test_a_manifest_of_a_newer_version_is_refused_and_left_alone(corpus: Path) -> None:
    build_in(corpus)
    manifest = corpus / "out/manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "version": content["version"] + 1}))
    before = {path: path.read_bytes() for path in (corpus / "out").rglob("*") if path.is_file()}
    message = f"written by a newer version(.|\n)*needed <= {content['version']}"
    for command in (lambda: build_in(corpus), lambda: verify(corpus / "out"), lambda: inspect(corpus / "out")):
        with pytest.raises(ShardError, match=message) as error:
            command()
        assert error.value.exit_code == 2
    assert {path: path.read_bytes() for path in (corpus / "out").rglob("*") if path.is_file()} == before
    assert find_faults(build_in(corpus, overwrite=True)) == []


def test_a_full_disk_is_an_error_with_its_place(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("data_prep.hashed_file.HashedFile.finish", full)
    with pytest.raises(MlcError, match=r"out: a file of the build.*No space left(.|\n)*free space") as error:
        build_in(corpus)
    assert error.value.exit_code == 1
    assert not list((corpus / "out").rglob("*.idx")) + list((corpus / "out").rglob("*.bin*"))


@pytest.mark.parametrize("kind", ["documents", "pairs"])
def test_a_source_that_is_read_the_wrong_way_stops_at_once(corpus: Path, kind: str) -> None:
    file = corpus / ("corpus/en-de.jsonl" if kind == "pairs" else "corpus/more.jsonl")
    file.write_text('{"body": "a text"}\n' * 5000)
    recipe = (
        (corpus / "prep.toml")
        .read_text()
        .replace("more.txt.gz", "more.jsonl" if kind == "documents" else "more.txt.gz")
    )
    (corpus / "prep.toml").write_text(recipe)
    message = r"none of the first 1000 records could be used; found missing_field 1000(.|\n)*text_field"
    with pytest.raises(DataError, match=message) as error:
        build_in(corpus, "out", "build.max_rejected_fraction=1")
    assert str(file) in str(error.value)


def test_what_a_foreign_tokenizer_drops_is_no_empty_sequence(corpus: Path) -> None:
    """nmt_nfkc turns a zero-width space into nothing: no sequence, document or side may be empty."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text(language, seed, 20) for language in WORDS for seed in range(50)]),
        model_prefix=str(corpus / "foreign"),
        vocab_size=120,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    gone = "\u200b"
    rows = [{"text": "the tree"}, {"text": gone}, {"text": f"old\n{gone}\nstone"}]
    (corpus / "corpus/en.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = [{"en": "house", "de": "Haus"}, {"en": gone, "de": "nichts"}, {"en": "tree", "de": gone}]
    (corpus / "corpus/en-de.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (corpus / "prep.toml").write_text(
        f"""
[build]
output = "{corpus}/out"
max_rejected_fraction = 0.7
[tokenizer]
path = "{corpus}/foreign.model"
[[documents]]
language = "en"
paths = ["{corpus}/corpus/en.jsonl"]
[[pairs]]
languages = ["en", "de"]
paths = ["{corpus}/corpus/en-de.jsonl"]
"""
    )
    manifest = build_in(corpus)
    assert find_faults(manifest) == []
    documents, couples = manifest.entry("documents/en"), manifest.entry("pairs/en-de")
    assert (documents.documents, documents.sequences, documents.dropped) == (2, 3, {"no_tokens": 1})
    assert documents.text_bytes == len("the treeoldstone")
    assert (couples.documents, couples.dropped) == (1, {"no_tokens": 2})
    (row,) = map(json.loads, (corpus / "out/rejected/documents/en.jsonl").read_text().splitlines())
    assert (row["line"], row["reason"], row["record"]) == (2, "no_tokens", gone)
    with pytest.raises(DataError, match="2 of 3"):
        build_in(corpus, "strict", "build.max_rejected_fraction=0.6")


def test_a_build_that_was_killed_after_its_manifest_leaves_nothing(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is finished then; the next start finds it up to date and takes away what it does not need."""
    built = build_in(corpus)
    left = [corpus / "out/.work-0123/units/tokens", corpus / "out/.work/units/tokens", corpus / "out/.mlc-build"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("left")
    assert build_in(corpus) == built
    assert not [path.name for path in (corpus / "out").iterdir() if path.name.startswith(".")]
