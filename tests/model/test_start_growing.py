"""Models that start from a run of ours: whole, or deeper than it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import GLM, SPECIAL_IDS, make_checkpoint
from start_models import started
from torch import Tensor

from mlc.errors import CheckpointError, RecipeError
from mlc.model import TrainingModel
from mlc.model.saving import load_training_model, read_info
from mlc.model.start import layer_sources
from mlc.model.start_source import StartSource
from mlc.recipe import ModelSection, StartSection

SECTION = GLM.model_copy(update={"projection_size": 8, "pooling": "attention"})
DEEP = SECTION.model_copy(update={"layers": 6})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("run"), 3, section=SECTION, seed=11) / "model"


def begun(folder: Path, section: ModelSection, **keys: Any) -> tuple[TrainingModel, Any]:
    info = read_info(folder)
    start = StartSection(model=str(folder), **keys)
    return started(folder, section, start=start, kind="checkpoint", info=info, vocab_size=info["vocab_size"])


def outputs(model: TrainingModel, vocab_size: int) -> dict[str, Tensor]:
    ids = torch.randint(len(SPECIAL_IDS), vocab_size, (3, 9), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9, 7, 4])
    columns = torch.arange(9).expand(3, 9)
    with torch.no_grad():
        return model.eval()(
            ids,
            lengths,
            torch.tensor([6, 7, 3]),
            columns,
            (columns - 5).clamp(min=0),
            glm_index=torch.tensor([6, 8]),
            mlm_index=torch.tensor([1, 10]),
        )


@pytest.mark.parametrize(
    "section_and_keys",
    [(SECTION, {}), (DEEP, {"layers": "stack"}), (DEEP, {"layers": "interleave"})],
    ids=["whole", "stack", "interleave"],
)
def test_a_run_goes_on_as_the_same_function_however_deep(
    folder: Path, section_and_keys: tuple[ModelSection, dict[str, Any]]
) -> None:
    section, keys = section_and_keys
    model, plan = begun(folder, section, **keys)
    before = load_training_model(folder)[0]
    with torch.no_grad():  # heads of the checkpoint too, which a loaded model has
        expected, found = (outputs(m, plan.target.config.vocab_size) for m in (before, model))
    assert expected.keys() == found.keys() >= {"embeddings", "glm_logits", "mlm_logits"}
    for name, value in expected.items():
        assert (found[name] - value).abs().max() < 1e-6, name
    hows = {facts["how"] for facts in plan.report.parameters.values()}
    assert hows == ({"exact"} if section is SECTION else {"exact", "zero"})
    assert plan.report.left_behind == ()


def test_added_copies_change_the_function_and_added_zeros_learn(folder: Path) -> None:
    before = outputs(load_training_model(folder)[0], 520)["embeddings"]
    copies, plan = begun(folder, DEEP, layers="stack", added_blocks="copy")
    assert (outputs(copies, 520)["embeddings"] - before).abs().max() > 1e-3
    assert {facts["how"] for facts in plan.report.parameters.values()} == {"exact"}
    model, _ = begun(folder, DEEP, layers="stack")
    states = model.backbone(torch.randint(10, 500, (2, 8))).last_hidden_state
    states.square().sum().mul(torch.rand(())).backward()
    states = model.backbone(torch.randint(10, 500, (2, 8))).last_hidden_state
    (states * torch.randn_like(states)).sum().backward()
    for block in model.backbone.blocks[2:]:
        assert not block.attention.output.weight.any()
        assert block.attention.output.weight.grad.abs().max() > 0
        assert block.feed_forward.down.weight.grad.abs().max() > 0


@pytest.mark.parametrize(("how", "expected"), [("stack", [0, 1, 0, 1, 0, 1]), ("interleave", [0, 0, 0, 1, 1, 1])])
def test_which_block_comes_from_which(folder: Path, how: str, expected: list[int]) -> None:
    assert [source for source, _ in layer_sources(2, 6, how)] == expected
    model, _ = begun(folder, DEEP, layers=how)
    with StartSource(folder, "checkpoint", read_info(folder)) as source:
        for number, origin in enumerate(expected):
            name = "attention.query_key.weight"
            assert torch.equal(
                model.backbone.get_parameter(f"blocks.{number}.{name}"),
                source.read(f"backbone.blocks.{origin}.{name}"),
            )
    originals = [number for number, (_, added) in enumerate(layer_sources(2, 6, how)) if not added]
    writing = [n for n, block in enumerate(model.backbone.blocks) if block.feed_forward.down.weight.any()]
    assert writing == originals


@pytest.mark.parametrize(("layers", "how"), [(5, "stack"), (1, "stack"), (3, "interleave"), (4, "copy")])
def test_depths_that_do_not_fit_are_refused(layers: int, how: str) -> None:
    with pytest.raises(RecipeError, match=f"found model.layers = {layers}, the start has 2"):
        layer_sources(2, layers, how)


def test_heads_can_be_left(folder: Path) -> None:
    model, plan = begun(folder, SECTION, heads=False)
    carried = begun(folder, SECTION)[0]
    assert not torch.equal(model.projection.weight, carried.projection.weight)
    assert plan.report.parameters["projection.weight"]["how"] == "new"
    assert torch.equal(model.backbone.embeddings.weight, carried.backbone.embeddings.weight)


def test_another_projection_is_refused_with_what_to_do(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"projection.weight \(8, 32\) in the start; needed \(4, 32\)") as caught:
        begun(folder, SECTION.model_copy(update={"projection_size": 4}))
    assert "start.heads=false" in str(caught.value)


def test_a_start_without_weights_or_with_pickles_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=r"only pytorch_model.bin: pickles are never read"):
        StartSource(tmp_path, "huggingface", {})
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="the weights are damaged"):
        StartSource(tmp_path, "huggingface", {})
