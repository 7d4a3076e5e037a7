"""Task heads around the GLM: their logits and gradients, padding, folders, ZeRO-3."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_glm import plain_states, plain_token_logits
from small_checkpoints import random_tensors
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from mlc.model import MlcGlmConfig, build_training_model, initialise, register_auto_classes
from mlc.model.modeling_glm_tasks import (
    MlcGlmForMaskedLM,
    MlcGlmForQuestionAnswering,
    MlcGlmForSequenceClassification,
    MlcGlmForTokenClassification,
    MlcGlmTaskModel,
)
from mlc.recipe import ModelSection

LENGTHS = [4, 7, 2]
IDS = torch.randint(1, 40, (3, 7), generator=torch.Generator().manual_seed(2))
MASK = (torch.arange(7) < torch.tensor(LENGTHS)[:, None]).long()
TOKEN_LABELS = torch.where(MASK.bool() & (torch.arange(7) % 3 != 2), IDS % 3, -100)
KINDS: dict[str, type[MlcGlmTaskModel]] = {
    "sequence": MlcGlmForSequenceClassification,
    "token": MlcGlmForTokenClassification,
    "question": MlcGlmForQuestionAnswering,
    "masked": MlcGlmForMaskedLM,
}
AUTO_CLASSES = {
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "question": AutoModelForQuestionAnswering,
    "masked": AutoModelForMaskedLM,
}


def config_of(**changes: Any) -> MlcGlmConfig:
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return MlcGlmConfig(**{**sizes, "intermediate_size": 12, "num_labels": 3, **changes})


def build(kind: str, seed: int = 1, **changes: Any) -> MlcGlmTaskModel:
    """In evaluation mode, with no weight at a value that hides it: neither biases of 0 nor small branches."""
    model = KINDS[kind](config_of(**changes))
    initialise(model, seed)
    spread = random_tensors({name: tuple(value.shape) for name, value in model.named_parameters()}, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(spread[name] - 1.0, alpha=0.3)
    return model.eval()


def labels_of(kind: str, problem: str = "single_label_classification") -> dict[str, Tensor]:
    if kind == "sequence":
        numbers = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 0.3], [-0.4, 0.1, 0.0]])
        several = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
        by_problem = {"regression": numbers, "multi_label_classification": several}
        return {"labels": by_problem.get(problem, torch.tensor([2, 0, 1]))}
    if kind == "question":
        return {"start_positions": torch.tensor([1, 3, 7]), "end_positions": torch.tensor([3, 6, 7])}
    return {"labels": TOKEN_LABELS}


def plain_loss(kind: str, model: MlcGlmTaskModel, weight: Mapping[str, Tensor]) -> Tensor:
    """Row by row, without padding, from the definition."""
    config, problem = model.config, model.config.problem_type
    inside = {name.removeprefix("model."): value for name, value in weight.items() if name.startswith("model.")}
    states = [plain_states(inside, config, IDS[row, :length]) for row, length in enumerate(LENGTHS)]
    if kind == "masked":
        logits = torch.cat([plain_token_logits(weight, "mlm", state) for state in states])
        return F.cross_entropy(logits, TOKEN_LABELS[MASK.bool()])
    head = "qa_outputs" if kind == "question" else "classifier"

    def score(values: Tensor) -> Tensor:
        return values @ weight[f"{head}.weight"].T + weight[f"{head}.bias"]

    if kind == "token":
        return F.cross_entropy(score(torch.cat(states)), TOKEN_LABELS[MASK.bool()])
    if kind == "question":
        asked = labels_of(kind)
        sums = []
        for side, places in enumerate((asked["start_positions"], asked["end_positions"])):
            of_rows = [-score(states[row])[:, side].log_softmax(0)[places[row]] for row in (0, 1)]  # row 2: no answer
            sums.append(torch.stack(of_rows).mean())
        return (sums[0] + sums[1]) / 2
    pooled = torch.stack([state.mean(0) if config.classifier_pooling == "mean" else state[0] for state in states])
    logits, labels = score(pooled), labels_of(kind, problem)["labels"]
    if problem == "regression":
        return (logits - labels).square().mean()
    if problem == "multi_label_classification":
        return -(labels * logits.sigmoid().log() + (1 - labels) * (-logits).sigmoid().log()).mean()
    return F.cross_entropy(logits, labels)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("sequence", {"problem_type": "single_label_classification"}),
        ("sequence", {"problem_type": "single_label_classification", "classifier_pooling": "cls"}),
        ("sequence", {"problem_type": "regression"}),
        ("sequence", {"problem_type": "multi_label_classification"}),
        ("token", {}),
        ("question", {}),
        ("masked", {}),
    ],
)
def test_loss_and_gradients_are_those_of_a_plain_computation(kind: str, changes: dict[str, str]) -> None:
    model = build(kind, **changes).double()
    labels = labels_of(kind, changes.get("problem_type", ""))
    wide = {name: value.double() if value.is_floating_point() else value for name, value in labels.items()}
    loss = model(IDS, MASK, **wide).loss
    parameters = dict(model.named_parameters())
    expected = plain_loss(kind, model, parameters)
    # fp64, but the losses of transformers for tokens take logits to fp32 on their way.
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    found = torch.autograd.grad(loss, list(parameters.values()))
    wanted = torch.autograd.grad(expected, list(parameters.values()))
    for name, gradient, reference in zip(parameters, found, wanted, strict=True):
        # A softmax over a row does not see what all its tokens have in common.
        assert reference.abs().max() > 1e-4 or name == "qa_outputs.bias", f"{name}: the loss does not see it"
        torch.testing.assert_close(gradient, reference, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("kind", list(KINDS))
def test_padding_and_what_stands_in_it_do_not_matter(kind: str) -> None:
    model = build(kind).double()
    labels = labels_of(kind)
    before = model(IDS, MASK, **labels)
    longer = F.pad(torch.where(MASK.bool(), IDS, (IDS + 5) % 40), (0, 3), value=11)
    if kind in ("token", "masked"):
        labels = {"labels": F.pad(TOKEN_LABELS, (0, 3), value=-100)}
    elif kind == "question":
        labels = {name: torch.where(places == 7, 10, places) for name, places in labels.items()}
    after = model(longer, F.pad(MASK, (0, 3)), **labels)
    torch.testing.assert_close(after.loss, before.loss, rtol=1e-12, atol=0)
    if kind == "question":
        share = after.start_logits.softmax(-1)
        assert not share[torch.arange(10) >= torch.tensor(LENGTHS)[:, None]].any()
    elif kind == "sequence":
        torch.testing.assert_close(after.logits, before.logits, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_saved_model_is_the_same_and_opens_as_a_backbone(kind: str, tmp_path: Path) -> None:
    register_auto_classes()
    model = build(kind, classifier_pooling="cls", classifier_dropout=0.25)
    model.save_pretrained(tmp_path)
    again, report = AUTO_CLASSES[kind].from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is KINDS[kind]
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert (again.config.classifier_pooling, again.config.classifier_dropout) == ("cls", 0.25)
    assert again.config.num_labels == 3
    expected, found = model(IDS, MASK, **labels_of(kind)), again(IDS, MASK, **labels_of(kind))
    assert torch.equal(found.loss, expected.loss)
    backbone, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    for name, value in model.model.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name
    if kind == "masked":
        assert again.lm_head.weight is again.model.embeddings.weight


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_plain_backbones_folder_gives_the_backbone_and_a_new_head(kind: str, tmp_path: Path) -> None:
    backbone = build(kind).model
    backbone.save_pretrained(tmp_path)
    torch.manual_seed(3)
    model, report = KINDS[kind].from_pretrained(tmp_path, num_labels=3, output_loading_info=True)
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, backbone.state_dict()[name]), name
    new = {"sequence": "classifier", "token": "classifier", "question": "qa_outputs", "masked": "mlm_"}[kind]
    assert report["missing_keys"]
    assert all(name.startswith(new) for name in report["missing_keys"])
    for name, value in model.named_parameters():
        if name in report["missing_keys"]:
            drawn = not name.endswith("bias") and "norm" not in name
            assert value.isfinite().all()
            # 1 / sqrt(16) of few draws; biases are 0, norms 1.
            assert (0.1 < float(value.detach().std()) < 0.5) if drawn else len(value.unique()) == 1, name


def test_the_masked_language_model_is_that_of_training() -> None:
    trained = build_training_model(
        ModelSection(layers=2, hidden_size=16, heads=2, feed_forward_size=12), 40, {"[PAD]": 0}, 32, seed=4
    )
    with torch.no_grad():
        trained.mlm_bias.bias.normal_()
        trained.mlm_transform.dense.bias.normal_()
        trained.mlm_transform.norm.weight.uniform_(0.5, 2)
    model = MlcGlmForMaskedLM.from_training_model(trained)
    lengths, column = torch.tensor(LENGTHS), torch.arange(7).expand(3, 7)
    places = MASK.flatten().nonzero().flatten()
    with torch.no_grad():
        expected = trained.eval()(IDS, lengths, lengths, column, torch.zeros_like(IDS), mlm_index=places)["mlm_logits"]
        found = model(IDS, MASK).logits.flatten(0, 1)[places]
    # The same fp32 weights and operations; the head multiplies more rows at once.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        model.model.embeddings.weight.zero_()
    assert trained.backbone.get_input_embeddings().weight.any()  # type: ignore[operator]


def test_another_backbones_head_is_not_carried_over() -> None:
    trained = build_training_model(
        ModelSection(layers=1, hidden_size=16, heads=2, feed_forward_size=12), 40, {"[PAD]": 0}, 32, seed=4
    )
    trained.backbone = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="found Linear"):
        MlcGlmForMaskedLM.from_training_model(trained)


@pytest.mark.parametrize("kind", list(KINDS))
def test_logits_are_at_least_fp32_and_tuples_are_as_dicts(kind: str) -> None:
    model = build(kind).to(torch.bfloat16)
    output = model(IDS, MASK, token_type_ids=torch.zeros_like(IDS), output_hidden_states=True)
    logits = output.start_logits if kind == "question" else output.logits
    assert logits.dtype == torch.float32
    assert len(output.hidden_states) == 3
    assert torch.equal(model(IDS, MASK, return_dict=False)[0], logits)


def test_dropout_of_the_head_acts_in_training_only() -> None:
    model = build("sequence", classifier_dropout=0.5)
    assert torch.equal(model(IDS, MASK).logits, model(IDS, MASK).logits)
    model.train()
    assert not torch.equal(model(IDS, MASK).logits, model(IDS, MASK).logits)
    assert build("token", hidden_dropout=0.2).dropout.p == 0.2


def test_weights_drawn_by_name_do_not_depend_on_what_was_there() -> None:
    torch.manual_seed(0)
    first, second = KINDS["token"](config_of()), KINDS["token"](config_of())
    initialise(first, 5)
    initialise(second, 5)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert float(first.classifier.weight.detach().std()) == pytest.approx(16**-0.5, rel=0.3)
    assert not first.classifier.bias.any()


def test_a_pooling_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="found 'last'"):
        config_of(classifier_pooling="last")


def test_the_modules_that_an_export_carries_need_torch_and_transformers_only() -> None:
    folder = Path(inspect.getfile(MlcGlmTaskModel)).parent
    files = [*folder.glob("*_glm.py"), folder / "modeling_glm_tasks.py"]
    carried = {file.stem for file in files}
    assert {"cache_glm", "decoding_glm", "beam_glm", "generation_glm", "modeling_glm"} <= carried
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module in carried, f"{file.name} imports {node.module}"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
                roots = {name.partition(".")[0] for name in names}
                assert roots <= {"torch", "transformers"} | sys.stdlib_module_names, f"{file.name} imports {roots}"


@pytest.mark.slow
def test_zero_3_gives_the_same_gradients() -> None:
    """In a process of its own: DeepSpeed changes torch for good."""
    script = Path(__file__).with_name("glm_tasks_zero_3_script.py")
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip().endswith("equal"), result.stdout[-3000:]
