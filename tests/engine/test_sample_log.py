"""The log of samples, over starts, kills and returns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc.engine.sample_log import SampleLog, read_samples

RANKS = 2


def _batch(number: int, rank: int) -> Any:
    """The attributes that the log reads: two micro-batches, one sample of them added for evenness."""
    samples = ([10 * number + rank, -1], [10 * number + 5 + rank, 10 * number + 7 + rank])
    return SimpleNamespace(step=number, micro_batches=[SimpleNamespace(samples=np.array(part)) for part in samples])


def _expected(number: int) -> tuple[int, tuple[int, ...]]:
    return number, tuple(sorted(10 * number + place + rank for place in (0, 5, 7) for rank in range(RANKS)))


stretches = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(0, 3), st.booleans()), min_size=1, max_size=8
)
"""Where a run goes on, for how many steps, over how many batches it steps from then on, whether that is a new start."""


@given(stretches=stretches, torn=st.booleans())
def test_what_counts_is_the_last_time(
    tmp_path_factory: pytest.TempPathFactory, stretches: list[tuple[int, int, int, bool]], torn: bool
) -> None:
    run_folder = tmp_path_factory.mktemp("run")
    taken: list[int] = []  # batches, by step - 1
    logs: list[SampleLog] = []
    for generation, (after, count, skipped, anew) in enumerate(stretches, start=1):
        if anew or not logs:
            logs = [SampleLog(run_folder, generation, rank) for rank in range(RANKS)]
        begin = min(after, len(taken))
        first = skipped + (taken[begin - 1] + 1 if begin else 0)
        for place in range(count):
            taken[begin + place :] = [first + place]
            for rank, log in enumerate(logs):
                log.write(begin + place + 1, _batch(first + place, rank))
    for log in logs:
        log.sync()
    if torn:
        path = max((run_folder / "samples").iterdir())
        path.write_bytes(path.read_bytes() + b'{"step": 1, "batch"')
    assert read_samples(run_folder) == {step: _expected(batch) for step, batch in enumerate(taken, start=1)}


def test_what_cannot_be_written_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SampleLog(tmp_path, 1, 0)
    log.write(1, _batch(0, 0))
    file = log._file
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(log, "_file", full)
        log.write(2, _batch(1, 0))
        with pytest.raises(OSError, match="No space left"):
            log.sync()
    monkeypatch.setattr(log, "_file", file)
    log.write(3, _batch(2, 0))
    assert list(read_samples(tmp_path)) == [1, 2, 3]
