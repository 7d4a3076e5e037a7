"""How far behind the speaker a simultaneous translation is.

In:  the number of source words that had been read when each target word was written, g(1), g(2), ...
Out: Average Lagging and Average Proportion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def average_lagging(read: Sequence[int], source_words: int) -> float:
    """Words by which the translation lags behind an ideal one that keeps pace with the source.

    AL = 1/tau * sum over t = 1..tau of (g(t) - (t - 1) / r), r = |y| / |x|, tau = the first t with g(t) = |x| (Ma et
    al. 2019, "STACL", equation 8). Where the translation ends before all is read, tau = |y|. A translation without a
    word waited for all of the source: |x|.

    Args:
        read: g(t) of every target word, (|y|,).
        source_words: |x|, at least 1.
    """
    if not read:
        return float(source_words)
    rate = len(read) / source_words
    last = next((number for number, words in enumerate(read, 1) if words >= source_words), len(read))
    return float(np.mean([words - number / rate for number, words in enumerate(read[:last])]))


def average_proportion(read: Sequence[int], source_words: int) -> float:
    """Mean share of the source that had been read: sum of g(t) / (|x| |y|) (Cho & Esipova 2016, section 4.2).

    A translation without a word waited for all of the source: 1.
    """
    return float(np.mean(read)) / source_words if read else 1.0
