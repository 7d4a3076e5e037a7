"""A corpus with planted near-copies: which document is a copy of which, and how similar the two are.

In:  <language>.jsonl.zst files with a field "text".
Out: <language>.jsonl, and for each document its language, line, family and similarity to its family's original.

Documents are passages of the corpus. One is taken only if fewer than a tenth of its shingles were seen in those taken
before, so two documents that were not planted have J < 0.1 / 0.9. A copy is made by one kind of edit, as strong as its
similarity allows. J is that of the sets of shingles that `data_prep.duplicates` uses, computed on the whole sets.
"""

from __future__ import annotations

import bisect
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from data_prep.duplicates.section import DuplicatesSection
from data_prep.duplicates.shingles import Shingler
from mlc.data.spacing import writes_spaces
from mlc.data.text import Unusable, normalise

PASSAGE_CHARACTERS = (500, 4000)
FEWEST_SHINGLES = 60
LARGEST_SHARE_SEEN = 0.1
BOILERPLATES = 8  # of a language: many documents have the same
LEAST_WITH_BOILERPLATE = 0.7  # with more of it, documents with the same boilerplate are similar
TRIES = 10
UNRELATED = -1
_SENTENCE = re.compile(r"[^.!?\n。！？।؟]*[.!?\n。！？।؟]+\s*|[^.!?\n。！？।؟]+")

Edit = Callable[[int], str]
"""A text after so many changes of one kind; more changes contain the fewer ones."""


@dataclass(frozen=True)
class Planted:
    """One document of the set.

    Attributes:
        line: in the file of its language, from 1; also its id there.
        family: of an original and its copies, or `UNRELATED`.
        similarity: to the original, 1.0 for itself.
    """

    language: str
    line: int
    family: int
    similarity: float
    kind: str


@dataclass(frozen=True)
class Amounts:
    """How many documents of a language, and the range that similarities of copies are drawn from, evenly."""

    families: int
    unrelated: int
    most_copies: int
    lowest: float
    highest: float


class Sets:
    """Sets of shingles, as the default recipe has them."""

    def __init__(self) -> None:
        section = DuplicatesSection()
        self._shingler = Shingler(section.words, section.characters)

    def of(self, text: str) -> frozenset[int]:
        return frozenset(self._shingler.shingles([text]).hashes_S.tolist())


