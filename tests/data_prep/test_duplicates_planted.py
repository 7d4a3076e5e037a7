"""Duplicates planted in a corpus: found, and nothing else; the same for any cut into units and any number of shares."""

from __future__ import annotations

import bisect
import multiprocessing
import random
import resource
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_prep.duplicates.clusters import REASONS, Clusters, Drops, find_duplicates, write_drops
from data_prep.duplicates.fingerprints import Fingerprinter
from data_prep.duplicates.links import MOST_LEADERS, Corpus, Share, find_links
from data_prep.duplicates.section import DuplicatesSection

SECTION = DuplicatesSection(exact=True, near=True)
FAMILIES = 250


def set_of_shingles(words: Sequence[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def jaccard(first: Sequence[str], second: Sequence[str], length: int) -> float:
    a, b = set_of_shingles(first, length), set_of_shingles(second, length)
    return len(a & b) / len(a | b)


def changed(words: list[str], lowest: float, highest: float, length: int, drawn: random.Random) -> list[str]:
    """The words with so many of them changed that the similarity to what they were is in the range."""
    places = drawn.sample(range(len(words)), len(words))
    wanted = drawn.uniform(lowest, highest)

    def with_changes(count: int) -> list[str]:
        copy = list(words)
        for i in places[:count]:
            copy[i] = chr(0x8000 + i) if length == SECTION.characters else f"changed{i}"
        return copy

    count = bisect.bisect_left(range(len(words)), -wanted, key=lambda n: -jaccard(words, with_changes(n), length))
    while jaccard(words, with_changes(count), length) < lowest:
        count -= 1
    return with_changes(count)


@dataclass
class Planted:
    """Documents, and what each is."""

    documents: list[tuple[str, ...]]
    kinds: list[str]


@pytest.fixture(scope="module")
def planted() -> Planted:
    """Families of a text, a near-duplicate, an exact one or none, and a text that is similar but not enough."""
    drawn = random.Random(11)
    made: list[tuple[str, str]] = []
    for family in range(FAMILIES):
        chinese = family % 4 == 0
        length, joint = (SECTION.characters, "") if chinese else (SECTION.words, " ")
        count = drawn.randint(120, 350)
        if chinese:
            words = [chr(0x4E00 + drawn.randrange(12000)) for _ in range(count)]
        else:
            words = [f"w{int(drawn.paretovariate(0.7))}" for _ in range(count)]
        made.append((joint.join(words), "first"))
        made.append((joint.join(changed(words, 0.8, 0.99, length, drawn)), "near"))
        made.append((joint.join(changed(words, 0.4, 0.6, length, drawn)), "similar"))
        if family % 5 == 0:
            made.append((joint.join(words), "exact"))
    firsts = [text for text in made if text[1] == "first"]
    others = [text for text in made if text[1] != "first"]
    drawn.shuffle(others)
    return Planted([(text,) for text, _ in [*firsts, *others]], [kind for _, kind in [*firsts, *others]])


def write_units(
    documents: list[tuple[str, ...]], cuts: Sequence[int], folder: Path, section: DuplicatesSection, run_documents: int
) -> list[Path]:
    fingerprinter = Fingerprinter(section, run_documents)
    edges = [0, *sorted(cuts), len(documents)]
    paths = [folder / f"{i:03d}.fingerprints" for i in range(len(edges) - 1)]
    for path, start, end in zip(paths, edges[:-1], edges[1:], strict=True):
        assert fingerprinter.fingerprint_unit(iter(documents[start:end]), path) == end - start
    return paths


def dropped(units: Sequence[Path], drops: Sequence[Path], cuts: Sequence[int]) -> dict[int, str]:
    """Document number: reason."""
    starts = [0, *sorted(cuts)]
    found: dict[int, str] = {}
    for start, path in zip(starts, drops, strict=True):
        read = Drops.read(path)
        assert read.places.tolist() == sorted(read.places.tolist())
        pairs = zip(read.places.tolist(), read.reasons.tolist(), strict=True)
        found |= {start + place: REASONS[reason] for place, reason in pairs}
    assert len(units) == len(drops)
    return found


def run(
    documents: list[tuple[str, ...]],
    folder: Path,
    *,
    section: DuplicatesSection = SECTION,
    cuts: Sequence[int] = (),
    run_documents: int = 1000,
) -> dict[int, str]:
    units = write_units(documents, cuts, folder, section, run_documents)
    drops = [path.with_suffix(".npy") for path in units]
    counts = find_duplicates(units, drops, section, folder / "links")
    found = dropped(units, drops, cuts)
    assert counts.documents == len(documents)
    assert counts.exact_duplicates == list(found.values()).count("exact_duplicate")
    assert counts.near_duplicates == list(found.values()).count("near_duplicate")
    return found


def test_planted_duplicates_are_found_and_others_stay(planted: Planted, tmp_path: Path) -> None:
    found = run(planted.documents, tmp_path)
    gone = [planted.kinds[number] for number in found]
    assert gone.count("first") == 0  # the smallest document of each family survives
    assert gone.count("exact") == planted.kinds.count("exact")
    assert {found[i] for i, kind in enumerate(planted.kinds) if kind == "exact"} == {"exact_duplicate"}
    assert gone.count("near") >= 0.9 * FAMILIES
    assert gone.count("similar") <= 0.01 * len(gone)


def test_units_runs_and_shares_do_not_matter(planted: Planted, tmp_path: Path) -> None:
    """One unit in one process, and five units of small runs in four shares of four processes."""
    expected = run(planted.documents, tmp_path / "one")
    cuts = [0, 17, 301, 302]
    units = write_units(planted.documents, cuts, tmp_path / "four", SECTION, run_documents=64)
    links = tmp_path / "four/links"
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        work = [pool.submit(find_links, units, SECTION, Share(i, 4), links, 100) for i in (2, 0, 3, 1)]
        for future in work:
            future.result()
    drops = [path.with_suffix(".npy") for path in units]
    write_drops(units, drops, SECTION, 4, links)
    assert dropped(units, drops, cuts) == expected
    assert len(list(links.iterdir())) == 8


def test_more_units_than_a_process_may_open(tmp_path: Path) -> None:
    section = DuplicatesSection(exact=True, near=True, bands=2)
    units = [tmp_path / f"{i:04d}" for i in range(700)]
    Fingerprinter(section).fingerprint_unit([("the same text in every unit of this corpus",)], units[0])
    for unit in units[1:]:
        shutil.copy(units[0], unit)
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), resource.setrlimit, (resource.RLIMIT_NOFILE, (400, 400))
    ) as pool:
        pool.submit(find_links, units, section, Share(), tmp_path / "links").result()
    links = np.fromfile(Share().links_file(tmp_path / "links", "exact"), dtype="<i8").reshape(-1, 2)
    near = np.fromfile(Share().links_file(tmp_path / "links", "near"), dtype="<i8").reshape(-1, 2)
    assert near.tolist() == 2 * links.tolist()
    assert links.tolist() == [[0, i] for i in range(1, 700)]


