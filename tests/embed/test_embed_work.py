"""`mlc embed` as real processes: what it writes, on any number of ranks, after a kill, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from embed_processes import Ended, run_mlc
from small_models import GLM, make_checkpoint

from mlc.embed import work
from mlc.tasks.encoder import TextEncoder

UNIT = 8


@pytest.fixture(scope="module")
def encoder(embedding_run: Path) -> TextEncoder:
    return TextEncoder.load(embedding_run, device="cpu")


@pytest.fixture
def texts(tmp_path: Path, lines: list[str]) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def embed(run: Path, *arguments: str | Path, world_size: int = 1, **more: Any) -> list[Ended]:
    return run_mlc("embed", run, *arguments, "--unit-texts", str(UNIT), world_size=world_size, **more)


def expected(encoder: TextEncoder, lines: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit by unit: which texts share a batch decides the order of sums, and so the last bits."""
    return np.concatenate([encoder.encode(lines[start : start + UNIT]) for start in range(0, len(lines), UNIT)])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_npy_is_what_the_encoder_gives(
    embedding_run: Path, encoder: TextEncoder, lines: list[str], texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "v.npy"
    (ended,) = embed(embedding_run, texts, "--out", out, "--json", tmp_path / "copy.json")
    assert ended.code == 0, ended.err
    found = np.load(out)
    np.testing.assert_array_equal(found, expected(encoder, lines))  # the same operations: bit for bit
    np.testing.assert_allclose(found, encoder.encode(lines), atol=1e-5)  # other batches: the order of fp32 sums
    assert sorted(path.name for path in out.parent.iterdir()) == ["v.npy", "v.npy.json"]
    manifest = json.loads((tmp_path / "copy.json").read_text())
    assert (manifest["counts"]["rows"], manifest["model"]["step"]) == (len(lines), 20)
    assert f"{len(lines)} rows x 12" in ended.out


def test_parquet_has_texts_ids_and_languages(embedding_run: Path, encoder: TextEncoder, tmp_path: Path) -> None:
    records = [{"id": number, "lang": "de", "text": f"Text {number}"} for number in range(11)] + [{"text": "last"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (ended,) = embed(embedding_run, tmp_path / "a.jsonl", "--out", tmp_path / "v.parquet", "--dtype", "float16")
    assert ended.code == 0, ended.err
    table = pq.read_table(tmp_path / "v.parquet")
    assert table["row"].to_pylist() == list(range(12))
    assert table["id"].to_pylist() == [*map(str, range(11)), None]
    assert table["language"].to_pylist() == ["de"] * 11 + [None]
    assert table["text"].to_pylist() == [record["text"] for record in records]
    vectors = np.array(table["vector"].to_pylist(), dtype=np.float32)
    needed = expected(encoder, [str(record["text"]) for record in records])
    np.testing.assert_array_equal(vectors, needed.astype(np.float16))
    (ended,) = embed(embedding_run, tmp_path / "a.jsonl", "--out", tmp_path / "plain.parquet", "--no-text")
    assert pq.read_table(tmp_path / "plain.parquet").column_names == ["row", "id", "language", "vector"]


@pytest.mark.parametrize("out", ["folder", "v.npy", "v.parquet"])
def test_two_ranks_give_the_bytes_of_one(embedding_run: Path, texts: Path, tmp_path: Path, out: str) -> None:
    for world_size in (1, 2):
        ended = embed(
            embedding_run, texts, "--out", tmp_path / str(world_size) / out, "--format", "", world_size=world_size
        )
        assert [end.code for end in ended] == [0] * world_size, ended
    assert content(tmp_path / "1") == content(tmp_path / "2")
    assert len(content(tmp_path / "1")) == (2 if "." in out else 2 + 2 * 6)


def _die_after_two_parts() -> None:
    finished = work.write_record

    def write_record(folder: Path, unit: int, record: Any) -> None:
        finished(folder, unit, record)
        if unit == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    work.write_record = write_record  # type: ignore[assignment]


def _die_before_a_record() -> None:
    work.write_record = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]


def _die_before_the_manifest() -> None:
    work.shutil.rmtree = lambda *arguments, **more: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]


def test_a_killed_start_is_gone_on_with(embedding_run: Path, texts: Path, tmp_path: Path) -> None:
    """Killed behind the second part, then behind the third but before its record, then before parts are removed."""
    out = tmp_path / "killed" / "v.npy"
    for before in (_die_after_two_parts, _die_before_a_record):
        (ended,) = embed(embedding_run, texts, "--out", out, before=before)
        assert ended.code == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (out.parent / "v.npy.parts").glob("part-0000000[01].*")}
    assert len(kept) == 4
    # Another number of ranks; each of them may be the one that puts the parts together.
    ended = embed(embedding_run, texts, "--out", out, world_size=2, before=_die_before_the_manifest)
    assert -signal.SIGKILL in [end.code for end in ended]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    (ended_again,) = embed(embedding_run, texts, "--out", out)
    assert ended_again.code == 0
    assert "0 of 6 parts" in ended_again.out
    embed(embedding_run, texts, "--out", tmp_path / "whole" / "v.npy")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_one_rank_of_two_leaves_the_rest_to_the_other(embedding_run: Path, texts: Path, tmp_path: Path) -> None:
    def only_rank_0() -> None:
        if os.environ["RANK"] == "1":
            os._exit(9)

    ended = embed(embedding_run, texts, "--out", tmp_path / "v.npy", world_size=2, before=only_rank_0)
    assert [end.code for end in ended] == [0, 9]
    assert "3 parts are other ranks' to do" in ended[0].out
    assert not (tmp_path / "v.npy").exists()
    (ended_again,) = embed(embedding_run, texts, "--out", tmp_path / "v.npy")
    assert "3 of 6 parts" in ended_again.out
    assert len(np.load(tmp_path / "v.npy")) == 45


