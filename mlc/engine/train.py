"""`mlc train`: pre-training, from a recipe to checkpoints.

In:  a validated recipe; the ranks of this process.
Out: a run folder, and an exit code (0 finished, 75 saved on request).
"""

from __future__ import annotations

from mlc.distributed.ranks import RankInfo
from mlc.engine.attempt import run_work
from mlc.engine.pretraining import Pretraining
from mlc.recipe import TrainRecipe


def train(recipe: TrainRecipe, ranks: RankInfo, *, ends_process: bool = False) -> int:
    """Run a recipe to its end, or to the first request to stop; see `mlc.engine.attempt.run_work`."""
    return run_work(Pretraining(recipe), ranks, ends_process=ends_process)
