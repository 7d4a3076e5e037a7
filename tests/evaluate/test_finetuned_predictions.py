"""Answers of fine-tuned models: those of transformers one text at a time, in order, whatever the batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_finetuned import save_finetuned
from small_corpus import text
from small_models import make_checkpoint
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mlc.errors import DataError, UsageError
from mlc.tasks.examples import ClassificationExample, Place, TokenExample
from mlc.tasks.learned.predict import Predictor, predict_rows

LABELS = tuple("abcdef")
MAX_TOKENS = 24
TEXTS = [text("en", number, 1 + number % 11) for number in range(40)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_finetuned(tmp_path_factory.mktemp("model") / "m", "classification", LABELS, max_tokens=MAX_TOKENS)


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor.load(model)


def example(content: str, label: str | None = None, pair: str | None = None, line: int = 1) -> ClassificationExample:
    return ClassificationExample(content, pair, label, Place("test.jsonl", line, "en"))


def logits_of_transformers(model: Path) -> np.ndarray:
    own = AutoModelForSequenceClassification.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    with torch.inference_mode():
        rows = [
            own(**tokenizer(content, return_tensors="pt", truncation=True, max_length=MAX_TOKENS)).logits
            for content in TEXTS
        ]
    return torch.cat(rows).numpy()


def test_answers_equal_those_of_transformers_one_by_one(model: Path, predictor: Predictor) -> None:
    expected = logits_of_transformers(model)
    assert len(set(expected.argmax(1))) > 2  # a constant answer would compare nothing
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count

    answers = predictor.predict([example(content) for content in TEXTS], batch_tokens=60, progress=progress)
    assert answers == [LABELS[place] for place in expected.argmax(1)]
    assert done == len(TEXTS)
    assert predictor.counts.examples == predictor.counts.rows == len(TEXTS)


@settings(max_examples=15)
@given(chosen=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=12), batch_tokens=st.integers(1, 300))
def test_an_answer_depends_on_nothing_but_its_text(predictor: Predictor, chosen: list[int], batch_tokens: int) -> None:
    rows = predictor.task.rows(predictor.finetuned.encoder, [example(TEXTS[place]) for place in chosen])
    device = torch.device("cpu")
    alone = dict(predict_rows(predictor.task, predictor.finetuned.model, rows, [[k] for k in range(len(rows))], device))
    places = list(range(len(rows)))
    batches = [places[first : first + 1 + batch_tokens // 30] for first in range(0, len(rows), 1 + batch_tokens // 30)]
    found = predict_rows(predictor.task, predictor.finetuned.model, rows, [*batches, []], device)
    assert [place for place, _ in found] == places  # the empty batch adds nothing
    for place, prediction in found:
        # fp32 sums in another order, seen: 4e-5 of log probabilities of size 10; other batches must not show more.
        np.testing.assert_allclose(prediction, alone[place], atol=5e-4)


def test_all_classes_are_kept_where_a_batch_has_as_many_columns(predictor: Predictor) -> None:
    letters = [example(" ".join("a" * count)) for count in range(1, 12)] + [example("a" * k) for k in range(1, 12)]
    rows = predictor.task.rows(predictor.finetuned.encoder, letters)
    lengths = rows.lengths.tolist()
    batch = [lengths.index(len(LABELS)), min(range(len(rows)), key=lambda place: lengths[place])]
    assert lengths[batch[1]] < len(LABELS)
    found = predict_rows(predictor.task, predictor.finetuned.model, rows, [batch], torch.device("cpu"))
    assert [prediction.shape for _, prediction in found] == [(len(LABELS),)] * 2


def test_what_is_cut_is_counted(predictor: Predictor) -> None:
    long = " ".join(TEXTS)
    predictor.predict([example(long), example(TEXTS[0]), example(long)])
    assert predictor.counts.cut == 2
    assert predictor.predict([]) == []
    assert predictor.counts.examples == predictor.counts.cut == 0


def test_bf16_answers_nearly_as_fp32(model: Path, predictor: Predictor) -> None:
    expected = predictor.predict([example(content) for content in TEXTS])
    found = Predictor.load(model, precision="bf16").predict([example(content) for content in TEXTS])
    # 8 bits of a number turn answers whose two best classes are close; a broken head agrees in one of six.
    assert np.mean([one == other for one, other in zip(expected, found, strict=True)]) > 0.7


def test_words_of_long_sentences_are_all_answered(tmp_path: Path) -> None:
    labels = ("B-PER", "I-PER", "O")
    folder = save_finetuned(tmp_path / "ner", "token_classification", labels, max_tokens=MAX_TOKENS)
    predictor = Predictor.load(folder)
    sentences = [tuple(" ".join(TEXTS[:count]).split()) for count in (1, 9, 4)]
    answers = predictor.predict([TokenExample(words, None, Place("x", 1)) for words in sentences], batch_tokens=70)
    assert [len(answer) for answer in answers] == [len(words) for words in sentences]
    assert predictor.counts.rows > len(sentences)
    assert len({label for answer in answers for label in answer}) > 1


def test_what_does_not_fit_the_model_is_refused_with_its_line(predictor: Predictor) -> None:
    with pytest.raises(DataError, match=r"test\.jsonl:7: .*form of examples; found two texts; needed one text"):
        predictor.predict([example("x"), example("x", pair="y", line=7)])
    with pytest.raises(DataError, match=r"test\.jsonl:9: unknown class; found z"):
        predictor.predict([example("x", "a"), example("x", "z", line=9)])


def test_a_model_without_a_task_is_refused_with_the_next_command(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "run", 3)
    with pytest.raises(UsageError, match=r"not fine-tuned[\s\S]*next: mlc finetune RECIPE"):
        Predictor.load(tmp_path / "run")
