"""What ranks tell each other at every step besides its denominators: the counts travel in the same collective.

In:  what happened on one rank since the last step.
Out: on how many ranks it did, the same on every rank, so that all of them act at the same step.
"""

from __future__ import annotations

from typing import NamedTuple


class RankSignals(NamedTuple):
    """Of one rank, 0 or 1; summed, a number of ranks.

    Attributes:
        stop: was asked to save and end.
        save: was asked to save and go on.
        written: has written its part of the checkpoint in flight, or failed to.
        placed: (rank 0) has put that checkpoint in place, or failed to.
        fenced: no longer owns the run.
    """

    stop: int = 0
    save: int = 0
    written: int = 0
    placed: int = 0
    fenced: int = 0


NOTHING_HAPPENED = RankSignals()
