"""Language codes: ISO 639-1 where a language has one, as in corpora; ISO 639-3 as in Tatoeba's file names."""

from __future__ import annotations

_ISO_639_3_TO_1 = {
    "afr": "af", "amh": "am", "ara": "ar", "bel": "be", "ben": "bn", "bul": "bg", "cat": "ca", "ces": "cs",
    "cmn": "zh", "dan": "da", "deu": "de", "ell": "el", "eng": "en", "est": "et", "eus": "eu", "fin": "fi",
    "fra": "fr", "heb": "he", "hin": "hi", "hrv": "hr", "hun": "hu", "hye": "hy", "ind": "id", "isl": "is",
    "ita": "it", "jpn": "ja", "kat": "ka", "khm": "km", "kor": "ko", "lit": "lt", "lvs": "lv", "mar": "mr",
    "mal": "ml", "nld": "nl", "nob": "no", "pes": "fa", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru",
    "slk": "sk", "slv": "sl", "spa": "es", "sqi": "sq", "srp": "sr", "swe": "sv", "swh": "sw", "tam": "ta",
    "tel": "te", "tgl": "tl", "tha": "th", "tur": "tr", "ukr": "uk", "urd": "ur", "vie": "vi", "xho": "xh",
    "zsm": "ms", "zul": "zu",
}  # fmt: skip


def short_code(code: str) -> str:
    """The two-letter code of a three-letter one; any other code comes back as it is."""
    return _ISO_639_3_TO_1.get(code, code)
