"""Arrow tables as records: what Parquet files and Hugging Face data sets give.

In:  record batches, in order.
Out: a `Record` or `Rejected` for each row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from data_prep.readers.lines import LineCount
from data_prep.readers.record import KEPT_CHARACTERS, Record, Rejected, rejected
from data_prep.readers.rows import RowReader
from data_prep.readers.source import SourceFormat
from mlc.data.text import Unusable

_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 8192


class _Unreadable:
    """Stands for a value that Arrow cannot make a Python object of (a time beyond datetime's, a broken string)."""


def rows_a_batch(total_bytes: int, total_rows: int) -> int:
    """How many rows to ask for at once, so that a batch has about 4 MiB."""
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * total_rows // max(1, total_bytes)))


def columns_needed(names: Sequence[str], source: SourceFormat) -> list[str]:
    """Which of the columns the source's fields are in; of a nested field, the outermost."""
    wanted = RowReader(source).names
    wanted_columns = {name if name in names else name.split(".")[0] for name in wanted}
    return [name for name in dict.fromkeys(names) if name in wanted_columns]


def arrow_records(
    batches: Iterable[pa.RecordBatch | pa.Table], source: SourceFormat, count: LineCount
) -> Iterator[Record | Rejected]:
    """Every row of the batches; `count` counts them."""
    rows, limit_bytes = RowReader(source), source.max_line_bytes
    for batch in batches:
        names = columns_needed(batch.schema.names, source)
        columns = [values_of(batch.column(batch.schema.names.index(name))) for name in names]
        twice = [name for name in names if batch.schema.names.count(name) > 1]
        problem = Unusable("wrong_columns", f"two columns have the name {twice[0]}") if twice else None
        for values in zip(*columns, strict=True) if columns else ((),) * batch.num_rows:
            count.lines += 1
            try:
                if problem:
                    raise problem
                record = rows.record(dict(zip(names, values, strict=True)), count.lines)
                _refuse_too_long(record, limit_bytes)
            except Unusable as unusable:
                beginning = " | ".join(str(value)[:KEPT_CHARACTERS] for value in values)
                yield rejected(count.lines, unusable.reason, unusable.detail, beginning)
            else:
                yield record


def _refuse_too_long(record: Record, limit_bytes: int) -> None:
    for text in record.texts:
        if 4 * len(text) > limit_bytes and len(text.encode(errors="replace")) > limit_bytes:
            raise Unusable("too_long", f"more than {limit_bytes} bytes")


def values_of(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Python's values of a column; strings that are not UTF-8 are their bytes."""
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except (ValueError, OverflowError, pa.ArrowException):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _undecodable(scalar)
    except (ValueError, OverflowError, pa.ArrowException):
        return _Unreadable()


def _undecodable(scalar: pa.Scalar) -> Any:
    """A string that is not UTF-8 as bytes, which `RowReader` decodes once more to say what is wrong; what holds it."""
    if isinstance(scalar, pa.StructScalar):
        return {name: _value(scalar[name]) for name in scalar}
    if isinstance(scalar, pa.ListScalar | pa.LargeListScalar):
        return [_value(part) for part in scalar.values]
    if isinstance(scalar, pa.DictionaryScalar):
        return _value(scalar.value)
    return scalar.as_buffer().to_pybytes() if hasattr(scalar, "as_buffer") else _Unreadable()
