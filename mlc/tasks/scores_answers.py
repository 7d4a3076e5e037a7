"""Scores of extracted answers: exact match and F1 of words.

In:  gold answers of each question (none = it has no answer) and one predicted answer each ("" = "no answer").
Out: `Scores`: exact match and F1, 0..1, with their values for each question.

Sources: SQuAD (Rajpurkar et al. 2016, evaluate-v1.1.py; 2018, evaluate-v2.0.py) for English; MLQA (Lewis et al. 2020,
mlqa_evaluation_v1.py of github.com/facebookresearch/MLQA) for several languages.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np

from mlc.data.spacing import UNSPACED_RANGES, language_code
from mlc.tasks.scores import RESAMPLES, SEED, Doubles, Scores, mean_measure, summarise
from mlc.tasks.scores_classes import check_same_length

Rules = Literal["squad", "mlqa"]

_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"\sال^|ال",
}
"""As MLQA has them: the Arabic article is taken out wherever its letters stand. Other languages have none there."""
_LETTERS_APART: dict[str, tuple[tuple[int, int], ...]] = {
    **dict.fromkeys(("en", "es", "hi", "vi", "de", "ar"), ()),
    "zh": ((0x4E00, 0x9FA5),),
}
"""Of MLQA's languages, code points of letters that are words by themselves."""


def score_answers(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[str],
    *,
    language: str = "en",
    rules: Rules = "mlqa",
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Scores:
    """Score answers. A question's score is its best over the gold answers.

    Args:
        gold: right answers of each question.
        predicted: one answer each.
        language: of the answers; it matters for "mlqa".
        rules: how answers are normalised: see `normalise_answer`. "squad" for figures to be compared with SQuAD's.
        resamples, seed: of the intervals.

    Raises:
        DataError: nothing to score, or not one answer for each question.
    """
    check_same_length(len(gold), len(predicted), "question answering")

    def tokens(text: str) -> tuple[str, ...]:
        return tuple(normalise_answer(text, language, rules).split())

    exact, f1 = np.zeros(len(gold)), np.zeros(len(gold))
    for number, (answers, answer) in enumerate(zip(gold, predicted, strict=True)):
        found = tokens(answer)
        # As in SQuAD 2.0: an answer of which nothing is left counts as none, if there is another.
        right = [tokens(text) for text in answers]
        right = [text for text in right if text] or [()]
        exact[number] = max(float(text == found) for text in right)
        f1[number] = max(token_f1(text, found) for text in right)
    has_answer = np.array([bool(answers) for answers in gold])
    details: dict[str, object] = {"rules": rules, "language": language, "without_answer": int((~has_answer).sum())}
    for name, chosen in (("with_answer", has_answer), ("without_answer", ~has_answer)):
        if chosen.any() and not chosen.all():
            details[f"f1_{name}"] = float(f1[chosen].mean())
    per_example: dict[str, Doubles] = {"f1": f1, "exact_match": exact}
    measures = [mean_measure(name, values) for name, values in per_example.items()]
    return summarise(
        "question_answering", "f1", measures,
        resamples=resamples, seed=seed, details=details, per_example=per_example,
    )  # fmt: skip


def token_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """F1 of two bags of tokens; of two empty ones 1, as in SQuAD 2.0."""
    if not gold or not predicted:
        return float(not gold and not predicted)
    common = sum((Counter(gold) & Counter(predicted)).values())
    return 2 * common / (len(gold) + len(predicted))


def normalise_answer(text: str, language: str = "en", rules: Rules = "mlqa") -> str:
    """The words of an answer as they are compared: small letters, no punctuation, no articles, single spaces.

    Args:
        text: an answer.
        language: code of mlc.languages.
        rules: squad = ASCII punctuation and English articles, whatever the language. mlqa = all punctuation of Unicode
            and the articles of the language; Chinese is split by characters. For languages that MLQA does not have
            nothing is taken for an article, and letters of scripts without spaces (Japanese, Thai, ...) stand alone.
    """
    if rules == "squad":
        plain = text.lower().translate({ord(mark): None for mark in string.punctuation})
        return " ".join(re.sub(_ARTICLES["en"], " ", plain).split())
    code = language_code(language)
    plain = text.lower().translate(_punctuation())
    if code in _ARTICLES:
        plain = re.sub(_ARTICLES[code], " ", plain)
    ranges = _LETTERS_APART.get(code, UNSPACED_RANGES)
    return " ".join((_letters(ranges).sub(r" \g<0> ", plain) if ranges else plain).split())


@cache
def _punctuation() -> dict[int, None]:
    every = (code for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P"))
    return dict.fromkeys([*every, *map(ord, string.punctuation)])


@cache
def _letters(ranges: tuple[tuple[int, int], ...]) -> re.Pattern[str]:
    return re.compile("[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges) + "]")
