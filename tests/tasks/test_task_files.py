"""Every form of task data: what is written in it is read back, with places, languages and columns."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlc.data.text import clean_text
from mlc.tasks.examples import (
    Answer,
    ClassificationExample,
    Place,
    QuestionExample,
    RankingExample,
    RegressionExample,
    TaskKind,
    TokenExample,
    TranslationExample,
)
from mlc.tasks.task_files import read_task
from mlc.tasks.task_readers.columns import TEXT_COLUMNS, TRANSLATION_COLUMNS, columns_in_use
from mlc.tasks.task_readers.rows import Form, RecordError, text_of

NOWHERE = Place("", 0)
COMPRESSIONS = st.sampled_from(["", ".gz", ".zst"])
QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

CHARACTERS = st.one_of(
    st.characters(codec="utf-8"), st.sampled_from("ab é\u0301\u200b\u2028\x85\xa0\u3000\"',:#{}中👍🏽")
)
TEXTS = st.text(CHARACTERS.filter(lambda c: c not in "\ufeff\r"), min_size=1, max_size=12).filter(clean_text)
LINES = TEXTS.filter(lambda text: "\n" not in text and "\t" not in text)


def write(path: Path, content: str | bytes) -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, 1)
    elif path.suffix == ".zst":
        data = zstandard.compress(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_json_lines(path: Path, records: list[Any]) -> Path:
    return write(path, "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records))


def table(form: str, header: list[str], rows: list[list[str]]) -> bytes:
    if form == "tsv":
        return "".join("\t".join(row) + "\n" for row in [header, *rows]).encode()
    if form == "csv":
        buffer = io.StringIO(newline="")
        csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([header, *rows])
        return buffer.getvalue().encode()
    if form == "jsonl":
        return "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows).encode()
    if form == "json":
        return json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=1).encode()
    buffer_of_bytes = io.BytesIO()
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    pq.write_table(pa.table(columns), buffer_of_bytes)
    return buffer_of_bytes.getvalue()


@QUICK
@given(
    form=st.sampled_from(["tsv", "csv", "jsonl", "json", "parquet"]),
    compression=COMPRESSIONS,
    rows=st.lists(st.tuples(LINES, LINES, LINES.filter(str.strip)), min_size=1, max_size=5),
    header=st.sampled_from([("premise", "hypothesis", "label"), ("text", "text_pair", "category")]),
)
def test_pairs_come_back_from_every_table(
    tmp_path: Path, form: str, compression: str, rows: list[tuple[str, str, str]], header: tuple[str, ...]
) -> None:
    path = write(tmp_path / f"x.de.{form}{compression}", table(form, list(header), [list(row) for row in rows]))
    data = read_task("classification", path)
    found = [(e.text, e.text_pair, e.label) for e in data.of(ClassificationExample)]
    assert found == rows
    assert [e.place.record for e in data.examples] == list(range(len(rows)))
    assert {e.place.language for e in data.examples} == {"de"}
    assert data.files[0].examples == len(rows)
    first_line = {"tsv": 2, "json": 2}.get(form, 3 if form == "csv" and "\n" in rows[0][0] else None)
    if first_line:
        assert data.examples[0].place.line == first_line


@QUICK
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_csv_and_json_keep_line_feeds(tmp_path: Path, texts: list[str]) -> None:
    for form in ("csv", "jsonl", "json", "parquet"):
        path = write(tmp_path / f"x.{form}", table(form, ["text", "label"], [[text, "a"] for text in texts]))
        assert [e.text for e in read_task("classification", path).of(ClassificationExample)] == texts


@QUICK
@given(scores=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_scores_come_back_from_text_and_from_json(tmp_path: Path, scores: list[float]) -> None:
    for form in ("tsv", "csv"):
        rows = [["a", "b", repr(score)] for score in scores]
        path = write(tmp_path / f"sts.{form}", table(form, ["sentence1", "sentence2", "score"], rows))
        assert [e.score for e in read_task("regression", path).of(RegressionExample)] == scores
    records = [{"sentence1": "a", "sentence2": "b", "score": score} for score in scores]
    found = read_task("regression", write_json_lines(tmp_path / "sts.jsonl", records)).of(RegressionExample)
    assert [(e.text, e.text_pair, e.score) for e in found] == [("a", "b", score) for score in scores]


LABELS = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
SENTENCES = st.lists(st.lists(st.tuples(LINES, LABELS), min_size=1, max_size=5), min_size=1, max_size=4)


@QUICK
@given(sentences=SENTENCES, compression=COMPRESSIONS, prefix=st.sampled_from(["", "de:", "zh-min-nan:"]))
def test_sentences_come_back_from_conll_and_json(
    tmp_path: Path, sentences: list[list[tuple[str, str]]], compression: str, prefix: str
) -> None:
    blocks = ["".join(f"{prefix}{token}\t{label}\n" for token, label in sentence) for sentence in sentences]
    conll = write(tmp_path / f"x.conll{compression}", "\n".join(blocks))
    records = [{"tokens": [t for t, _ in s], "ner_tags": [label for _, label in s]} for s in sentences]
    expected = [(tuple(t for t, _ in s), tuple(label for _, label in s)) for s in sentences]
    for path in (conll, write_json_lines(tmp_path / f"x.jsonl{compression}", records)):
        if path == conll and not prefix and all(token[2:3] == ":" for token, _ in sentences[0]):
            continue  # what looks like WikiANN's prefixes is taken for them
        found = read_task("token_classification", path).of(TokenExample)
        assert [(e.tokens, e.labels) for e in found] == expected
    line = 1
    for sentence, example in zip(sentences, read_task("token_classification", conll).examples, strict=True):
        assert example.place.line == line
        assert example.place.language == (prefix[:2] if prefix == "de:" else prefix[:-1])
        line += len(sentence) + 1


def test_conll_2003(tmp_path: Path) -> None:
    text = (
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\n# SYM O O\n\n# id = 17\r\n1 CD I-NP O\r\n  \r\n"
        "-DOCSTART- -X- O O\n\nWU NN B-NP I-ORG\n"
    )
    path = write(tmp_path / "eng.testa.txt", text)
    data = read_task("token_classification", path, columns={"tokens": 1, "labels": 4})
    assert data.examples == read_task("token_classification", path).examples
    found = data.of(TokenExample)
    assert [e.tokens for e in found] == [("EU", "#"), ("1",), ("WU",)]
    assert found[0].place == Place(str(path), 3, "en", 0)
    assert [e.labels for e in found] == [("B-ORG", "O"), ("O",), ("I-ORG",)]
    assert data.files[0].iob2_violations == 1
    tags = read_task("token_classification", path, columns={"tokens": 1, "labels": 2}).of(TokenExample)
    assert tags[0].labels == ("NNP", "SYM")


@st.composite
def questions(draw: st.DrawFn) -> QuestionExample:
    context = draw(TEXTS)
    spans = draw(st.lists(st.tuples(st.integers(0, len(context) - 1), st.integers(1, 5)), max_size=3))
    answers = tuple(Answer(context[start : start + length], start) for start, length in spans)
    return QuestionExample(
        draw(st.uuids()).hex, draw(TEXTS), context, tuple(a for a in answers if clean_text(a.text)), NOWHERE
    )


def squad(examples: list[QuestionExample], indent: int | None) -> str:
    paragraphs = [
        {
            "context": e.context,
            "qas": [
                {
                    "id": e.identity,
                    "question": e.question,
                    "answers": [{"text": a.text, "answer_start": a.start} for a in e.answers or ()],
                    "is_impossible": not e.answers,
                }
            ],
        }
        for e in examples
    ]
    return json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}, indent=indent)


def without_places(examples: Any) -> list[QuestionExample]:
    return [QuestionExample(e.identity, e.question, e.context, e.answers, NOWHERE) for e in examples]


@QUICK
@given(st.lists(questions(), min_size=1, max_size=4), COMPRESSIONS, st.sampled_from([None, 2]))
def test_questions_come_back_from_every_form(
    tmp_path: Path, examples: list[QuestionExample], compression: str, indent: int | None
) -> None:
    nested = write(tmp_path / f"xquad.de.json{compression}", squad(examples, indent))
    flat = [
        {
            "id": e.identity,
            "question": e.question,
            "context": e.context,
            "answers": {"text": [a.text for a in e.answers or ()], "answer_start": [a.start for a in e.answers or ()]},
        }
        for e in examples
    ]
    for path in (nested, write_json_lines(tmp_path / f"x.jsonl{compression}", flat)):
        data = read_task("question_answering", path).of(QuestionExample)
        assert without_places(data) == examples
    for example in read_task("question_answering", nested).of(QuestionExample):
        line = squad(examples, indent).split("\n")[example.place.line - 1]
        assert json.dumps(example.question) in line  # the place is the line of the question


def test_an_answer_in_columns_of_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "qa.tsv", "question\tcontext\tanswer\tanswer_start\nWo?\tIn Köln.\tKöln\t3\n")
    (example,) = read_task("question_answering", path, language="deu").of(QuestionExample)
    assert example == QuestionExample("0", "Wo?", "In Köln.", (Answer("Köln", 3),), Place(str(path), 2, "de"))


@QUICK
@given(pairs=st.lists(st.tuples(LINES, LINES), min_size=1, max_size=5), compression=COMPRESSIONS)
def test_translations_come_back_from_every_form(tmp_path: Path, pairs: list[tuple[str, str]], compression: str) -> None:
    first, second = ("".join(pair[side] + "\n" for pair in pairs) for side in (0, 1))
    write(tmp_path / f"train.de{compression}", first)
    write(tmp_path / f"train.en{compression}", second)
    by_language = [dict(zip(("de", "en"), pair, strict=True)) for pair in pairs]
    headless = pairs[0] not in (("source", "target"), ("src", "tgt"))
    sources = [
        f"{tmp_path}/train.{{de,en}}{compression}",
        write_json_lines(tmp_path / f"de-en.jsonl{compression}", by_language),
        write_json_lines(tmp_path / f"hub.de-en.jsonl{compression}", [{"translation": r} for r in by_language]),
        *([write(tmp_path / f"de-en.tsv{compression}", table("tsv", ["source", "target"], [list(p) for p in pairs]))]),
        *(
            [write(tmp_path / f"b.de-en.tsv{compression}", "".join(f"{a}\t{b}\n" for a, b in pairs))]
            if headless
            else []
        ),
    ]
    for source in sources:
        found = read_task("translation", str(source)).of(TranslationExample)
        assert [(e.source, e.target, e.place.language, e.target_language) for e in found] == [
            (*pair, "de", "en") for pair in pairs
        ]
    turned = read_task("translation", sources[1], columns={"source": "en", "target": "de"}).of(TranslationExample)
    assert [(e.target, e.source, e.target_language, e.place.language) for e in turned] == [
        (*pair, "de", "en") for pair in pairs
    ]


def test_the_name_gives_no_direction_to_columns_that_were_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "de-en.tsv", "Ja\tYes\n")
    (turned,) = read_task("translation", path, columns={"source": 2, "target": 1}).of(TranslationExample)
    assert turned == TranslationExample("Yes", "Ja", "", Place(str(path), 1))
    (told,) = read_task(
        "translation", path, columns={"source": 2, "target": 1}, language="eng", target_language="deu"
    ).of(TranslationExample)
    assert told == TranslationExample("Yes", "Ja", "de", Place(str(path), 1, "en"))


@settings(QUICK, max_examples=10)
@given(
    st.lists(
        st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3), st.lists(TEXTS, max_size=3)), min_size=1, max_size=4
    )
)
def test_rankings_come_back(tmp_path: Path, records: list[tuple[str, list[str], list[str]]]) -> None:
    records = [(q, positives, [n for n in negatives if n not in positives]) for q, positives, negatives in records]
    expected = [(query, tuple(positives), tuple(negatives)) for query, positives, negatives in records]
    plain = [dict(zip(("query", "positives", "negatives"), record, strict=True)) for record in records]
    triplets = [
        {"anchor": q, "positive": p[0], **{f"negative_{k}": n for k, n in enumerate(ns)}} for q, p, ns in records
    ]
    found = read_task("ranking", write_json_lines(tmp_path / "a.jsonl", plain)).of(RankingExample)
    assert [(e.query, e.positives, e.negatives) for e in found] == expected
    found = read_task("ranking", write_json_lines(tmp_path / "b.jsonl", triplets)).of(RankingExample)
    assert [(e.query, e.positives, e.negatives) for e in found] == [(q, p[:1], n) for q, p, n in expected]


def test_labels_are_strings_of_what_files_hold(tmp_path: Path) -> None:
    records = [{"text": "a", "label": label} for label in (0, -1, True, "0", "x y")]
    found = read_task("classification", write_json_lines(tmp_path / "x.jsonl", records)).of(ClassificationExample)
    assert [e.label for e in found] == ["0", "-1", "true", "0", "x y"]


@pytest.mark.parametrize(
    ("name", "record", "asked", "language"),
    [
        ("de.dev.jsonl", {"lang": "arb_Arab"}, "fr", "ar"),
        ("de.dev.jsonl", {"language": ""}, "fra_Latn", "fr"),
        ("de.dev.jsonl", {}, "", "de"),
        ("eng_Latn.train.jsonl", {}, "", "en"),
        ("zho_Hant.dev.jsonl", {}, "", "zh-Hant"),
        ("xnli.pt-BR.jsonl", {}, "", "pt"),
        ("train.jsonl", {}, "", ""),
        ("dev.val.jsonl", {}, "", ""),
        ("de.en.jsonl", {}, "", ""),
        ("ckb_Arab.jsonl", {}, "", "ckb"),
    ],
)
def test_languages(tmp_path: Path, name: str, record: dict[str, str], asked: str, language: str) -> None:
    path = write_json_lines(tmp_path / name, [{"text": "a", "label": "b"} | record])
    (example,) = read_task("classification", path, language=asked).examples
    assert example.place.language == language


def test_sources(tmp_path: Path) -> None:
    for language in ("deu_Latn", "eng_Latn"):
        for split in ("train", "dev"):
            records = [{"text": f"{language} {split} {k}", "label": "a"} for k in range(3)]
            write_json_lines(tmp_path / f"{language}.{split}.jsonl.zst", records)
    write(tmp_path / "README.md", "no data")
    write(tmp_path / ".hidden.jsonl", "no data")
    everything = read_task("classification", tmp_path)
    assert [file.examples for file in everything.files] == [3, 3, 3, 3]
    assert [os.path.basename(file.name)[:5] for file in everything.files] == ["deu_L"] * 2 + ["eng_L"] * 2
    dev = read_task("classification", tmp_path / "*.dev.jsonl.zst", limit=2)
    assert [e.place.language for e in dev.examples] == ["de", "de", "en", "en"]
    one = read_task(
        "classification", [f"{tmp_path}/{{language}}.train.jsonl.zst"], languages=["eng_Latn", "deu_Latn"], limit=1
    )
    assert [e.text for e in one.of(ClassificationExample)] == ["eng_Latn train 0", "deu_Latn train 0"]
    assert one.files[0].languages == {"en": 1}


def test_columns_by_name_and_number(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "x.jsonl", [{"body": "a", "text": "b", "stars": 3, "id": "1"}])
    data = read_task("classification", path, columns={"text": "body", "label": "stars"})
    assert data.of(ClassificationExample)[0] == ClassificationExample("a", None, "3", Place(str(path), 1))
    assert data.files[0].columns == {"text": "body", "label": "stars"}
    assert data.files[0].ignored == ("id", "text")
    for form, content in (("tsv", "7\tgood\t1\n8\tbad\t0\n"), ("csv", '7,"good",1\n8,bad,0\n')):
        headless = write(tmp_path / f"x.{form}", content)
        found = read_task("classification", headless, columns={"text": 2, "label": 3}).of(ClassificationExample)
        assert [(e.text, e.label, e.place.line) for e in found] == [("good", "1", 1), ("bad", "0", 2)]


def test_gold_answers_may_be_missing_where_they_are_not_needed(tmp_path: Path) -> None:
    records: dict[str, Any] = {
        "classification": {"text": "a"},
        "regression": {"text": "a", "score": None},
        "token_classification": {"tokens": ["a"]},
        "question_answering": {"question": "a", "context": "b"},
        "ranking": {"query": "a"},
        "translation": {"source": "a"},
    }
    for kind, record in records.items():
        path = write_json_lines(tmp_path / f"{kind}.jsonl", [record])
        (example,) = read_task(kind, path, gold="optional").examples  # type: ignore[arg-type]
        gold = {"classification": "label", "regression": "score", "token_classification": "labels"} | {
            "question_answering": "answers", "ranking": "positives", "translation": "target"
        }  # fmt: skip
        assert getattr(example, gold[kind]) in (None, ())


@settings(max_examples=300)
@given(
    st.text(st.one_of(st.characters(), st.sampled_from(" \t\n\x00\x1f\x85\xa0\u2028\ufeff\ufdd0\ud800")), max_size=4)
)
def test_an_empty_text_is_one_of_which_cleaning_leaves_nothing(text: str) -> None:
    has_half = any(0xD800 <= ord(character) <= 0xDFFF for character in text)
    if clean_text(text) and not has_half:
        assert text_of(text, "text", NOWHERE) == text
        return
    with pytest.raises(RecordError) as caught:
        text_of(text, "text", NOWHERE)
    assert ("surrogate" in caught.value.problem) == bool(clean_text(text))


def test_the_documentation_names_every_column_and_form() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "task_data.md").read_text()
    for pair in (*TEXT_COLUMNS, *TRANSLATION_COLUMNS):
        assert "+".join(pair) in page
    for kind in get_args(TaskKind):
        (row,) = [line for line in page.split("\n") if line.startswith(f"| `{kind}`") and "role" not in line]
        for role, names in columns_in_use(kind).items():
            assert f"`{role}`" in row
            assert ", ".join(names) in row or names == (role,)
    for form in get_args(Form):
        assert f"| `{form}` |" in page
