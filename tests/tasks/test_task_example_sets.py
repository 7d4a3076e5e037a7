"""Labels, ranges and few-shot choices of examples."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_task_files import write_json_lines

from mlc.errors import DataError, UsageError
from mlc.languages import is_language, language_code, language_in_name, languages_in_pair, short_code
from mlc.tasks.example_sets import check_labels, entity_type, few_shot, labels_of, rows
from mlc.tasks.examples import ClassificationExample, Place, QuestionExample, RegressionExample, TokenExample
from mlc.tasks.task_files import iob2_violations, read_task


def classified(text: str, label: str | None, record: int = 0) -> ClassificationExample:
    return ClassificationExample(text, None, label, Place("x.jsonl", record + 1, "de", record))


CLASSES = [classified(f"text {k}", "abc"[k % 3], k) for k in range(90)]
TYPES = ("PER", "LOC", "ORG", "MISC")


@st.composite
def sentences(draw: st.DrawFn) -> list[TokenExample]:
    found = []
    for number in range(draw(st.integers(1, 30))):
        types = draw(st.lists(st.sampled_from([*TYPES, None]), min_size=1, max_size=4))
        labels = ["O" if name is None else f"B-{name}" for name in types]
        found.append(TokenExample(tuple(f"w{number}" for _ in labels), tuple(labels), Place("x", number + 1)))
    return found


def test_labels_are_sorted_and_integers_by_number() -> None:
    assert labels_of(CLASSES) == ("a", "b", "c")
    assert labels_of([classified("x", label) for label in ("10", "9", "-1", "9")]) == ("-1", "9", "10")
    assert labels_of([classified("x", label) for label in ("10", "9", "x")]) == ("10", "9", "x")
    assert labels_of([TokenExample(("a", "b"), ("O", "B-X"), Place("x", 1))]) == ("B-X", "O")
    assert labels_of([]) == ()
    with pytest.raises(UsageError, match="no labels; found RegressionExample"):
        labels_of([RegressionExample("a", None, 1.0, Place("x", 1))])


def test_labels_outside_the_set_are_named_by_their_line() -> None:
    check_labels(CLASSES, ["c", "b", "a"])
    check_labels([classified("x", None)], [])
    with pytest.raises(DataError, match=r"found 'b', 'c' \(60 of 90 examples\); needed one of a") as caught:
        check_labels(CLASSES, ["a"])
    assert str(caught.value).startswith("x.jsonl:2: ")


def test_the_same_rows_in_every_language_though_some_are_set_aside(tmp_path: Path) -> None:
    for language, bad in (("de", 1), ("en", 4)):
        records = [{"text": "" if k == bad else f"{language} {k}", "label": "a"} for k in range(6)]
        write_json_lines(tmp_path / f"{language}.jsonl", records)
    data = read_task("classification", tmp_path, bad_records="set_aside", largest_bad_share=0.2)
    examples = data.of(ClassificationExample)
    assert [e.text for e in rows(examples, 0, 3)] == ["de 0", "de 2", "en 0", "en 1", "en 2"]
    assert [e.text for e in rows(examples, 3, None)] == ["de 3", "de 4", "de 5", "en 3", "en 5"]


@given(st.integers(0, 2**40), st.randoms(use_true_random=False))
def test_few_shot_is_a_function_of_seed_and_content(seed: int, shuffle: random.Random) -> None:
    chosen = few_shot(CLASSES, 8, seed)
    assert sorted(e.label or "" for e in chosen) == ["a"] * 8 + ["b"] * 8 + ["c"] * 8
    other = [classified(e.text, e.label, shuffle.randrange(99)) for e in CLASSES * 2]  # other order, lines, repeats
    shuffle.shuffle(other)
    assert [e.text for e in few_shot(other, 8, seed)] == [e.text for e in chosen]
    assert few_shot(few_shot(CLASSES, 16, seed), 8, seed) == chosen  # fewer shots are a part of more
    assert len(set(chosen)) == 24


def test_every_example_is_chosen_by_some_seed() -> None:
    chosen = [example for seed in range(200) for example in few_shot(CLASSES, 3, seed)]
    assert set(chosen) == set(CLASSES)
    # 200 draws of 3 of 30: each is expected 20 times, with a standard deviation of 4.2
    assert max(chosen.count(example) for example in CLASSES) < 20 + 6 * 4.2


@given(sentences(), st.integers(1, 4), st.integers(0, 9))
def test_few_shot_sentences_hold_every_type_often_enough(examples: list[TokenExample], k: int, seed: int) -> None:
    def count(name: str, among: list[TokenExample]) -> int:
        return sum(f"B-{name}" in (example.labels or ()) for example in among)

    there = [name for name in TYPES if count(name, examples)]
    if not there or any(count(name, examples) < k for name in there):
        with pytest.raises(DataError, match="too few examples"):
            few_shot(examples, k, seed)
        return
    chosen = list(few_shot(examples, k, seed))
    assert all(count(name, chosen) >= k for name in there)
    assert len(chosen) <= k * len(there)
    assert count(min(there, key=lambda name: (count(name, examples), name)), chosen) >= k


def test_sentences_count_for_all_their_types() -> None:
    both = [TokenExample((f"both {k}", "x"), ("B-PER", "B-LOC"), Place("x", k)) for k in range(2)]
    one = [TokenExample((f"one {k}",), ("B-LOC",), Place("x", k)) for k in range(20)]
    for seed in range(5):
        assert set(few_shot([*one, *both], 2, seed)) == set(both)  # PER is rarer, and they hold LOC as well


def test_few_shot_refuses_what_it_cannot_choose() -> None:
    with pytest.raises(DataError, match=r"found c: 1; needed 2 different ones each"):
        few_shot([*CLASSES[:2] * 2, *CLASSES[3:5], classified("x", "c"), classified("x", "c")], 2, 0)
    with pytest.raises(UsageError, match="at least one"):
        few_shot(CLASSES, 0, 0)
    with pytest.raises(DataError, match="gold answers"):
        few_shot([classified("x", None)], 1, 0)
    with pytest.raises(DataError, match="no examples"):
        few_shot([], 1, 0)
    questions = [QuestionExample(str(k), f"q{k}", "c", (), Place("x", k)) for k in range(4)]
    assert len(few_shot(questions, 3, 0)) == 3


@pytest.mark.parametrize(
    ("labels", "violations"),
    [("O B-X I-X", 0), ("I-X I-X O", 1), ("B-X I-Y I-Y", 1), ("O I-X O I-X", 2), ("B-X B-X I-X", 0), ("", 0)],
)
def test_labels_that_continue_nothing_are_counted(labels: str, violations: int) -> None:
    assert iob2_violations(labels.split()) == violations


def test_entity_types() -> None:
    assert [entity_type(label) for label in ("B-PER", "I-PER", "O", "B-", "NOUN")] == ["PER", "PER", "O", "B-", "NOUN"]


@pytest.mark.parametrize(
    ("code", "short"),
    [
        *(("deu", "de"), ("DE", "de"), ("de-AT", "de"), ("de_DE", "de"), ("en_XX", "en"), ("zh-TW", "zh-Hant")),
        *(("zho_Hans", "zh"), ("zho_Hant", "zh-Hant"), ("arb_Arab", "ar"), ("arb_Latn", "ar-Latn"), ("nob", "no")),
        *(("simple", "simple"), ("zh-min-nan", "zh-min-nan"), ("", ""), ("zh-Hant", "zh-Hant"), ("ckb_Arab", "ckb")),
    ],
)
def test_one_code_a_language(code: str, short: str) -> None:
    assert language_code(code) == short
    assert language_code(short) == short
    assert short_code(short) == short


def test_languages_in_names() -> None:
    assert [language_in_name(name) for name in ("de.dev", "x.eng_Latn", "dev", "de.en", "de.deu")] == [
        "de", "en", "", "", "de"
    ]  # fmt: skip
    names = ("arq-eng", "x.de-pt-BR", "test-set", "src-tgt", "de", "de-en.fr-en")
    assert [languages_in_pair(name) for name in names] == [("arq", "eng"), ("de", "pt-BR"), None, None, None, None]
    assert [is_language(name) for name in ("dev", "de", "xyz_Latn", "en-de")] == [False, True, True, False]
