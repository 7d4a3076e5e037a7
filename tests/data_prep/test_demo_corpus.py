"""The demonstration corpus: the same bytes from the same seed, held-out text kept apart, and grammar that agrees."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import unicodedata
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
import zstandard

from data_prep.demo_corpus import Corpus, generate, write_corpus
from data_prep.demo_corpus.__main__ import main
from data_prep.demo_corpus.concepts import INVENTORY, PEOPLE
from data_prep.demo_corpus.corpus import MIN_DIFFERING_CONCEPTS, least_difference, tokens
from data_prep.demo_corpus.languages import all_realisers
from data_prep.demo_corpus.languages.greek import Greek, feminine_article
from data_prep.demo_corpus.languages.hindi import perfective
from data_prep.demo_corpus.languages.korean import marked
from data_prep.demo_corpus.languages.russian import adjective
from data_prep.demo_corpus.languages.turkish import Turkish, suffixed
from data_prep.demo_corpus.realiser import Lexicon
from data_prep.demo_corpus.sentences import (
    Because,
    Deal,
    Exists,
    NotGo,
    Possession,
    Spend,
    Subject,
    Tell,
    Thing,
    meaning_key,
)
from mlc.errors import UsageError

LANGUAGES = ("en", "de", "es", "ru", "el", "tr", "zh", "ja", "ko", "hi")
SCRIPTS = {
    "en": {"LATIN"},
    "de": {"LATIN"},
    "es": {"LATIN"},
    "tr": {"LATIN"},
    "ru": {"CYRILLIC"},
    "el": {"GREEK"},
    "zh": {"CJK"},
    "ja": {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"},
    "ko": {"HANGUL"},
    "hi": {"DEVANAGARI"},
}
TEACHER, BAKER = Subject("teacher", False), Subject("baker", False)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate(800, 200, 7, extra=20)


def sentences(records: list[dict[str, str]]) -> list[str]:
    return [sentence for record in records for sentence in record["text"].split("\n")]


def deal(thing: Thing, subject: Subject = TEACHER, verb: str = "buy") -> Deal:
    return Deal("monday", subject, verb, thing, "market")


def test_every_language_holds_the_same_documents(corpus: Corpus) -> None:
    assert tuple(corpus.train) == tuple(corpus.held_out) == LANGUAGES
    for part, count in ((corpus.train, 800), (corpus.held_out, 200)):
        ids = [[record["id"] for record in part[language]] for language in LANGUAGES]
        assert all(other == ids[0] for other in ids)
        assert len(set(ids[0])) == count
        lengths = [[record["text"].count("\n") for record in part[language]] for language in LANGUAGES]
        assert all(other == lengths[0] for other in lengths)
        assert 1 <= min(lengths[0]) <= max(lengths[0]) <= 4
        assert all(record["lang"] == language for language in LANGUAGES for record in part[language])


def test_no_held_out_sentence_in_training(corpus: Corpus) -> None:
    train = {meaning_key(sentence) for plan in corpus.train_plans for sentence in plan}
    held_out = [meaning_key(sentence) for plan in corpus.held_out_plans for sentence in plan]
    assert train.isdisjoint(held_out)
    assert len(set(held_out)) == len(held_out)
    for language in LANGUAGES:
        texts = sentences(corpus.held_out[language])
        assert set(texts).isdisjoint(sentences(corpus.train[language]))
        assert len(set(texts)) == len(texts), language
    assert set(sentences(corpus.held_out["en"])).isdisjoint(sentences(corpus.extra))
    report = corpus.report()
    assert all(report[language].repeated_sentences == 0 for language in LANGUAGES)
    assert all(0 < report[language].five_gram_overlap < 1 for language in LANGUAGES)


def test_held_out_words_are_known_from_training(corpus: Corpus) -> None:
    """New combinations of known words; a rare inflected form may still be new in a corpus this small."""
    for language, report in corpus.report().items():
        assert report.held_out_types_unseen <= 0.02 * report.held_out_types, language


def test_held_out_documents_can_be_told_apart(corpus: Corpus) -> None:
    least = least_difference(corpus.held_out_plans)
    assert least is not None
    assert least >= MIN_DIFFERING_CONCEPTS
    for language in LANGUAGES:
        words = [
            frozenset(word for line in record["text"].split("\n") for word in tokens(line, language))
            for record in corpus.held_out[language]
        ]
        # The text must show what the plan says: characters for zh and ja, words elsewhere.
        assert min(len(first ^ second) for first, second in combinations(words, 2)) >= 5, language


def test_held_out_part_does_not_depend_on_the_size_of_training(corpus: Corpus) -> None:
    assert generate(50, 200, 7).held_out == corpus.held_out
    assert generate(50, 200, 8).held_out != corpus.held_out


def test_scripts_and_no_digits(corpus: Corpus) -> None:
    for language in LANGUAGES:
        text = "".join(sentences([*corpus.train[language], *corpus.held_out[language]]))
        assert unicodedata.is_normalized("NFC", text)
        letters = {character for character in text if unicodedata.category(character)[0] in "LM"}
        scripts = {unicodedata.name(letter).split()[0] for letter in letters}
        assert scripts <= SCRIPTS[language], (language, scripts)
        # Han numerals are letters (Lo); a digit or another number would be of category N.
        assert not [character for character in text if unicodedata.category(character)[0] == "N"]
        assert not set(text) & set("{}=/;[]_")


def test_sentences_end_properly(corpus: Corpus) -> None:
    ends = {"zh": "。", "ja": "。", "hi": "।"}
    for language in LANGUAGES:
        for sentence in sentences(corpus.train[language]):
            assert sentence.endswith(ends.get(language, "."))
            assert "  " not in sentence
            assert sentence[0] == sentence[0].upper()
            assert (" " in sentence) == (language not in ("zh", "ja"))


def test_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    files = []
    for hash_seed in ("0", "12345"):
        output = tmp_path / hash_seed
        command = [sys.executable, "-m", "data_prep.demo_corpus", "--output", str(output), "--formats", "mixed"]
        command += ["--documents", "60", "--held-out", "20", "--extra", "5"]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True)
        paths = sorted(path for path in output.rglob("*") if path.is_file())
        files.append({path.relative_to(output).as_posix(): path.read_bytes() for path in paths})
    assert files[0] == files[1]
    assert len(files[0]) == 2 * len(LANGUAGES) + 2


def test_mixed_formats_hold_the_same_records(corpus: Corpus, tmp_path: Path) -> None:
    write_corpus(corpus, tmp_path, "jsonl")
    summary = write_corpus(corpus, tmp_path, "mixed")
    train = tmp_path / "train"
    assert not (train / "de.jsonl").exists()  # the earlier format would count every document twice
    assert not (train / "es.jsonl").exists()
    with zstandard.open(train / "de.jsonl.zst", "rt", encoding="utf-8") as lines:
        assert [json.loads(line) for line in lines] == corpus.train["de"]
    with gzip.open(train / "es.jsonl.gz", "rt", encoding="utf-8") as lines:
        assert [json.loads(line) for line in lines] == corpus.train["es"]
    documents = (train / "en-extra.txt").read_text(encoding="utf-8").strip().split("\n\n")
    assert documents == [record["text"] for record in corpus.extra]
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == summary
    assert summary["documents"] == 800
    write_corpus(generate(5, 2, 1), tmp_path)
    assert not (train / "en-extra.txt").exists()


def test_command_refuses_nonsense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path / "out"), "--documents", "0"]) == 2
    assert "documents >= 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="one of en, de"):
        generate(1, 0, 1, extra_language="xx")


def test_lexicon_refuses_gaps() -> None:
    with pytest.raises(ValueError, match=r"\[people\] missing or unknown"):
        Lexicon("[people: 1]\nteacher=teacher")
    with pytest.raises(ValueError, match="needed one entry of 2 forms"):
        Lexicon("[nouns: 2]\napple=apple")


@pytest.mark.parametrize("language", LANGUAGES)
def test_concepts_of_a_section_have_forms_of_their_own(language: str) -> None:
    """Two concepts with one form would make two meanings read the same. Hindi छोटा serves small and short, which no
    noun here takes both of.
    """
    lexicon = all_realisers()[language].lexicon
    for section in INVENTORY:
        shared = Counter(lexicon[section].values())
        repeated = {forms for forms, count in shared.items() if count > 1}
        assert repeated <= ({("छोटा",)} if (language, section) == ("hi", "adjectives") else set()), section


@pytest.mark.parametrize(
    ("noun", "number", "definite", "expected"),
    [
        ("key", 1, False, "einen alten Schlüssel"),
        ("lamp", 1, False, "eine alte Lampe"),
        ("radio", 1, False, "ein altes Radio"),
        ("key", 1, True, "den alten Schlüssel"),
        ("lamp", 1, True, "die alte Lampe"),
        ("radio", 1, True, "das alte Radio"),
        ("radio", 3, False, "drei alte Radios"),
    ],
)
def test_german_adjectives(noun: str, number: int, definite: bool, expected: str) -> None:
    assert all_realisers()["de"].thing(Thing(noun, "old", number, definite)) == expected


@pytest.mark.parametrize(
    ("noun", "number", "expected"),
    [
        ("key", 1, "una llave vieja"),
        ("mirror", 1, "un espejo viejo"),
        ("key", 2, "dos llaves viejas"),
        ("map", 5, "cinco mapas viejos"),
    ],
)
def test_spanish_gender(noun: str, number: int, expected: str) -> None:
    assert all_realisers()["es"].thing(Thing(noun, "old", number, False)) == expected


def test_spanish_contractions() -> None:
    spanish = all_realisers()["es"]
    assert spanish.sentence(NotGo("monday", TEACHER, "market", "rain")).startswith("El lunes la maestra no fue al mer")
    owned = Possession("baker", Thing("bag", "red", 1, True), "under_table", "library")
    assert spanish.sentence(owned) == "En la biblioteca el bolso rojo del panadero estaba debajo de la mesa."


@pytest.mark.parametrize(
    ("noun", "number", "expected"),
    [
        ("lamp", 1, "синюю лампу"),
        ("mirror", 1, "синее зеркало"),
        ("chair", 1, "синий стул"),
        ("lamp", 2, "две синие лампы"),
        ("chair", 2, "два синих стула"),
        ("mirror", 4, "четыре синих зеркала"),
        ("lamp", 5, "пять синих ламп"),
        ("chair", 10, "десять синих стульев"),
    ],
)
def test_russian_case_after_numerals(noun: str, number: int, expected: str) -> None:
    assert all_realisers()["ru"].thing(Thing(noun, "blue", number, False)) == expected


def test_russian_adjective_types_and_gender_of_verbs() -> None:
    assert adjective("большой", "n") == "большое"
    assert adjective("большой", "gen-plural") == "больших"
    assert adjective("свежий", "n") == "свежее"
    assert adjective("маленький", "f-acc") == "маленькую"
    assert adjective("старый", "plural") == "старые"
    russian = all_realisers()["ru"]
    key = Thing("key", "old", 1, False)
    assert russian.sentence(deal(key)) == "В понедельник учительница купила старый ключ на рынке."
    assert russian.sentence(deal(key, BAKER)) == "В понедельник пекарь купил старый ключ на рынке."
    together = Spend(BAKER, "dance", "student", "park", 5, "week")
    assert russian.sentence(together) == "Пекарь пять недель танцевал со студенткой в парке."


def test_greek_articles_and_gender() -> None:
    assert [feminine_article(word) for word in ("λάμπα", "καρέκλα", "μπάλα", "μεγάλη", "όμορφη")] == [
        "τη", "την", "την", "τη", "την",
    ]  # fmt: skip
    greek = Greek()
    assert greek.thing(Thing("map", "interesting", 1, False)) == "έναν ενδιαφέροντα χάρτη"
    assert greek.thing(Thing("mirror", "heavy", 3, False)) == "τρεις βαριούς καθρέφτες"
    assert greek.thing(Thing("key", "old", 4, False)) == "τέσσερα παλιά κλειδιά"
    mirrors = Exists("kitchen", "by_window", Thing("mirror", "heavy", 3, False))
    assert greek.sentence(mirrors) == "Στην κουζίνα υπήρχαν τρεις βαριοί καθρέφτες δίπλα στο παράθυρο."


def test_turkish_vowel_harmony() -> None:
    assert [suffixed(name, "acc") for name in ("komşu", "terzi", "kral", "şoför")] == [
        "komşuyu", "terziyi", "kralı", "şoförü",
    ]  # fmt: skip
    assert [suffixed(name, "dat") for name in ("amca", "öğretmen")] == ["amcaya", "öğretmene"]
    assert [suffixed(name, "gen") for name in ("doktor", "fırıncı", "kraliçe")] == [
        "doktorun", "fırıncının", "kraliçenin",
    ]  # fmt: skip
    fourfold = {"a": "ı", "ı": "ı", "o": "u", "u": "u", "e": "i", "i": "i", "ö": "ü", "ü": "ü"}
    turkish = Turkish()
    for noun, (bare, accusative, possessed) in turkish.lexicon["nouns"].items():
        vowels = [letter for letter in bare if letter in fourfold]
        # saat is the known exception: a back vowel with front suffixes.
        expected = "i" if noun == "alarm_clock" else fourfold[vowels[-1]]
        assert accusative[-1] == possessed[-1] == expected, noun
        assert ("y" in accusative[len(bare) :]) == (bare[-1] in fourfold), noun
    assert turkish.sentence(Because(TEACHER, "happy", "baker", "find", Thing("ball", "red", 1, False))) == (
        "Öğretmen mutluydu çünkü fırıncı kırmızı bir top buldu."
    )
    assert turkish.capital("i") == "İ"


def test_korean_particles() -> None:
    assert [marked(word, "object") for word in ("책", "열쇠")] == ["책을", "열쇠를"]
    assert [marked(word, "topic") for word in ("왕", "교사")] == ["왕은", "교사는"]
    assert [marked(word, "to") for word in ("시장", "학교", "호텔")] == ["시장으로", "학교로", "호텔로"]


def test_hindi_agreement() -> None:
    assert [perfective("ख़रीदा", *form) for form in (("m", False), ("m", True), ("f", False), ("f", True))] == [
        "ख़रीदा", "ख़रीदे", "ख़रीदी", "ख़रीदीं",
    ]  # fmt: skip
    assert perfective("साफ़ किया", "f", True) == "साफ़ कीं"
    assert perfective("धोया", "f", False) == "धोई"
    hindi = all_realisers()["hi"]

    def bought(noun: str, number: int) -> str:
        return hindi.sentence(deal(Thing(noun, "new", number, False), BAKER))

    assert bought("key", 1).endswith(unicodedata.normalize("NFC", "नानबाई ने बाज़ार में एक नई चाबी ख़रीदी।"))
    assert bought("umbrella", 3).endswith(unicodedata.normalize("NFC", "तीन नए छाते ख़रीदे।"))


def test_japanese_and_chinese_counters() -> None:
    japanese, chinese = all_realisers()["ja"], all_realisers()["zh"]
    assert japanese.thing(Thing("key", "old", 9, False)) == "九つの古い鍵"
    assert japanese.thing(Thing("key", "old", 10, False)) == "十の古い鍵"
    assert japanese.thing(Thing("book", "old", 2, False)) == "二冊の古い本"
    assert chinese.thing(Thing("book", "old", 2, False)) == "两本旧书"
    assert (
        chinese.sentence(Tell("night", TEACHER, "baker", "castle", "empty")) == "夜里，老师告诉面包师，城堡空荡荡的。"
    )


def test_english_articles_and_pronouns() -> None:
    english = all_realisers()["en"]
    assert english.thing(Thing("key", "old", 1, False)) == "an old key"
    assert english.thing(Thing("key", "new", 1, False)) == "a new key"
    for person, sex in PEOPLE.items():
        sentence = english.sentence(NotGo("monday", Subject(person, True), "market", "rain"))
        assert (" she " in sentence) == (sex == "f")
