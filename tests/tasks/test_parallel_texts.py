"""Readers of parallel texts: every documented form, and errors that name the line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from mlc.errors import DataError, UsageError
from mlc.tasks.parallel_texts import ParallelTexts, read_parallel_texts


def write(path: Path, lines: list[object]) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in lines)
    content = text.encode()
    if path.suffix == ".zst":
        content = zstandard.compress(content)
    elif path.suffix == ".gz":
        content = gzip.compress(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


PAIRS: list[object] = [{"deu": "Hallo", "eng": "Hello"}, {"deu": "Ja", "eng": "Yes"}]


@pytest.mark.parametrize("name", ["deu-eng.jsonl", "deu-eng.jsonl.gz", "deu-eng.jsonl.zst"])
def test_pair_files_in_every_compression(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, PAIRS)
    assert read_parallel_texts([path]) == [ParallelTexts(("de", "en"), ("Hallo", "Ja"), ("Hello", "Yes"), str(path))]


def test_tsv(tmp_path: Path) -> None:
    path = write(tmp_path / "de-en.tsv", ["Hallo\tHello", "", "Ja\tYes"])
    (texts,) = read_parallel_texts([path])
    assert texts.languages == ("de", "en")
    assert texts.second == ("Hello", "Yes")


def test_other_keys_are_ignored_and_the_name_gives_the_order(tmp_path: Path) -> None:
    rows = [{"source": "s", "id": str(k), "sw": f"s{k}", "en": f"e{k}"} for k in range(3)]
    (texts,) = read_parallel_texts([write(tmp_path / "en-sw.jsonl", rows)], limit=2)
    assert texts.first == ("e0", "e1")
    assert texts.second == ("s0", "s1")


def test_a_separator_inside_a_text_is_no_line_end(tmp_path: Path) -> None:
    rows = ['{"de": "a\u2028b", "en": "c\u0085d"}', '{"de": "x", "en": "y"}']
    (texts,) = read_parallel_texts([write(tmp_path / "de-en.jsonl", rows)])
    assert texts.first == ("a\u2028b", "x")


def documents(folder: Path) -> Path:
    for language, ids in {"eng": "abc", "de": "cab", "fr": "bcd"}.items():
        rows = [{"id": i, "lang": language, "text": f"{language} {i}"} for i in ids]
        write(folder / f"{language}.jsonl.zst", rows)
    return folder


def test_documents_meet_by_id_in_every_pair_of_languages(tmp_path: Path) -> None:
    found = {texts.languages: texts for texts in read_parallel_texts([documents(tmp_path)])}
    assert set(found) == {("de", "en"), ("de", "fr"), ("en", "fr")}
    assert found["de", "en"].first == ("de c", "de a", "de b")
    assert found["de", "en"].second == ("eng c", "eng a", "eng b")
    assert found["en", "fr"].first == ("eng b", "eng c")


def test_languages_keep_pairs_of_listed_documents_only(tmp_path: Path) -> None:
    (texts,) = read_parallel_texts([documents(tmp_path)], languages=["deu", "fr"])
    assert texts.languages == ("de", "fr")


def test_languages_need_not_list_english_for_pair_files(tmp_path: Path) -> None:
    write(tmp_path / "deu-eng.jsonl", PAIRS)
    write(tmp_path / "fra-eng.jsonl", [{"fra": "Oui", "eng": "Yes"}, {"fra": "Non", "eng": "No"}])
    assert [texts.languages for texts in read_parallel_texts([tmp_path], languages=["fr"])] == [("fr", "en")]


def test_files_named_for_other_languages_are_not_read(tmp_path: Path) -> None:
    documents(tmp_path)
    write(tmp_path / "deu-eng.jsonl", PAIRS)
    write(tmp_path / "all.jsonl", [{"id": "a", "lang": "fr", "text": "fr a"}, {"id": "c", "lang": "fr", "text": "c"}])
    for name in ("swh-eng.jsonl", "ckb-eng.tsv", "sw.jsonl.zst", "en-sw.tsv.gz"):
        (tmp_path / name).write_bytes(b"\xff no text")
    found = [texts.languages for texts in read_parallel_texts([tmp_path], languages=["de", "fr"])]
    assert found == [("de", "en"), ("de", "fr")]
    with pytest.raises(DataError):
        read_parallel_texts([tmp_path], languages=["de", "fr", "sw"])


def test_a_repeated_id_is_set_aside_and_counted(tmp_path: Path) -> None:
    documents(tmp_path)
    rows = [{"id": i, "lang": "de", "text": f"{i}{k}"} for k, i in enumerate("aab")]
    write(tmp_path / "de.jsonl.zst", rows)
    (texts,) = read_parallel_texts([tmp_path], languages=["de", "en"])
    assert texts.first == ("a0", "b2")
    assert texts.repeated_ids == 1


@pytest.mark.parametrize(
    ("name", "lines", "line", "message"),
    [
        ("deu-eng.jsonl", [*PAIRS, "{"], 3, "not JSON"),
        ("deu-eng.jsonl", [*PAIRS, "[1]"], 3, "not a JSON object"),
        ("deu-eng.jsonl", [PAIRS[0], {"deu": " ", "eng": "x"}], 2, '"deu" has no text'),
        ("deu-eng.jsonl", [PAIRS[0], {"deu": "x"}], 2, '"eng" has no text'),
        ("pairs.jsonl", [{"a": "1", "b": "2", "c": "3"}], 1, "which two fields"),
        ("de-en.tsv", ["a\tb", "a\tb\tc"], 2, "not a pair"),
        ("de.jsonl", [{"id": "1", "lang": "de", "text": "x"}, {"id": "2", "lang": "de", "text": 3}], 2, '"text" has'),
    ],
)
def test_errors_name_the_line(tmp_path: Path, name: str, lines: list[object], line: int, message: str) -> None:
    path = write(tmp_path / name, lines)
    with pytest.raises(DataError, match=message) as caught:
        read_parallel_texts([path])
    assert f"{path}:{line}:" in str(caught.value)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "de-en.jsonl.zst"
    path.write_bytes(b"no zstd frame")
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_parallel_texts([path])
    assert str(path) in str(caught.value)
    latin = tmp_path / "fr-en.jsonl"
    latin.write_bytes(b'{"fr": "oui", "en": "yes"}\n{"fr": "\xe9t\xe9", "en": "summer"}\n')
    with pytest.raises(DataError, match="UTF-8") as caught:
        read_parallel_texts([latin])
    assert f"{latin}:2:" in str(caught.value)


@pytest.mark.parametrize(("suffix", "cut"), [(".zst", 1), (".zst", 9), (".gz", 1), (".gz", 9)])
def test_a_file_cut_short_is_not_scored(tmp_path: Path, suffix: str, cut: int) -> None:
    path = write(tmp_path / f"deu-eng.jsonl{suffix}", PAIRS * 20)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match="cannot be read to its end"):
        read_parallel_texts([path])


def test_damage_inside_a_gzip_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "deu-eng.jsonl.gz", PAIRS)
    content = path.read_bytes()
    path.write_bytes(content[:10] + b"\xff" * 20 + content[30:])  # no deflate block begins so: zlib.error
    with pytest.raises(DataError, match="cannot be read to its end"):
        read_parallel_texts([path])


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "deu-eng.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"deu": "Ja", "eng": "Yes"}\r\n' * 2)
    (tmp_path / "fra-eng.tsv").write_bytes(b"\xef\xbb\xbf" + b"Oui\tYes\r\n" * 2)
    first, second = read_parallel_texts([tmp_path])
    assert first.first == ("Ja", "Ja")
    assert (second.first, second.second) == (("Oui", "Oui"), ("Yes", "Yes"))


def test_nothing_to_score_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_parallel_texts([tmp_path / "absent"])
    with pytest.raises(UsageError, match=r"no \.jsonl"):
        read_parallel_texts([tmp_path])
    with pytest.raises(UsageError, match="nothing to score"):
        read_parallel_texts([documents(tmp_path)], languages=["de"])
    with pytest.raises(UsageError, match="asked for; found sw"):
        read_parallel_texts([tmp_path], languages=["de", "en", "swh"])
    one = write(tmp_path / "one" / "de-en.tsv", ["a\tb"])
    with pytest.raises(DataError, match="candidates"):
        read_parallel_texts([one])
