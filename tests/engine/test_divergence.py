"""Which steps are bad, what follows from them, and the list of batches that a run steps over."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc.engine.divergence import DivergenceGuard, Return, SkippedBatches, Verdict, what_is_bad
from mlc.errors import CheckpointError
from mlc.recipe import DivergenceSection

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("step", "bad"),
    [
        ({}, None),
        ({"loss": NAN}, "the loss is nan"),
        ({"loss": -INF}, "the loss is -inf"),
        ({"loss": NAN, "precision": "fp16", "update_skipped": True}, "the loss is nan"),
        ({"grad_norm": NAN}, "the norm of the gradient is nan"),
        ({"grad_norm": INF, "update_skipped": True}, "the norm of the gradient is inf"),
        ({"grad_norm": -1.0}, "the norm of the gradient is -1.0"),
        ({"grad_norm": 0.0}, None),
        ({"grad_norm": None}, None),
        ({"grad_norm": 1e30}, None),
        ({"grad_norm": 5.0, "grad_norm_limit": 5.0}, None),
        ({"grad_norm": 5.01, "grad_norm_limit": 5.0}, "over divergence.gradient_norm_limit = 5"),
        ({"grad_norm": None, "grad_norm_limit": 5.0}, None),
        ({"update_skipped": True}, "the update was left out"),
        ({"update_skipped": True, "precision": "bf16"}, "the update was left out"),
        ({"update_skipped": True, "precision": "fp16", "grad_norm": INF}, None),
        ({"update_skipped": True, "precision": "fp16", "grad_norm": NAN}, None),
        ({"update_skipped": True, "precision": "fp16", "grad_norm": -1.0}, None),
        ({"update_skipped": True, "precision": "fp16", "grad_norm": None}, None),
        ({"update_skipped": True, "precision": "bf16", "grad_norm": None}, "the update was left out"),
        # Left out for its length, by whoever keeps the limit: the scale has nothing to do with it.
        (
            {"update_skipped": True, "precision": "fp16", "grad_norm": 6.0, "grad_norm_limit": 5.0},
            "over divergence.gradient_norm_limit = 5",
        ),
        ({"update_skipped": True, "precision": "fp16", "grad_norm": 1.0}, "the update was left out"),
        ({"update_skipped": True, "precision": "fp16", "grad_norm": INF, "grad_norm_limit": 5.0}, None),
        ({"precision": "fp16", "grad_norm": INF}, "the norm of the gradient is inf"),
        ({"precision": "fp16", "grad_norm": 6.0, "grad_norm_limit": 5.0}, "over divergence.gradient_norm_limit = 5"),
    ],
)
def test_what_is_bad(step: dict[str, Any], bad: str | None) -> None:
    good = {"loss": 2.0, "grad_norm": 1.0, "update_skipped": False, "precision": "fp32", "grad_norm_limit": 0.0}
    found = what_is_bad(**{**good, **step})
    assert found == bad if bad is None else bad in str(found)


def _judge(guard: DivergenceGuard, batch: int, kind: str) -> Verdict:
    return guard.judge(
        batch + 1,
        batch,
        loss=NAN if kind == "bad" else 1.0,
        grad_norm=INF if kind == "scaling" else 1.0,
        update_skipped=kind == "scaling",
    )


@given(
    kinds=st.lists(st.sampled_from(["good", "bad", "scaling"]), max_size=30),
    skip_updates=st.integers(0, 4),
    restarts=st.sets(st.integers(0, 29)),
)
def test_bad_steps_in_a_row(kinds: list[str], skip_updates: int, restarts: set[int]) -> None:
    """Against the rule as a sentence: the bad steps since the last good one, in fp16; over stops of the run, too."""
    section = DivergenceSection(skip_updates=skip_updates)
    guard = DivergenceGuard(section, SkippedBatches(), precision="fp16")
    for batch, kind in enumerate(kinds):
        if batch in restarts:
            guard = DivergenceGuard(section, SkippedBatches(), precision="fp16", row=guard.row)
        verdict = _judge(guard, batch, kind)
        last_good = max((place for place in range(batch + 1) if kinds[place] == "good"), default=-1)
        row = tuple(place for place in range(last_good + 1, batch + 1) if kinds[place] == "bad")
        assert guard.row == row
        if kind != "bad":
            assert verdict == "good"
        elif len(row) <= skip_updates:
            assert verdict == "skip"
        else:
            assert verdict == "roll_back"
            break


def test_the_reason_names_step_batch_and_row() -> None:
    guard = DivergenceGuard(DivergenceSection(skip_updates=1), SkippedBatches(), precision="bf16")
    _judge(guard, 6, "bad")
    _judge(guard, 7, "bad")
    assert guard.reason == "step 8, batch 7: the loss is nan (2 bad steps in a row)"


@pytest.mark.parametrize("roll_backs", [0, 1, 3])
def test_so_many_returns_to_one_and_the_same_checkpoint(roll_backs: int) -> None:
    section, skipped = DivergenceSection(skip_updates=0, roll_backs=roll_backs), SkippedBatches()
    for number in range(roll_backs):
        assert DivergenceGuard(section, skipped, precision="fp32").may_return_to(100)
        skipped = skipped.add(100, (number,), "")
    guard = DivergenceGuard(section, skipped, precision="fp32")
    assert not guard.may_return_to(100)
    assert guard.may_return_to(200) == (roll_backs > 0)  # another checkpoint has its own count


@dataclass
class _Run:
    """What training does with the verdicts. Its `weights` are the batches that made them.

    Attributes:
        lasting: step, batch and weights of the checkpoint to return to.
        stopped: those of a later one, saved amid bad steps, and its row.
    """

    section: DivergenceSection
    poison: frozenset[int]
    every_steps: int
    file: Path
    lasting: tuple[int, int, tuple[int, ...]] = (0, 0, ())
    stopped: tuple[int, int, tuple[int, ...]] | None = None
    row: tuple[int, ...] = ()
    judged: int = 0

    def train(self, end_at: int | None = None, *, saves: bool = False) -> str:
        """From the last checkpoint to step 20, to its last return, or until so many steps were judged in all.

        Args:
            end_at: number of that step. It is not taken then: the run is killed in it, or stopped before it.
            saves: stopped; with a checkpoint.
        """
        while True:
            step, batch, weights = self.stopped or self.lasting
            skipped = SkippedBatches.from_file(self.file)
            guard = DivergenceGuard(self.section, skipped, precision="bf16", row=self.row)
            verdict: Verdict = "good"
            while step < 20 and verdict != "roll_back":
                if self.judged == end_at:
                    if saves:
                        self._save(step, batch, weights, guard.row)
                    return "ended"
                batch = skipped.next_batch(batch)
                verdict = _judge(guard, batch, "bad" if batch in self.poison else "good")
                self.judged += 1
                step, batch, weights = step + 1, batch + 1, weights + (batch,) * (verdict == "good")
                if verdict == "good" and step % self.every_steps == 0:
                    self._save(step, batch, weights, ())
            if verdict != "roll_back":
                self._save(step, batch, weights, ())
                return "finished"
            if not guard.may_return_to(self.lasting[0]):
                return "diverged"
            self.stopped, self.row = None, ()
            self.file.write_bytes(skipped.add(self.lasting[0], guard.row, guard.reason).to_bytes())

    def _save(self, step: int, batch: int, weights: tuple[int, ...], row: tuple[int, ...]) -> None:
        self.row = row
        if row:
            self.stopped = step, batch, weights
        else:
            self.lasting, self.stopped = (step, batch, weights), None


@given(
    poison=st.frozensets(st.integers(0, 30), max_size=14),
    every_steps=st.integers(1, 25),
    skip_updates=st.integers(0, 3),
    roll_backs=st.integers(0, 3),
    ends=st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=4),
)
def test_a_run_ends_the_same_however_often_it_is_ended(
    tmp_path_factory: pytest.TempPathFactory,
    poison: frozenset[int],
    every_steps: int,
    skip_updates: int,
    roll_backs: int,
    ends: list[tuple[int, bool]],
) -> None:
    section = DivergenceSection(skip_updates=skip_updates, roll_backs=roll_backs)
    folder = tmp_path_factory.mktemp("runs")
    unbroken, broken = (_Run(section, poison, every_steps, folder / name) for name in ("unbroken", "broken"))
    ending = unbroken.train()
    skipped = SkippedBatches.from_file(unbroken.file)
    weights = unbroken.lasting[2]
    assert not poison & set(weights)
    assert set(skipped.batches) <= poison
    assert all(len(entry.batches) == skip_updates + 1 for entry in skipped.returns)
    assert all(skipped.returns_to(entry.to_step) <= roll_backs for entry in skipped.returns)
    if ending == "finished":
        step, batch, _ = unbroken.lasting
        only_left_out = set(range(batch)) - set(weights) - set(skipped.batches)
        assert only_left_out <= poison
        assert step == 20 == len(weights) + len(only_left_out)
    stopped_on_the_way = False
    for steps, saves in ends:
        if broken.train(broken.judged + steps, saves=saves) != "ended":
            break
        stopped_on_the_way |= saves and not broken.row
    other_ending = broken.train()
    if not stopped_on_the_way:
        assert (other_ending, broken.lasting) == (ending, unbroken.lasting)
        assert SkippedBatches.from_file(broken.file) == skipped
    elif ending == "finished":  # a stop brings a checkpoint more, which has returns of its own
        assert (other_ending, broken.lasting) == (ending, unbroken.lasting)
        assert SkippedBatches.from_file(broken.file).batches == skipped.batches


returns = st.builds(
    Return,
    to_step=st.integers(0, 10**9),
    batches=st.lists(st.integers(0, 10**12), min_size=1, max_size=5).map(tuple),
    reason=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
SKIPPED = SkippedBatches().add(100, (103, 101), "step 102, batch 101: the loss is nan").add(100, (104,), "again")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "skipped.json").write_bytes(SKIPPED.to_bytes())
    return tmp_path / "skipped.json"


@given(entries=st.lists(returns, max_size=5))
def test_the_list_survives_its_file(tmp_path_factory: pytest.TempPathFactory, entries: list[Return]) -> None:
    path = tmp_path_factory.mktemp("list") / "skipped.json"
    skipped = SkippedBatches()
    for entry in entries:
        skipped = skipped.add(entry.to_step, entry.batches, entry.reason)
    path.write_bytes(skipped.to_bytes())
    assert SkippedBatches.from_file(path) == skipped == SkippedBatches(tuple(entries))


def test_what_scripts_find_in_the_file(file: Path) -> None:
    content = json.loads(file.read_text())
    assert {key: content[key] for key in ("version", "batches")} == {"version": 1, "batches": [101, 103, 104]}
    assert content["returns"][1] == {"to_step": 100, "batches": [104], "reason": "again"}
    assert list(content) == ["version", "batches", "returns", "xxh3"]


def test_questions_to_the_list() -> None:
    assert [SKIPPED.next_batch(batch) for batch in (99, 100, 101, 102, 103, 104, 105)] == [
        99,
        100,
        102,
        102,
        *[105] * 3,
    ]
    assert (SKIPPED.returns_to(100), SKIPPED.returns_to(99)) == (2, 0)
    assert SkippedBatches().next_batch(0) == 0


def test_what_a_checkpoint_steps_over_comes_back() -> None:
    assert SKIPPED.restored(200, (101, 104)) is SKIPPED
    restored = SKIPPED.restored(200, (101, 7, 105))
    assert restored.batches == (7, 101, 103, 104, 105)
    assert restored.returns_to(200) == 1
    assert SkippedBatches().restored(200, SKIPPED.batches).batches == SKIPPED.batches


def test_no_file_is_an_empty_list(tmp_path: Path) -> None:
    assert SkippedBatches.from_file(tmp_path / "skipped.json") == SkippedBatches()


def test_every_flipped_bit_and_every_torn_end_is_found(file: Path) -> None:
    whole = file.read_bytes()
    flipped = [
        whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]
        for place in range(len(whole))
        for mask in (0x01, 0x20, 0x80)
    ]
    torn = [whole[:length] for length in range(len(whole) - 1)]
    refused = 0
    for damaged in [*flipped, *torn]:
        file.write_bytes(damaged)
        try:
            assert SkippedBatches.from_file(file) == SKIPPED  # white space for other white space
        except CheckpointError:
            refused += 1
    assert refused > len(torn) + len(flipped) // 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"version": 1', '"version": 2'),
        ('"version": 1', '"version": 1, "more": 1'),
        ('"to_step": 100', '"to_step": "100"'),
        ('"to_step": 100', '"to_step": 100, "more": 1'),
        ('"reason": "again"', '"reason": null'),
        ('"version": 1,', ""),
        ('"batches": [\n    101', '"batches": [\n    102'),
        ('"xxh3"', '"md5"'),
    ],
)
def test_a_file_of_another_make_is_refused(file: Path, old: str, new: str) -> None:
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new))
    with pytest.raises(CheckpointError):
        SkippedBatches.from_file(file)


def test_the_refusal_names_the_file_and_what_to_do(file: Path) -> None:
    file.write_bytes(b"")
    with pytest.raises(CheckpointError) as raised:
        SkippedBatches.from_file(file)
    assert str(raised.value).startswith(f"{file}: the list of batches that this run steps over is damaged; found ")
    assert f"next: move {file} away" in str(raised.value)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Is a directory"):
        SkippedBatches.from_file(tmp_path)
