"""Classes as words in a blank: wording, rows, and scores against the definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_tokenizers import fast_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_glm import plain_states, plain_token_logits
from small_models import SPECIAL_IDS, make_checkpoint
from torch import Tensor

from mlc.config import parse_recipe
from mlc.errors import DataError, RecipeError
from mlc.tasks.examples import ClassificationExample, Place
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.learned.cloze import Cloze, cloze_settings
from mlc.tasks.learned.cloze_model import MlcGlmForCloze
from mlc.tasks.learned.cloze_settings import ClozeSection, ClozeTokens, parse_pattern
from mlc.tasks.learned.models import HeadSettings, new_model
from mlc.tasks.learned.predict import to_device
from mlc.tasks.learned.task import TaskSettings
from mlc.tasks.locate import find_model

IDS = ClozeTokens(SPECIAL_IDS["[MASK]"], SPECIAL_IDS["[sop]"], SPECIAL_IDS["[eop]"])
ROUNDING = 1e-10
"""Both compute in float64, in another order of sums: some 1e-14 here."""
LABELS = ("good", "bad")
TEXTS = ("The committee met on Tuesday and agreed.", "a", "budget for the coming year", "meeting " * 5)


def section(**keys: Any) -> ClozeSection:
    table = {"pattern": "{text} It was [MASK].", "verbalizer": {"good": "the", "bad": "on"}, **keys}
    return parse_recipe(table, ClozeSection, where="test")


def example(text: str, label: str | None = "good", language: str = "en", pair: str | None = None) -> Any:
    return ClassificationExample(text, pair, label, Place("data.jsonl", 1, language))


def encoder_of(kind: str = "sentencepiece") -> PieceEncoder:
    return PieceEncoder(fast_tokenizer(kind))


def task_of(wording: ClozeSection, examples: Sequence[ClassificationExample], max_tokens: int = 64) -> Cloze:
    found = cloze_settings(wording, examples, (), max_tokens)
    assert found.cloze is not None
    return Cloze(TaskSettings(**{**vars(found), "cloze": type(found.cloze)(wording, IDS)}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("cloze") / "run"
    make_checkpoint(run, 3, max_tokens=64)
    return run


def model_of(folder: Path, task: Cloze) -> MlcGlmForCloze:
    model = new_model(find_model(folder), task, HeadSettings(1)).double().eval()
    with torch.no_grad():  # biases are 0 at first, norms 1: what is left out must show
        for number, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)).double()
            parameter.add_(0.1 * noise)
    assert isinstance(model, MlcGlmForCloze)
    return model


WORDINGS: dict[str, dict[str, Any]] = {
    "one token": {},
    "several words": {"verbalizer": {"good": ["the", "a"], "bad": "on"}},
    "tokens": {"verbalizer": {"good": ["Tuesday", "a"], "bad": "budget for"}},
    "normalised": {"verbalizer": {"good": ["Tuesday", "a"], "bad": "budget for"}, "length_normalised": True},
}
GERMAN = {"pattern": "[MASK]: {text}", "verbalizer": {"good": "Dienstag", "bad": ["Haushalt", "b"]}}


def plain_scores(
    model: MlcGlmForCloze, weights: Mapping[str, Tensor], text: ClassificationExample, wording: ClozeSection
) -> Tensor:
    """Scores (C,) by the definition: every word by itself, the whole text of the pattern tokenised by hand."""
    tokenizer = fast_tokenizer("sentencepiece")

    def ids_of(words: str) -> list[int]:
        return list(tokenizer(words, add_special_tokens=False)["input_ids"]) if words else []

    german = text.place.language == "de"
    verbalizer = GERMAN["verbalizer"] if german else {label: wording.verbalizer[label] for label in LABELS}
    dot, colon = (fast_tokenizer("sentencepiece").convert_tokens_to_ids(sign) for sign in ".:")
    if german:
        tail = [colon] if colon != tokenizer.unk_token_id else [tokenizer.convert_tokens_to_ids("<0x3A>")]
        before, after = [], [*tail, *ids_of(text.text)]
    else:
        before, after = ids_of(text.text) + ids_of("It was"), [dot]
    part_a = [SPECIAL_IDS["[CLS]"], *before, IDS.blank, *after, SPECIAL_IDS["[SEP]"]]
    candidates = {label: (word,) if isinstance(word, str) else word for label, word in verbalizer.items()}
    single = all(len(ids_of(word)) == 1 for words in candidates.values() for word in words)
    backbone = {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")}
    scores = []
    for label in LABELS:
        of_words = []
        for word in candidates[label]:
            tokens = ids_of(word)
            row = torch.tensor([*part_a, IDS.start, *tokens])
            inside = len(tokens) + 1
            positions = torch.tensor([*range(len(part_a)), *([1 + len(before)] * inside)])
            counts = torch.tensor([*([0] * len(part_a)), *range(1, inside + 1)])
            states = plain_states(backbone, model.config, row, positions, counts, len(part_a))
            logs = plain_token_logits(weights, "glm", states[len(part_a) :]).log_softmax(-1)
            targets = tokens if single else [*tokens, IDS.end]
            score = torch.stack([logs[place, target] for place, target in enumerate(targets)]).sum()
            of_words.append(score / len(targets) if wording.length_normalised else score)
        scores.append(torch.stack(of_words).exp().sum().log())
    return torch.stack(scores)


def outputs_of(model: MlcGlmForCloze, rows: Any, places: Sequence[int], count: int) -> Tensor:
    scores: Tensor = model(**to_device(rows.batch(places, rows=count).inputs, torch.device("cpu"))).logits
    return scores


@pytest.mark.parametrize("name", WORDINGS)
def test_scores_are_the_definitions_in_any_batch(folder: Path, name: str) -> None:
    wording = section(**WORDINGS[name], languages={"de": GERMAN})
    examples = [example(text, LABELS[place % 2]) for place, text in enumerate(TEXTS)]
    examples += [example("Das Komitee", "bad", "de"), example("Haushalt", "good", "de")]
    task = task_of(wording, examples)
    rows = task.rows(encoder_of(), examples)
    model = model_of(folder, task)
    with torch.no_grad():
        weights = dict(model.named_parameters())
        needed = torch.stack([plain_scores(model, weights, one, wording) for one in examples])
        together = outputs_of(model, rows, range(len(examples)), len(examples) + 3)
        alone = torch.cat([outputs_of(model, rows, [place], 1) for place in range(len(examples))])
    assert (together[: len(examples)] - needed).abs().max() < ROUNDING
    assert (alone - needed).abs().max() < ROUNDING
    assert (together[len(examples) :].diff(dim=1) == 0).all()  # an example that fills up prefers no class
    assert rows.lengths.tolist() == [int(rows.batch([p]).inputs["attention_mask"].sum()) for p in range(len(rows))]
    single = name in ("one token", "several words")
    assert len(rows.batch([0]).inputs["input_ids"]) == (1 if single else 3)
    assert len(rows.batch([4]).inputs["input_ids"]) == 3


@pytest.mark.parametrize("name", ["several words", "normalised"])
def test_gradients_are_the_definitions(folder: Path, name: str) -> None:
    wording = section(**WORDINGS[name], languages={"de": GERMAN})
    examples = [example(TEXTS[0], "bad"), example(TEXTS[2], "good"), example("Das Komitee", "bad", "de")]
    task = task_of(wording, examples)
    model = model_of(folder, task)
    rows = task.rows(encoder_of(), examples)
    batch = rows.batch(range(3), rows=5)
    inputs, targets = (to_device(arrays, torch.device("cpu")) for arrays in (batch.inputs, batch.targets))
    found = task.loss(model(**inputs), inputs, targets)
    found.loss.backward()

    weights = {key: value.detach().clone().requires_grad_() for key, value in model.named_parameters()}
    scores = torch.stack([plain_scores(model, weights, one, wording) for one in examples])
    needed = torch.nn.functional.cross_entropy(scores, torch.tensor([1, 0, 1]), reduction="sum")
    needed.backward()
    assert abs(float(found.loss.detach()) - float(needed.detach())) < ROUNDING
    assert int(found.correct) == int((scores.argmax(-1) == torch.tensor([1, 0, 1])).sum())
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert weights[key].grad.abs().max() > 1e-6, key
        assert (parameter.grad - weights[key].grad).abs().max() < ROUNDING, key


def test_a_batch_of_nothing_has_a_gradient_of_zero(folder: Path) -> None:
    examples = [example(TEXTS[0])]
    task = task_of(section(), examples)
    model = model_of(folder, task)
    batch = task.rows(encoder_of(), examples).batch([], rows=2)
    inputs, targets = (to_device(arrays, torch.device("cpu")) for arrays in (batch.inputs, batch.targets))
    targets["labels"] = torch.zeros(2, dtype=torch.long)
    task.loss(model(**inputs), inputs, targets).loss.backward()
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in model.parameters())


PATTERNS = (
    "{text} It was [MASK].",
    "[MASK]: {text}",
    "({text})[MASK] x",
    "{text}? [MASK], {text_pair}",
    "{text}[MASK]",
)
CHARACTERS = st.text(st.sampled_from("abt .,x0年会й"), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=60)
@given(st.sampled_from(PATTERNS), CHARACTERS, CHARACTERS, st.sampled_from(["sentencepiece", "no prefix", "gpt2"]))
def test_a_filled_pattern_reads_as_its_text(pattern: str, text: str, pair: str, kind: str) -> None:
    encoder = encoder_of(kind)
    pairs = "{text_pair}" in pattern
    one = example(text, pair=pair if pairs else None)
    rows = task_of(section(pattern=pattern), [one], 400).rows(encoder, [one])
    ids, blank = rows.part_a[0].tolist(), int(rows.blanks[0])
    assert ids[blank] == IDS.blank
    word = rows.scored[0].words[0].tolist()
    filled = pattern.replace("[MASK]", "the").format(text=" ".join(text.split()), text_pair=" ".join(pair.split()))
    inside = [*ids[:blank], *word, *ids[blank + 1 :]][len(encoder.single.parts[0]) :]
    inside = inside[: len(inside) - len(encoder.single.parts[1])]
    shown = encoder.tokenizer.decode(inside, skip_special_tokens=False)
    assert shown.strip(" ") == filled.strip(" ")
    assert rows.cut == 0


@settings(max_examples=40)
@given(st.integers(18, 60), st.integers(1, 60), st.integers(1, 60))
def test_texts_are_cut_and_the_pattern_is_not(max_tokens: int, first: int, second: int) -> None:
    encoder = encoder_of()
    one = example("a " * first, pair="the " * second)
    wording = section(pattern="{text} ? [MASK], {text_pair}", verbalizer={"good": "Tuesday", "bad": "on"})
    (whole,), (found,) = ([task_of(wording, [one], m).rows(encoder, [one])] for m in (400, max_tokens))
    fields = encoder.encode(["a", "the"]).values.tolist()
    shown = found.part_a[0].tolist()
    counts = [shown.count(token) for token in fields]
    assert [token for token in shown if token not in fields] == [
        token for token in whole.part_a[0].tolist() if token not in fields
    ]
    longest = len(found.scored[0].words[0])
    room = max_tokens - (len(shown) - sum(counts)) - 1 - longest
    assert sum(counts) == min(room, first + second)
    assert int(found.batch([0]).inputs["attention_mask"].sum(1).max()) <= max_tokens
    assert found.cut == (room < first + second)
    shorter = min(first, second)
    assert min(counts) == min(shorter, room // 2) if room < first + second else counts == [first, second]


def test_settings_survive_the_description_of_a_model() -> None:
    task = task_of(section(**WORDINGS["several words"], languages={"de": GERMAN}), [example("a")])
    assert TaskSettings.from_json(task.settings.to_json(), "test") == task.settings
    assert np.array_equal(task.settings.labels, LABELS)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{text} It was.", "0 times [MASK]"),
        ("{text} [MASK] [MASK]", "2 times [MASK]"),
        ("It was [MASK].", "leaves the text out"),
        ("{text} {text} [MASK]", "names {text} twice"),
        ("{title} {text} [MASK]", "names {title}"),
        ("{text!r} [MASK]", "needed {text}"),
        ("{text} } [MASK]", "cannot be read"),
    ],
)
def test_patterns_that_cannot_be_used(pattern: str, said: str) -> None:
    with pytest.raises(RecipeError, match="pattern") as refused:
        section(pattern=pattern)
    assert said in str(refused.value)
    with pytest.raises(RecipeError, match="pattern"):
        section(languages={"de": {"pattern": pattern}})


def test_braces_may_be_written() -> None:
    assert [part.text for part in parse_pattern("{{x}} {text} [MASK]") if part.kind == "literal"] == ["{x}"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"verbalizer": {"good": "a"}}, "two or more"),
        ({"verbalizer": {"good": "a", "bad": []}}, "verbalizer.bad"),
        ({"verbalizer": {"good": "a", "bad": " \x07"}}, "without text"),
        ({"verbalizer": {"good": ["a", "b"], "bad": "b"}}, "for good and for bad"),
        ({"languages": {"de": {"verbalizer": {"good": "a", "worse": "b"}}}}, "bad, worse"),
        ({"languages": {"de": {}, "deu_Latn": {}}}, "same language"),
        ({"languages": {"de": {"patern": "x"}}}, "patern"),
    ],
)
def test_wordings_that_cannot_be_used(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        section(**keys)
    assert said in str(refused.value)


def test_words_that_a_tokenizer_cannot_tell_apart() -> None:
    one = [example("a")]
    alike = section(verbalizer={"good": "Good", "bad": "good"})
    task_of(alike, one).check(encoder_of(), one)
    with pytest.raises(RecipeError, match="same to the tokenizer") as refused:
        task_of(alike, one).check(encoder_of("bert"), one)
    assert "cloze.verbalizer" in str(refused.value)
    unknown = section(languages={"en": {"verbalizer": {"good": "a", "bad": "☃"}}})
    with pytest.raises(RecipeError, match="does not know a word") as refused:
        task_of(unknown, one).check(encoder_of("bert"), one)
    assert "cloze.languages.en.verbalizer.bad" in str(refused.value)


def test_data_that_does_not_fit() -> None:
    with pytest.raises(RecipeError, match="does not fit") as refused:
        cloze_settings(section(pattern="{text} [MASK] {text_pair}"), [example("a")], (), 32)
    assert "data.jsonl:1" in str(refused.value)
    with pytest.raises(RecipeError, match="does not fit"):
        cloze_settings(section(), [example("a", pair="b")], (), 32)
    with pytest.raises(RecipeError, match="verbalizer") as refused:
        cloze_settings(section(), [example("a")], ("good", "bad", "ugly"), 32)
    assert "ugly" in str(refused.value)
    with pytest.raises(DataError, match="others two"):
        cloze_settings(section(), [example("a"), example("a", pair="b")], (), 32)
    one = [example("a")]
    with pytest.raises(RecipeError, match="no room") as refused:
        task_of(section(), one, 8).check(encoder_of(), one)
    assert "cloze.pattern" in str(refused.value)
