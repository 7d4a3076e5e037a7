"""What retrieval and re-ranking learn from: draws of passages, groups, losses, refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from finetune_for_tests import make_encoder
from hugging_face_tokenizers import make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from ranking_for_tests import ranking_table, write_rankings
from transformers import GPT2Config

from mlc.config import parse_recipe
from mlc.errors import DataError, MlcError, RecipeError
from mlc.finetune.recipe import FinetuneModelSection, FinetuneRecipe
from mlc.finetune.retrieval_model import open_start
from mlc.finetune.retrieval_samples import RetrievalSamples
from mlc.finetune.work import Finetuning
from mlc.tasks.examples import Place, RankingExample
from mlc.tasks.fast_tokenizer_of import open_fast_tokenizer
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.learned.ranking import QueryGroups, Reranking
from mlc.tasks.learned.task import TaskSettings
from mlc.tasks.locate import find_model
from mlc.tasks.tokenizers import TokenizedTexts


class Characters:
    """A tokenizer whose tokens are characters between 1 and 2."""

    max_tokens, pad_id = 100, 0

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        return TokenizedTexts([[1, *map(ord, text.strip()), 2] for text in texts], 0)


def ranking(query: str, positives: Sequence[str], negatives: Sequence[str] = (), line: int = 1) -> RankingExample:
    return RankingExample(query, tuple(positives), tuple(negatives), Place("data.jsonl", line, "de"))


def text_of(tokens: Any) -> str:
    return "".join(map(chr, tokens))


def samples_of(examples: Sequence[RankingExample], seed: int = 1) -> RetrievalSamples:
    return RetrievalSamples(examples, Characters(), seed=seed, samples_per_step=4)


def test_every_query_comes_once_an_epoch_with_each_of_its_right_passages_in_turn() -> None:
    examples = [ranking(f"q{k}", [f"p{k}a", f"p{k}b"], [f"n{k}a", f"n{k}b"]) for k in range(7)]
    samples = samples_of(examples)
    drawn = samples.samples(np.arange(7 * 40))
    for epoch in range(40):
        assert {text_of(s.first) for s in drawn[7 * epoch : 7 * epoch + 7]} == {e.query for e in examples}
    for sample in drawn:
        number = text_of(sample.first)[1:]
        assert text_of(sample.second)[:-1] == f"p{number}"
        assert [text_of(hard) for hard in sample.hard] == [f"n{number}a", f"n{number}b"]
    counts = Counter(text_of(sample.second) for sample in drawn)
    assert len(counts) == 14
    assert min(counts.values()) > 5  # of 40 in the mean 20: rarer than 1 in 10^6


def test_samples_are_a_function_of_seed_and_number() -> None:
    examples = [ranking(f"q{k}", [f"p{k}a", f"p{k}b"]) for k in range(7)]

    def texts(seed: int, numbers: Sequence[int]) -> list[tuple[str, str]]:
        drawn = samples_of(examples, seed).samples(np.array(numbers))
        return [(text_of(sample.first), text_of(sample.second)) for sample in drawn]

    assert texts(1, range(30))[17:] == texts(1, range(17, 30))
    assert texts(1, range(30)) != texts(2, range(30))


def test_examples_that_share_a_right_passage_are_one_group() -> None:
    examples = [
        ranking("a", ["1", "2"]),
        ranking("b", ["3"], ["1"]),
        ranking("c", ["2", "4"]),
        ranking("d", ["5"]),
        ranking("e", ["4"]),
        ranking("d", ["6"]),
    ]
    samples = samples_of(examples)
    groups = {text_of(s.first) + text_of(s.second): s.group for s in samples.samples(np.arange(60))}
    assert len({groups[key] for key in groups if key[0] in "ace"}) == 1
    assert groups["d5"] == groups["d6"]
    assert len(set(groups.values())) == 3
    assert samples.largest_group == 3


def test_a_text_without_tokens_is_refused_by_its_line() -> None:
    with pytest.raises(DataError, match=r"data\.jsonl:4"):
        samples_of([ranking("a", ["b"], line=3), ranking("c", ["d"], [" "], line=4)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    make_encoder(folder / "start")
    return folder


def test_groups_hold_one_right_passage_and_other_wrong_ones_every_epoch(folder: Path) -> None:
    encoder = PieceEncoder(open_fast_tokenizer(find_model(folder / "start"), max_tokens=48))
    examples = [ranking(f"q {k}", ["a", "b"][: 1 + k % 2], ["c", "d", "e", "f"][: 1 + k]) for k in range(4)]
    rows = Reranking(TaskSettings("ranking", (), 48, has_pairs=True)).rows(encoder, examples)
    groups = QueryGroups(rows, 2, seed=3)
    seen: list[set[tuple[int, ...]]] = [set() for _ in examples]
    for epoch in range(200):
        for place, example in enumerate(examples):
            right, *wrong = (groups.group(place, epoch) - rows.starts[place]).tolist()
            assert right < len(example.positives)
            assert len(set(wrong)) == len(wrong) == min(2, len(example.negatives))
            assert all(len(example.positives) <= row < len(example.positives) + len(example.negatives) for row in wrong)
            seen[place].add((right, *wrong))
    # right passages x choices of two wrong ones
    assert [len(found) for found in seen] == [1, 2 * 1, 1 * 3, 2 * 6]
    drawn = groups.draw([2, 0], [4, 5], rows=3)
    expected = [rows.pairs[int(row)].ids for place, epoch in ((2, 4), (0, 5)) for row in groups.group(place, epoch)]
    lengths = drawn.inputs["attention_mask"].sum(1)
    assert [row[:n].tolist() for row, n in zip(drawn.inputs["input_ids"], lengths, strict=True)] == [
        ids.tolist() for ids in expected
    ]
    assert drawn.targets["weights"].tolist() == [1, 1, 0]
    assert drawn.targets["is_candidate"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 2**31))
def test_losses_are_those_of_plain_loops(sizes: list[int], seed: int) -> None:
    """Queries that only fill up count for nothing, whatever is in their rows."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(sum(sizes), 1, generator=random, dtype=torch.float64)
    ends = np.cumsum(sizes)
    candidates = np.zeros((len(sizes) + 1, max(sizes)), np.int64)
    is_candidate = np.zeros(candidates.shape, np.float32)
    is_candidate[:, 0] = 1
    for query, (end, size) in enumerate(zip(ends, sizes, strict=True)):
        candidates[query, :size] = np.arange(end - size, end)
        is_candidate[query, :size] = 1
    weights = np.array([1.0] * len(sizes) + [0.0], np.float32)
    arrays = {"candidates": candidates, "is_candidate": is_candidate, "weights": weights}
    targets = {name: torch.from_numpy(array) for name, array in arrays.items()}
    groups = [logits[end - size : end, 0] for end, size in zip(ends, sizes, strict=True)]
    softmax = sum(-torch.log(group[0].exp() / group.exp().sum()) for group in groups)
    binary = sum((torch.log1p((-group[0]).exp()) + torch.log1p(group[1:].exp()).sum()) / len(group) for group in groups)
    correct = sum(all(group[0] > other for other in group[1:]) for group in groups)
    settings = TaskSettings("ranking", (), 48, has_pairs=True)
    for loss, expected in (("softmax", softmax), ("binary", binary)):
        found = Reranking(settings, loss).loss(SimpleNamespace(logits=logits), {}, targets)  # type: ignore[arg-type]
        assert torch.allclose(found.loss, torch.as_tensor(expected), rtol=1e-10)  # float64
        assert float(found.correct) == correct


