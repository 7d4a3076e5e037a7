"""TextEncoder: order, batches, truncation, representations, and what it refuses to load."""

from __future__ import annotations

import errno
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_models import GLM, SPECIAL_IDS, TRAINING_TEXTS, make_checkpoint, train_tokenizer
from transformers import AutoTokenizer, BertConfig, BertModel, T5Config, T5Model

from mlc.checkpoint.record import RECORD_NAME, checksum
from mlc.errors import CheckpointError, MlcError, RecipeError, UsageError
from mlc.model.saving import load_training_model
from mlc.recipe import ModelSection
from mlc.tasks.encoder import POOLINGS, Representation, TextEncoder, batches_by_length, pool_states
from mlc.tasks.fast_tokenizer import convert_tokenizer
from mlc.tasks.locate import find_model

WEIGHTS = "weights-00001-of-00002.safetensors"
PROJECTED = GLM.model_copy(update={"projection_size": 12})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_checkpoint(folder, 20, section=PROJECTED)
    return folder


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Fragments of many lengths, in no order of length."""
    source = random.Random(4)
    fragments = []
    for text in TRAINING_TEXTS * 4:
        start = source.randrange(len(text) // 2)
        fragments.append(text[start : start + source.randrange(1, 30)])
    return fragments


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of another family, with a tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = convert_tokenizer(train_tokenizer(folder / "tokenizer.model"), SPECIAL_IDS)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
        pad_token_id=0,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_vectors_are_those_of_the_training_model(run: Path, texts: list[str], pooling: str, tmp_path: Path) -> None:
    """What is scored must be what the contrast trains: TrainingModel pools by another path (packed rows)."""
    if pooling != "mean":
        run = tmp_path
        make_checkpoint(run, 20, section=PROJECTED.model_copy(update={"pooling": pooling}))
    encoder = TextEncoder.load(run, device="cpu")
    model, _ = load_training_model(run / "checkpoints" / "step-00000020" / "model")
    for text, vector in zip(texts[:8], encoder.encode(texts[:8]), strict=True):
        (ids,) = encoder.model.tokenizer.tokenize([text]).ids
        row, length = torch.tensor([ids]), torch.tensor([len(ids)])
        with torch.inference_mode():
            needed = model(row, length, length, torch.arange(len(ids))[None], torch.zeros_like(row))["embeddings"]
        np.testing.assert_allclose(vector, needed[0].numpy(), atol=1e-6)  # fp32, other order of sums


def test_order_is_kept_and_batches_do_not_matter(run: Path, texts: list[str]) -> None:
    """1e-5: only the order of fp32 sums differs between batches; mixing up two texts gives differences near 1."""
    encoder = TextEncoder.load(run, device="cpu")
    one_by_one = np.concatenate([encoder.encode([text]) for text in texts])
    for batch_tokens in (1, 50, 10**6):
        np.testing.assert_allclose(encoder.encode(texts, batch_tokens=batch_tokens), one_by_one, atol=1e-5)
    assert one_by_one.dtype == np.float32
    assert one_by_one.shape == (len(texts), 12)
    np.testing.assert_allclose(np.linalg.norm(one_by_one, axis=1), 1, atol=1e-6)


def test_batches_hold_every_text_once_within_the_budget() -> None:
    lengths = [3, 50, 7, 7, 1, 20, 3]
    batches = list(batches_by_length(lengths, 21))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[p] for p in batch) <= 21 for batch in batches)


def test_progress_counts_every_text(run: Path, texts: list[str]) -> None:
    done: list[int] = []
    TextEncoder.load(run, device="cpu").encode(texts, batch_tokens=64, progress=done.append)
    assert len(done) > 1
    assert sum(done) == len(texts)


def test_long_texts_are_cut_and_counted(run: Path) -> None:
    encoder = TextEncoder.load(run, device="cpu")
    long, short = TRAINING_TEXTS[0] * 3, "ab"
    vectors = encoder.encode([long, short, long + " and more"])
    assert (encoder.counts.texts, encoder.counts.cut) == (3, 2)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)  # they differ behind the cut only
    tokenized = encoder.model.tokenizer.tokenize([long])
    assert len(tokenized.ids[0]) == encoder.max_tokens == 24
    assert (tokenized.ids[0][0], tokenized.ids[0][-1]) == (SPECIAL_IDS["[CLS]"], SPECIAL_IDS["[SEP]"])
    shorter = TextEncoder.load(run, device="cpu", max_tokens=8)
    assert len(shorter.model.tokenizer.tokenize([long]).ids[0]) == 8


def test_no_texts_and_an_empty_text(run: Path) -> None:
    encoder = TextEncoder.load(run, device="cpu")
    assert encoder.encode([]).shape == (0, 12)
    assert np.isfinite(encoder.encode([""])).all()  # [CLS] [SEP]
    with pytest.raises(UsageError, match="list of texts"):
        encoder.encode("one text")


def test_default_representation_is_the_trained_one(run: Path, tmp_path: Path) -> None:
    assert TextEncoder.load(run, device="cpu").representation == Representation(-1, "mean", True)
    section = GLM.model_copy(update={"layer": 1, "pooling": "cls"})
    make_checkpoint(tmp_path / "layer", 1, section=section)
    assert TextEncoder.load(tmp_path / "layer", device="cpu").representation == Representation(1, "cls", False)
    make_checkpoint(tmp_path / "plain", 1, section=PROJECTED, contrastive=False)
    plain = TextEncoder.load(tmp_path / "plain", device="cpu")
    assert plain.representation == Representation(-1, "mean", False)
    with pytest.raises(MlcError, match="no trained projection"):
        TextEncoder.load(tmp_path / "plain", device="cpu", projection=True)


def test_the_trained_layer_keeps_the_projection_under_either_name(run: Path, tmp_path: Path) -> None:
    assert TextEncoder.load(run, device="cpu", layer=2).representation == Representation(2, "mean", True)
    section = PROJECTED.model_copy(update={"layer": 2})
    make_checkpoint(tmp_path, 1, section=section)
    assert TextEncoder.load(tmp_path, device="cpu", layer=-1).representation == Representation(-1, "mean", True)


def test_another_layer_goes_without_the_projection(run: Path) -> None:
    assert TextEncoder.load(run, device="cpu", layer=1).representation == Representation(1, "mean", False)
    assert TextEncoder.load(run, device="cpu", projection=False).representation == Representation(-1, "mean", False)
    with pytest.raises(UsageError, match="no such layer"):
        TextEncoder.load(run, device="cpu", layer=3)
    with pytest.raises(UsageError, match="no such pooling"):
        TextEncoder.load(run, device="cpu", pooling="max")


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_does_not_see_the_padding(pooling: str) -> None:
    """States in the padding are 0 in the GLM, where a wrong mask would hide; in other encoders they are not."""
    generator = torch.Generator().manual_seed(0)
    states, query = torch.randn(2, 5, 4, generator=generator), torch.randn(4, generator=generator)
    mask = torch.arange(5) < torch.tensor([[2], [5]])
    together = pool_states(states, mask, pooling, query)
    alone = pool_states(states[:1, :2], mask[:1, :2], pooling, query)
    torch.testing.assert_close(together[:1], alone)  # fp32, sums with zeros in between


def test_attention_pooling_belongs_to_the_layer_it_was_trained_on(run: Path, tmp_path: Path) -> None:
    section = GLM.model_copy(update={"pooling": "attention"})
    make_checkpoint(tmp_path / "run", 1, section=section)
    trained = TextEncoder.load(tmp_path / "run", device="cpu")
    assert trained.representation == Representation(-1, "attention", False)
    assert (
        np.abs(trained.encode(["ab c"]) - trained.with_representation(Representation()).encode(["ab c"])).max() > 0.01
    )
    assert TextEncoder.load(tmp_path / "run", device="cpu", layer=1).representation == Representation(1, "mean", False)
    asked = TextEncoder.load(tmp_path / "run", device="cpu", layer=1, pooling="attention")
    assert asked.representation == Representation(1, "attention", False)
    make_checkpoint(tmp_path / "plain", 1, section=section, contrastive=False)
    for model in (run, tmp_path / "plain"):  # the one has no query, the other never trained its own
        with pytest.raises(MlcError, match="no trained attention pooling"):
            TextEncoder.load(model, device="cpu", pooling="attention")


def test_layers_are_those_of_the_single_layer_encoders(run: Path, texts: list[str]) -> None:
    encoder = TextEncoder.load(run, device="cpu")
    layers = encoder.encode_layers(texts)
    assert list(layers) == [0, 1, 2]
    for layer, vectors in layers.items():
        single = encoder.with_representation(Representation(layer))
        np.testing.assert_allclose(single.encode(texts), vectors, atol=1e-6)
    last = encoder.with_representation(Representation(-1))
    np.testing.assert_allclose(last.encode(texts), layers[2], atol=1e-6)
    trained, _ = load_training_model(run / "checkpoints" / "step-00000020" / "model")
    table = trained.state_dict()["backbone.embeddings.weight"]
    (ids,) = encoder.model.tokenizer.tokenize([texts[0]]).ids
    bag = torch.nn.functional.normalize(table[ids].mean(0), dim=0)
    np.testing.assert_allclose(layers[0][0], bag.numpy(), atol=1e-6)


def test_bf16_is_near_fp32(run: Path, texts: list[str]) -> None:
    """bf16 keeps 8 bits: 2^-9 an operation, a few hundredths of a vector of norm 1 after two layers."""
    exact = TextEncoder.load(run, device="cpu").encode(texts)
    rough = TextEncoder.load(run, device="cpu", precision="bf16").encode(texts)
    assert 0 < np.abs(exact - rough).max() < 0.05
    assert rough.dtype == np.float32


def test_newest_complete_checkpoint_is_taken(tmp_path: Path) -> None:
    old = make_checkpoint(tmp_path, 5)
    good = make_checkpoint(tmp_path, 10)
    cut_short = make_checkpoint(tmp_path, 20)
    make_checkpoint(tmp_path, 30, complete=False)
    (tmp_path / "checkpoints" / ".partial-step-00000040").mkdir()
    weights = cut_short / "model" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-10])
    source = find_model(tmp_path)
    assert (source.folder, source.step) == (good / "model", 10)
    assert source.skipped == ("step-00000030", "step-00000020")
    assert find_model(old).step == 5
    assert find_model(old / "model").step == 5
    with pytest.raises(CheckpointError, match=r"damaged.*weights-00001-of-00002"):
        find_model(cut_short)


def test_a_checkpoint_under_another_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_checkpoint(tmp_path, 5)
    (tmp_path / "best").symlink_to(folder)
    assert (find_model(tmp_path / "best").step, find_model(tmp_path / "best" / "model").step) == (5, 5)
    monkeypatch.chdir(folder)
    assert find_model(".").step == 5
    monkeypatch.chdir("model")
    assert find_model(".").step == 5


@pytest.mark.parametrize("name", [WEIGHTS, "mlc.json", "config.json", "tokenizer.model"])
def test_a_flipped_byte_is_noticed(tmp_path: Path, name: str) -> None:
    file = make_checkpoint(tmp_path, 5) / "model" / name
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"no complete checkpoint.*step-00000005: the checkpoint is damaged"):
        find_model(tmp_path)


def test_files_that_only_training_reads_are_not_read(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 5)
    for file in (folder / "optimizer").iterdir():
        file.unlink()
    assert find_model(tmp_path).step == 5


def test_another_version_is_not_taken_for_damage(tmp_path: Path) -> None:
    """An older checkpoint that this program can read must not be used in its place."""
    make_checkpoint(tmp_path, 5)
    folder = make_checkpoint(tmp_path, 10)
    content = json.loads((folder / RECORD_NAME).read_text()) | {"version": 1}
    del content["xxh3"]
    (folder / RECORD_NAME).write_text(json.dumps(content | {"xxh3": checksum(content)}))
    for model in (tmp_path, folder):
        with pytest.raises(RecipeError, match="another version"):
            find_model(model)


def test_a_checkpoint_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, whom permissions do not stop."""
    make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path, 10)

    def forbidden(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(CheckpointError, match=r"cannot be read.*Permission denied.*step-00000010"):
        find_model(tmp_path)


def test_what_is_no_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        find_model(tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="holds no model"):
        find_model(tmp_path / "other")
    with pytest.raises(UsageError, match="no such model"):
        find_model(tmp_path / "absent")
    with pytest.raises(UsageError, match="no such model"):
        find_model("tests/absent")  # beside a folder that exists it is a slip of the pen and no hub name
    assert find_model("some-owner/some-model").kind == "huggingface"


def test_hugging_face_folder(bert: Path, texts: list[str]) -> None:
    encoder = TextEncoder.load(bert, device="cpu")
    assert encoder.representation == Representation(-1, "mean", False)
    assert encoder.max_tokens == 20  # of the position table: the tokenizer states no limit
    vectors = encoder.encode([*texts, TRAINING_TEXTS[0] * 3])
    assert encoder.counts.cut >= 1
    model = BertModel.from_pretrained(bert).eval()
    (ids,) = encoder.model.tokenizer.tokenize([texts[0]]).ids
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(vectors[0], torch.nn.functional.normalize(states, dim=0).numpy(), atol=1e-6)


def test_more_tokens_than_the_encoder_states_are_refused(bert: Path, run: Path, tmp_path: Path) -> None:
    """A table of positions has an end; rotary positions have none, and a default that nobody stated is no limit."""
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=26,
        pad_token_id=0,
    )
    config.save_pretrained(tmp_path / "config")
    section = ModelSection(architecture="huggingface", config=str(tmp_path / "config"))
    make_checkpoint(tmp_path / "run", 1, section=section)
    for model, limit in ((tmp_path / "run", 26), (bert, 20)):
        assert TextEncoder.load(model, device="cpu", max_tokens=limit).encode(TRAINING_TEXTS).shape[1] == 16
        with pytest.raises(MlcError, match=f"more than the model takes; found {limit + 1}"):
            TextEncoder.load(model, device="cpu", max_tokens=limit + 1)
    assert TextEncoder.load(run, device="cpu", max_tokens=2000).max_tokens == 2000
    t5 = T5Config(vocab_size=520, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2)
    T5Model(t5).save_pretrained(tmp_path / "t5")
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "t5")
    assert TextEncoder.load(tmp_path / "t5", device="cpu").max_tokens == 512
    assert TextEncoder.load(tmp_path / "t5", device="cpu", max_tokens=600).max_tokens == 600


def test_pickles_are_refused(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    torch.save(load_file(bert / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(MlcError, match="no safetensors") as caught:
        TextEncoder.load(tmp_path)
    assert "pytorch_model.bin" in str(caught.value)
    assert "save_pretrained" in str(caught.value)


def test_missing_weights_are_not_made_up(bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(bert / "model.safetensors")
    removed = "encoder.layer.1.output.dense.weight"
    del weights[removed]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MlcError, match="weights of the model are missing") as caught:
        TextEncoder.load(tmp_path)
    assert removed in str(caught.value)
