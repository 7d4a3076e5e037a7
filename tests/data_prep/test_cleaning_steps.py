"""Each cleaning step: what it drops, what it leaves alone, and that no text makes it fail."""

from __future__ import annotations

import bz2
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cleaning_texts import ANY_TEXT, ORDINARY
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning.document import Document, Dropped, Step
from data_prep.cleaning.evaluation_texts import find_evaluation_sets, read_texts
from data_prep.cleaning.identification import LanguageFilter
from data_prep.cleaning.length import LengthFilter, count_words
from data_prep.cleaning.pairs import PairFilter
from data_prep.cleaning.personal_data import PersonalDataRemover
from data_prep.cleaning.section import (
    CleaningSection,
    ContaminationSection,
    LanguageSection,
    LengthSection,
    PairsSection,
    PersonalDataSection,
    RepetitionSection,
)
from data_prep.cleaning.segmentation import ChineseWords, MosesTokens
from data_prep.cleaning.steps import build_steps, clean, index_evaluation_sets, unchecked_languages
from mlc.config import parse_recipe
from mlc.errors import DataError, RecipeError

LANGUAGES = st.sampled_from([*ORDINARY, "pt-BR", "zh-TW", "tlh", "xx"])
DOCUMENTS = st.one_of(
    st.builds(lambda text, language: Document((text,), (language,)), ANY_TEXT, LANGUAGES),
    st.builds(lambda a, b, x, y: Document((a, b), (x, y)), ANY_TEXT, ANY_TEXT, LANGUAGES, LANGUAGES),
)


def one(text: str, language: str = "en") -> Document:
    return Document((text,), (language,))


def reason(result: Document | Dropped) -> str | None:
    return result.reason if isinstance(result, Dropped) else None


@pytest.fixture(scope="module")
def all_steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Step, ...]:
    """Every step but segmentation, which changes all text."""
    folder = tmp_path_factory.mktemp("steps")
    (folder / "test.txt").write_text("What would you ask a question of thirteen words or more for, if not this?\n")
    section = CleaningSection(
        length=LengthSection(
            smallest_characters=20, largest_characters=1_000_000, smallest_words=5, largest_words=9_999
        ),
        pairs=PairsSection(largest_length_ratio=4.0, largest_similarity=0.8),
        repetition=RepetitionSection(),
        language=LanguageSection(),
        contamination=ContaminationSection(paths=(str(folder / "*.txt"),)),
        personal_data=PersonalDataSection(),
    )
    assert section.contamination is not None
    index_evaluation_sets(section.contamination, folder / "index")
    return build_steps(section, folder / "index")


def test_ordinary_text_passes_every_step_unchanged(all_steps: tuple[Step, ...]) -> None:
    documents = [one(text, language) for language, text in ORDINARY.items()]
    pairs = [
        Document((ORDINARY["en"], text), ("en", language)) for language, text in ORDINARY.items() if language != "en"
    ]
    assert clean(documents + pairs, all_steps) == documents + pairs


@settings(max_examples=150)
@given(documents=st.lists(DOCUMENTS, max_size=8), cut=st.integers(0, 8))
def test_no_text_makes_a_step_fail_and_batches_do_not_matter(
    documents: list[Document], cut: int, all_steps: tuple[Step, ...]
) -> None:
    once = clean(documents, all_steps)
    assert clean(documents[:cut], all_steps) + clean(documents[cut:], all_steps) == once
    for step in all_steps:
        results = [step(document) for document in documents]
        kept = [result for result in results if isinstance(result, Document)]
        assert [step(document) for document in kept] == kept


@settings(max_examples=300)
@given(text=ANY_TEXT, region=st.sampled_from(["", "DE", "US"]))
def test_removing_personal_data_twice_changes_nothing(text: str, region: str) -> None:
    step = PersonalDataRemover(PersonalDataSection(phone_region=region))
    once = step(one(text))
    assert step(once) == once


@pytest.mark.parametrize(
    ("section", "text", "language", "expected"),
    [
        ({"smallest_characters": 4}, "abc", "en", "too_few_characters"),
        ({"smallest_characters": 3}, "abc", "en", None),
        ({"largest_characters": 2}, "abc", "en", "too_many_characters"),
        ({"smallest_words": 3}, "two words", "en", "too_few_words"),
        ({"smallest_words": 3}, "两个词", "zh", None),
        ({"smallest_words": 4}, "两个词", "zh-TW", "too_few_words"),
        ({"largest_words": 2}, "now three words", "en", "too_many_words"),
        ({"largest_words": 3}, "now three words", "en", None),
    ],
)
def test_length(section: dict[str, int], text: str, language: str, expected: str | None) -> None:
    assert reason(LengthFilter(LengthSection(**section))(one(text, language))) == expected


