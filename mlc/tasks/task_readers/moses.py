"""Two files line by line, as Moses and OPUS have parallel text: line k of one translates line k of the other.

In:  two files, each plain, .gz or .zst.
Out: `Row` with "source" and "target", or `RecordError`; the place is in the first file.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from mlc.errors import DataError
from mlc.tasks.examples import Place
from mlc.tasks.task_readers.rows import RecordError, Row
from mlc.tasks.task_readers.tables import decoded_lines


def read_two_files(source: Path, target: Path) -> Iterator[Row | RecordError]:
    """Rows; a blank line is a record without a text, since the lines behind it keep their numbers.

    Raises:
        DataError: a file cannot be read, or one has more lines than the other.
    """
    for record, pair in enumerate(zip_longest(decoded_lines(source), decoded_lines(target))):
        if pair[0] is None or pair[1] is None:
            longer, shorter = (target, source) if pair[0] is None else (source, target)
            raise DataError(
                "the two files have different numbers of lines",
                found=f"{record} in {shorter}, more in {longer}",
                needed="line k of one to translate line k of the other",
                where=f"{longer}:{record + 1}",
            )
        (number, first), (_, second) = pair
        bad = next((line for line in (first, second) if isinstance(line, RecordError)), None)
        if bad is not None:
            yield bad.of_record(record)
        else:
            yield Row(Place(str(source), number, record=record), {"source": first, "target": second})
