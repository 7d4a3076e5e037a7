"""The order of samples: bijective, exact shares, every document once an epoch, and a function of its arguments only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc.data.randomness import generator, hash_words, keyed_permutation
from mlc.data.sampler import SLOTS_PER_BLOCK, Sampler, apportion

KEYS = st.integers(min_value=0, max_value=2**63 - 1)


@given(size=st.integers(1, 3000), key=KEYS)
def test_permutation_is_a_bijection(size: int, key: int) -> None:
    assert sorted(keyed_permutation(np.arange(size), size, key)) == list(range(size))


@given(size=st.integers(1, 10**15), key=KEYS, data=st.data())
def test_permutation_stays_in_range_and_separates(size: int, key: int, data: st.DataObject) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True)))
    image = keyed_permutation(index, size, key)
    assert image.min() >= 0
    assert image.max() < size
    assert len(set(image.tolist())) == len(index)
    assert keyed_permutation(index[-1:], size, key)[0] == image[-1]


def test_permutation_depends_on_the_key_and_looks_random() -> None:
    size = 4096
    one, other = (keyed_permutation(np.arange(size), size, key) for key in (1, 2))
    # Two random permutations agree in one place on average; more than 12 has a probability below 1e-9.
    assert (one == other).sum() <= 12
    assert (one == np.arange(size)).sum() <= 12
    # Neighbours land far apart: |difference| of random places has mean size / 3, standard error size * 0.0037.
    assert np.abs(np.diff(one)).mean() == pytest.approx(size / 3, rel=0.06)


def test_permutation_refuses_what_is_outside() -> None:
    with pytest.raises(ValueError, match="outside a permutation of 5"):
        keyed_permutation([5], 5, 1)


@given(shares=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40), total=st.integers(40, 5000))
def test_apportion_is_exact_and_fair(shares: list[float], total: int) -> None:
    slots = apportion(shares, total)
    assert slots.sum() == total
    assert slots.min() >= 1
    fair = 1 + np.array(shares) / sum(shares) * (total - len(shares))
    assert np.abs(slots - fair).max() <= 1


def _sampler(**changes: object) -> Sampler:
    settings: dict = {"seed": 3, "samples_per_step": 16, "language_pure": False} | changes
    return Sampler([50, 7, 300], [0.5, 0.1, 0.4], **settings)


@given(draws=st.integers(1, 6000), pure=st.booleans())
def test_every_document_is_drawn_once_an_epoch(draws: int, pure: bool) -> None:
    """At any moment, no document of a stream is ahead of another by more than one draw."""
    sampler = _sampler(language_pure=pure)
    stream, document = sampler.draw(np.arange(draws))
    for number, size in enumerate(sampler.sizes):
        counts = np.bincount(document[stream == number], minlength=size)
        assert counts.max() - counts.min() <= 1


def test_a_block_holds_exactly_the_shares() -> None:
    sampler = _sampler()
    stream, _ = sampler.draw(np.arange(SLOTS_PER_BLOCK, 2 * SLOTS_PER_BLOCK))
    assert np.bincount(stream).tolist() == sampler.slots.tolist()
    assert sampler.slots / SLOTS_PER_BLOCK == pytest.approx([0.5, 0.1, 0.4], abs=2 / SLOTS_PER_BLOCK)


@given(index=st.lists(st.integers(0, 10**12), min_size=1, max_size=30), pure=st.booleans())
def test_any_place_can_be_computed_alone(index: list[int], pure: bool) -> None:
    sampler = _sampler(language_pure=pure)
    stream, document = sampler.draw(np.array(index))
    for place, i in enumerate(index):
        one_stream, one_document = sampler.draw(np.array([i]))
        assert (one_stream[0], one_document[0]) == (stream[place], document[place])
        assert 0 <= one_document[0] < sampler.sizes[one_stream[0]]


def test_language_pure_batches_hold_one_stream() -> None:
    stream, _ = _sampler(language_pure=True).draw(np.arange(16 * 200))
    per_batch = stream.reshape(200, 16)
    assert (per_batch == per_batch[:, :1]).all()
    assert len(np.unique(per_batch)) == 3


def test_seed_changes_the_order() -> None:
    one, other = (_sampler(seed=seed).draw(np.arange(500)) for seed in (1, 2))
    assert (one[0] != other[0]).any()
    assert (one[1] != other[1]).any()


@pytest.mark.parametrize(("sizes", "shares"), [([], []), ([0], [1.0]), ([3], [0.0]), ([3, 4], [1.0])])
def test_senseless_streams_are_refused(sizes: list[int], shares: list[float]) -> None:
    with pytest.raises(ValueError, match="positive sizes and shares"):
        Sampler(sizes, shares, seed=1, samples_per_step=4)


def test_hash_and_generator_are_fixed_for_ever() -> None:
    """Golden values: a change would silently reorder every user's data."""
    assert hash_words(1, "view") == hash_words(1, "view")
    assert hash_words(1, "view") != hash_words("1", "view")
    assert keyed_permutation(np.arange(8), 8, 12345).tolist() == GOLDEN_PERMUTATION
    assert generator(7, "view", 3).integers(0, 1000, 4).tolist() == GOLDEN_INTEGERS


GOLDEN_PERMUTATION = [7, 2, 4, 0, 3, 6, 5, 1]
GOLDEN_INTEGERS = [604, 107, 506, 137]
