"""A SentencePiece BPE model, with the cleaning before it, as a `tokenizers` tokenizer: equal id for id.

In:  tokenizer.model (BPE; byte fallback, identity normalisation) and the ids of the special tokens.
Out: a `transformers.PreTrainedTokenizerFast` that adds [CLS] and [SEP], and a check that it gives SentencePiece's ids.

SentencePiece joins the neighbouring pair whose joined piece has the best score, leftmost first. Its merge list is
therefore every split of every piece, ranked by the piece's score. Where one piece overlaps itself ("aba" in "ab a ba")
two of its splits compete, and a merge list can rank them only by kind and not by place. Millions of random texts
showed no difference; `check_same_ids` has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

from mlc.data.manifest import TokenizerKind
from mlc.data.text import REMOVED_RANGES, SPACE_RANGES, clean_text
from mlc.errors import MlcError
from mlc.tasks.tokenizers import plain_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPACE = "▁"  # SentencePiece's stand-in for a space
_LIBRARIES: dict[TokenizerKind, str] = {"sentencepiece": "SentencePiece", "hugging_face": "tokenizers"}

_ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MLM]",
}
"""Of transformers."""

SAMPLE_TEXTS: tuple[str, ...] = (
    "",
    " ",
    "  two leading spaces, one trailing ",
    "tab\tnew line\nand  double  spaces\r\n",
    "Der Vertrag wurde am 3. März 2021 geschlossen; niemand war überrascht.",
    "L'été dernier, nous n'avons pas vu la mer.",
    "¿Dónde está el baño? ¡Allí!",
    "Он читает книгу, а она пишет письмо.",
    "Η γρήγορη αλεπού πηδάει πάνω από το σκυλί.",
    "كتب الولد رسالة طويلة إلى صديقه.",
    "הילד כתב מכתב ארוך לחברו.",
    "लड़के ने अपने दोस्त को एक लंबा पत्र लिखा।",
    "ছেলেটি একটি চিঠি লিখেছে।",
    "பையன் ஒரு கடிதம் எழுதினான்.",
    "เด็กผู้ชายเขียนจดหมายถึงเพื่อน",
    "男孩给他的朋友写了一封很长的信。",
    "少年は友達に長い手紙を書いた。",
    "소년은 친구에게 긴 편지를 썼다.",
    "ልጁ ለጓደኛው ደብዳቤ ጻፈ።",
    "[CLS] [SEP] [MASK] [MLM] [PAD] <s> <0x41> <unk>",
    "▁ a literal ▁ mark",
    "emoji 👩‍👩‍👧 🇩🇪 and e\u0301 against é, \u200b zero width",
    "aaaaaaa ababababa ------- ======= ........ 0000000 1111",
    "https://example.org/a?b=c&d=%20e  {x: [1, 2.5e-3]}",
    "\x00 \x07 \ufffd \U0010ffff",
)
"""What every export is compared on, whatever else the caller adds."""


def convert_tokenizer(
    model_file: Path, special_ids: Mapping[str, int], *, max_tokens: int | None = None
) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a SentencePiece BPE model.

    It cleans text as the shards were (mlc.data.text), which leaves clean text as it is. Text that spells a special
    token ("[MASK]") is encoded as plain text, as SentencePiece does.

    Args:
        model_file: SentencePiece model.
        special_ids: token -> id, [CLS] and [SEP] among them, as in the manifest.
        max_tokens: `model_max_length` of the result, [CLS] and [SEP] included.

    Raises:
        MlcError: the model is no BPE model, or uses a feature that has no equal here.
    """
    proto = _read_model(model_file)
    _check_convertible(proto, special_ids, where=str(model_file))
    ordered = sorted(special_ids, key=lambda token: special_ids[token])
    return for_transformers(_build(proto, special_ids), {token: token for token in ordered}, max_tokens)


def for_transformers(tokenizer: Tokenizer, names: Mapping[str, str], max_tokens: int | None) -> PreTrainedTokenizerFast:
    """A tokenizer with its special tokens' roles, that pads and cuts on the right and reads special tokens as text.

    Args:
        tokenizer: it has the special tokens.
        names: {name of a special token here: what the tokenizer calls it}, in the order of their ids.
        max_tokens: `model_max_length`, [CLS] and [SEP] included; None = no limit.
    """
    from transformers import PreTrainedTokenizerFast

    named = {role: names[name] for role, name in _ROLES.items() if name in names}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **named,
        extra_special_tokens=[token for token in names.values() if token not in named.values()],
        model_max_length=max_tokens or int(1e30),
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,
    )


