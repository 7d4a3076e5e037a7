"""When a build gives up, before it has read everything; units that are not needed; the report of a build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_corpus import build_in, text

from data_prep.set_aside import FEWEST_UNUSABLE, Example, UnusableSoFar
from data_prep.token_report import PLOT_NAME, read_report
from mlc.errors import DataError


def read_instead(corpus: Path, rows: list[str]) -> None:
    """English gets these lines instead of its plain text; they can be cut into units."""
    (corpus / "corpus/more.jsonl").write_text("\n".join(rows))
    recipe = (corpus / "prep.toml").read_text()
    (corpus / "prep.toml").write_text(recipe.replace("more.txt.gz", "more.jsonl"))


EXAMPLE = Example(Path("a.jsonl"), 7, "broken_json", "{x")


def test_what_the_rest_could_make_up_for_does_not_stop_a_build() -> None:
    # Half of the shard's bytes held 100,000 records, so 200,000 are expected, of which 2,000 may be unusable.
    UnusableSoFar({"s": 1000}, 0.01).note("s", 500, 100_000, {"empty": 2000}, EXAMPLE)
    with pytest.raises(DataError, match=r"(?s)2,001 of 100,000 in 50% of.*json 1, empty 2,000.*a.jsonl, line 7"):
        UnusableSoFar({"s": 1000}, 0.01).note("s", 500, 100_000, {"empty": 2000, "broken_json": 1}, EXAMPLE)


def test_units_add_up_and_shards_do_not() -> None:
    counts = UnusableSoFar({"s": 1000, "t": 1000}, 0.1)
    for shard in ("s", "t"):
        for _ in range(3):
            counts.note(shard, 250, 4000, {"empty": 500}, EXAMPLE)
    with pytest.raises(DataError, match="too many records of t"):
        counts.note("t", 250, 4000, {"empty": 500}, EXAMPLE)


def test_little_says_nothing() -> None:
    counts = UnusableSoFar({"s": 1000}, 0.0)
    counts.note("s", 900, FEWEST_UNUSABLE - 1, {"too_long": FEWEST_UNUSABLE - 1}, EXAMPLE)
    with pytest.raises(DataError):
        counts.note("s", 1, 1, {"too_long": 1}, EXAMPLE)


def test_a_build_stops_before_it_has_encoded(corpus: Path) -> None:
    good = [json.dumps({"id": str(i), "text": text("en", i, 12)}) for i in range(2000)]
    read_instead(corpus, [*good, *["{broken"] * 2000])
    with pytest.raises(DataError, match=r"(?s)documents/en cannot be used.*2,000 of 4,0[04]0.*broken_json.*line 2001"):
        build_in(corpus)
    assert not any((corpus / "out/.work/units").iterdir())


def test_units_behind_the_last_document_are_not_encoded(corpus: Path) -> None:
    rows = [json.dumps({"id": str(i), "text": text("en", i, 12)}) for i in range(400)]
    read_instead(corpus, [*rows, *["{broken"] * 300])
    recipe = (corpus / "prep.toml").read_text()
    (corpus / "prep.toml").write_text(recipe.replace('language = "en"', 'language = "en"\nmax_documents = 90'))
    manifest = build_in(corpus, "out", "build.unit_bytes=4000")
    entry = manifest.entry("documents/en")
    assert (entry.documents, entry.dropped) == (130, {})
    whole = build_in(corpus, "whole", "build.unit_bytes=1000000", "build.max_rejected_fraction=0.5")
    assert whole.entry("documents/en").files == entry.files


def test_a_build_reports_its_tokens(corpus: Path) -> None:
    manifest = build_in(corpus)
    report = read_report(manifest.folder)
    assert sum(counts.tokens for counts in report.values()) == sum(entry.tokens for entry in manifest.shards)
    assert sum(counts.text_bytes for counts in report.values()) == sum(entry.text_bytes for entry in manifest.shards)
    assert set(report) == {language for entry in manifest.shards for language in entry.languages}
    assert (manifest.folder / PLOT_NAME).read_text().startswith("<svg")
