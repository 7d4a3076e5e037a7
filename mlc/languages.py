"""Language codes: ISO 639-1 where a language has one, as in corpora; ISO 639-3 as in Tatoeba's file names.

In:  codes as data sets write them, and names of files.
Out: one short spelling of each.
"""

from __future__ import annotations

import re

_ISO_639_3_TO_1 = {
    "afr": "af", "aka": "ak", "als": "sq", "amh": "am", "ara": "ar", "arb": "ar", "asm": "as", "ayr": "ay",
    "azj": "az", "aze": "az", "bak": "ba", "bam": "bm", "bel": "be", "ben": "bn", "bod": "bo", "bos": "bs",
    "bre": "br", "bul": "bg", "cat": "ca", "ces": "cs", "cha": "ch", "cmn": "zh", "cor": "kw", "cym": "cy",
    "dan": "da", "deu": "de", "dzo": "dz", "ell": "el", "eng": "en", "epo": "eo", "est": "et", "ekk": "et",
    "eus": "eu", "ewe": "ee", "fao": "fo", "fas": "fa", "fij": "fj", "fin": "fi", "fra": "fr", "fry": "fy",
    "gaz": "om", "gla": "gd", "gle": "ga", "glg": "gl", "grn": "gn", "guj": "gu", "hat": "ht", "hau": "ha",
    "heb": "he", "hin": "hi", "hrv": "hr", "hun": "hu", "hye": "hy", "ibo": "ig", "ido": "io", "ina": "ia",
    "ind": "id", "isl": "is", "ita": "it", "jav": "jv", "jpn": "ja", "kan": "kn", "kas": "ks", "kat": "ka",
    "kaz": "kk", "khk": "mn", "khm": "km", "kik": "ki", "kin": "rw", "kir": "ky", "kmr": "ku", "kor": "ko",
    "lao": "lo", "lat": "la", "lav": "lv", "lim": "li", "lin": "ln", "lit": "lt", "ltz": "lb", "lug": "lg",
    "lvs": "lv", "mal": "ml", "mar": "mr", "mkd": "mk", "mlt": "mt", "mon": "mn", "mri": "mi", "msa": "ms",
    "mya": "my", "nld": "nl", "nno": "nn", "nob": "no", "npi": "ne", "nep": "ne", "nya": "ny", "oci": "oc",
    "ory": "or", "pan": "pa", "pbt": "ps", "pes": "fa", "plt": "mg", "pol": "pl", "por": "pt", "quy": "qu",
    "ron": "ro", "run": "rn", "rus": "ru", "sag": "sg", "san": "sa", "sin": "si", "slk": "sk", "slv": "sl",
    "smo": "sm", "sna": "sn", "snd": "sd", "som": "so", "sot": "st", "spa": "es", "sqi": "sq", "srd": "sc",
    "srp": "sr", "ssw": "ss", "sun": "su", "swa": "sw", "swe": "sv", "swh": "sw", "tam": "ta", "tat": "tt",
    "tel": "te", "tgk": "tg", "tgl": "tl", "tha": "th", "tir": "ti", "tsn": "tn", "tso": "ts", "tuk": "tk",
    "tur": "tr", "twi": "tw", "uig": "ug", "ukr": "uk", "urd": "ur", "uzn": "uz", "uzb": "uz", "vie": "vi",
    "wol": "wo", "xho": "xh", "ydd": "yi", "yid": "yi", "yor": "yo", "zho": "zh", "zsm": "ms", "zul": "zu",
}  # fmt: skip

_ISO_639_1 = (
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo "
    "es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka "
    "kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng "
    "nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su "
    "sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)

_SECOND_SCRIPTS = frozenset(
    ("ace-Arab", "ar-Latn", "bjn-Arab", "knc-Latn", "ks-Deva", "min-Arab", "taq-Tfng", "zh-Hant")
)
"""Of the languages that FLORES-200 has in two scripts, the one a bare code does not stand for."""

_WITH_SUBTAGS = re.compile(r"([A-Za-z]{2,3})(?:[-_]([A-Z][a-z]{3}))?(?:[-_]([A-Za-z]{2}|\d{3}))?")


def short_code(code: str) -> str:
    """The two-letter code of a three-letter one; any other code comes back as it is."""
    return _ISO_639_3_TO_1.get(code, code)


def language_code(code: str) -> str:
    """The short code of a language, however a data set spells it; what is no code comes back as it is.

    "deu", "DE", "de-AT" and "deu_Latn" are "de". Regions are dropped, and scripts, but for the second one of a language
    that FLORES-200 has in two: "zho_Hant" is "zh-Hant", "zho_Hans" is "zh". "zh-TW" and "zh-HK" are "zh-Hant".
    """
    match = _WITH_SUBTAGS.fullmatch(code.strip())
    if match is None:
        return code.strip()
    language = short_code(match[1].lower())
    script = match[2] or ("Hant" if language == "zh" and match[3] and match[3].upper() in ("TW", "HK") else "")
    return f"{language}-{script}" if f"{language}-{script}" in _SECOND_SCRIPTS else language


def language_in_name(name: str) -> str:
    """The one language that a file's name states between its dots; "" where it states none, or several.

    "de.dev.jsonl", "xnli.de.tsv", "eng_Latn.train.jsonl" and "panx.pt-BR.conll" do. Only codes of ISO 639-1, the
    three-letter ones `short_code` knows, and codes with a script are taken for languages: "dev" and "val" are codes of
    ISO 639-3 too.
    """
    found = {language_code(part) for part in name.split(".") if is_language(part)}
    return found.pop() if len(found) == 1 else ""


def languages_in_pair(name: str) -> tuple[str, str] | None:
    """The codes, as they stand, of the part between dots that names two languages: ("de", "en") of "x.de-en.tsv".

    One of them must be a language as in `language_in_name`; the other may be any two or three letters ("arq-eng").
    """
    found = [
        (first, second)
        for first, dash, second in (part.partition("-") for part in name.split("."))
        if dash
        and (is_language(first) or is_language(second))
        and all(is_language(code) or re.fullmatch("[a-z]{2,3}", code) for code in (first, second))
    ]
    return found[0] if len(found) == 1 else None


def is_language(code: str) -> bool:
    """Whether a name is a language's code: ISO 639-1, a three-letter one `short_code` knows, or one with a script."""
    match = _WITH_SUBTAGS.fullmatch(code)
    if match is None or not match[1].islower():
        return False
    language = match[1]
    if match[3] and not match[2] and not match[3].isupper():  # "de-en" is a pair of languages
        return False
    return language in _ISO_639_1.split() or language in _ISO_639_3_TO_1 or bool(match[2])
