"""Average Lagging and Average Proportion: by hand, and on drawn schedules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc.evaluate.translation_latency import average_lagging, average_proportion


@pytest.mark.parametrize(
    ("read", "source_words", "lagging", "proportion"),
    [
        # wait-2, 4 words into 4: (2 - 0 + 3 - 1 + 4 - 2) / 3; the fourth word comes after all was read
        ((2, 3, 4, 4), 4, 2.0, 13 / 16),
        # all is read first: g(1) = |x|, tau = 1
        ((4, 4, 4, 4), 4, 4.0, 1.0),
        # wait-1, 3 words into 6: r = 2; (1 - 0 + 2 - 1/2 + 3 - 2/2) / 3
        ((1, 2, 3, 3, 3, 3), 3, 1.5, 15 / 18),
        # wait-1, 4 words into 2, which end before all is read: r = 1/2; (1 - 0 + 2 - 2) / 2
        ((1, 2), 4, 0.5, 3 / 8),
        ((), 5, 5.0, 1.0),
    ],
)
def test_schedules_by_hand(read: tuple[int, ...], source_words: int, lagging: float, proportion: float) -> None:
    assert average_lagging(read, source_words) == pytest.approx(lagging)
    assert average_proportion(read, source_words) == pytest.approx(proportion)


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_wait_k_of_equal_lengths_lags_by_k(k: int, words: int, data: st.DataObject) -> None:
    read = [min(k + number, words) for number in range(words)]
    assert average_lagging(read, words) == pytest.approx(min(k, words))
    # Ma et al. 2019, section 4.2: waiting longer never makes it faster.
    later = data.draw(st.integers(k, 13))
    assert average_proportion([min(later + n, words) for n in range(words)], words) >= average_proportion(read, words)