def test_a_bucket_costs_comparisons_in_proportion(tmp_path: Path) -> None:
    """3,000 times one boilerplate: each is linked to the first once a band, and to no other."""
    section = DuplicatesSection(near=True)
    documents = [("the same words again and again and then a few more of them",)] * 3000
    found = run(documents, tmp_path, section=section)
    assert found == dict.fromkeys(range(1, 3000), "near_duplicate")
    links = np.fromfile(Share().links_file(tmp_path / "links", "near"), dtype="<i8").reshape(-1, 2)
    assert len(links) == section.bands * 2999
    assert set(links[:, 0].tolist()) == {0}


def test_a_bucket_of_unlike_documents_ends_after_some_leaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row a band: buckets are full of documents that are not alike."""
    section = DuplicatesSection(near=True, bands=32, rows=1, words=1, threshold=0.95)
    same = " ".join(f"same{k}" for k in range(30))
    documents = [(f"{same} " + " ".join(f"{i}x{k}" for k in range(10)),) for i in range(2000)]
    looked_up = 0
    signatures = Corpus.signatures

    def counted(corpus: Corpus, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        nonlocal looked_up
        looked_up += len(numbers)
        return signatures(corpus, numbers)

    monkeypatch.setattr(Corpus, "signatures", counted)
    assert run(documents, tmp_path, section=section) == {}
    assert 2000 < looked_up <= 2 * section.bands * MOST_LEADERS * len(documents)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (("a", "bc"), ("ab", "c"), False),
        (("a", "b\nc"), ("a\nb", "c"), False),
        (("a", "b"), ("a", "b"), True),
        (("a",), ("A",), False),
        (("\ud800",), ("\ud800",), True),
        (("...",), ("!!!",), False),
        (("",), ("",), True),
    ],
    ids=repr,
)
def test_exact_duplicates_have_every_side_alike(
    first: tuple[str, ...], second: tuple[str, ...], same: bool, tmp_path: Path
) -> None:
    found = run([first, second], tmp_path, section=DuplicatesSection(exact=True))
    assert found == ({1: "exact_duplicate"} if same else {})


def test_near_duplicates_overlook_case_and_punctuation(tmp_path: Path) -> None:
    texts = ["One, two; three. FOUR five - six!", "one two three four five six", "...", "!!!", "ab", "cd"]
    assert run([(text,) for text in texts], tmp_path) == {1: "near_duplicate"}


def test_a_text_of_many_blocks(tmp_path: Path) -> None:
    drawn = random.Random(5)
    words = [f"w{drawn.randrange(5000)}" for _ in range(80_000)]
    other = [f"w{drawn.randrange(5000)}" for _ in range(80_000)]
    similar = list(words)
    for i in range(0, len(words), 100):
        similar[i] = "changed"
    assert jaccard(words, similar, SECTION.words) > 0.88
    documents = [(" ".join(words),), (" ".join(other),), (" ".join(similar),), (" ".join(words) + ".",)]
    assert run(documents, tmp_path) == {2: "near_duplicate", 3: "near_duplicate"}


@settings(max_examples=100)
@given(
    links=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40),
    pieces=st.integers(1, 5),
    seed=st.randoms(),
)
def test_clusters_are_the_connected_components(links: list[tuple[int, int]], pieces: int, seed: random.Random) -> None:
    plain = list(range(30))
    for _ in links:
        for a, b in links:
            plain[a] = plain[b] = min(plain[a], plain[b])
    clusters = Clusters(30)
    shuffled = list(links)
    seed.shuffle(shuffled)
    for i in range(pieces):
        some = np.array(shuffled[i::pieces], dtype=np.int64).reshape(-1, 2)
        clusters.join(some[:, 0], some[:, 1])
    assert clusters.roots(np.arange(30)).tolist() == plain