def test_words_are_characters_where_no_spaces_are_written() -> None:
    assert count_words("one two\nthree", "en") == 3
    assert count_words("一二 三", "zh") == 3


@pytest.mark.parametrize("language", sorted(ORDINARY))
def test_another_language_is_dropped(language: str) -> None:
    step = LanguageFilter(LanguageSection())
    other = "fr" if language != "fr" else "de"
    assert reason(step(one(ORDINARY[language], language))) is None
    assert reason(step(one(ORDINARY[language], other))) == "other_language"
    assert reason(step(Document((ORDINARY[other], ORDINARY[language]), (other, other)))) == "other_language"


def test_an_unknown_language_is_never_dropped_and_counted() -> None:
    step = LanguageFilter(LanguageSection())
    documents = [one(ORDINARY["en"], "ee"), one(ORDINARY["en"], "xx-YY"), one(ORDINARY["en"], "xx-YY")]
    assert clean(documents, [step]) == documents
    assert unchecked_languages([step]) == {"ee": 1, "xx-YY": 2}
    assert step.knows("pt-BR")
    assert step.knows("swh")
    assert not step.knows("ee")


def test_short_or_wordless_text_is_not_judged() -> None:
    step = LanguageFilter(LanguageSection())
    for text in ("Bonjour", "12345 67890 12345 67890 12345 67890"):
        assert reason(step(one(text, "ja"))) is None


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("A sentence of some length, not more than that.", "Ja."), "length_ratio"),
        (("Yes.", "Jawohl, so ist es wohl."), None),
        (("The same sentence twice, please!", "the same sentence twice please"), "copy"),
        (("The same sentence twice, please.", "The same sentence twice, pleases"), "copy"),
        (("The first sentence of the two sides.", "Der erste Satz von den zwei Seiten."), None),
        (("Angela Merkel", "Angela Merkel"), None),
        (("1234 5678 9012 3456 7890 1234 5678", "Der erste Satz von den zwei Seiten."), None),
    ],
)
def test_pairs(texts: tuple[str, str], expected: str | None) -> None:
    step = PairFilter(PairsSection(largest_length_ratio=2.0, largest_similarity=0.9))
    assert reason(step(Document(texts, ("en", "de")))) == expected
    assert reason(step(Document(texts[::-1], ("de", "en")))) == expected
    assert reason(step(one(texts[0]))) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Write to anna.schmidt+news@mail.example.co.uk, please.", "Write to <EMAIL>, please."),
        ("<info@example.org>", "<<EMAIL>>"),
        ("почта@пример.рф", "<EMAIL>"),
        ("@decorator and a @mention, 3@4, x@y", "@decorator and a @mention, 3@4, x@y"),
        ("Call +49 30 901820 or +1 (212) 736-5000.", "Call <PHONE> or <PHONE>."),
        ("+44 20 7946 0018", "<PHONE>"),
        ("3+4567890123 = 4567890126, 2+2", "3+4567890123 = 4567890126, 2+2"),
        ("+1 000 000 0000", "+1 000 000 0000"),
        ("from 81.2.69.160 and 2001:4860:4860::8888.", "from <IP> and <IP>."),
        ("192.168.0.1, 127.0.0.1, 10.0.0.1, ::1, fe80::1", "192.168.0.1, 127.0.0.1, 10.0.0.1, ::1, fe80::1"),
        ("version 81.2.69.1, v81.2.6.9, 81.2.3.4.5, 300.1.1.1", "version 81.2.69.1, v81.2.6.9, 81.2.3.4.5, 300.1.1.1"),
        ("5.6.2.1. Configuration, GIT 1.4.2.1, 8.8.8.8", "5.6.2.1. Configuration, GIT 1.4.2.1, 8.8.8.8"),
        ("at 12:34:56, std::vector, a::b, Genesis 1:2:3", "at 12:34:56, std::vector, a::b, Genesis 1:2:3"),
    ],
)
def test_personal_data(before: str, after: str) -> None:
    assert PersonalDataRemover(PersonalDataSection())(one(before)) == one(after)


def test_national_numbers_need_a_region() -> None:
    text = "Telefon 030 901820"
    assert PersonalDataRemover(PersonalDataSection())(one(text)) == one(text)
    assert PersonalDataRemover(PersonalDataSection(phone_region="DE"))(one(text)) == one("Telefon <PHONE>")
    with pytest.raises(RecipeError, match="phone_region"):
        PersonalDataRemover(PersonalDataSection(phone_region="Germany"))


