"""Translation as a learned task: rows, losses and gradients against plain computations, writing, wait-k."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import SPECIAL_IDS, make_checkpoint
from transformers import AutoModelForSeq2SeqLM
from translation_for_tests import in_language, sentence

from mlc.data.corruption import SpecialTokens, Text, corrupt
from mlc.errors import DataError, UsageError
from mlc.recipe_objectives import BlankSection
from mlc.tasks.examples import Place, TranslationExample
from mlc.tasks.fast_tokenizer_of import open_fast_tokenizer
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.learned.kinds import task_of
from mlc.tasks.learned.models import FinetunedModel, HeadSettings, new_model
from mlc.tasks.learned.predict import to_device
from mlc.tasks.learned.task import TaskSettings
from mlc.tasks.learned.translation_decoding import Translator, word_ends
from mlc.tasks.learned.translation_rows import part_b_rows
from mlc.tasks.learned.translation_settings import Decoder, TranslationSettings, tag
from mlc.tasks.locate import find_model

DECODERS: tuple[Decoder, ...] = ("part_b", "encoder_decoder")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("translation") / "run"
    make_checkpoint(folder, 1)
    return folder


def examples(numbers: Sequence[int], source: str = "en", target: str = "de") -> list[TranslationExample]:
    return [
        TranslationExample(
            in_language(sentence(n), source), in_language(sentence(n), target), target, Place("f", n + 1, source)
        )
        for n in numbers
    ]


def opened(checkpoint: Path, decoder: Decoder, **settings: Any) -> tuple[Any, Any, PieceEncoder]:
    """Model, task, tokenizer; the head's small numbers are made larger, so that what is written varies."""
    translation = TranslationSettings(decoder, ("de>en", "en>de", "en>fr"), 40, **settings)
    task = task_of(TaskSettings("translation", (), 64, translation=translation))
    source = find_model(checkpoint)
    model = new_model(source, task, HeadSettings(3)).eval()
    return model, task, PieceEncoder(open_fast_tokenizer(source, max_tokens=64))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("decoder", DECODERS)
def test_losses_and_gradients_of_a_batch_are_those_of_its_rows_alone(
    checkpoint: Path, decoder: Decoder, smoothing: float
) -> None:
    model, task, encoder = opened(checkpoint, decoder, label_smoothing=smoothing)
    rows = task.rows(encoder, examples(range(5)))
    batch = rows.batch([3, 1, 4], rows=5)
    inputs, targets = to_device(batch.inputs, CPU), to_device(batch.targets, CPU)
    found = task.loss(model(**inputs), inputs, targets)
    found.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad(set_to_none=True)
    total, tokens = torch.zeros(()), 0
    start, end = SPECIAL_IDS["[sop]"], SPECIAL_IDS["[eop]"]
    for place in (3, 1, 4):
        example = examples([place])[0]
        source = encoder.tokenizer(f"<2de> {example.source}")["input_ids"]
        target = encoder.tokenizer(example.target, add_special_tokens=False)["input_ids"]
        labels = torch.tensor([*target, end])
        if decoder == "part_b":
            part_a = [*source, SPECIAL_IDS["[gMASK]"], SPECIAL_IDS["[SEP]"]]
            length = len(part_a)
            ids = torch.tensor([[*part_a, start, *target]])
            output = model(
                input_ids=ids,
                part_a_lengths=torch.tensor([length]),
                position_ids=torch.tensor([[*range(length), *[length - 2] * len(labels)]]),
                block_position_ids=torch.tensor([[*[0] * length, *range(1, len(labels) + 1)]]),
            )
            logits = output.logits[0, length:]
        else:
            output = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[start, *target]]))
            logits = output.logits[0]
        log_probabilities = logits.log_softmax(-1)
        smoothed = torch.full_like(log_probabilities, smoothing / logits.shape[-1])
        smoothed[torch.arange(len(labels)), labels] += 1 - smoothing
        total = total - (smoothed * log_probabilities).sum()
        tokens += len(labels)
    total.backward()
    assert float(targets["weights"].sum()) == tokens
    # fp32 sums of some 20 tokens in another order.
    assert found.loss.item() == pytest.approx(total.item(), rel=1e-5)
    own = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert own.keys() == gradients.keys()
    scale = max(float(value.abs().max()) for value in own.values())
    for name, value in own.items():
        assert torch.allclose(gradients[name], value, atol=1e-5 * scale), name


