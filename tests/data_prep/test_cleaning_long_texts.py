"""Texts of many megabytes: looked at in pieces, with the result of the whole, in memory that their bytes bound."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from cleaning_texts import ANY_TEXT
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.cleaning import contamination, pairs
from data_prep.cleaning.contamination import ContaminationFilter, build_index
from data_prep.cleaning.document import Document, Dropped
from data_prep.cleaning.length import LengthFilter, count_words
from data_prep.cleaning.pairs import PairFilter
from data_prep.cleaning.repeated_parts import repeated_parts
from data_prep.cleaning.repetition import RepetitionFilter
from data_prep.cleaning.section import LengthSection, PairsSection, RepetitionSection
from data_prep.cleaning.units import PIECE_CHARACTERS

SOME_TEXT = st.one_of(ANY_TEXT, st.text(st.sampled_from("ab\n\n \u3000\u0130ßﬁ"), max_size=60))


@example(text="\n\n", separator="\n\n", piece=1)
@settings(max_examples=500)
@given(text=SOME_TEXT, separator=st.sampled_from(["\n", "\n\n"]), piece=st.integers(1, 30))
def test_repeated_parts_of_a_text_in_pieces_are_those_of_the_whole(text: str, separator: str, piece: int) -> None:
    """A text is split at once up to a length."""
    assert repeated_parts(text, separator, piece) == repeated_parts(text, separator, len(text))


@settings(max_examples=300)
@given(text=SOME_TEXT, piece=st.integers(1, 30))
def test_words_of_a_text_in_pieces_are_those_of_the_whole(text: str, piece: int) -> None:
    assert count_words(text, "en", piece) == len(text.split())
    assert count_words(text, "zh", piece) == sum(map(len, text.split()))


@settings(max_examples=300)
@given(text=SOME_TEXT, fewest=st.integers(0, 12), most=st.none() | st.integers(1, 12))
def test_a_look_at_the_first_words_judges_as_all_of_them(text: str, fewest: int, most: int | None) -> None:
    section = LengthSection(smallest_words=fewest, largest_words=most)
    found = LengthFilter(section)(Document((text,), ("en",)))
    words = len(text.split())
    reason = "too_few_words" if words < fewest else "too_many_words" if words > (most or words) else None
    assert (found.reason if isinstance(found, Dropped) else None) == reason


@settings(max_examples=200)
@given(first=SOME_TEXT, second=SOME_TEXT)
def test_pairs_in_pieces_are_judged_as_whole_ones(first: str, second: str) -> None:
    pair = Document((first, second), ("en", "de"))
    step = PairFilter(PairsSection(largest_similarity=0.5, copy_characters=1))
    whole = step(pair)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pairs, "_PIECE_CHARACTERS", 3)
        assert step(pair) == whole


def test_how_many_pieces_are_held_at_once_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [" ".join(f"q{i}x{j}" for j in range(13)) for i in range(3)]
    build_index(rows, 13, 8, tmp_path)
    step = ContaminationFilter(tmp_path)
    filler = "filler " * (PIECE_CHARACTERS // 3)
    texts = [filler + rows[1] + " " + filler + rows[0], "clean", rows[2] + " " + rows[0], filler, rows[1]]
    documents = [Document((text,), ("en",)) for text in texts]
    expected = step.many(documents)
    assert [isinstance(result, Dropped) for result in expected] == [True, False, True, False, True]
    for characters in (1, 100, PIECE_CHARACTERS + 1):
        monkeypatch.setattr(contamination, "_PIECES_CHARACTERS", characters)
        assert step.many(documents) == expected


def short_parts(separator: str) -> str:
    """6 MB of random parts of six letters."""
    drawn = random.Random(5)
    return separator.join(["".join(drawn.choices("abcdefghijklmnop", k=6)) for _ in range(6_000_000 // 8)])


def judge_pair(text: str, folder: Path) -> Callable[[], object]:
    pair = Document((text, "a" + text), ("en", "de"))
    return lambda: PairFilter(PairsSection(largest_length_ratio=2, largest_similarity=0.99))(pair)


def judge_repetition(text: str, folder: Path) -> Callable[[], object]:
    step = RepetitionFilter(RepetitionSection())
    return lambda: step(Document((text,), ("en",)))


def look_for_evaluation_sets(text: str, folder: Path) -> Callable[[], object]:
    build_index([" ".join(f"q{j}" for j in range(13))], 13, 8, folder)
    step = ContaminationFilter(folder)
    return lambda: step(Document((text,), ("en",)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("separator", "work", "largest_megabytes"),
    [
        (" ", lambda text, folder: lambda: count_words(text, "en"), 12),
        ("\n\n", judge_repetition, 60),
        (" ", look_for_evaluation_sets, 21),
        (" ", judge_pair, 35),
    ],
    ids=["length", "repetition", "contamination", "pairs"],
)
def test_a_long_text_takes_little_memory(
    separator: str, work: Callable[[str, Path], Callable[[], object]], largest_megabytes: float, tmp_path: Path
) -> None:
    """Lists of its words or paragraphs would take 50 to 150 MB."""
    judge = work(short_parts(separator), tmp_path)
    tracemalloc.start()
    judge()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < largest_megabytes * 1e6, f"{peak / 1e6:.0f} MB"