def write_set(corpus: Path, languages: Sequence[str], amounts: Amounts, seed: int, folder: Path) -> list[Planted]:
    """Write <language>.jsonl files; what each document is."""
    sets, found = Sets(), list[Planted]()
    family = 0
    for language in languages:
        drawn = random.Random(f"{seed} {language}")
        passages = list(passages_of(corpus / f"{language}.jsonl.zst", sets, drawn))
        drawn.shuffle(passages)
        kept_back, passages = passages[:BOILERPLATES], passages[BOILERPLATES:]
        families = min(amounts.families, len(passages) // 2)
        rows = [(text, UNRELATED, 1.0, "") for text in passages[families : families + amounts.unrelated]]
        copier = Copier(language, passages, kept_back, sets, drawn)
        for original in passages[:families]:
            rows.append((original, family, 1.0, ""))
            for _ in range(drawn.randint(1, amounts.most_copies)):
                rows.append((*copier.copy(original, family, amounts),))
            family += 1
        drawn.shuffle(rows)
        with (folder / f"{language}.jsonl").open("w", encoding="utf-8") as out:
            for line, (text, number, similarity, kind) in enumerate(rows, 1):
                out.write(json.dumps({"id": str(line), "text": text}, ensure_ascii=False) + "\n")
                found.append(Planted(language, line, number, similarity, kind))
    return found


def passages_of(path: Path, sets: Sets, drawn: random.Random) -> Iterator[str]:
    """Passages of whole lines that hardly share a shingle with any before."""
    seen: set[int] = set()
    for text in _texts(path):
        lines, characters, wanted = list[str](), 0, drawn.randint(*PASSAGE_CHARACTERS)
        for line in [*text.split("\n"), ""]:
            lines.append(line)
            characters += len(line) + 1
            if characters < wanted:
                continue
            passage = "\n".join(lines).strip()[: 2 * PASSAGE_CHARACTERS[1]].strip()
            lines, characters, wanted = [], 0, drawn.randint(*PASSAGE_CHARACTERS)
            shingles = sets.of(passage)
            if len(shingles) >= FEWEST_SHINGLES and len(shingles & seen) < LARGEST_SHARE_SEEN * len(shingles):
                seen |= shingles
                yield passage


def _texts(path: Path) -> Iterator[str]:
    with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        for line in stream.read().splitlines():
            try:
                yield normalise(json.loads(line)["text"])
            except Unusable:
                continue


class Copier:
    """Makes copies of a language's passages."""

    def __init__(
        self, language: str, passages: Sequence[str], boilerplates: Sequence[str], sets: Sets, drawn: random.Random
    ) -> None:
        self._spaced, self._sets, self._drawn = writes_spaces(language), sets, drawn
        self._boilerplates = [self._units(text) for text in boilerplates]
        self._vocabulary = [unit for text in passages[:100] for unit in self._units(text) if not unit.isspace()]
        self._kinds: dict[str, Callable[[str], tuple[int, Edit]]] = {
            "words changed": self._changed,
            "words inserted": self._inserted,
            "sentences dropped": self._dropped,
            "boilerplate": self._framed,
        }

    def copy(self, original: str, family: int, amounts: Amounts) -> tuple[str, int, float, str]:
        """A copy whose similarity is at most 0.02 above one drawn evenly: (text, family, similarity, kind)."""
        shingles = self._sets.of(original)
        while True:
            kind = self._drawn.choice(list(self._kinds))
            most, edit = self._kinds[kind](original)

            def similarity(count: int, edit: Edit = edit) -> float:
                other = self._sets.of(edit(count))
                return len(shingles & other) / len(shingles | other)

            for _ in range(TRIES):  # one change of a short text may take more than is wanted
                wanted = self._drawn.uniform(amounts.lowest, amounts.highest)
                if kind == "boilerplate" and wanted < LEAST_WITH_BOILERPLATE:
                    continue
                count = bisect.bisect_right(range(most + 1), -wanted, key=lambda count: -similarity(count)) - 1
                if count > 0 and wanted <= (found := similarity(count)) < wanted + 0.02:
                    return edit(count), family, found, kind

    def _units(self, text: str) -> list[str]:
        return re.findall(r"\s+|\S+" if self._spaced else r"(?s).", text)

    def _changed(self, text: str) -> tuple[int, Edit]:
        units = self._units(text)
        places = [i for i, unit in enumerate(units) if not unit.isspace()]
        self._drawn.shuffle(places)
        others = [self._drawn.choice(self._vocabulary) for _ in places]

        def edit(count: int) -> str:
            changed = list(units)
            for place, other in zip(places[:count], others, strict=False):
                changed[place] = other
            return "".join(changed)

        return len(places), edit

    def _inserted(self, text: str) -> tuple[int, Edit]:
        units, joint = self._units(text), " " if self._spaced else ""
        places = [i for i, unit in enumerate(units) if not unit.isspace()]
        self._drawn.shuffle(places)
        others = [self._drawn.choice(self._vocabulary) for _ in places]

        def edit(count: int) -> str:
            longer = list(units)
            for place, other in zip(places[:count], others, strict=False):
                longer[place] = other + joint + longer[place]
            return "".join(longer)

        return len(places), edit

    def _dropped(self, text: str) -> tuple[int, Edit]:
        sentences = _SENTENCE.findall(text)
        places = list(range(len(sentences)))
        self._drawn.shuffle(places)

        def edit(count: int) -> str:
            gone = set(places[:count])
            return "".join(sentence for i, sentence in enumerate(sentences) if i not in gone).strip()

        return len(sentences) - 1, edit

    def _framed(self, text: str) -> tuple[int, Edit]:
        before, after = self._drawn.choice(self._boilerplates), self._drawn.choice(self._boilerplates)

        def edit(count: int) -> str:
            return "".join((*before[: -(-count // 2)], "\n", text, "\n", *after[: count // 2])).strip()

        return 2 * min(len(before), len(after)), edit
