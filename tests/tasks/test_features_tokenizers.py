"""The fast tokenizer of a checkpoint, an export or a Hugging Face folder gives the ids of `TextEncoder`'s."""

from __future__ import annotations

from pathlib import Path

import pytest
from feature_tokenizers import hugging_face_folder
from small_models import SPECIAL_IDS, TRAINING_TEXTS, make_checkpoint
from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.export.hugging_face import export_model
from mlc.tasks.encoder import TextEncoder
from mlc.tasks.fast_tokenizer import SAMPLE_TEXTS
from mlc.tasks.fast_tokenizer_of import open_fast_tokenizer
from mlc.tasks.features import tokenize_texts
from mlc.tasks.features_pieces import PieceEncoder
from mlc.tasks.locate import ModelSource, find_model

TEXTS = [*TRAINING_TEXTS, *SAMPLE_TEXTS]


def hugging_face_model(folder: Path) -> Path:
    hugging_face_folder("xlmr", folder)
    config = XLMRobertaConfig(
        vocab_size=170, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=22,
    )  # fmt: skip
    XLMRobertaModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["checkpoint", "export", "huggingface"])
def test_ids_are_those_of_the_text_encoder(kind: str, tmp_path: Path) -> None:
    if kind == "huggingface":
        model, longest = hugging_face_model(tmp_path / "model"), 20  # two of its 22 positions are for padding
    else:
        model, longest = make_checkpoint(tmp_path / "run", 3), 24
    if kind == "export":
        export_model(model, tmp_path / "exported")
        model = tmp_path / "exported"
    source = find_model(model)
    assert source.kind == kind
    for max_tokens in (None, 12):
        tokenizer = open_fast_tokenizer(source, max_tokens=max_tokens)
        reference = TextEncoder.load(model, max_tokens=max_tokens).model.tokenizer.tokenize(TEXTS)
        assert tokenizer.model_max_length == (max_tokens or longest)
        rows = tokenize_texts(PieceEncoder(tokenizer), TEXTS)
        assert [rows[place].ids.tolist() for place in range(len(rows))] == reference.ids
        assert rows.cut == reference.cut > 0
    with pytest.raises(UsageError, match="max_tokens is too small"):
        open_fast_tokenizer(source, max_tokens=2)


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    source = find_model(hugging_face_model(tmp_path / "model"))
    with pytest.raises(MlcError, match="max_tokens is more than the model takes; found 21; needed <= 20"):
        open_fast_tokenizer(source, max_tokens=21)
    (source.folder / "tokenizer.json").unlink()
    with pytest.raises(MlcError, match="has no vocabulary; found 5 tokens"):
        open_fast_tokenizer(source)
    with pytest.raises(MlcError, match="configuration cannot be read"):
        open_fast_tokenizer(ModelSource("huggingface", str(tmp_path)))
    checkpoint = find_model(make_checkpoint(tmp_path / "run", 3))
    (checkpoint.folder / "tokenizer.model").unlink()
    with pytest.raises((MlcError, CheckpointError), match="the tokenizer cannot be read"):
        open_fast_tokenizer(checkpoint)


def test_a_slow_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_model(hugging_face_model(tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(source.name)
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(MlcError, match="not one of the library tokenizers; found XLMRobertaTokenizer"):
        open_fast_tokenizer(source)


def test_special_tokens_among_text_are_refused() -> None:
    from feature_tokenizers import fast_tokenizer
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(fast_tokenizer("sentencepiece").backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="$B [SEP] $A", special_tokens=[("[CLS]", SPECIAL_IDS["[CLS]"]), ("[SEP]", 3)]
    )
    with pytest.raises(MlcError, match="cannot be told from text"):
        PieceEncoder(PreTrainedTokenizerFast(tokenizer_object=backend))
