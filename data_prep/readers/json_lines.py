"""JSON lines as records.

In:  the lines of a range.
Out: a `Record` for each JSON object, a `Rejected` for each other line; blank lines are passed over.

A line is accepted exactly where Python's `json` accepts it (NaN included), or nests objects up to orjson's 1,024 deep.
orjson, which is several times as fast, reads what it accepts; `json` decides about the rest (NaN, infinite numbers,
halves of surrogate pairs, which orjson refuses) and about keys that orjson made floats of (integers beyond 64 bits).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from data_prep.readers.lines import Lines, LongLine
from data_prep.readers.record import Record, Rejected, rejected
from data_prep.readers.rows import RowReader
from data_prep.readers.source import SourceFormat
from mlc.data.text import Unusable


def json_records(lines: Lines, source: SourceFormat) -> Iterator[Record | Rejected]:
    """Every record of the lines that begin in the range."""
    rows = RowReader(source)
    loads, record_of = orjson.loads, rows.record
    for number, content, inside in lines:
        if not inside:
            return
        if isinstance(content, LongLine):
            if not content.blank:
                yield content.rejected(number, source.max_line_bytes)
            continue
        try:
            try:
                yield record_of(loads(content), number)
                continue
            except orjson.JSONDecodeError:
                if not content.strip():
                    continue
            except AttributeError:  # a list or number has no `get`
                pass
            except Unusable as unusable:
                if unusable.reason != "wrong_type" or not rows.has_inexact_key(loads(content)):
                    raise
            found: Record | Rejected = record_of(_json_object(content), number)
        except Unusable as unusable:
            found = rejected(number, unusable.reason, unusable.detail, content)
        yield found


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        row = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise Unusable("undecodable", str(error)) from None
    except (ValueError, RecursionError) as error:
        raise Unusable("broken_json", str(error)) from None
    if not isinstance(row, dict):
        raise Unusable("not_an_object", type(row).__name__)
    return row
