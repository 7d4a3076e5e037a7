"""Documents that are not in the language they are said to be.

In:  `Document`.
Out: the same, or `Dropped` with other_language; which languages could not be checked.

The identifier is CLD2 (pycld2: Apache-2.0, its tables come with the wheel, no network), which knows 160 languages. It
is told the declared language as a hint, and gives the share of the text that is in each language.
"""

from __future__ import annotations

from collections import Counter

from data_prep.cleaning.document import Document, Dropped
from data_prep.cleaning.section import LanguageSection
from mlc.languages import short_code

_NAMES_OF_CLD2 = {"he": "iw", "jv": "jw", "fil": "tl", "nb": "no", "cmn": "zh"}
_ALIKE = (("no", "nn", "da"), ("id", "ms"), ("hr", "sr", "bs"), ("cs", "sk"), ("zh", "zh-Hant"), ("rw", "rn"),
          ("xh", "zu", "ss", "nr"), ("st", "tn", "nso"))  # fmt: skip
"""Languages that CLD2 hardly tells apart: text in one of a group passes for any other."""


class LanguageFilter:
    """Judges each side of a document by its beginning.

    Attributes:
        unchecked: {language: how many texts passed because CLD2 does not know it}.
    """

    def __init__(self, section: LanguageSection) -> None:
        import pycld2  # type: ignore[import-untyped]

        self._section, self._cld2 = section, pycld2
        detected = set(pycld2.DETECTED_LANGUAGES)
        self._known = frozenset(code for name, code in pycld2.LANGUAGES if name in detected)
        self._accepted: dict[str, tuple[str, frozenset[str]] | None] = {}
        self.unchecked: Counter[str] = Counter()

    def knows(self, language: str) -> bool:
        """Whether texts of a language can be checked."""
        return self._accept(language) is not None

    def __call__(self, document: Document) -> Document | Dropped:
        """The document, or why it is left out."""
        for text, language in zip(document.texts, document.languages, strict=True):
            accepted = self._accept(language)
            if accepted is None:
                self.unchecked[language] += 1
            elif len(text) >= self._section.smallest_characters:
                dropped = self._judge(text[: self._section.characters], language, *accepted)
                if dropped:
                    return dropped
        return document

    def _judge(self, text: str, language: str, hint: str, accepted: frozenset[str]) -> Dropped | None:
        try:
            reliable, _, shares = self._cld2.detect(
                text.encode("utf-8", "replace"), isPlainText=True, bestEffort=True, hintLanguage=hint
            )
        except self._cld2.error:  # control characters and noncharacters, where a recipe keeps them
            return None
        if not reliable or sum(share[2] for share in shares if share[1] in accepted) >= self._percent:
            return None
        found = ", ".join(f"{code} {percent} %" for _, code, percent, _ in shares if percent)
        return Dropped("other_language", f"said to be {language}, found {found or 'none'}")

    @property
    def _percent(self) -> float:
        return 100 * self._section.smallest_share

    def _accept(self, language: str) -> tuple[str, frozenset[str]] | None:
        """CLD2's name of a language, and all names that pass for it; None where CLD2 does not know it."""
        if language not in self._accepted:
            base = short_code(language.replace("_", "-").partition("-")[0].lower())
            code = _NAMES_OF_CLD2.get(base, base)
            groups = [group for group in _ALIKE if code in group]
            names = frozenset((code, *(name for group in groups for name in group)))
            self._accepted[language] = (code, names) if code in self._known else None
        return self._accepted[language]
