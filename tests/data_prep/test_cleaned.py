"""Documents that are cleaned once: the same to every stage, as long as they are whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import build_in

import data_prep.work
from data_prep.cleaned import CleanedReader, is_kept, keep, remove
from data_prep.cleaning.document import Document
from data_prep.readers.record import Rejected
from data_prep.set_aside import Example
from data_prep.work import Chunk, Kept
from mlc.errors import ShardError, UsageError

CLEANING = (
    "cleaning.length.smallest_characters=5",
    "duplicates.near=true",
    "build.unit_bytes=700",
    "build.max_rejected_fraction=0.05",
)
LANGUAGES = ("en", "de")

TEXTS = st.tuples(st.text(max_size=20), st.text(max_size=20))
REASONS = st.builds(Rejected, st.just(0), st.sampled_from(["empty", "other_language"]), st.text(max_size=9), st.text())


class Chunks:
    """A reader of given chunks."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self._chunks = chunks
        self.lines, self.records = [7, 0], 99
        self.unusable = Counter({"empty": 3})
        self.example: Example | None = Example(Path("a/b.jsonl"), 4, "empty", "é")

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self._chunks)


def chunks_of(contents: list[tuple[str, str] | Rejected], cut: int) -> list[Chunk]:
    """The contents at places that grow, over two parts, in chunks of `cut`."""
    chunks: list[Chunk] = []
    for number, content in enumerate(contents):
        if number % cut == 0:
            chunks.append(Chunk())
        part, line = divmod(3 * number + 1, 50)
        if isinstance(content, Rejected):
            dropped = Rejected(line, content.reason, content.detail, content.beginning)
            chunks[-1].dropped.append((part, dropped))
        else:
            chunks[-1].kept.append(Kept(Document(content, LANGUAGES), part, line, number % 5 - 1))
    return chunks


@settings(max_examples=60)
@given(contents=st.lists(st.one_of(TEXTS, REASONS), max_size=30), cut=st.integers(1, 8))
def test_what_is_kept_comes_back(
    tmp_path_factory: pytest.TempPathFactory, contents: list[tuple[str, str] | Rejected], cut: int
) -> None:
    path = tmp_path_factory.mktemp("kept") / "unit"
    given_chunks = chunks_of(contents, cut)
    assert list(keep(Chunks(given_chunks), path)) == given_chunks
    ended: list[bool] = []
    reader = CleanedReader(path, LANGUAGES, lambda: ended.append(True))
    found = list(reader)
    assert [kept for chunk in found for kept in chunk.kept] == [kept for chunk in given_chunks for kept in chunk.kept]
    assert [each for chunk in found for each in chunk.dropped] == [
        each for chunk in given_chunks for each in chunk.dropped
    ]
    assert (reader.lines, reader.records, reader.unusable) == ([7, 0], 99, Counter({"empty": 3}))
    assert (reader.example, ended) == (Example(Path("a/b.jsonl"), 4, "empty", "é"), [True])


def test_what_is_not_whole_is_not_kept(tmp_path: Path) -> None:
    passing = keep(Chunks(chunks_of([("a", "b")] * 5, 2)), tmp_path / "unit")
    next(passing)
    passing.close()
    assert list(tmp_path.iterdir()) == []
    list(keep(Chunks(chunks_of([("a", "b")] * 5, 2)), tmp_path / "unit"))
    assert is_kept(tmp_path / "unit")
    (tmp_path / "unit").write_bytes((tmp_path / "unit").read_bytes()[:-1])
    with pytest.raises(ShardError, match="is missing or damaged"):
        list(CleanedReader(tmp_path / "unit", LANGUAGES, lambda: None))
    remove(tmp_path / "unit")
    assert list(tmp_path.iterdir()) == []


def test_documents_are_cleaned_once(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three stages need them: the tokenizer's sample, near-duplicates, encoding."""
    cleaned: Counter[str] = Counter()
    clean = data_prep.work.clean

    def counting(documents: list[Document], steps: tuple[object, ...]) -> object:
        cleaned[name] += len(documents)
        return clean(documents, steps)  # type: ignore[arg-type]

    monkeypatch.setattr(data_prep.work, "clean", counting)
    built = {}
    for name in ("true", "false"):
        built[name] = build_in(corpus, name, *CLEANING, f"build.keep_cleaned={name}")
    assert built["true"].sha256 == built["false"].sha256
    assert cleaned["false"] == 3 * cleaned["true"] > 0


def test_the_build_that_goes_on_uses_what_was_cleaned(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build_in(corpus, "whole", *CLEANING)

    def fail(*arguments: object) -> None:
        raise UsageError("on purpose")

    with monkeypatch.context() as patched:
        patched.setattr("data_prep.stages.encode_unit", fail)
        with pytest.raises(UsageError, match="on purpose"):
            build_in(corpus, "out", *CLEANING)
    assert list((corpus / "out/.work/cleaned").iterdir())
    monkeypatch.setattr(data_prep.work, "clean", fail)
    assert build_in(corpus, "out", *CLEANING).sha256 == whole.sha256
