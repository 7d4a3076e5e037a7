"""A tiny tokenizer and run folders with tiny random models, as `mlc train` leaves them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import sentencepiece
import torch
from small_checkpoints import write_checkpoint

from mlc.checkpoint.record import RECORD_NAME
from mlc.model import build_training_model
from mlc.model.saving import write_description
from mlc.recipe import ModelSection

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[sMASK]", "[gMASK]", "[sop]", "[eop]", "[MLM]")
SPECIAL_IDS = {token: place for place, token in enumerate(SPECIAL_TOKENS)}
TRAINING_TEXTS = (
    "The committee met on Tuesday and agreed on the budget for the coming year.",
    "Das Komitee traf sich am Dienstag und einigte sich auf den Haushalt für das kommende Jahr.",
    "Комитет собрался во вторник и утвердил бюджет на следующий год.",
    "اجتمعت اللجنة يوم الثلاثاء واتفقت على ميزانية العام المقبل.",
    "समिति की बैठक मंगलवार को हुई और आने वाले वर्ष के बजट पर सहमति बनी।",
    "委员会星期二开会,通过了明年的预算。",
    "委員会は火曜日に会合を開き、来年の予算に合意した。",
    "คณะกรรมการประชุมกันเมื่อวันอังคารและเห็นชอบกับงบประมาณปีหน้า",
    "ababab aaaa bbbb  abba baab   --- === 000 111 0101",
)
GLM = ModelSection(layers=2, hidden_size=32, heads=4, feed_forward_size=48)


def train_tokenizer(
    file: Path, *, dummy_prefix: bool = True, extra_whitespace: bool = False, **options: object
) -> Path:
    """A SentencePiece BPE model with byte fallback, identity normalisation and the ten special tokens."""
    model = io.BytesIO()
    settings: dict[str, object] = {
        "model_type": "bpe",
        "vocab_size": 520,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "character_coverage": 0.98,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": dummy_prefix,
        "remove_extra_whitespaces": extra_whitespace,
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING_TEXTS * 3),
        model_writer=model,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        pad_piece="[PAD]",
        unk_piece="[UNK]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        control_symbols=list(SPECIAL_TOKENS[4:]),
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    file.write_bytes(model.getvalue())
    return file


def make_checkpoint(
    run: Path,
    step: int,
    *,
    section: ModelSection = GLM,
    contrastive: bool = True,
    max_tokens: int = 24,
    seed: int = 1,
    complete: bool = True,
) -> Path:
    """<run>/checkpoints/step-XXXXXXXX of two ranks, with random weights; `complete` False leaves out complete.json."""
    with TemporaryDirectory() as name:
        tokenizer = train_tokenizer(Path(name) / "tokenizer.model").read_bytes()
    vocab_size = sentencepiece.SentencePieceProcessor(model_proto=tokenizer).vocab_size()
    model = build_training_model(section, vocab_size, SPECIAL_IDS, max_tokens, seed)
    if model.attention_pooling is not None:  # its start is mean pooling, which would hide a query that is not read
        query = model.attention_pooling.query
        with torch.no_grad():
            query.copy_(torch.linspace(-1, 1, len(query)))
    info = {
        "model": section.model_dump(mode="json"),
        "vocab_size": vocab_size,
        "special_ids": SPECIAL_IDS,
        "max_tokens": max_tokens,
        "tokenizer_sha256": hashlib.sha256(tokenizer).hexdigest(),
        "languages": ["de", "en", "no"],
        "contrastive": contrastive,
        "shards_sha256": "5" * 64,
        "step": step,
    }
    with TemporaryDirectory() as name:
        write_description(Path(name), model.backbone_config, info)
        files = {path.name: path.read_bytes() for path in Path(name).iterdir()}
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    folder = write_checkpoint(run, step, weights, model_files={**files, "tokenizer.model": tokenizer})
    if not complete:
        (folder / RECORD_NAME).unlink()
    return folder
