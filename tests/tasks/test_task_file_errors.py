"""Every refusal of task data names file and line; nothing is dropped; damage never raises anything else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_task_files import squad, table, write, write_json_lines

from mlc.errors import DataError, MlcError, UsageError
from mlc.tasks.examples import Answer, ClassificationExample, Place, QuestionExample, TaskKind
from mlc.tasks.task_files import read_task

GOOD: dict[str, dict[str, Any]] = {
    "classification": {"text": "a", "text_pair": "b", "label": "c"},
    "regression": {"text": "a", "text_pair": "b", "score": 1.5},
    "token_classification": {"tokens": ["a", "b"], "labels": ["B-X", "O"]},
    "question_answering": {"id": "1", "question": "a", "context": "b c", "answers": [{"text": "c", "answer_start": 2}]},
    "ranking": {"query": "a", "positives": ["b"], "negatives": ["c"]},
    "translation": {"source": "a", "target": "b"},
}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("classification", {"text": ""}, r'"text" is empty; found \'\'; needed a text'),
        ("classification", {"text": " \x00"}, '"text" is empty'),
        ("classification", {"text": "\ud800x"}, "half of a surrogate pair"),
        ("classification", {"text": 5}, '"text" is no text; found 5; needed a string'),
        ("classification", {"text_pair": None}, '"text_pair" is no text'),
        ("classification", {"label": None}, "no gold answer"),
        ("classification", {"label": " "}, '"label" is empty'),
        ("classification", {"label": 1.0}, '"label" is no label'),
        ("classification", {"label": ["c"]}, '"label" is no label'),
        ("classification", {"label": "d"}, "outside the set; found 'd'; needed one of b, c"),
        ("classification", {"lang": 3}, "language is no code"),
        ("classification", {"text_pair": ...}, "other columns than the file's first"),
        ("classification", {"label": ...}, "no column holds the label"),
        ("classification", {"text": ..., "text_pair": ..., "premise": "a", "hypothesis": "b"}, "other columns"),
        ("regression", {"score": "x"}, '"score" is no number'),
        ("regression", {"score": True}, '"score" is no number'),
        ("regression", {"score": "1_0"}, '"score" is no number'),
        ("regression", {"score": float("nan")}, '"score" is not finite'),
        ("regression", {"score": 10**400}, '"score" is not finite'),
        ("token_classification", {"tokens": ["a"]}, "1 words, 2 labels"),
        ("token_classification", {"tokens": ["a", " "]}, '"tokens" is empty'),
        ("token_classification", {"tokens": [], "labels": []}, '"tokens" is empty'),
        ("token_classification", {"tokens": "a b"}, '"tokens" is no list'),
        ("token_classification", {"labels": "B-X O"}, '"labels" is no list'),
        ("token_classification", {"labels": ["B-X", "E-X"]}, "not IOB2; found 'E-X'"),
        ("token_classification", {"labels": ["B-X", None]}, '"labels" is no label'),
        ("question_answering", {"answers": [{"text": "c", "answer_start": 1}]}, "not stand at its start.*stands at 2"),
        ("question_answering", {"answers": [{"text": "z", "answer_start": 1}]}, "it stands nowhere"),
        ("question_answering", {"context": "éc", "answers": [{"text": "c", "answer_start": 2}]}, "bytes or UTF-16"),
        ("question_answering", {"answers": [{"text": "c", "answer_start": -1}]}, "start is no number"),
        ("question_answering", {"answers": [{"text": "c"}]}, "start is no number"),
        ("question_answering", {"answers": [{"text": "", "answer_start": 0}]}, '"the answer" is empty'),
        ("question_answering", {"answers": {"text": ["c"], "answer_start": []}}, "another form"),
        ("question_answering", {"answers": ["c"]}, "another form"),
        ("question_answering", {"answers": None}, "no answers"),
        ("question_answering", {"is_impossible": True}, "without an answer has one"),
        ("question_answering", {"id": "first"}, "id was there before"),
        ("ranking", {"positives": []}, "no positive"),
        ("ranking", {"negatives": ["b"]}, "positive and negative"),
        ("ranking", {"negatives": "b c", "positives": ["", "b"]}, '"positives" is empty'),
        ("translation", {"target": ""}, '"target" is empty'),
    ],
)
def test_a_bad_record_is_refused_by_its_line_or_set_aside(
    tmp_path: Path, kind: TaskKind, changes: dict[str, Any], message: str
) -> None:
    good = GOOD[kind] | ({"id": "first"} if kind == "question_answering" else {})
    bad = {key: value for key, value in (GOOD[kind] | changes).items() if value is not ...}
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in (good, bad)))
    asked = {"labels": ["b", "c"]} if kind == "classification" else {}
    with pytest.raises(DataError, match=message) as caught:
        read_task(kind, path, **asked)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n  next: " in str(caught.value)
    data = read_task(kind, path, bad_records="set_aside", largest_bad_share=0.5, **asked)  # type: ignore[arg-type]
    assert [example.place.line for example in data.examples] == [1]
    assert [(bad.place.line, bad.message) for bad in data.set_aside] == [(2, str(caught.value))]
    assert data.problems() == {caught.value.problem: 1}
    assert (data.files[0].examples, data.files[0].set_aside) == (1, 1)
    with pytest.raises(DataError, match="too many records cannot be used; found 1 of 2"):
        read_task(kind, path, bad_records="set_aside", **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"text": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"a\tb", "tabs"),
    ],
)
def test_lines_that_are_no_records(tmp_path: Path, line: bytes, message: str) -> None:
    good = json.dumps(GOOD["classification"]).encode()
    path = write(tmp_path / "x.jsonl.gz", b"\n".join([good, b"", line, good]))
    with pytest.raises(DataError, match=message) as caught:
        read_task("classification", path)
    assert str(caught.value).startswith(f"{path}:3: ")
    data = read_task("classification", path, bad_records="set_aside", largest_bad_share=0.5)
    assert [example.place.line for example in data.examples] == [1, 4]
    assert [(bad.place.line, bad.place.record) for bad in data.set_aside] == [(3, 1)]


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("other", GOOD)
def test_another_kind_of_data_is_named(tmp_path: Path, kind: TaskKind, other: str) -> None:
    path = write_json_lines(tmp_path / "x.jsonl", [GOOD[other]])
    if kind == other:
        assert len(read_task(kind, path).examples) == 1
        return
    with pytest.raises(DataError, match=f"(?s)(no column|is no number).*another kind: {other}") as caught:
        read_task(kind, path)
    assert str(caught.value).startswith(f"{path}:1: ")
    if "no column" in str(caught.value):
        assert ", ".join(GOOD[other]) in str(caught.value)


def test_squad_given_to_classification_is_named(tmp_path: Path) -> None:
    question = QuestionExample("1", "a", "b c", (Answer("c", 2),), Place("", 0))
    with pytest.raises(DataError, match="another kind: question_answering"):
        read_task("classification", write(tmp_path / "x.json", squad([question], None)))


def test_unclear_columns_are_an_error(tmp_path: Path) -> None:
    def refused(record: dict[str, Any], message: str, kind: TaskKind = "classification", **options: Any) -> None:
        path = write_json_lines(tmp_path / "x.jsonl", [record])
        with pytest.raises(DataError, match=message) as caught:
            read_task(kind, path, **options)
        assert f"{path}:1:" in str(caught.value)
        assert ", ".join(record) in str(caught.value)

    refused({"text": "a", "sentence": "b", "label": "c"}, "text is unclear.*exactly one of text, sentence")
    refused({"text": "a", "label": "b", "topic": "c"}, r"label is unclear.*\{label = \.\.\.\}: label, topic")
    refused({"title": "a", "label": "b"}, r"no column holds a text.*columns = \{text = ")
    refused({"text": "a", "label": "b"}, "no column 'body' for text", columns={"text": "body"})
    refused({"tokens": ["a"], "labels": ["O"], "ner_tags": ["O"]}, "labels is unclear", "token_classification")
    refused({"source": "a", "target": "b", "src": "c", "tgt": "d"}, "source and target is unclear", "translation")
    refused({"de": "a", "fr": "b"}, "no columns hold source and target", "translation")
    refused({"text": "a", "label": "b"}, "text_pair is named and text is not", columns={"text_pair": "text"})


@pytest.mark.parametrize(
    ("name", "content", "where", "message"),
    [
        ("x.tsv", "text\tlabel\na\tb\nc\n", ":3", "another number of columns; found 1; needed 2"),
        ("x.tsv", "text\ttext\na\tb\n", ":1", "a column twice"),
        ("x.tsv", "good\t1\nbad\t0\n", ":2", r"columns good, 1.*\n.*by number: \{text = 1\}"),
        ("x.csv", 'text,label\na,b\n"c,d\n', ":3", "RFC 4180"),
        ("x.csv", "text,label\na,b\n\x80,d\n", ":3", "columns|UTF-8"),
        ("x.json", '[\n{"text": "a", "label": "b"},\n5]', ":3", "not a JSON object; found 5"),
        ("x.json", "5", "", "no records"),
        ("x.json", "{\n1", ":2", "not JSON"),
        ("x.json", '{"data": [{"text": "a"}]}', "", "no articles with paragraphs"),
        ("x.jsonl", "\n\n", "", "no records"),
        ("x.parquet", "PAR1 and no more", "", "Parquet file cannot be read"),
        ("x.jsonl.gz", None, ":1", "cannot be read to its end"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: str | None, where: str, message: str) -> None:
    path = tmp_path / name
    if content is None:
        path.write_bytes(b"no gzip")
    else:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=message) as caught:
        read_task("classification", path)
    assert str(caught.value).startswith(f"{path}{where}: ")


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("a\tO\nb\n", 2, "another number of columns"),
        ("a\tO\n \tO\n", 1, '"tokens" is empty'),
        ("de:a\tO\n\nde:b\tO\nc\tO\n", 4, "lacks the language's prefix"),
        ("word\n", 1, "no CoNLL file"),
        ("a B-X\nb L-X\n", 1, "not IOB2"),
    ],
)
def test_broken_conll(tmp_path: Path, content: str, line: int, message: str) -> None:
    path = write(tmp_path / "x.conll", content)
    with pytest.raises(DataError, match=message) as caught:
        read_task("token_classification", path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_files_of_unequal_length_are_no_translations(tmp_path: Path) -> None:
    write(tmp_path / "x.de", "a\nb\n")
    write(tmp_path / "x.en", "a\n")
    with pytest.raises(DataError, match=r"different numbers of lines") as caught:
        read_task("translation", f"{tmp_path}/x.{{de,en}}")
    assert f"{tmp_path}/x.de:2:" in str(caught.value)
    write(tmp_path / "x.en", "a\n\n")
    with pytest.raises(DataError, match='"target" is empty') as caught:
        read_task("translation", f"{tmp_path}/x.{{de,en}}")
    assert f"{tmp_path}/x.de:2:" in str(caught.value)


def test_sources_and_arguments_that_cannot_be(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "de.jsonl", [GOOD["classification"]])
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.docx").write_text("x")

    def refused(message: str, sources: Any, kind: Any = "classification", **options: Any) -> None:
        with pytest.raises(UsageError, match=message):
            read_task(kind, sources, **options)

    refused("no such file or folder", tmp_path / "absent.jsonl")
    refused("no file fits the pattern", tmp_path / "*.tsv")
    refused("no files of a known form; found no files", tmp_path / "empty")
    refused("form is not known", tmp_path / "x.docx")
    refused("there are no sources", [])
    refused("a file twice", [path, tmp_path])
    refused("no such file or folder", tmp_path / "{language}.jsonl", languages=["de", "fr"])
    refused("which languages are meant", tmp_path / "{language}.jsonl")
    refused("where a language goes", path, languages=["de"])
    refused("both language and languages", tmp_path / "{language}.jsonl", languages=["de"], language="de")
    refused("no such kind", path, kind="summarisation")
    refused("no such form", path, form="xml")
    refused("no form of one file", path, form="moses")
    refused("no such columns; found tokens", path, columns={"tokens": "a"})
    refused("not both", path, columns={"text": "a", "label": 2})
    refused("columns have numbers in", path, columns={"text": 1, "label": 2})
    refused("have no names", path, kind="token_classification", form="conll", columns={"tokens": "a"})
    refused("only translation reads two files", tmp_path / "x.{de,en}")
    refused("at least one example", path, limit=0)
    with pytest.raises(TypeError):
        read_task("regression", write_json_lines(tmp_path / "s.jsonl", [GOOD["regression"]])).of(ClassificationExample)


SEEDS: dict[str, bytes] = {
    form: table(form, ["text", "text_pair", "label"], [["é a", "b\u2028", "c"], ["d", "e", "0"]] * 2)
    for form in ("tsv", "csv", "jsonl", "json", "parquet")
}
SEEDS |= {
    "conll": "de:é\tB-X\nde:b\tO\n\nde:c\tI-X\n".encode(),
    "squad.json": squad([QuestionExample("1", "é?", "b c", (Answer("c", 2),), Place("", 0))] * 2, 1).encode(),
    "qa.jsonl": json.dumps(GOOD["question_answering"]).encode() * 1,
    "rank.jsonl": json.dumps(GOOD["ranking"]).encode(),
}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(SEEDS)), st.sampled_from(sorted(GOOD)), st.sampled_from(["", ".gz", ".zst"]), st.integers()
)
def test_damage_raises_our_errors_only(tmp_path: Path, form: str, kind: Any, compression: str, seed: int) -> None:
    random_ = random.Random(seed)
    content = bytearray(SEEDS[form])
    for _ in range(random_.randint(1, 4)):
        place = random_.randrange(len(content))
        damage = random_.choice([b"", b"\xff", b"\n", b"\t", b'"', b"[", b"{}", b"NaN", b"null", b"\x00", b"\\ud800"])
        content[place : place + random_.choice([0, 1, 5])] = damage
    path = write(tmp_path / f"x.{form}{compression}", bytes(content))
    if seed % 5 == 0:
        damaged = bytearray(path.read_bytes())
        damaged[random_.randrange(len(damaged))] ^= 1 << random_.randrange(8)
        path.write_bytes(damaged)
    for options in ({}, {"bad_records": "set_aside", "largest_bad_share": 1.0}, {"gold": "optional"}):
        try:
            data = read_task(kind, path, **options)  # type: ignore[arg-type]
        except MlcError as error:
            str(error).encode()  # a message can be printed
        else:
            assert data.examples