def test_queries_without_wrong_passages_cannot_be_re_ranked(folder: Path) -> None:
    write_rankings(folder / "train.jsonl", 8)
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"query": "q", "positives": ["p"], "negatives": []}\n')
    work = Finetuning(parse_recipe(ranking_table(folder, "reranking"), FinetuneRecipe, where="test"))
    with pytest.raises(DataError, match=r"train\.jsonl:9") as caught:
        work.check(1)
    assert "mlc mine" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "section", "values"),
    [
        ("retrieval", "freeze", {"encoder": True}),
        ("retrieval", "optimizer", {"head_learning_rate_scale": 2.0}),
        ("retrieval", "ranking", {"loss": "binary"}),
        ("reranking", "ranking", {"temperature": 0.1}),
        ("reranking", "ranking", {"negatives_per_query": 0}),
        ("classification", "ranking", {"symmetric": True}),
    ],
)
def test_keys_without_a_use_are_refused(folder: Path, kind: str, section: str, values: dict[str, Any]) -> None:
    table = ranking_table(folder, kind, **{section: values})
    if kind == "classification":
        table["ranking"] = values
    with pytest.raises(RecipeError, match=section):
        parse_recipe(table, FinetuneRecipe, where="test")


def test_a_tokenizer_without_special_tokens_around_texts_is_refused(tmp_path: Path) -> None:
    make_tokenizer("gpt2", tmp_path)
    GPT2Config(vocab_size=500).save_pretrained(tmp_path)
    with pytest.raises(MlcError, match=r"0 special tokens before the text and 0 behind it"):
        open_start(find_model(tmp_path), FinetuneModelSection(start=""), 32)