def test_part_b_has_the_layout_of_pre_training(checkpoint: Path) -> None:
    _, _, encoder = opened(checkpoint, "part_b")
    settings = TranslationSettings("part_b", ("en>de",), 40)
    inputs = part_b_rows(encoder, examples([0]), settings, max_tokens=64).batch([0]).inputs
    ids = [encoder.tokenizer(text, add_special_tokens=False)["input_ids"] for text in _texts(0)]
    special = SpecialTokens.from_ids(SPECIAL_IDS, 520)
    views = [(np.array(view), np.array([len(view)])) for view in ids]
    blanks = BlankSection(weight=1.0, token_share=0.0, document_share=1.0, shortest_document_blank=1.0)
    for seed in range(20):  # the blank is the end of either view; every length is all of it
        made = corrupt(Text.of(views), np.random.default_rng(seed), special, blanks=blanks, masks=None, kind="document")
        if made.part_a_length == len(ids[0]) + 4:  # the second view is blank
            break
    else:
        pytest.fail("no draw took the second view")
    assert made.tokens.tolist() == inputs["input_ids"][0].tolist()
    assert made.part_a_length == inputs["part_a_lengths"][0]
    assert made.positions.tolist() == inputs["position_ids"][0].tolist()
    assert made.block_positions.tolist() == inputs["block_position_ids"][0].tolist()
    assert made.glm_index.tolist() == inputs["logits_index"].tolist()


def _texts(number: int) -> tuple[str, str]:
    example = examples([number])[0]
    assert example.target is not None
    return f"{tag('de')} {example.source}", example.target


def translator(checkpoint: Path, decoder: Decoder) -> Translator:
    model, task, encoder = opened(checkpoint, decoder)
    with torch.no_grad():  # random weights repeat one token for ever; these end, and depend on the source
        for parameter in model.parameters():
            parameter.copy_(parameter * 3 if parameter.ndim > 1 else parameter)
    return Translator(FinetunedModel(find_model(checkpoint), model, task, encoder, {}), device="cpu")


@pytest.mark.parametrize("decoder", DECODERS)
def test_waiting_for_all_of_the_source_is_greedy_decoding(checkpoint: Path, decoder: Decoder) -> None:
    found = translator(checkpoint, decoder)
    texts = [example.source for example in examples(range(12))]
    greedy = found.translate(texts, "de")
    assert len(set(greedy)) > 6
    waited = found.translate_simultaneously(texts, "en", "de", wait=None)
    assert [one.text for one in waited] == greedy
    assert [one.text for one in found.translate_simultaneously(texts, "en", "de", wait=99)] == greedy
    for one, text in zip(waited, texts, strict=True):
        assert one.source_words == len(text.split())
        assert set(one.read) <= {one.source_words}
        assert len(one.read) == len(word_ends(one.text, "de"))


