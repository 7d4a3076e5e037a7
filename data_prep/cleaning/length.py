"""Documents that are too short or too long.

In:  `Document`.
Out: the same, or `Dropped` with too_few_characters, too_many_characters, too_few_words or too_many_words.
"""

from __future__ import annotations

from data_prep.cleaning.document import Document, Dropped
from data_prep.cleaning.section import LengthSection
from mlc.data.spacing import writes_spaces

PIECE_CHARACTERS = 1 << 18


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
            if self._counts_words and not self._has_enough_words(text, language):
                words = count_words(text, language)
                if words < self._fewest_words:
                    return Dropped("too_few_words", f"{words} of {language}")
                if words > self._most_words:
                    return Dropped("too_many_words", f"{words} of {language}")
        return document

    def _has_enough_words(self, text: str, language: str) -> bool:
        """Whether a look at the first words is enough to let a text pass: where words have no upper limit."""
        if self._most_words < 1 << 62 or not writes_spaces(language):
            return False
        return len(text[:PIECE_CHARACTERS].split(maxsplit=self._fewest_words)) >= self._fewest_words


def count_words(text: str, language: str, piece_characters: int = PIECE_CHARACTERS) -> int:
    """Words between white space, or characters that are none where the language writes no spaces.

    A longer text is gone through in pieces: a list of its words takes ten times the memory of the text.
    """
    spaced = writes_spaces(language)
    total, inside_word = 0, False
    for start in range(0, len(text), piece_characters):
        piece = text[start : start + piece_characters]
        words = piece.split()
        total += len(words) if spaced else sum(map(len, words))
        if spaced and inside_word and not piece[0].isspace():
            total -= 1
        inside_word = not piece[-1].isspace()
    return total