def test_empty_cut_and_bad_texts_have_rows_and_are_counted(
    embedding_run: Path, encoder: TextEncoder, tmp_path: Path
) -> None:
    long = "word " * 40
    (tmp_path / "a.txt").write_bytes(b"one\n\n \t\n\xff\n" + long.encode() + b"\n")
    (refused,) = embed(embedding_run, tmp_path / "a.txt", "--out", tmp_path / "v.npy")
    assert (refused.code, list(tmp_path.glob("v*"))) == (1, [])
    assert f"{tmp_path / 'a.txt'}:4: this is not UTF-8" in refused.err
    (ended,) = embed(embedding_run, tmp_path / "a.txt", "--out", tmp_path / "v.npy", "--bad-lines", "keep")
    vectors = np.load(tmp_path / "v.npy")
    np.testing.assert_allclose(vectors[[0, 1, 2, 4]], encoder.encode(["one", "", "", long]), atol=1e-5)
    assert not vectors[3].any()
    counts = json.loads((tmp_path / "v.npy.json").read_text())["counts"]
    assert {name: counts[name] for name in ("rows", "cut", "empty", "bad")} == {
        "rows": 5, "cut": 1, "empty": 2, "bad": 1,
    }  # fmt: skip
    assert f"1 lines without a text, whose vector is 0: {tmp_path / 'a.txt'}:4" in ended.out


