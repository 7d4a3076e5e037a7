"""The languages of the demonstration corpus: one realiser (lexicon and grammar) a file."""

from __future__ import annotations

from data_prep.demo_corpus.languages.chinese import Chinese
from data_prep.demo_corpus.languages.english import English
from data_prep.demo_corpus.languages.german import German
from data_prep.demo_corpus.languages.greek import Greek
from data_prep.demo_corpus.languages.hindi import Hindi
from data_prep.demo_corpus.languages.japanese import Japanese
from data_prep.demo_corpus.languages.korean import Korean
from data_prep.demo_corpus.languages.russian import Russian
from data_prep.demo_corpus.languages.spanish import Spanish
from data_prep.demo_corpus.languages.turkish import Turkish
from data_prep.demo_corpus.realiser import Realiser


def all_realisers() -> dict[str, Realiser]:
    """Language code -> its realiser, in a fixed order."""
    realisers: tuple[Realiser, ...] = (
        English(), German(), Spanish(), Russian(), Greek(), Turkish(), Chinese(), Japanese(), Korean(), Hindi(),
    )  # fmt: skip
    return {realiser.code: realiser for realiser in realisers}
