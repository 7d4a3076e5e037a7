"""Mining of hard negatives: against plain loops, and by the command on a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from finetune_for_tests import make_encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from ranking_for_tests import write_rankings
from typer.testing import CliRunner

from mlc.cli import build_app
from mlc.errors import DataError, UsageError
from mlc.finetune import mining
from mlc.finetune.mining import MiningSettings, PassagePool, mine, passage_pool
from mlc.tasks.examples import Place, RankingExample
from mlc.tasks.task_files import read_task

HERE = Place("data.jsonl", 1)


def example(query: str, positives: tuple[str, ...], negatives: tuple[str, ...] = ()) -> RankingExample:
    return RankingExample(query, positives, negatives, HERE)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, PassagePool, MiningSettings]:
    """Few directions, so that similarities often tie."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    queries, passages = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    vectors = random.integers(-2, 3, (queries + passages, 2)).astype(np.float32)
    right = [np.unique(random.integers(0, passages, 1 + k % 2)) for k in range(queries)]
    copies = [np.unique(np.concatenate([r, random.integers(0, passages, k % 3)])) for k, r in enumerate(right)]
    first = draw(st.integers(1, 4))
    settings = MiningSettings(
        negatives=draw(st.integers(1, 5)),
        share=draw(st.sampled_from([0.5, 0.95, 1.0])),
        first_rank=first,
        last_rank=draw(st.integers(first, 12)),
        at_random=draw(st.booleans()),
    )
    return vectors[:queries], vectors[queries:], PassagePool([], right, copies), settings


@settings(max_examples=200)
@given(case=cases(), block=st.integers(1, 40))
def test_negatives_are_those_of_plain_loops(
    case: tuple[np.ndarray, np.ndarray, PassagePool, MiningSettings], block: int
) -> None:
    queries, passages, pool, chosen = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "BLOCK_ELEMENTS", block)
        found = mine(queries, passages, pool, chosen)
    near = 0
    for number, query in enumerate(queries):
        similarity = [float(query @ passage) for passage in passages]
        least = min(similarity[k] for k in pool.right[number])
        limit = chosen.share * least if least > 0 else least - (1 - chosen.share) * -least
        others = [k for k in range(len(passages)) if k not in pool.copies[number]]
        # Integers and their products with these shares: either exactly the limit, or 0.05 away from it.
        fitting = [k for k in others if similarity[k] < limit - 1e-6]
        near += len(others) - len(fitting)
        ranked = sorted(fitting, key=lambda k: (-similarity[k], k))[chosen.first_rank - 1 : chosen.last_rank]
        negatives = found.negatives[number].tolist()
        if chosen.at_random:
            assert len(negatives) == min(len(ranked), chosen.negatives)
            assert negatives == [k for k in ranked if k in negatives]
        else:
            assert negatives == ranked[: chosen.negatives]
    assert found.near == near
    assert found.without == sum(not len(row) for row in found.negatives)
    assert found.short == sum(len(row) < chosen.negatives for row in found.negatives)


def test_copies_are_no_negatives() -> None:
    examples = [
        example("Wo ist Ulm?", ("In Bayern nicht.", "An der Donau."), ("wo  ist ULM?", "In Wien.")),
        example("wo ist ulm?", ("in  bayern nicht.",), ("An der Spree.",)),
        example("Wer?", ("Niemand.",)),
    ]
    pool = passage_pool(examples, ["Niemand.", "Noch einer."])
    left_out = [{pool.texts[place] for place in copies} for copies in pool.copies]
    ulm = {"In Bayern nicht.", "An der Donau.", "wo  ist ULM?", "in  bayern nicht."}
    assert left_out == [ulm, ulm, {"Niemand."}]
    assert [{pool.texts[place] for place in right} for right in pool.right] == [set(e.positives) for e in examples]
    assert "Noch einer." in pool.texts
    assert len(set(pool.texts)) == len(pool.texts) == 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mining")
    make_encoder(folder / "start")
    write_rankings(folder / "pairs.jsonl", 12, negatives=1)
    (folder / "more.txt").write_text("the old tree\nder Garten\n")
    return folder


def run(folder: Path, *options: str) -> None:
    arguments = ["mine", str(folder / "start"), "--data", str(folder / "pairs.jsonl"), *options]
    result = CliRunner().invoke(build_app(), arguments)
    if result.exception is not None:
        raise result.exception


def test_the_command_writes_what_fine_tuning_reads(folder: Path) -> None:
    counts, pairs = folder / "counts.json", read_task("ranking", folder / "pairs.jsonl").of(RankingExample)
    written = []
    for name in ("mined.jsonl", "again.jsonl"):
        options = ("--negatives", "3", "--share", "0.999", "--passages", str(folder / "more.txt"))
        run(folder, "--out", str(folder / name), *options, "--json", str(counts))
        written.append((folder / name).read_bytes())
    assert written[0] == written[1]
    mined = read_task("ranking", folder / "mined.jsonl").of(RankingExample)
    assert [(e.query, e.positives, e.place.language) for e in mined] == [
        (e.query, e.positives, e.place.language) for e in pairs
    ]
    found = json.loads(counts.read_text())
    assert found["queries"] == found["written"] == 12
    assert found["passages"] == 26
    assert found["negatives"] == sum(len(e.negatives) for e in mined) > 12


def test_queries_without_negatives_are_counted_and_may_be_dropped(folder: Path) -> None:
    counts = {}
    for bare in ("keep", "drop"):
        out = folder / f"{bare}.jsonl"
        # Nothing is below a share of 0 but cosines below 0, and those of a model this small are all above.
        options = ("--share", "0", "--last-rank", "1", "--json", str(folder / "bare.json"))
        run(folder, "--out", str(out), "--bare", bare, *options)
        counts[bare] = json.loads((folder / "bare.json").read_text())
        assert len(out.read_text().splitlines()) == counts[bare]["written"]
    assert counts["keep"]["without"] == counts["drop"]["without"] > 0
    assert counts["keep"]["written"] == 12
    assert counts["drop"]["written"] == 12 - counts["drop"]["without"]


def test_refusals(folder: Path) -> None:
    with pytest.raises(UsageError, match="the output is the input"):
        run(folder, "--out", str(folder / "pairs.jsonl"))
    with pytest.raises(UsageError, match="range of ranks"):
        run(folder, "--out", str(folder / "new.jsonl"), "--first-rank", "5", "--last-rank", "4")
    (folder / "bad.jsonl").write_text('{"text": "a"}\n{"text": ""}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        run(folder, "--out", str(folder / "new.jsonl"), "--passages", str(folder / "bad.jsonl"))
    assert not (folder / "new.jsonl").exists()
