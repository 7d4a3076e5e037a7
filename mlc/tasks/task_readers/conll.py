"""Sentences of CoNLL files: a word a line, its columns behind it, a blank line between sentences.

In:  a file, plain, .gz or .zst; columns between tabs where the file's first word has tabs on its line, else between
     spaces.
Out: `Row` with "tokens" and "labels", or `RecordError` for a sentence that cannot be used.

By default the first column is the word and the last its label, as in CoNLL 2002 and 2003 (Tjong Kim Sang 2002; Tjong
Kim Sang & De Meulder 2003). Lines with -DOCSTART- separate sentences as blank ones do, and comments such as
"# id = 17" before a sentence are no words. WikiANN (Pan et al. 2017) writes "de:Wort" for words; where all words of the
file's first sentence begin with one language's code, all sentences must, and the code goes to the place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlc.errors import DataError
from mlc.languages import language_code
from mlc.tasks.examples import Place
from mlc.tasks.task_readers.rows import Reading, RecordError, Row
from mlc.tasks.task_readers.tables import decoded_lines

_COMMENT = re.compile(r"# ?(id|sent_id|source_sent_id|newdoc|newpar|text|global\.columns)\b")
_DOCUMENT_START = "-DOCSTART-"
_PREFIX = re.compile(r"([a-z]{2,3}(?:-[a-z]+)*|simple):(?=.)", re.DOTALL)  # WikiANN's codes are Wikipedia's
_SPACES = re.compile(" +")

Line = tuple[int, str | RecordError]


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the first sentence says about the whole file."""

    separator: str
    columns: int
    prefix: str


def read_conll(path: Path, reading: Reading) -> Iterator[Row | RecordError]:
    """Sentences; the place is the line of the first word, in an error the line that is wrong.

    Raises:
        DataError: the file cannot be read, or its columns are not those asked for.
    """
    shape: _Shape | None = None
    for record, lines in enumerate(_sentences(path)):
        bad = next((line for _, line in lines if isinstance(line, RecordError)), None)
        if bad is not None:
            yield bad.of_record(record)
            continue
        words = [(number, line) for number, line in lines if isinstance(line, str)]
        if shape is None:
            shape = _shape(words, Place(str(path), words[0][0], record=record), reading)
        yield _row(words, shape, Place(str(path), words[0][0], record=record), reading)


def _sentences(path: Path) -> Iterator[list[Line]]:
    sentence: list[Line] = []
    for number, line in decoded_lines(path):
        if isinstance(line, str) and (not line.strip(" \t") or line.startswith(_DOCUMENT_START)):
            if sentence:
                yield sentence
            sentence = []
        elif sentence or isinstance(line, RecordError) or not _COMMENT.match(line):
            sentence.append((number, line))
    if sentence:
        yield sentence


def _shape(words: list[tuple[int, str]], place: Place, reading: Reading) -> _Shape:
    first = words[0][1]
    separator = "\t" if "\t" in first else " "
    cells = _split(first, separator)
    wanted = reading.numbered_columns or {"tokens": 1}
    outside = {role: number for role, number in wanted.items() if not 1 <= number <= len(cells)}
    if outside:
        raise DataError(
            "there is no such column", found=str(outside), needed=f"numbers from 1 to {len(cells)}", where=str(place)
        )
    if len(cells) < 2 and reading.gold_is_needed:
        raise DataError(
            "this is no CoNLL file",
            found=repr(first[:80]),
            needed="a word and its label on a line, with a tab or a space between",
            where=str(place),
        )
    column = wanted.get("tokens", 1) - 1
    prefixes = {
        match[1] if (match := _PREFIX.match(cells[column])) else ""
        for cells in (_split(line, separator) for _, line in words)
        if len(cells) > column
    }
    return _Shape(separator, len(cells), prefixes.pop() if len(prefixes) == 1 else "")


def _split(line: str, separator: str) -> list[str]:
    return line.split("\t") if separator == "\t" else _SPACES.split(line.strip(" "))


def _row(words: list[tuple[int, str]], shape: _Shape, place: Place, reading: Reading) -> Row | RecordError:
    numbers = reading.numbered_columns or {"tokens": 1, "labels": shape.columns}
    tokens, labels = [], []
    for number, line in words:
        cells = _split(line, shape.separator)
        here = Place(place.file, number, record=place.record)
        if len(cells) != shape.columns:
            needed = f"{shape.columns}, as on the file's first line of a word"
            return RecordError("the line has another number of columns", here, found=line, needed=needed)
        token = cells[numbers.get("tokens", 1) - 1]
        if shape.prefix:
            if not token.startswith(f"{shape.prefix}:") or len(token) == len(shape.prefix) + 1:
                needed = f'"{shape.prefix}:" before every word, as in the file\'s first sentence'
                return RecordError("the word lacks the language's prefix", here, found=token, needed=needed)
            token = token[len(shape.prefix) + 1 :]
        tokens.append(token)
        if shape.columns > 1 and "labels" in numbers:
            labels.append(cells[numbers["labels"] - 1])
    language = language_code("en" if shape.prefix == "simple" else shape.prefix)
    fields = {"tokens": tokens, "labels": labels} if labels else {"tokens": tokens}
    return Row(Place(place.file, place.line, language, place.record), fields)
