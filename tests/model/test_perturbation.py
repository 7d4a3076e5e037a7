"""Steps along the gradient of token embeddings: their size, their direction, and that they are really taken."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hugging_face_door import saved_config
from torch import Tensor

from mlc.model import TrainingModel, build_training_model
from mlc.model.perturbation import EmbeddingPerturbation, perturbation_step
from mlc.recipe import ModelSection

GLM = ModelSection(layers=2, hidden_size=16, heads=2, feed_forward_size=24, projection_size=6)
LENGTHS = [5, 9, 3]


def build(kind: str, folder: Path) -> TrainingModel:
    section = GLM
    if kind != "glm":
        section = ModelSection(architecture="huggingface", config=str(saved_config(kind, folder)), projection_size=6)
    return build_training_model(section, 70, {"[PAD]": 0}, 32, seed=1).double().eval()


def inputs(kind: str) -> dict[str, Tensor]:
    lengths, columns = torch.tensor(LENGTHS), torch.arange(9).expand(3, 9)
    ids = torch.randint(10, 70, (3, 9), generator=torch.Generator().manual_seed(0))
    return {
        "input_ids": torch.where(columns < lengths[:, None], ids, 0),
        "lengths": lengths,
        "part_a_lengths": lengths - 1 if kind == "glm" else lengths,
        "positions": columns,
        "block_positions": columns * 0,
        "glm_index": torch.tensor([4, 9 + 8]),
        "mlm_index": torch.tensor([1, 9 + 2]),
    }


def loss_of(outputs: dict[str, Tensor]) -> Tensor:
    return sum((value**2)[:, ::2].sum() for value in outputs.values())  # type: ignore[return-value]


def naive_step(states: list[list[list[float]]], gradient: list[list[list[float]]], size: float) -> list[list[float]]:
    """Of every row, as one long vector."""
    steps = []
    for tokens, slopes in zip(states, gradient, strict=True):
        flat = [slope for token in slopes for slope in token]
        norm = math.sqrt(sum(slope**2 for slope in flat))
        if norm == 0:
            steps.append([0.0] * len(flat))
            continue
        mean = sum(math.sqrt(sum(value**2 for value in token)) for token in tokens) / len(tokens)
        steps.append([size * mean * slope / norm for slope in flat])
    return steps


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any),
    seed=st.integers(0, 99),
    factor=st.sampled_from([1.0, -1.0, 1e-30, 1e30]),
    still=st.sampled_from([None, 0.0, math.nan, math.inf]),
)
def test_the_step_of_each_row_packed_and_padded(
    lengths: list[int], seed: int, factor: float, still: float | None
) -> None:
    """Factors of the loss change nothing but the sign, and a row without a usable gradient stays where it is."""
    generator = torch.Generator().manual_seed(seed)
    states = [torch.randn(length, 4, generator=generator) for length in lengths]
    gradient = [torch.randn(length, 4, generator=generator) for length in lengths]
    if still is not None:
        gradient[0] = gradient[0] * 0
    expected = naive_step([row.tolist() for row in states], [row.tolist() for row in gradient], 0.7)
    if still is not None and lengths[0]:
        gradient[0][0, 0] = still
    sign = math.copysign(1.0, factor)

    counts = torch.tensor(lengths)
    packed = perturbation_step(torch.cat(states), torch.cat(gradient) * factor, counts, 0.7)
    for row, found in enumerate(packed.split(lengths)):
        needed = sign * torch.tensor(expected[row]).view(-1, 4)
        torch.testing.assert_close(found, needed, rtol=1e-5, atol=1e-6)  # fp32

    # What stands in the padding, here numbers and slopes of its own, must not count.
    columns = max(lengths) + 1
    padded_states, padded_gradient = (torch.full((len(lengths), columns, 4), 9.0) for _ in range(2))
    for row, length in enumerate(lengths):
        padded_states[row, :length], padded_gradient[row, :length] = states[row], gradient[row]
    padded = perturbation_step(padded_states, padded_gradient * factor, counts, 0.7)
    in_row = torch.arange(columns) < counts[:, None]
    torch.testing.assert_close(padded[in_row], packed, rtol=1e-6, atol=1e-7)
    assert not padded[~in_row].any()


@pytest.mark.parametrize("kind", ["glm", "xlm-roberta", "mt5", "mbart"])
def test_the_second_pass_reads_embeddings_moved_along_the_gradient(kind: str, tmp_path: Path) -> None:
    model, batch = build(kind, tmp_path), inputs(kind)
    embedding = model.backbone.get_input_embeddings()
    seen: list[Tensor] = []

    def keep(module: object, given: object, output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
        seen.append(output)

    # The reference: the embeddings' output and its gradient, kept by a hook of the test's own.
    handle = embedding.register_forward_hook(keep)
    loss_of(model(**batch)).backward()
    handle.remove()
    (states,) = seen
    rows = (
        (lambda t: list(t.split(LENGTHS)))
        if states.ndim == 2
        else (lambda t: [t[r, :n] for r, n in enumerate(LENGTHS)])
    )
    slopes = rows(states.grad)
    expected = naive_step([row.tolist() for row in rows(states.detach())], [row.tolist() for row in slopes], 0.5)

    model.zero_grad()
    perturbation = EmbeddingPerturbation(model, 0.5)
    with perturbation.recording():
        clean = loss_of(model(**batch))
        (clean * 1e-3).backward()
    with perturbation.applied(batch["lengths"]):
        handle = embedding.register_forward_hook(keep)
        moved = loss_of(model(**batch))
        handle.remove()
    found = [(after - before).flatten() for after, before in zip(rows(seen[1]), rows(states), strict=True)]
    for row, step in enumerate(found):
        torch.testing.assert_close(step, torch.tensor(expected[row], dtype=torch.float64), rtol=1e-6, atol=1e-9)
    if states.ndim == 3:
        assert torch.equal(seen[1][0, 5:], states[0, 5:]), "the padding was moved"

    assert loss_of(model(**batch)).item() == clean.item(), "the hooks outlive their contexts"
    assert moved.item() > clean.item(), "the step does not go uphill"


def test_gradients_of_the_second_pass_take_the_step_as_a_constant(tmp_path: Path) -> None:
    model, batch = build("glm", tmp_path), inputs("glm")
    embedding = model.backbone.get_input_embeddings()
    perturbation = EmbeddingPerturbation(model, 0.5)
    with perturbation.recording():
        loss_of(model(**batch)).backward()
    model.zero_grad()
    moved: list[Tensor] = []
    with perturbation.applied(batch["lengths"]):
        handle = embedding.register_forward_hook(lambda module, given, output: moved.append(output.detach()))
        loss_of(model(**batch)).backward()
        handle.remove()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.zero_grad()
    packed_ids = torch.cat([row[:length] for row, length in zip(batch["input_ids"], LENGTHS, strict=True)])
    step = moved[0] - embedding.weight.detach()[packed_ids]
    handle = embedding.register_forward_hook(lambda module, given, output: output + step)
    loss_of(model(**batch)).backward()
    handle.remove()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-11, msg=name)  # fp64


def test_a_step_without_a_gradient_is_refused(tmp_path: Path) -> None:
    model, batch = build("glm", tmp_path), inputs("glm")
    perturbation = EmbeddingPerturbation(model, 0.5)
    with pytest.raises(RuntimeError, match="no gradient"), perturbation.applied(batch["lengths"]):
        pass
    with perturbation.recording():
        loss_of(model(**batch)).backward()
    with perturbation.applied(batch["lengths"]):
        pass
    with pytest.raises(RuntimeError, match="no gradient"), perturbation.applied(batch["lengths"]):
        pass  # a step is taken once: the next batch has its own
    with perturbation.recording():
        model(**batch)
    with pytest.raises(RuntimeError, match="no gradient"), perturbation.applied(batch["lengths"]):
        pass


@pytest.mark.parametrize("context", ["recording", "applied"])
def test_hooks_are_taken_away_after_an_error(context: str, tmp_path: Path) -> None:
    model, batch = build("glm", tmp_path), inputs("glm")
    clean = loss_of(model(**batch))
    perturbation = EmbeddingPerturbation(model, 0.5)
    with perturbation.recording():
        loss_of(model(**batch)).backward()
    entered = perturbation.recording() if context == "recording" else perturbation.applied(batch["lengths"])
    with pytest.raises(ZeroDivisionError), entered:
        raise ZeroDivisionError
    assert not model.backbone.get_input_embeddings()._forward_hooks
    assert loss_of(model(**batch)).item() == clean.item()
