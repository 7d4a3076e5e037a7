"""Random contrastive batches with every feature, solved by mlc.objectives on any number of ranks and by naive loops.

Letters: G = pairs of the global batch with its padding, D = embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from hypothesis import strategies as st
from naive_objectives import Further, Pair, naive_info_nce
from torch import Tensor

from mlc.distributed.gather import (
    gather_rows,
    gather_rows_detached,
    log_sum_exp_over_ranks,
    max_over_ranks,
    sum_over_ranks,
)
from mlc.objectives.info_nce import AcrossRanks, Candidates, InfoNceSettings, PairIdentity, info_nce_sum
from mlc.objectives.negatives import TextIds
from mlc.objectives.tiles import TileSize

# float64; similarities / temperature reach about 100 in these cases, which costs exp a few digits
RELATIVE, ABSOLUTE = 1e-10, 1e-10


@dataclass(frozen=True)
class ContrastCase:
    first: Tensor
    second: Tensor
    identity: PairIdentity
    more_second: list[Further]
    """Their embeddings get gradients, as hard negatives' do."""
    more_first: list[Further]
    temperature: float
    settings: InfoNceSettings


@dataclass(frozen=True)
class Solved:
    loss: float
    gradients: list[Tensor]
    """Of first, second, the further candidates of both, and the temperature."""
    correct: float
    masked: float


def make_case(
    seed: int, pairs: int, size: int, kinds: int, groups: int, further: tuple[int, int], share_valid: float,
    temperature: float, settings: InfoNceSettings,
) -> ContrastCase:  # fmt: skip
    """A batch whose texts and groups often repeat (few `kinds` of either), on one side and across sides."""
    random = torch.Generator().manual_seed(seed)

    def number(top: int, low: int = 0) -> int:
        return int(torch.randint(low, top, (), generator=random))

    def vectors(count: int) -> Tensor:
        return torch.randn(count, size, generator=random, dtype=torch.float64)

    text = torch.randint(0, kinds, (2, pairs), generator=random)
    language = torch.randint(0, 3, (2, pairs), generator=random)
    group = torch.randint(-1, groups, (pairs,), generator=random)
    valid = torch.rand(pairs, generator=random) < share_valid
    more = [
        [Further(v, number(groups, -1), number(kinds), number(kinds, -1), number(3)) for v in vectors(count)]
        for count in further
    ]
    identity = PairIdentity(group, text[0], text[1], language[0], language[1], valid)
    return ContrastCase(vectors(pairs), vectors(pairs), identity, more[0], more[1], temperature, settings)


@st.composite
def contrast_cases(draw: st.DrawFn) -> ContrastCase:
    return make_case(
        seed=draw(st.integers(0, 2**31)),
        pairs=draw(st.integers(1, 7)),
        size=draw(st.integers(1, 5)),
        kinds=draw(st.sampled_from([2, 5, 1000])),
        groups=draw(st.sampled_from([0, 2, 50])),
        further=(draw(st.sampled_from([0, 0, 1, 5])), draw(st.sampled_from([0, 0, 3]))),
        share_valid=draw(st.sampled_from([0.0, 0.5, 1.0])),
        temperature=draw(st.floats(0.2, 2.0)),
        settings=InfoNceSettings(
            symmetric=draw(st.booleans()),
            decoupled=draw(st.booleans()),
            margin=draw(st.sampled_from([0.0, 0.3])),
            negatives=draw(st.sampled_from(["all", "same_language", "cross_language"])),
            tile=draw(st.sampled_from([TileSize(), TileSize(2, 3)])),
        ),
    )


def hard_case() -> ContrastCase:
    """One batch in which every mask matters: copies by group and by text, padding, other languages, a queue."""
    settings = InfoNceSettings(negatives="same_language", margin=0.1)
    return make_case(3, 12, 4, 8, 6, (4, 4), 0.8, 0.5, settings)


