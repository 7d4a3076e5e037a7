"""Repetition and contamination against the same rules as plain loops; nothing depends on how documents are batched."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cleaning_texts import ANY_TEXT, ORDINARY
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning.contamination import ContaminationFilter, build_index, pieces
from data_prep.cleaning.document import Document, Dropped
from data_prep.cleaning.repetition import RepetitionFilter, judge_lines
from data_prep.cleaning.section import RepetitionSection
from data_prep.cleaning.units import (
    PIECE_CHARACTERS,
    UNSPACED_RANGES,
    batches,
    character_table,
    hash_rows,
    polynomial_powers,
    read_units,
    row_places,
)
from mlc.errors import DataError

WRITTEN, FOLDED, POWERS = character_table("written"), character_table("folded"), polynomial_powers()
FEW_WORDS = ["a ", "b ", "cc ", "d ", "\n", "中", "ก", "文 "]
SOME_TEXTS = st.lists(ANY_TEXT, max_size=6)


def words_of(text: str) -> list[tuple[int, int]]:
    """Begin and end of each word as written; a letter without spaces, with its marks, is one."""

    def alone(character: str) -> bool:
        return any(low <= ord(character) <= high for low, high in UNSPACED_RANGES)

    spans: list[list[int]] = []
    before = "space"
    for i, character in enumerate(text):
        if character.isspace():
            before = "space"
            continue
        mark = alone(character) and unicodedata.category(character).startswith("M")
        kind = "mark" if mark else "single" if alone(character) else "letter"
        if before == "space" or kind == "single" or (kind == "letter" and before in ("single", "mark")):
            spans.append([i, i + 1])
        else:
            spans[-1][1] = i + 1
        before = kind
    return [(start, end) for start, end in spans]


def rows_of(text: str, size: int) -> list[str]:
    words = words_of(text)
    return [re.sub(r"\s", " ", text[words[i][0] : words[i + size - 1][1]]) for i in range(len(words) - size + 1)]


@settings(max_examples=200)
@given(texts=SOME_TEXTS, size=st.integers(1, 5))
def test_words_and_hashes_are_those_of_plain_loops(texts: list[str], size: int) -> None:
    units = read_units(texts, WRITTEN, POWERS)
    places = row_places(units, size)
    hashes = dict(zip(places.tolist(), hash_rows(units, places, size, POWERS).tolist(), strict=True))
    seen: dict[str, int] = {}
    for d, text in enumerate(texts):
        first, end = units.bounds[d], units.bounds[d + 1]
        assert (units.ends - units.starts)[first:end].tolist() == [stop - start for start, stop in words_of(text)]
        for i, row in enumerate(rows_of(text, size)):
            value = hashes.pop(int(first) + i)
            assert seen.setdefault(row, value) == value
    assert not hashes
    assert len(set(seen.values())) == len(seen)


def in_most_frequent(text: str, size: int) -> int:
    rows = Counter(rows_of(text, size))
    times = max(rows.values(), default=0)
    longest = max((len(without_spaces(row)) for row, count in rows.items() if count == times), default=0)
    return times * longest if times >= 2 else 0


def that_came_before(text: str, size: int) -> int:
    seen: set[str] = set()
    covered: set[int] = set()
    for i, row in enumerate(rows_of(text, size)):
        if row in seen:
            covered.update(range(i, i + size))
        seen.add(row)
    words = words_of(text)
    return sum(words[i][1] - words[i][0] for i in covered)


def without_spaces(row: str) -> str:
    return "".join(row.split())


@settings(max_examples=200)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(["a ", "b ", "cc ", "d ", "\n", "中", "ก", "文 "]), max_size=60), max_size=5
    ),
    limit=st.floats(0, 1),
    long_limit=st.floats(0, 1),
)
def test_repetition_is_that_of_plain_loops(texts: list[list[str]], limit: float, long_limit: float) -> None:
    section = RepetitionSection(
        smallest_words=0,
        frequent_ngrams=(limit, limit * 0.9, limit * 0.8),
        duplicate_ngrams=tuple(long_limit * factor for factor in (1, 0.95, 0.9, 0.8, 0.7, 0.6)),
    )
    documents = [Document(("".join(text),), ("en",)) for text in texts]
    for document, result in zip(documents, RepetitionFilter(section).many(documents), strict=True):
        text = document.texts[0]
        characters = len(without_spaces(text))
        lines = judge_lines(text, section) if characters else None
        frequent = zip((2, 3, 4), section.frequent_ngrams, strict=True)
        duplicate = zip(range(5, 11), section.duplicate_ngrams, strict=True)
        reason = None
        if lines:
            reason = lines.reason
        elif any(in_most_frequent(text, size) > bound * characters for size, bound in frequent):
            reason = "frequent_ngram"
        elif any(that_came_before(text, size) > bound * characters for size, bound in duplicate):
            reason = "duplicate_ngrams"
        assert (result.reason if isinstance(result, Dropped) else None) == reason


@settings(max_examples=100)
@given(texts=SOME_TEXTS, size=st.integers(1, 4), evaluation=SOME_TEXTS)
def test_a_hit_is_a_row_of_words_that_an_evaluation_text_has(
    texts: list[str], size: int, evaluation: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("index")
    build_index(evaluation, size + 1, size, folder)
    known = {row for text in evaluation for row in rows_to_find(text, size + 1)}
    for text in evaluation:
        for unit in (1, 3):
            words = len(folded_rows(text, 1))
            if words // unit == size:
                known |= {
                    row for row in folded_rows(text, size * unit)[:1] if is_spaced(row, size * unit) == (unit == 1)
                }
    filtered = ContaminationFilter(folder).many([Document((text,), ("en",)) for text in texts])
    for text, result in zip(texts, filtered, strict=True):
        rows = rows_to_find(text, size) + rows_to_find(text, size + 1)
        assert isinstance(result, Dropped) == any(row in known for row in rows)


def rows_to_find(text: str, size: int) -> list[str]:
    return [
        row for unit in (1, 3) for row in folded_rows(text, size * unit) if is_spaced(row, size * unit) == (unit == 1)
    ]


def is_spaced(row: str, words: int) -> bool:
    return len(row) + 1 >= 2.5 * words


def folded_rows(text: str, size: int) -> list[str]:
    """Rows of folded words; what a fold of one character is, the table alone says."""
    last = len(FOLDED.codes) - 1
    characters = [
        chr(FOLDED.codes[min(ord(character), last)])
        for character in text
        if FOLDED.kinds[min(ord(character), last)] != FOLDED.kinds[0x200C]
    ]
    return rows_of(" ".join("".join(characters).split()), size)


@pytest.mark.parametrize("language", sorted(ORDINARY))
def test_an_evaluation_text_inside_a_document_is_found(language: str, tmp_path: Path) -> None:
    words = ORDINARY[language].split(" ")
    question = " ".join(words[3:17]) if len(words) > 30 else ORDINARY[language][20:80]
    other = ORDINARY["de" if language == "en" else "en"]
    assert build_index([question], 13, 8, tmp_path)[13] >= 1
    step = ContaminationFilter(tmp_path)
    planted = Document((other + "\n" + question.upper().replace(" ", ",  ") + "! " + other,), (language,))
    found = step(planted)
    assert isinstance(found, Dropped)
    assert found.reason == "contaminated"
    assert step(Document((other,), (language,))) == Document((other,), (language,))


def test_a_short_evaluation_text_counts_as_a_whole(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(10)]
    build_index([" ".join(words), "too short to count at all"], 13, 8, tmp_path)
    step = ContaminationFilter(tmp_path)
    assert isinstance(step(Document(("before " + " ".join(words) + " after",), ("en",))), Dropped)
    for text in (" ".join(words[:9]), " ".join(words[1:]), "too short to count at all"):
        assert isinstance(step(Document((text,), ("en",))), Document)


def test_a_hit_anywhere_in_a_long_document_is_found(tmp_path: Path) -> None:
    question = " ".join(f"question{i}" for i in range(13))
    build_index([question], 13, 8, tmp_path)
    step = ContaminationFilter(tmp_path)
    filler = ["filler"] * (PIECE_CHARACTERS // 3)
    for place in (0, PIECE_CHARACTERS // 7 - 6, PIECE_CHARACTERS // 7 - 585 * 2, len(filler)):
        text = " ".join([*filler[:place], question, *filler[place:]])
        assert isinstance(step(Document((text,), ("en",))), Dropped)
    assert isinstance(step(Document((" ".join(filler),), ("en",))), Document)


@settings(max_examples=20)
@given(length=st.integers(0, 3 * PIECE_CHARACTERS), spaced=st.booleans())
def test_pieces_overlap_and_cover(length: int, spaced: bool) -> None:
    # No piece of a text comes twice within the stretch that is searched for it.
    text = " ".join(map(str, range(length // 2))) if spaced else "".join(chr(0x4E00 + i % 9000) for i in range(length))
    text, end = text[:length], 0
    for piece in pieces(text):
        assert len(piece) <= PIECE_CHARACTERS
        start = text.index(piece, max(0, end - 6000))
        assert start == 0 or end - start >= 4096
        end = start + len(piece)
    assert end == len(text)


def test_an_index_that_is_damaged_or_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no index"):
        ContaminationFilter(tmp_path)
    build_index([ORDINARY["en"]], 13, 13, tmp_path)
    content = (tmp_path / "rows-13x1.npy").read_bytes()
    for damaged in (content[:40], content[:-9], b"", content.replace(b"<u8", b"<i8")):
        (tmp_path / "rows-13x1.npy").write_bytes(damaged)
        with pytest.raises(DataError):
            ContaminationFilter(tmp_path)


def test_hashes_never_change() -> None:
    """An index outlives the process and the machine that wrote it."""
    units = read_units(["Größe 中文, ok"], FOLDED, POWERS)
    assert [int(value) for value in hash_rows(units, np.arange(3), 2, POWERS)] == [
        12358724910766336727,
        4401530088971042597,
        10360657464012690977,
    ]


@settings(max_examples=100)
@given(texts=st.lists(st.integers(0, PIECE_CHARACTERS), max_size=12))
def test_batches_cut_between_texts_and_stay_small(texts: list[int]) -> None:
    real = ["x" * length for length in texts]
    cuts = batches(real)
    assert [i for first, end in cuts for i in range(first, end)] == list(range(len(real)))
    assert all(sum(len(text) + 1 for text in real[first:end]) <= PIECE_CHARACTERS + 1 for first, end in cuts)


def test_a_document_is_judged_alike_in_any_company(tmp_path: Path) -> None:
    repeated = Document(("\n".join(["the same line again and again and again"] * 40),), ("en",))
    documents = [Document((text,), (language,)) for language, text in ORDINARY.items()] + [repeated]
    step = RepetitionFilter(RepetitionSection(smallest_words=20))
    together = step.many(documents * 30)
    assert together == [step(document) for document in documents] * 30
    assert together[:10] == documents[:10]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join([*"abcdefghij", *(["again"] * 5)]), "duplicate_lines"),
        (
            "\n".join([*"abcdefghijklm", *["a long line that comes twice"] * 2]),
            "duplicate_lines",
        ),
        ("one\n1\n\ntwo\n\nthree\n\none\n1\n\none\n1", "duplicate_paragraphs"),
        (ORDINARY["en"] + " buy now" * 40, "frequent_ngram"),
        (ORDINARY["en"] + " " + ORDINARY["en"][100:300], "duplicate_ngrams"),
        (ORDINARY["zh"] + ORDINARY["zh"][20:80], "duplicate_ngrams"),
    ],
)
def test_each_rule_of_repetition_drops_a_planted_case(text: str, reason: str) -> None:
    language = "zh" if text.startswith(ORDINARY["zh"]) else "en"
    lines = reason != "duplicate_paragraphs"
    section = RepetitionSection(
        smallest_words=5, **({} if lines else {"duplicate_lines": 1, "duplicate_line_characters": 1})
    )
    found = RepetitionFilter(section)(Document((text,), (language,)))
    assert isinstance(found, Dropped)
    assert found.reason == reason
