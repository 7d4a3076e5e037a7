"""`mlc generate` on small checkpoints: sources of texts, output, what is drawn, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import GLM, SPECIAL_IDS, TRAINING_TEXTS, make_checkpoint
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

from mlc.cli import build_app
from mlc.errors import DataError, MlcError, UsageError
from mlc.generate import filling
from mlc.generate.command import run_generate
from mlc.generate.filling import BlankFiller, FilledText
from mlc.generate.marked_text import read_marks
from mlc.model.decoding_glm import Decoding
from mlc.model.saving import load_training_model

TEXT = "The committee [MASK] on Tuesday and [MASK] the budget."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate") / "run"
    make_checkpoint(folder, 5, max_tokens=40)
    return folder


def changed(run: Path, target: Path, **changes: Any) -> Path:
    """The model folder of a run with other keys in its description."""
    source = run / "checkpoints" / "step-00000005" / "model"
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    info = json.loads((target / "mlc.json").read_text())
    (target / "mlc.json").write_text(json.dumps({**info, **changes}))
    return target


def call(*arguments: str, given: str | None = None) -> Any:
    return CliRunner().invoke(build_app(), ["generate", *arguments], input=given)


def test_texts_from_everywhere_give_the_same(run: Path, tmp_path: Path) -> None:
    lines = [TEXT, "Das Komitee", TRAINING_TEXTS[5] + "[sMASK]"]
    (tmp_path / "texts.txt").write_text("".join(line + "\n" for line in lines))
    records = [{"id": f"n{i}", "text": line} for i, line in enumerate(lines)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    options = ["--max-new-tokens", "5", "--threads", "1"]
    first = call(str(run), "--data", str(tmp_path / "texts.txt"), *options)
    assert first.exit_code == 0, first.output
    out = first.stdout.splitlines()
    assert len(out) == 3
    assert out[1].startswith("Das Komitee")
    assert "3 texts" in first.stderr
    piped = call(str(run), *options, given="".join(line + "\n" for line in lines))
    named = call(str(run), *(part for line in lines for part in ("--text", line)), *options)
    written = call(str(run), "--data", str(tmp_path / "texts.jsonl"), "--out", str(tmp_path / "out.jsonl"), *options)
    assert piped.stdout == named.stdout == first.stdout
    assert written.stdout == ""
    assert (tmp_path / "out.jsonl").read_text() == first.stdout


def test_json_lines_say_what_was_generated(run: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text(json.dumps({"id": 7, "text": TEXT}) + "\n" + json.dumps({"text": "A"}) + "\n")
    out = tmp_path / "out.jsonl"
    sampling = {"max_new_tokens": 6, "temperature": 1.0, "top_p": 0.9, "samples": 3}
    run_generate(str(run), [], tmp_path / "texts.jsonl", out, settings=sampling, seed=3, threads=1, as_json=True)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(one["line"], one.get("id"), one["sample"]) for one in found] == [
        *((1, 7, sample) for sample in range(3)),
        *((2, None, sample) for sample in range(3)),
    ]
    filler = BlankFiller.load(run)
    for one in found:
        assert [piece["mark"] for piece in one["pieces"]] == (["[MASK]"] * 2 if one["line"] == 1 else ["[gMASK]"])
        for piece in one["pieces"]:
            assert piece["text"] == filler._tokenizer.text_of(piece["tokens"]).strip(" ")
            assert piece["text"] in one["text"]
            assert piece["log_probability"] < 0
            assert piece["ended"] or len(piece["tokens"]) == 6
            assert not set(piece["tokens"]) & set(SPECIAL_IDS.values())
    assert len({one["text"] for one in found[:3]}) > 1


def test_what_is_filled_in_is_the_checkpoints_own_choice(run: Path) -> None:
    """Greedy tokens against TrainingModel, which computes every prefix anew; batches do not matter."""
    filler = BlankFiller.load(run, threads=1)
    texts = [read_marks(text, "here") for text in (TEXT, "Das [MASK] Jahr", "[MASK]")]
    decoding = Decoding(max_new_tokens=4)
    prompts = filler.prompts(texts, decoding)
    filled = filler.fill(texts, prompts, decoding)
    assert any(len(piece.tokens) > 1 for (one,) in filled for piece in one.pieces)
    trained, _ = load_training_model(run / "checkpoints" / "step-00000005" / "model")
    banned = [number for name, number in SPECIAL_IDS.items() if name != "[eop]"]
    for prompt, (one,) in zip(prompts, filled, strict=True):
        ids, start = list(prompt.part_a), len(prompt.part_a)
        positions, counts = list(range(start)), [0] * start
        for place, piece in zip(prompt.places, one.pieces, strict=True):
            said = [SPECIAL_IDS["[sop]"], *piece.tokens]
            ids, positions = ids + said, positions + [place] * len(said)
            counts = counts + list(range(1, len(said) + 1))
            row, length = torch.tensor([ids]), torch.tensor([len(ids)])
            index = torch.arange(len(ids) - len(said), len(ids))
            with torch.inference_mode():
                outputs = trained(
                    row, length, torch.tensor([start]), torch.tensor([positions]), torch.tensor([counts]), index
                )
            logits = outputs["glm_logits"].clone()
            logits[:, banned] = -torch.inf
            wanted = torch.tensor([*piece.tokens, SPECIAL_IDS["[eop]"]])[: len(piece.tokens) + piece.ended]
            assert torch.equal(logits.argmax(-1)[: len(wanted)], wanted)
            log = float(logits.log_softmax(-1)[: len(wanted)].gather(1, wanted[:, None]).sum())
            assert piece.log_probability == pytest.approx(log, abs=1e-4)  # sums of some fp32 logarithms


def texts_of(filled: list[list[FilledText]]) -> list[list[str]]:
    return [[one.text for one in samples] for samples in filled]


def test_seeds_batches_and_precision(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [read_marks(text[:30], "here") for text in TRAINING_TEXTS]
    decoding = Decoding(max_new_tokens=5, temperature=0.9, samples=2)
    filler, done = BlankFiller.load(run, threads=1), []
    prompts = filler.prompts(texts, decoding)
    together = filler.fill(texts, prompts, decoding, seed=1, progress=done.append)
    assert sum(done) == len(texts)
    monkeypatch.setattr(filling, "BATCH_TOKENS", 1)
    alone = filler.fill(texts, prompts, decoding, seed=1)
    # Rounding alone could tell them apart, where a number drawn lies within 1e-6 of a token's edge.
    assert [[one.text for one in samples] for samples in together] == [
        [one.text for one in samples] for samples in alone
    ]
    assert filler.fill(texts, prompts, decoding, seed=2) != alone
    narrow = BlankFiller.load(run, precision="bf16")
    assert next(narrow._model.parameters()).dtype == torch.bfloat16
    assert len(narrow.fill(texts, prompts, Decoding(max_new_tokens=2))) == len(texts)


def test_beams_are_at_least_as_probable(run: Path) -> None:
    texts = [read_marks("The [MASK] met", "here"), read_marks(TRAINING_TEXTS[1][:30], "here")]
    decoding = Decoding(max_new_tokens=4, beams=5, samples=2, length_penalty=0.0)
    filler = BlankFiller.load(run)
    filled = filler.fill(texts, filler.prompts(texts, decoding), decoding)
    assert [len(samples) for samples in filled] == [2, 2]
    for best, second in filled:
        first, other = best.pieces[0], second.pieces[0]
        assert (not first.ended, -first.log_probability) <= (not other.ended, -other.log_probability)


def test_marks_that_were_never_trained_are_named(run: Path, tmp_path: Path) -> None:
    glm = {"weight": 0.3, "token_share": 1.0, "sentence_share": 0.5, "document_share": 0.0}
    model = changed(run, tmp_path / "model", objectives={"glm": glm})
    outcome = call(str(model), "--text", "[sMASK] Then", "--text", "On", "--max-new-tokens", "2")
    assert outcome.exit_code == 0, outcome.output
    assert "trained without [gMASK] blanks" in outcome.stderr
    assert "[sMASK]" not in outcome.stderr
    old = changed(run, tmp_path / "old", objectives={"glm": {"weight": 0.1}})  # before there were kinds of blanks
    assert BlankFiller.load(old).untrained([read_marks("a [sMASK] b [MASK]", "here")]) == ["[sMASK]"]


def test_models_without_a_trained_part_b_are_refused(run: Path, tmp_path: Path) -> None:
    untrained = changed(run, tmp_path / "untrained", objectives={"glm": {"weight": 0.0}, "mlm": {"weight": 1.0}})
    with pytest.raises(UsageError, match=r"not trained to fill blanks.*glm.weight = 0"):
        BlankFiller.load(untrained)
    section = {**GLM.model_dump(mode="json"), "architecture": "huggingface", "config": "x"}
    with pytest.raises(UsageError, match='architecture = "huggingface"'):
        BlankFiller.load(changed(run, tmp_path / "encoder", model=section))
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path / "bert")
    with pytest.raises(UsageError, match=r"no Part B.*Hugging Face model"):
        BlankFiller.load(tmp_path / "bert")


@pytest.mark.parametrize(
    ("settings", "texts", "error", "message"),
    [
        ({}, ["word " * 60], DataError, r"--text 1: the text is longer than .* tokens, .*needed <= 40"),
        ({}, ["fine", ""], DataError, "--text 2: the text is empty"),
        ({}, ["a [mask]"], DataError, "misspelled"),
        ({"beams": 2}, [TEXT], DataError, r"beam search fills one blank; found 2 blanks"),
        ({"max_new_tokens": 41}, [TEXT], UsageError, "--max-new-tokens"),
        ({"top_k": 3}, [TEXT], UsageError, "do not go together"),
        ({"beams": 2, "temperature": 1.0}, [TEXT], UsageError, "do not go together"),
    ],
)
def test_what_cannot_be_filled_is_refused(
    run: Path, settings: dict[str, Any], texts: list[str], error: type[MlcError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_generate(str(run), texts, settings=settings)


@pytest.mark.parametrize(
    ("content", "name", "error", "message"),
    [
        ("a\n\nb\n", "t.txt", DataError, r"t\.txt:2: the text is empty"),
        ("", "t.txt", DataError, "there are no texts"),
        ('{"id": 1}\n', "t.jsonl", DataError, r't\.jsonl:1: the record has no "text"'),
        ('{"text": 1}\n', "t.jsonl", DataError, r'no "text"'),
        ("[1]\n", "t.jsonl", DataError, "not a JSON object"),
        ("a\tb\n", "t.tsv", UsageError, "no such kind of file"),
    ],
)
def test_files_that_cannot_be_used_are_refused_before_the_model_loads(
    tmp_path: Path, content: str, name: str, error: type[MlcError], message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        run_generate("no/such/model", [], tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "no such precision"),
        ({"data": Path("x.txt")}, "one place"),
        ({"out": Path("no/such/folder/out")}, "folder does not exist"),
    ],
)
def test_bad_options_are_refused_before_any_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_generate("no/such/model", ["text"], **options)


def test_a_line_end_among_the_pieces_is_no_line_end_of_the_output(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(filling.BlankTokenizer, "text_of", lambda self, tokens: " one\ntwo")
    run_generate(str(run), ["The [MASK] met"], settings={"max_new_tokens": 1})
    assert capsys.readouterr().out == "The one two met\n"


def test_help_has_examples_and_marks() -> None:
    outcome = call("--help")
    assert outcome.exit_code == 0
    assert "mlc generate runs/base --text" in outcome.output
    assert "[sMASK] = a sentence" in outcome.output
