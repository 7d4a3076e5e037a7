"""A small shared encoder and made-up global batches, trained by ranks and, as reference, by one plain process.

The ranks' side goes through mlc.objectives and mlc.distributed; the reference goes through tests/naive_objectives.py
and knows neither ranks nor padding. Letters: N = samples of the global batch, B = rows per rank with padding, F =
features, H = hidden size, E = embedding size, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from naive_objectives import Pair, naive_info_nce, naive_token_loss
from torch import Tensor, nn
from torch.nn import functional

from mlc.distributed.gather import (
    gather_rows,
    gather_rows_detached,
    log_sum_exp_over_ranks,
    max_over_ranks,
    sum_over_ranks,
)
from mlc.objectives.info_nce import AcrossRanks, InfoNceSettings, PairIdentity, info_nce_sum
from mlc.objectives.joint import Term, joint_loss
from mlc.objectives.token_losses import token_cross_entropy_sum

F, H, E, V = 6, 8, 5, 11
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    name: str
    samples: int
    contrastive: float = 0.0
    glm: float = 0.0
    mlm: float = 0.0
    symmetric: bool = True
    copies: bool = False
    """Some pairs share a group or a text, on the same and on opposite sides."""
    with_partner: float = 1.0
    """Fraction of samples that are pairs at all."""
    most_tokens: int = 3
    """Predicted tokens of a sample are 0 .. this, separately for GLM and MLM."""


@dataclass(frozen=True)
class Tokens:
    features: Tensor
    targets: Tensor
    sample: Tensor
    """Sample each token belongs to; -1 = a dummy."""

    def of_samples(self, low: int, high: int) -> Tokens:
        mine = (self.sample >= low) & (self.sample < high)
        return Tokens(self.features[mine], self.targets[mine], self.sample[mine])

    def with_dummy(self) -> Tokens:
        """One more place of weight 0, so that a rank without targets runs the same graph."""
        last = self.features.new_ones(1, F), self.targets.new_zeros(1), self.sample.new_full((1,), -1)
        return Tokens(
            *(torch.cat([x, y]) for x, y in zip((self.features, self.targets, self.sample), last, strict=True))
        )


@dataclass(frozen=True)
class GlobalBatch:
    first_NF: Tensor
    second_NF: Tensor
    group: Tensor
    first_text: Tensor
    second_text: Tensor
    has_partner: Tensor
    glm: Tokens
    mlm: Tokens


@dataclass(frozen=True)
class Outcome:
    loss: float
    gradients: Parameters
    correct: float
    masked: float


def no_factor(world_size: int) -> float:
    return 1.0


@dataclass(frozen=True)
class Method:
    """How ranks turn their rows into gradients; the defaults are the right way, every change is a known mistake."""

    name: str = "exact"
    gather: Callable[[Tensor], Tensor] = gather_rows
    loss_factor: Callable[[int], float] = no_factor
    local_denominators: bool = False
    padding_is_valid: bool = False


def make_batch(case: Case) -> GlobalBatch:
    """The case's global batch, the same on every rank."""
    n = case.samples
    random = torch.Generator().manual_seed(sum(map(ord, case.name)))
    first_text, second_text, group = torch.arange(n), 1000 + torch.arange(n), torch.full((n,), -1)
    if case.copies:
        group[torch.tensor([0, n // 2, n - 1])] = 7
        first_text[n - 2] = first_text[1]
        second_text[n - 3] = second_text[2]
        second_text[n - 4] = first_text[0]  # the text of one side turns up on the other
    return GlobalBatch(
        torch.randn(n, F, generator=random, dtype=torch.float64),
        torch.randn(n, F, generator=random, dtype=torch.float64),
        group,
        first_text,
        second_text,
        torch.rand(n, generator=random) < case.with_partner,
        _tokens(case, random),
        _tokens(case, random),
    )


@dataclass(frozen=True)
class Outputs:
    first_BE: Tensor
    second_BE: Tensor
    glm_logits: Tensor
    mlm_logits: Tensor
    temperature: Tensor


class ToyModel(nn.Module):
    """One encoder and one head for everything, as in the real model; the weights depend on nothing."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.input = nn.Linear(F, H, bias=False, dtype=dtype)
        self.projection = nn.Linear(H, E, dtype=dtype)
        self.head = nn.Linear(H, V, dtype=dtype)
        self.log_temperature = nn.Parameter(torch.zeros(1, dtype=dtype))  # DeepSpeed 0.19.8 refuses shape ()
        random = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random) / 2)

    def forward(self, first_BF: Tensor, second_BF: Tensor, glm: Tensor, mlm: Tensor) -> Outputs:
        return Outputs(
            self.encode(first_BF),
            self.encode(second_BF),
            self.predict(glm),
            self.predict(mlm),
            self.log_temperature.exp()[0],
        )

    def encode(self, features: Tensor) -> Tensor:
        return functional.normalize(self.projection(self.states(features)), dim=-1)

    def predict(self, features: Tensor) -> Tensor:
        return self.head(self.states(features))

    def states(self, features: Tensor) -> Tensor:
        return torch.tanh(self.input(features.to(self.input.weight.dtype)))


def reference(case: Case) -> Outcome:
    """One process, the whole batch, the formulas, float64."""
    batch, model = make_batch(case), ToyModel()
    outputs = model(batch.first_NF, batch.second_NF, batch.glm.features, batch.mlm.features)
    pairs = [
        Pair(
            outputs.first_BE[i],
            outputs.second_BE[i],
            int(batch.group[i]),
            int(batch.first_text[i]),
            int(batch.second_text[i]),
        )
        for i in range(case.samples)
        if batch.has_partner[i]
    ]
    contrast = naive_info_nce(pairs, outputs.temperature, case.symmetric)
    glm = naive_token_loss(list(outputs.glm_logits), batch.glm.targets.tolist())
    mlm = naive_token_loss(list(outputs.mlm_logits), batch.mlm.targets.tolist())
    loss = case.contrastive * contrast.loss / max(len(pairs), 1)
    loss = loss + case.glm * glm / max(len(batch.glm.targets), 1)
    loss = loss + case.mlm * mlm / max(len(batch.mlm.targets), 1)
    loss.backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    return Outcome(float(loss.detach()), gradients, contrast.correct, contrast.masked)


def local_terms(
    case: Case, batch: GlobalBatch, model: Callable[..., Outputs], method: Method
) -> tuple[dict[str, Term], Tensor, Tensor]:
    """This rank's share of the objective, with the contrast's `correct` and `masked`."""
    world_size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    low, high = case.samples * rank // world_size, case.samples * (rank + 1) // world_size
    rows_per_rank = -(-case.samples // world_size)

    def rows(x: Tensor, fill: float) -> Tensor:
        return torch.cat([x[low:high], torch.full((rows_per_rank - (high - low), *x.shape[1:]), fill, dtype=x.dtype)])

    glm, mlm = (tokens.of_samples(low, high).with_dummy() for tokens in (batch.glm, batch.mlm))
    outputs = model(rows(batch.first_NF, 0.3), rows(batch.second_NF, -0.2), glm.features, mlm.features)
    languages = torch.zeros(2, world_size * rows_per_rank, dtype=torch.int64)
    contrast = info_nce_sum(
        outputs.first_BE,
        outputs.second_BE,
        method.gather(outputs.second_BE),
        own_index_N=rank * rows_per_rank + torch.arange(rows_per_rank),
        identity=PairIdentity(  # padding gets the numbers of real pairs: it must not count whatever it holds
            gather_rows_detached(rows(batch.group, 7)),
            gather_rows_detached(rows(batch.first_text, 0)),
            gather_rows_detached(rows(batch.second_text, 1000)),
            *languages,
            gather_rows_detached(rows(batch.has_partner, method.padding_is_valid)),
        ),
        temperature=outputs.temperature,
        settings=InfoNceSettings(symmetric=case.symmetric),
        across_ranks=AcrossRanks(log_sum_exp_over_ranks, max_over_ranks),
    )
    pairs = contrast.rows if method.local_denominators else batch.has_partner.sum()
    terms = {"contrastive": Term(contrast.loss, float(pairs), case.contrastive)}
    for name, weight, logits, mine, everyones in (
        ("glm", case.glm, outputs.glm_logits, glm, batch.glm),
        ("mlm", case.mlm, outputs.mlm_logits, mlm, batch.mlm),
    ):
        sums = token_cross_entropy_sum(logits, mine.targets, (mine.sample >= 0).float())
        count = float(sums.count) if method.local_denominators else len(everyones.targets)
        terms[name] = Term(sums.loss, count, weight)
    return terms, contrast.correct, contrast.masked


def run_methods(cases: list[Case], methods: list[Method]) -> dict[tuple[str, str], Outcome]:
    """On every rank: the outcome of each method on each case, with gradients averaged over ranks (data parallel)."""
    outcomes = {}
    for case in cases:
        for method in methods:
            model = ToyModel()
            terms, correct, masked = local_terms(case, make_batch(case), model, method)
            world_size = dist.get_world_size()
            loss = joint_loss(terms, world_size) * method.loss_factor(world_size)
            loss.backward()
            gradients = {name: sum_over_ranks(_gradient(p)) / world_size for name, p in model.named_parameters()}
            outcomes[case.name, method.name] = Outcome(
                float(sum_over_ranks(loss) / world_size),
                gradients,
                float(sum_over_ranks(correct)),
                float(sum_over_ranks(masked)),
            )
    return outcomes


def relative_error(found: Parameters, expected: Parameters) -> float:
    """Largest over parameters of |found - expected| / |expected| (|found| where nothing is expected)."""
    errors = []
    for name, value in expected.items():
        size = float(value.norm())
        errors.append(float((found[name].double() - value).norm()) / (size or 1.0))
    return max(errors)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "every parameter takes part on every rank, even in an empty term"
    return parameter.grad


def _tokens(case: Case, random: torch.Generator) -> Tokens:
    counts = torch.randint(0, case.most_tokens + 1, (case.samples,), generator=random)
    total = int(counts.sum())
    return Tokens(
        torch.randn(total, F, generator=random, dtype=torch.float64),
        torch.randint(0, V, (total,), generator=random),
        torch.arange(case.samples).repeat_interleave(counts),
    )
