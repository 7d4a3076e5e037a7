"""Words set apart by spaces: Chinese by jieba, punctuation as Moses' tokenizer does.

In:  `Document`.
Out: the document with more spaces. Both change the text for good: decoded tokens keep these spaces.
"""

from __future__ import annotations

import importlib.util
import logging

from data_prep.cleaning.document import Document
from data_prep.cleaning.section import CleaningSection
from mlc.data.spacing import writes_spaces
from mlc.errors import RecipeError
from mlc.languages import short_code

_CHINESE = frozenset(("zh", "yue", "wuu"))


def check_libraries(section: CleaningSection) -> None:
    """Refuse a recipe whose steps need a library that is not there: not every installation has them.

    Raises:
        RecipeError: with the command that installs it.
    """
    for key, value, library in (
        ("chinese_words", section.chinese_words, "jieba"),
        ("tokenise", section.tokenise, "sacremoses"),
    ):
        if value and importlib.util.find_spec(library) is None:
            raise RecipeError(
                f"{library} is not installed",
                found=f'cleaning.{key} = "{value}"',
                needed=f"the library {library}",
                where=f"cleaning.{key}",
                hint="pip install 'mlc[segmentation]'",
            )


class ChineseWords:
    """Puts a space between the words of Chinese sides (jieba's default dictionary, with its HMM for new words)."""

    def __init__(self) -> None:
        import jieba  # type: ignore[import-untyped]

        jieba.setLogLevel(logging.WARNING)
        self._cut = jieba.Tokenizer().cut

    def __call__(self, document: Document) -> Document:
        """The document with its Chinese sides in words."""
        if not any(_base(language) in _CHINESE for language in document.languages):
            return document
        texts = tuple(
            "\n".join(self._segmented(line) for line in text.split("\n")) if _base(language) in _CHINESE else text
            for text, language in zip(document.texts, document.languages, strict=True)
        )
        return Document(texts, document.languages)

    def _segmented(self, line: str) -> str:
        return " ".join(word for word in self._cut(line) if not word.isspace())


class MosesTokens:
    """Sets punctuation apart with spaces, line by line, in languages that write spaces between words."""

    def __init__(self) -> None:
        import sacremoses  # type: ignore[import-untyped]

        self._make = sacremoses.MosesTokenizer
        self._tokenizers: dict[str, sacremoses.MosesTokenizer] = {}

    def __call__(self, document: Document) -> Document:
        """The document with punctuation apart."""
        texts = tuple(
            self._tokenised(text, _base(language)) if writes_spaces(language) else text
            for text, language in zip(document.texts, document.languages, strict=True)
        )
        return Document(texts, document.languages)

    def _tokenised(self, text: str, language: str) -> str:
        if language not in self._tokenizers:
            self._tokenizers[language] = self._make(lang=language)
        tokenize = self._tokenizers[language].tokenize
        return "\n".join(tokenize(line, return_str=True, escape=False) for line in text.split("\n"))


def _base(language: str) -> str:
    return short_code(language.replace("_", "-").partition("-")[0].lower())