def test_kinds_of_personal_data_are_chosen_one_by_one() -> None:
    text = "a@example.org 81.2.69.160 +49 30 901820"
    nothing = PersonalDataSection(emails=False, ips=False, phones=False)
    assert PersonalDataRemover(nothing)(one(text)) == one(text)
    assert PersonalDataRemover(PersonalDataSection(emails=False))(one(text)) == one("a@example.org <IP> <PHONE>")


def test_chinese_words() -> None:
    step = ChineseWords()
    assert step(one("我来到北京清华大学\n你好", "zh")) == one("我 来到 北京 清华大学\n你好", "zh")
    assert step(Document(("我来到北京", "I came"), ("zh-CN", "en"))).texts == ("我 来到 北京", "I came")
    assert step(one("私は東京に来た", "ja")) == one("私は東京に来た", "ja")


def test_moses_tokens() -> None:
    step = MosesTokens()
    assert step(one("Hello, world!\nIt's <b>fine</b>.")) == one("Hello , world !\nIt 's < b > fine < / b > .")
    assert step(one("你好，世界", "zh")) == one("你好，世界", "zh")


@settings(max_examples=50)
@given(document=DOCUMENTS)
def test_segmentation_keeps_every_character_but_spaces(document: Document) -> None:
    for step in SEGMENTERS:
        changed = step(document)
        assert [len(text.split("\n")) for text in changed.texts] == [len(text.split("\n")) for text in document.texts]
    changed = SEGMENTERS[0](document)
    assert ["".join(text.split()) for text in changed.texts] == ["".join(text.split()) for text in document.texts]


SEGMENTERS = (ChineseWords(), MosesTokens())


def test_evaluation_files(tmp_path: Path) -> None:
    rows = [{"text": "one", "label": 3, "more": ["two", {"deep": "three"}]}, {"tokens": ["four", "five"]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("six\n\nseven", encoding="utf-8")
    section = ContaminationSection(paths=(str(tmp_path / "*"), str(tmp_path / "b.txt")))
    files = find_evaluation_sets(section)
    assert [text for path in files for text in read_texts(path)] == ["one", "two", "three", "four five", "six", "seven"]
    with pytest.raises(RecipeError, match=r"cleaning\.contamination\.paths: no file matches"):
        find_evaluation_sets(ContaminationSection(paths=(str(tmp_path / "*.csv"),)))


def test_evaluation_sets_in_tables_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.tsv.xz").write_bytes(lzma.compress(b"id\tquestion\n1\twhat is it\n2\t\tmore\n\n3"))
    assert sorted(read_texts(tmp_path / "a.tsv.xz")) == sorted(["id", "1", "2", "3", "question", "what is it", "more"])
    (tmp_path / "a.csv").write_text('"with a, comma","over\ntwo lines"\n')
    assert list(read_texts(tmp_path / "a.csv")) == ["with a, comma", "over\ntwo lines"]
    rows = [{"q": "one", "n": 3, "choices": {"text": ["two", "three"], "raw": b"four"}}, {"q": None, "n": 1}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=1)
    assert list(read_texts(tmp_path / "a.parquet")) == ["one", "two three", "four"]
    (tmp_path / "a.txt.bz2").write_bytes(bz2.compress(b"a line\nanother"))
    assert list(read_texts(tmp_path / "a.txt.bz2")) == ["a line", "another"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("a.jsonl", content) for content in (b'{"text": "x"}\n{"text"', b"\xff\n", b"[" * 100_000)),
        *(("a.csv", content) for content in (b'a,b\nc,"d', b"a,\xff\n", b"a,b\n\xff,b\n")),
    ],
)
def test_an_evaluation_file_that_cannot_be_read_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="evaluation set"):
        list(read_texts(tmp_path / name))


def test_an_evaluation_set_with_text_that_is_none_is_refused(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff"]).view(pa.string())
    for column in (texts, pa.StructArray.from_arrays([texts], ["deep"]), pa.ListArray.from_arrays([0, 1, 2], texts)):
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        with pytest.raises(DataError, match=r"a\.parquet:2: an evaluation set"):
            list(read_texts(tmp_path / "a.parquet"))


def test_every_step_is_off_by_default() -> None:
    assert build_steps(CleaningSection(), Path("nowhere")) == ()
    section = parse_recipe({"length": {"smallest_words": 3}, "tokenise": "moses"}, CleaningSection, where="recipe")
    assert [type(step) for step in build_steps(section, Path("nowhere"))] == [LengthFilter, MosesTokens]
