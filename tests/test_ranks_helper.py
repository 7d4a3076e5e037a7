"""The helper that starts ranks: what it returns, and that a failing or hanging rank cannot pass for a success."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist
from ranks import RankFailed, run_on_ranks


def _sum_of_ranks(offset: int) -> tuple[int, torch.Tensor, str]:
    total = torch.tensor(float(dist.get_rank() + offset))
    dist.all_reduce(total)
    return dist.get_rank(), total, os.environ["LOCAL_SIZE"]


def _fail_on_rank_one() -> None:
    if dist.get_rank() == 1:
        raise KeyError("the cause")
    dist.barrier()  # rank 0 waits for a rank that is gone


def _die_on_rank_one() -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def _hang() -> None:
    time.sleep(60)


def test_results_come_in_rank_order() -> None:
    results = run_on_ranks(_sum_of_ranks, 2, 10)
    assert [(rank, total.item(), local_size) for rank, total, local_size in results] == [(0, 21, "2"), (1, 21, "2")]


def test_first_exception_is_raised_again_with_its_traceback() -> None:
    with pytest.raises(KeyError, match="the cause") as caught:
        run_on_ranks(_fail_on_rank_one, 2)
    assert "on rank 1 of 2" in caught.value.__notes__[0]
    assert "_fail_on_rank_one" in caught.value.__notes__[0]


def test_a_crash_is_an_error_and_takes_the_others_along() -> None:
    with pytest.raises(RankFailed, match=r"rank 1 of 2 ended with exit code -9"):
        run_on_ranks(_die_on_rank_one, 2)


def test_a_hang_is_bounded() -> None:
    with pytest.raises(TimeoutError, match=r"ranks \[0\] of 1"):
        run_on_ranks(_hang, 1, process_group=False, timeout_seconds=6)
