"""The steps of a recipe, one after the other.

In:  a `CleaningSection`; normalised documents, some megabytes at a time.
Out: for each document itself, a changed one, or `Dropped` with a reason to count.

The order is that of `CleaningSection`: what costs least first, and what changes a text after everything that judges it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_prep.cleaning.contamination import ContaminationFilter, build_index
from data_prep.cleaning.document import BatchStep, Document, Dropped, Step
from data_prep.cleaning.evaluation_texts import find_evaluation_sets, read_texts
from data_prep.cleaning.identification import LanguageFilter
from data_prep.cleaning.length import LengthFilter
from data_prep.cleaning.pairs import PairFilter
from data_prep.cleaning.personal_data import PersonalDataRemover
from data_prep.cleaning.repetition import RepetitionFilter
from data_prep.cleaning.section import CleaningSection, ContaminationSection
from data_prep.cleaning.segmentation import ChineseWords, MosesTokens, check_libraries


def build_steps(section: CleaningSection, contamination_index: Path) -> tuple[Step, ...]:
    """The steps that a recipe asks for; a worker builds its own.

    Args:
        section: what to do.
        contamination_index: folder that `index_evaluation_sets` made; not looked at without [cleaning.contamination].

    Raises:
        DataError: the index cannot be read.
        RecipeError: a key names what there is none of, or a library is not installed.
    """
    check_libraries(section)
    steps: list[Step] = []
    if section.length:
        steps.append(LengthFilter(section.length))
    if section.pairs:
        steps.append(PairFilter(section.pairs))
    if section.repetition:
        steps.append(RepetitionFilter(section.repetition))
    if section.language:
        steps.append(LanguageFilter(section.language))
    if section.contamination:
        steps.append(ContaminationFilter(contamination_index))
    if section.personal_data:
        steps.append(PersonalDataRemover(section.personal_data))
    if section.chinese_words:
        steps.append(ChineseWords())
    if section.tokenise:
        steps.append(MosesTokens())
    return tuple(steps)


def clean(documents: Sequence[Document], steps: Sequence[Step]) -> list[Document | Dropped]:
    """What becomes of each document, in order. The same for any cut of a corpus into calls."""
    results: list[Document | Dropped] = list(documents)
    for step in steps:
        alive = [(i, document) for i, document in enumerate(results) if isinstance(document, Document)]
        if isinstance(step, BatchStep):
            found = step.many([document for _, document in alive])
        else:
            found = [step(document) for _, document in alive]
        for (i, _), result in zip(alive, found, strict=True):
            results[i] = result
    return results


def index_evaluation_sets(section: ContaminationSection, folder: Path) -> dict[int, int]:
    """Read the evaluation sets once and write their index: {words in a row: how many different rows}.

    Raises:
        DataError: a file cannot be read.
        RecipeError: a path matches no file.
    """
    texts = (text for path in find_evaluation_sets(section) for text in read_texts(path))
    return build_index(texts, section.ngram_words, section.smallest_words, folder)


def unchecked_languages(steps: Sequence[Step]) -> dict[str, int]:
    """{language: how many texts passed language identification because the identifier does not know it}."""
    return {
        language: count
        for step in steps
        if isinstance(step, LanguageFilter)
        for language, count in sorted(step.unchecked.items())
    }