def naive(case: ContrastCase) -> Solved:
    """The formula in plain loops."""
    leaves = _leaves(case)
    first, second, more_second, more_first, temperature = leaves
    names = ("group", "first_text", "second_text", "first_language", "second_language")
    pairs = [
        Pair(first[i], second[i], *(int(getattr(case.identity, name)[i]) for name in names))
        for i in range(len(first))
        if case.identity.valid[i]
    ]
    sums = naive_info_nce(
        pairs,
        temperature,
        case.settings.symmetric,
        decoupled=case.settings.decoupled,
        margin=case.settings.margin,
        negatives=case.settings.negatives,
        more_second=_with_leaves(case.more_second, more_second),
        more_first=_with_leaves(case.more_first, more_first),
    )
    (sums.loss + 0 * sum(leaf.sum() for leaf in leaves)).backward()
    return Solved(float(sums.loss.detach()), _gradients(leaves), sums.correct, sums.masked)


def in_one_process(case: ContrastCase) -> Solved:
    """mlc.objectives on the whole batch."""
    return _solve(case, torch.arange(len(case.first)), gather_rows, AcrossRanks())


def on_this_rank(case: ContrastCase, gather: Callable[[Tensor], Tensor] = gather_rows) -> Solved:
    """mlc.objectives on this rank's share, padded to the same size everywhere; sums over ranks."""
    world_size, rank = dist.get_world_size(), dist.get_rank()
    count = -(-len(case.first) // world_size)
    local = torch.arange(rank * count, (rank + 1) * count)
    solved = _solve(case, local, gather, AcrossRanks(log_sum_exp_over_ranks, max_over_ranks))
    numbers = torch.tensor([solved.loss, solved.correct, solved.masked], dtype=torch.float64)
    loss, correct, masked = sum_over_ranks(numbers).tolist()
    return Solved(loss, [sum_over_ranks(g) for g in solved.gradients], correct, masked)


def assert_same(found: Solved, expected: Solved, case: ContrastCase) -> None:
    assert abs(found.loss - expected.loss) <= RELATIVE * abs(expected.loss) + ABSOLUTE, case
    for gradient, wanted in zip(found.gradients, expected.gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=RELATIVE, atol=ABSOLUTE)
    assert found.correct == expected.correct, case
    assert found.masked == expected.masked, case


def _solve(case: ContrastCase, local: Tensor, gather: Callable[[Tensor], Tensor], across_ranks: AcrossRanks) -> Solved:
    """`local` may point behind the batch: those rows are padding."""
    leaves = _leaves(case)
    first, second, more_second, more_first, temperature = leaves
    is_padding = local >= len(first)
    source = local.clamp(max=len(first) - 1)
    mine_first, mine_second = first[source] + 3 * is_padding[:, None], second[source] + 3 * is_padding[:, None]
    columns = {name: gather_rows_detached(column[source]) for name, column in vars(case.identity).items()}
    columns["valid"] = gather_rows_detached(case.identity.valid[source] & ~is_padding)
    sums = info_nce_sum(
        mine_first,
        mine_second,
        gather(mine_second),
        own_index_N=local,
        identity=PairIdentity(**columns),
        temperature=temperature,
        settings=case.settings,
        more_second=_candidates(case.more_second, more_second),
        more_first=_candidates(case.more_first, more_first),
        across_ranks=across_ranks,
    )
    sums.loss.backward()
    rows = sum(float(d.loss.sum()) for d in sums.directions) / len(sums.directions)
    assert abs(rows - float(sums.loss.detach())) <= 1e-9 * abs(rows) + 1e-9
    return Solved(float(sums.loss.detach()), _gradients(leaves), float(sums.correct), float(sums.masked))


def _leaves(case: ContrastCase) -> list[Tensor]:
    width = case.first.shape[1]
    more = [
        torch.stack([f.embedding for f in further]) if further else torch.zeros(0, width, dtype=torch.float64)
        for further in (case.more_second, case.more_first)
    ]
    tensors = (case.first, case.second, *more, torch.tensor(case.temperature, dtype=torch.float64))
    return [tensor.clone().requires_grad_() for tensor in tensors]


def _with_leaves(further: list[Further], leaf: Tensor) -> list[Further]:
    return [Further(leaf[i], f.group, f.text, f.partner, f.language) for i, f in enumerate(further)]


def _candidates(further: list[Further], leaf: Tensor) -> Candidates | None:
    if not further:
        return None

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(f, name) for f in further])

    valid = torch.ones(len(further), dtype=torch.bool)
    return Candidates(leaf, TextIds(column("group"), column("text"), column("partner"), valid), column("language"))


def _gradients(leaves: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