def test_standard_input(embedding_run: Path, texts: Path, lines: list[str], tmp_path: Path) -> None:
    given = texts.read_bytes()
    (ended,) = embed(embedding_run, "--out", tmp_path / "in.npy", stdin=given)
    assert ended.code == 0, ended.err
    embed(embedding_run, texts, "--out", tmp_path / "file.npy")
    assert (tmp_path / "in.npy").read_bytes() == (tmp_path / "file.npy").read_bytes()
    (again,) = embed(embedding_run, "--out", tmp_path / "in.npy", stdin=given)
    assert "0 of 6 parts" in again.out
    (changed,) = embed(embedding_run, "--out", tmp_path / "in.npy", stdin=given + b"more\n")
    assert changed.code == 2
    assert "-: the input has changed since the work began" in changed.err
    two = embed(embedding_run, "--out", tmp_path / "two.npy", stdin=given, world_size=2)
    assert {end.code for end in two} == {2}
    assert "standard input cannot be shared by ranks" in two[0].err
    assert not list(tmp_path.glob(".*"))


def test_another_input_model_or_setting_is_refused(
    embedding_run: Path, texts: Path, tmp_path: Path, encoder: TextEncoder
) -> None:
    """Both while work is under way and when it is done; and the way back is open."""
    make_checkpoint(tmp_path / "other", 21, section=GLM.model_copy(update={"projection_size": 12}), seed=2)
    out = tmp_path / "v.npy"
    for before in (_die_after_two_parts, None):
        embed(embedding_run, texts, "--out", out, before=before)
        whole = texts.read_bytes()
        texts.write_bytes(whole.replace(b"0 ", b"9 ", 1))  # of the same size
        (ended,) = embed(embedding_run, texts, "--out", out)
        assert (ended.code, "the input has changed" in ended.err) == (2, True), ended.err
        texts.write_bytes(whole)
        for more, problem in (
            ([], "these are vectors of another model; found digest"),
            (["--no-projection"], "these are vectors of another model"),
            (["--dtype", "float16"], "the settings have changed; found dtype float16; needed dtype float32"),
            (["--batch-tokens", "99"], "the settings have changed; found batch_tokens 99"),
        ):
            model = embedding_run if more else tmp_path / "other"
            (ended,) = embed(model, texts, "--out", out, *more)
            assert (ended.code, problem in ended.err) == (2, True), ended.err
        (ended,) = embed(embedding_run, texts, texts, "--out", out)
        assert "found 2 files; needed 1" in ended.err
    assert embed(embedding_run, texts, "--out", out)[0].code == 0


def test_damage_is_noticed(embedding_run: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "folder"
    embed(embedding_run, texts, "--out", out, before=_die_after_two_parts)
    part = out / "part-00000001.npy"
    damaged = bytearray(part.read_bytes())
    damaged[-1] ^= 1
    part.write_bytes(damaged)
    (ended,) = embed(embedding_run, texts, "--out", out)
    assert ended.code == 1
    assert f"{part}: a part is damaged" in ended.err
    part.unlink()
    assert "1 of 6 parts" in embed(embedding_run, texts, "--out", out)[0].out
    part.write_bytes(damaged)
    (ended,) = embed(embedding_run, texts, "--out", out)
    assert f"{part}: the vectors are not what was written" in ended.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--out", "x.csv"], "no such form of vectors"),
        (["--out", "taken"], "this is there and none of this command's"),
        (["--out", "taken/file.npy"], "this is there and none of this command's"),
        (["--out", "v.npy", "--format", "parquet"], "the name says another form"),
        (["--out", "v", "--format", "hdf5"], "no such choice; found hdf5; needed npy or parquet"),
        (["--out", "v.npy", "--precision", "int8"], "no such choice"),
        (["--out", "v.npy", "-"], "standard input and files cannot be mixed"),
        (["--out", "v.npy", "absent.txt"], "no such file; found absent.txt"),
        (["--out", "v.npy", "--json", "absent/x.json"], "the folder does not exist"),
        (["--out", "v.npy", "--pooling", "attention"], "no trained attention pooling"),
    ],
)
def test_bad_usage(
    embedding_run: Path,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file.npy").touch()
    (ended,) = embed(embedding_run, texts, *arguments)
    assert ended.code in (1, 2)
    assert problem in ended.err
    assert not list(tmp_path.glob("v*"))
