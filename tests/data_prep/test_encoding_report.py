"""The tokenizer's report: counted over arrays as a plain loop over characters counts."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.encoding.engine import Encoder
from data_prep.encoding.report import TokenCounter
from data_prep.encoding.training import ModelSettings, train_model
from data_prep.token_counts import TokenCounts
from data_prep.token_plot import token_plot
from data_prep.token_report import read_report, report_table, write_report
from mlc.data.spacing import language_code

WORDS = ("tree", "house", "river", "bridge", "garden", "[MASK]", "mountain", "window", "Straße")
CORPUS = [
    f"{word} {i} text of the {word}s and 中文句子{i}: old stones near {word}" for i in range(50) for word in WORDS
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    path = tmp_path_factory.mktemp("report") / "own.model"
    path.write_bytes(train_model(CORPUS, ModelSettings("bpe", 380, 0.99, True, 16)))
    return Encoder(path)


LINE = st.text("ab é中文ก\u0301🎉tre", min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=100)
@given(lines=st.lists(LINE, min_size=1, max_size=20), language=st.sampled_from(["en", "zh-Hant", "th_TH", "de"]))
def test_counts_are_those_of_a_loop(encoder: Encoder, lines: list[str], language: str) -> None:
    text = "\n".join(lines).encode()
    ids, _ = encoder.encode_lines(text)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(encoder.reference.file))
    spelled = [i for line in lines for i in pieces.encode(line) if pieces.is_byte(i)]
    words = sum(len(line.split(" ")) - line.split(" ").count("") for line in lines)
    characters = sum(len(line) - line.count(" ") for line in lines)
    assert TokenCounter(encoder).count(text, ids, len(lines), language) == TokenCounts(
        lines=len(lines),
        text_bytes=sum(len(line.encode()) for line in lines),
        words=words if language in ("en", "de") else characters,
        tokens=len(ids),
        unknown_tokens=0,
        byte_tokens=len(spelled),
    )


@settings(max_examples=50)
@given(lines=st.lists(LINE, min_size=2, max_size=20), data=st.data())
def test_counts_of_chunks_add_up(encoder: Encoder, lines: list[str], data: st.DataObject) -> None:
    counter = TokenCounter(encoder)

    def count(part: list[str]) -> TokenCounts:
        text = "\n".join(part).encode()
        return counter.count(text, encoder.encode_lines(text)[0], len(part), "en")

    cut = data.draw(st.integers(0, len(lines)))
    assert count(lines[:cut]) + count(lines[cut:]) == count(lines)


def test_unknown_tokens_of_a_model_without_bytes(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=str(tmp_path / "x"), vocab_size=60, minloglevel=2
    )
    encoder = Encoder(tmp_path / "x.model")
    text = "tree ☃ tree".encode()
    counts = TokenCounter(encoder).count(text, encoder.encode_lines(text)[0], 1, "en")
    assert (counts.unknown_tokens, counts.byte_tokens) == (1, 0)


def test_ratios_files_and_table(tmp_path: Path) -> None:
    english = TokenCounts(lines=2, text_bytes=1_000_000, words=200_000, tokens=250_000, byte_tokens=2_500)
    chinese = TokenCounts(lines=1, text_bytes=3_000, words=1_000, tokens=750, unknown_tokens=75)
    ratios = {"tokens_per_byte": 0.25, "tokens_per_word": 1.25, "unknown_share": 0.0, "byte_share": 0.01}
    assert english.as_table().items() >= ratios.items()
    assert (TokenCounts().tokens_per_byte, TokenCounts().byte_share) == (0.0, 0.0)
    assert read_report(tmp_path) == {}
    write_report(tmp_path, {"zh": chinese, "en": english})
    counts = read_report(tmp_path)
    assert counts == {"zh": chinese, "en": english}
    columns = [list(column.cells) for column in report_table(counts).columns]
    assert list(zip(*columns, strict=True)) == [
        ("en", "2", "1.00", "250,000", "0.250", "1.25", "0.00%", "1.00%"),
        ("zh", "1", "0.00", "750", "0.250", "0.75", "10.00%", "0.00%"),
        ("all", "3", "1.00", "250,750", "0.250", "", "0.03%", "1.00%"),
    ]


def test_a_language_without_script_and_region() -> None:
    assert [language_code(name) for name in ("zh", "zh-Hant", "zh_TW", "pt-BR", "YUE")] == [
        "zh",
        "zh",
        "zh",
        "pt",
        "yue",
    ]


def test_the_picture() -> None:
    tokens = {"en": 100, "<de>": 50, "ja": 0, "fr": 50}
    root = ET.fromstring(token_plot(tokens, "A & B"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "A & B"
    assert texts[2::2] == ["en", "<de>", "fr", "ja"]
    widths = [float(bar.attrib["width"]) for bar in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert np.allclose(widths, [560, 280, 280, 0])
    ET.fromstring(token_plot({}, "empty"))