def plain_wait_k(found: Translator, text: str, target: str, wait: int) -> tuple[str, int]:
    """One sentence, token by token, each on a row of its own; the translation, and how often it waited."""
    words, written, read, waits = text.split(), list[int](), wait, 0
    read = min(read, len(words))
    while len(written) < found.settings.most_tokens:
        example = TranslationExample(" ".join(words[:read]), None, target, Place("", 0))
        rows: Any = found.task.rows(found.finetuned.encoder, [example])
        inputs, index = rows.begun([0], [np.array(written, dtype=np.int64)])
        with torch.no_grad():
            scores = found._model(**to_device(inputs, CPU)).logits.flatten(0, -2)[int(index[0])].clone()
        banned = [number for token, number in SPECIAL_IDS.items() if token != "[eop]" or read < len(words)]
        scores[banned] = -torch.inf
        token = int(scores.argmax())
        if token == rows.ids.end:
            break
        begun = found.task.answers(rows, [], [np.array([*written, token])])[0]
        needed = min(wait + max(1, len(word_ends(begun, target))) - 1, len(words))
        if read < needed:
            read, waits = needed, waits + 1
        else:
            written.append(token)
    return found.task.answers(rows, [], [np.array(written, dtype=np.int64)])[0], waits


@pytest.mark.parametrize("decoder", DECODERS)
def test_wait_k_reads_as_it_writes(checkpoint: Path, decoder: Decoder) -> None:
    found = translator(checkpoint, decoder)
    texts = [example.source for example in examples(range(8))]
    written = found.translate_simultaneously(texts, "en", "zh", wait=2)  # every character is a word
    plain = [plain_wait_k(found, text, "zh", 2) for text in texts]
    assert [one.text for one in written] == [text for text, _ in plain]
    assert max(waits for _, waits in plain) > 1
    for one in written:
        assert len(one.read) == len(word_ends(one.text, "zh"))
        least = [min(2 + number, one.source_words) for number in range(len(one.read))]
        assert all(read >= needed for read, needed in zip(one.read, least, strict=True))
        assert list(one.read) == sorted(one.read)


def test_beams_find_what_is_at_least_as_probable(checkpoint: Path) -> None:
    found = translator(checkpoint, "encoder_decoder")
    texts = [example.source for example in examples(range(6))]
    rows = found.task.rows(found.finetuned.encoder, examples(range(6)))
    one, four = (found.translate(texts, "de", beams=beams) for beams in (1, 4))
    assert len(rows) == len(one) == len(four)
    assert one != four


def test_a_glm_is_the_encoder_of_transformers_own_model_and_comes_back(checkpoint: Path, tmp_path: Path) -> None:
    model, task, encoder = opened(checkpoint, "encoder_decoder")
    batch = to_device(task.rows(encoder, examples(range(3))).batch([0, 1, 2]).inputs, CPU)
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert type(model).__name__ == "EncoderDecoderModel"
    embeddings = model.encoder.get_input_embeddings().weight
    assert torch.equal(model.decoder.get_input_embeddings().weight, embeddings)


def test_the_tag_changes_what_is_written(checkpoint: Path) -> None:
    model, task, encoder = opened(checkpoint, "part_b")
    logits = []
    for target in ("de", "fr"):
        batch = to_device(task.rows(encoder, examples([0], target=target)).batch([0]).inputs, CPU)
        with torch.inference_mode():
            logits.append(model(**batch).logits[0])
    assert not torch.allclose(logits[0], logits[1])


def test_smoothing_at_nothing_is_cross_entropy() -> None:
    logits, labels = torch.randn(4, 9), torch.tensor([1, 2, 3, 4])
    assert torch.equal(F.cross_entropy(logits, labels, label_smoothing=0.0), F.cross_entropy(logits, labels))


def test_what_cannot_be_translated_is_refused(checkpoint: Path) -> None:
    found = translator(checkpoint, "part_b")
    assert not found.is_trained("de", "fr")
    assert found.is_trained("en", "fr")
    with pytest.raises(UsageError, match="never learned to write"):
        found.is_trained("en", "tr")
    few = TaskSettings("translation", (), 8, translation=TranslationSettings("part_b", ("en>de",), 20))
    with pytest.raises(UsageError, match="no room"):
        task_of(few).rows(found.finetuned.encoder, examples([0]))
    nothing = [TranslationExample("a", "", "de", Place("f", 7, "en"))]
    with pytest.raises(DataError, match="no tokens"):
        found.task.rows(found.finetuned.encoder, nothing)  # type: ignore[arg-type]