def check_same_ids(
    fast: PreTrainedTokenizerFast,
    model_file: Path,
    special_ids: Mapping[str, int],
    texts: Sequence[str],
    kind: TokenizerKind = "sentencepiece",
) -> int:
    """Compare a fast tokenizer with the run's on cleaned text, text by text and id by id.

    Args:
        fast: what an export's reader opens.
        model_file: tokenizer.model or tokenizer.json, as the shards were made with it.
        special_ids: as in the manifest.
        texts: to compare on, besides `SAMPLE_TEXTS`.
        kind: of `model_file`.

    Returns:
        Number of texts compared (`SAMPLE_TEXTS` and `texts`).

    Raises:
        MlcError: at the first text whose ids differ; it shows the text and where the ids part.
    """
    encode = plain_encoder(model_file, kind)
    every = [*SAMPLE_TEXTS, *texts]
    begin, end = special_ids["[CLS]"], special_ids["[SEP]"]
    for start in range(0, len(every), 256):
        chunk = every[start : start + 256]
        got = fast(chunk, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        for text, found, plain in zip(chunk, got, encode(list(map(clean_text, chunk))), strict=True):
            needed = [begin, *plain, end]
            if list(found) != needed:
                place = next((i for i, (a, b) in enumerate(zip(found, needed, strict=False)) if a != b), len(needed))
                raise MlcError(
                    f"the exported tokenizer parts from {_LIBRARIES[kind]} at token {place} of {text[:80]!r}",
                    found=str(list(found)[place : place + 8]),
                    needed=str(needed[place : place + 8]),
                    where=str(model_file),
                    hint=f"please report this text and {model_file.name}; the checkpoint itself is not affected",
                )
    return len(every)


def _read_model(model_file: Path) -> Any:
    try:
        content = model_file.read_bytes()
    except OSError as error:
        raise MlcError("the tokenizer cannot be read", found=str(error), where=str(model_file)) from None
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError has moved between modules
        raise MlcError("this is no SentencePiece model", found=str(error), where=str(model_file)) from None
    return proto


def _check_convertible(proto: Any, special_ids: Mapping[str, int], *, where: str) -> None:
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    if trainer.model_type != trainer.BPE:
        name = trainer.ModelType.Name(trainer.model_type)
        raise MlcError("only SentencePiece BPE models can be exported", found=name, needed="BPE", where=where)
    unsupported = {
        "a normalisation table (normalization_rule_name)": bool(normalizer.precompiled_charsmap),
        "treat_whitespace_as_suffix": trainer.treat_whitespace_as_suffix,
        "escape_whitespaces = false": not normalizer.escape_whitespaces,
        "user-defined or unused pieces": any(p.type in (kinds.USER_DEFINED, kinds.UNUSED) for p in proto.pieces),
    }
    for feature, present in unsupported.items():
        if present:
            raise MlcError("the tokenizer uses a feature that the export cannot reproduce", found=feature, where=where)
    for token in ("[CLS]", "[SEP]", "[UNK]"):
        if token not in special_ids:
            raise MlcError(f"special_ids has no {token}", found=sorted(special_ids), where=where)
    for token, token_id in special_ids.items():
        found = proto.pieces[token_id].piece if 0 <= token_id < len(proto.pieces) else "no such id"
        if found != token:
            raise MlcError(f"id {token_id} is not {token} in the tokenizer", found=found, needed=token, where=where)


def _build(proto: Any, special_ids: Mapping[str, int]) -> Tokenizer:
    fallback = bool(proto.trainer_spec.byte_fallback)
    unknown = next(p.piece for p in proto.pieces if p.type == sentencepiece_model_pb2.ModelProto.SentencePiece.UNKNOWN)
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece.piece: token_id for token_id, piece in enumerate(proto.pieces)},
            merges=_merges(proto),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=fallback,
        )
    )
    prefix = bool(proto.normalizer_spec.add_dummy_prefix)
    steps = cleaning_steps()
    if prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    if proto.normalizer_spec.remove_extra_whitespaces:  # of the text's own marks, those at its end
        steps.append(normalizers.Replace(Regex(rf"{SPACE}+\z"), ""))
    tokenizer.normalizer = normalizers.Sequence(steps)
    undo: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)] if prefix else undo)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, special_ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    ordered = sorted(special_ids, key=lambda token: special_ids[token])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ordered])
    tokenizer.encode_special_tokens = True
    return tokenizer


def cleaning_steps() -> list[Any]:
    """`clean_text` as normalizers of tokenizers, step by step."""

    def character_class(ranges: Sequence[tuple[int, int]]) -> str:
        return "[" + "".join(rf"\x{{{first:04x}}}-\x{{{last:04x}}}" for first, last in ranges) + "]"

    return [
        normalizers.Replace(Regex(character_class(REMOVED_RANGES)), ""),
        normalizers.Replace(Regex(character_class(SPACE_RANGES) + "+"), " "),
        normalizers.Replace(Regex(r"\A +"), ""),
        normalizers.Replace(Regex(r" +\z"), ""),
        normalizers.NFC(),
    ]


def _merges(proto: Any) -> list[tuple[str, str]]:
    normal = sentencepiece_model_pb2.ModelProto.SentencePiece.NORMAL
    pieces = [piece for piece in proto.pieces if piece.type == normal]
    known = {piece.piece for piece in pieces}
    merges: list[tuple[str, str]] = []
    # A stable sort: pieces of equal score keep the order of their ids.
    for piece in sorted(pieces, key=lambda piece: -piece.score):
        text = piece.piece
        splits = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        merges += [split for split in splits if split[0] in known and split[1] in known]
    return merges
