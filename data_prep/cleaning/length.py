"""Documents that are too short or too long.

In:  `Document`.
Out: the same, or `Dropped` with too_few_characters, too_many_characters, too_few_words or too_many_words.
"""

from __future__ import annotations

from data_prep.cleaning.document import Document, Dropped
from data_prep.cleaning.section import LengthSection
from data_prep.cleaning.spaces import writes_spaces


class LengthFilter:
    """Judges each side of a document by its length."""

    def __init__(self, section: LengthSection) -> None:
        self._fewest_characters, self._fewest_words = section.smallest_characters, section.smallest_words
        self._most_characters = section.largest_characters or 1 << 62
        self._most_words = section.largest_words or 1 << 62
        self._counts_words = bool(section.smallest_words or section.largest_words)

    def __call__(self, document: Document) -> Document | Dropped:
        """The document, or why it is left out."""
        for text, language in zip(document.texts, document.languages, strict=True):
            characters = len(text)
            if characters < self._fewest_characters:
                return Dropped("too_few_characters", f"{characters} of {language}")
            if characters > self._most_characters:
                return Dropped("too_many_characters", f"{characters} of {language}")
            if self._counts_words:
                words = count_words(text, language)
                if words < self._fewest_words:
                    return Dropped("too_few_words", f"{words} of {language}")
                if words > self._most_words:
                    return Dropped("too_many_words", f"{words} of {language}")
        return document


def count_words(text: str, language: str) -> int:
    """Words between white space, or characters that are none where the language writes no spaces."""
    words = text.split()
    return len(words) if writes_spaces(language) else sum(map(len, words))
