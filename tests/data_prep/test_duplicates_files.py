"""Fingerprint files, links and lists of duplicates: whole or refused; settings that fit or refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.duplicates.clusters import Drops, find_duplicates, write_drops
from data_prep.duplicates.fingerprints import Fingerprinter
from data_prep.duplicates.links import Share, find_links
from data_prep.duplicates.section import DuplicatesSection
from data_prep.duplicates.storage import UnitFingerprints
from mlc.config import parse_recipe
from mlc.errors import DataError, RecipeError

SECTION = DuplicatesSection(exact=True, near=True, bands=3, rows=2)
DOCUMENTS = [(f"text number {i % 5} of some length and {i % 7} more words",) for i in range(20)]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    path = tmp_path / "unit.fingerprints"
    Fingerprinter(SECTION, run_documents=8).fingerprint_unit(DOCUMENTS, path)
    return path


def test_a_file_is_the_same_whatever_was_made_before(unit: Path, tmp_path: Path) -> None:
    fingerprinter = Fingerprinter(SECTION, run_documents=8)
    fingerprinter.fingerprint_unit([("something else",)], tmp_path / "other")
    fingerprinter.fingerprint_unit(iter(DOCUMENTS), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == unit.read_bytes()


@pytest.mark.parametrize("length", [0, 10, 63, 64, 200, -8, -1])
def test_a_cut_file_is_refused(unit: Path, length: int) -> None:
    content = unit.read_bytes()
    unit.write_bytes(content[:length])
    with pytest.raises(DataError, match=r"not whole|no file of fingerprints|cannot be read"):
        UnitFingerprints(unit, SECTION)


def test_a_longer_file_is_refused(unit: Path) -> None:
    unit.write_bytes(unit.read_bytes() + bytes(8))
    with pytest.raises(DataError, match="not whole"):
        UnitFingerprints(unit, SECTION)


@pytest.mark.parametrize("changes", [{"words": 4}, {"characters": 3}, {"rows": 1}, {"exact": False}, {"near": False}])
def test_fingerprints_of_other_settings_are_refused(unit: Path, changes: dict[str, object], tmp_path: Path) -> None:
    other = SECTION.model_copy(update=changes)
    with pytest.raises(DataError, match="other settings"):
        find_links([unit], other, Share(), tmp_path)


def test_the_threshold_is_no_part_of_fingerprints(unit: Path, tmp_path: Path) -> None:
    find_links([unit], SECTION.model_copy(update={"threshold": 0.5}), Share(), tmp_path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"text" * 100)
    with pytest.raises(DataError, match="no file of fingerprints"):
        UnitFingerprints(tmp_path / "x", SECTION)
    with pytest.raises(DataError, match="cannot be read"):
        UnitFingerprints(tmp_path / "missing", SECTION)


def test_missing_and_foreign_links_are_refused(unit: Path, tmp_path: Path) -> None:
    drops = [tmp_path / "drops.npy"]
    find_links([unit], SECTION, Share(0, 2), tmp_path)
    with pytest.raises(DataError, match=r"00001-of-00002\.links"):
        write_drops([unit], drops, SECTION, 2, tmp_path)
    find_links([unit, unit], SECTION, Share(), tmp_path)
    with pytest.raises(DataError, match="of another corpus"):
        write_drops([unit], drops, SECTION, 1, tmp_path)
    path = Share().links_file(tmp_path, "exact")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="cannot be read"):
        write_drops([unit, unit], drops * 2, SECTION, 1, tmp_path)


@pytest.mark.parametrize("content", [b"", b"no numpy file", b"\x93NUMPY\x01\x00"])
def test_a_damaged_list_of_duplicates_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "drops.npy").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        Drops.read(tmp_path / "drops.npy")


def test_nothing_is_left_of_a_unit_that_failed(tmp_path: Path) -> None:
    def documents() -> Iterator[tuple[str, ...]]:
        yield ("one",)
        raise DataError("the file vanished")

    with pytest.raises(DataError, match="vanished"):
        Fingerprinter(SECTION).fingerprint_unit(documents(), tmp_path / "unit")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("documents", [[], [[]], [[], DOCUMENTS[:1], []]])
def test_units_without_documents(documents: list[list[tuple[str, ...]]], tmp_path: Path) -> None:
    units = [tmp_path / f"{i}" for i in range(len(documents))]
    for unit, texts in zip(units, documents, strict=True):
        Fingerprinter(SECTION).fingerprint_unit(texts, unit)
    drops = [tmp_path / f"{i}.npy" for i in range(len(documents))]
    assert find_duplicates(units, drops, SECTION, tmp_path).near_duplicates == 0
    assert [len(Drops.read(path).places) for path in drops] == [0] * len(units)


def test_what_follows_from_the_settings() -> None:
    """The module's table: how likely pairs become candidates."""
    section = DuplicatesSection(near=True)
    curve = [1 - (1 - j**section.rows) ** section.bands for j in (0.5, 0.6, 0.7, 0.75, 0.8, 0.85)]
    assert [round(chance, 2) for chance in curve] == [0.08, 0.29, 0.70, 0.88, 0.97, 1.0]


@pytest.mark.parametrize(
    "table",
    [{"bands": 200, "rows": 6}, {"threshold": 1}, {"bands": 0}, {"within": "language"}, {"ngrams": 5}],
    ids=repr,
)
def test_impossible_settings_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(table, DuplicatesSection, where="prep.toml")
