"""Rows of Parquet files, and of data sets of the Hugging Face hub.

In:  a .parquet file (as it is, or .gz or .zst around it), or the name of a data set for datasets.load_dataset.
Out: `Row`; its line is the row's number from 1. Numbers of classes whose names the data set states are the names.

Names come from the features of a data set, which a Parquet file that `datasets` wrote carries along. -1 is the number
of a hidden answer there (GLUE's test sets) and becomes None.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlc.data import text_lines
from mlc.errors import DataError, UsageError
from mlc.tasks.examples import Place
from mlc.tasks.task_readers.rows import RecordError, Row, shorten
from mlc.tasks.task_readers.sources import HUB, HubName

_ROWS_AT_ONCE = 1000
_HIDDEN = -1

Names = Mapping[str, tuple[str, ...]]
"""Class names by column, for the columns that have them."""


def read_parquet(path: Path) -> Iterator[Row | RecordError]:
    """Rows of a Parquet file.

    Raises:
        DataError: it is damaged, or no Parquet file.
    """
    try:
        file = pq.ParquetFile(_opened(path))
        names = _names_in_metadata(file.schema_arrow.metadata or {})
        yield from _rows(file.iter_batches(_ROWS_AT_ONCE), str(path), names)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(
            "the Parquet file cannot be read", found=shorten(str(error)), where=str(path), hint="fetch it again"
        ) from None


def _opened(path: Path) -> Any:
    if path.suffix not in text_lines.COMPRESSED:
        return path
    # nothing is lost by joining lines: a Parquet file begins and ends with "PAR1"
    return pa.BufferReader(b"\n".join(line for _, line in text_lines.read_lines(path)))


def read_hub(name: HubName) -> Iterator[Row | RecordError]:
    """Rows of a data set: of the hub, or a local folder that `datasets` can load or has saved.

    Raises:
        UsageError: no split is chosen and there are several.
        DataError: `datasets` cannot load it.
    """
    data, split = _load(name)
    where = f"{HUB}{name.name}:{name.config}:{split}".rstrip(":")
    names = {column: found for column, feature in data.features.items() if (found := _class_names(feature))}
    yield from _rows((table for table in data.with_format("arrow").iter(_ROWS_AT_ONCE)), where, names)


def _load(name: HubName) -> tuple[Any, str]:
    """The data set, and which split it is."""
    import datasets

    where = HUB + ":".join(part for part in (name.name, name.config, name.split) if part)
    try:
        folder = Path(name.name)
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            found = datasets.load_from_disk(name.name)
            if name.split and isinstance(found, datasets.DatasetDict):
                found = found[name.split]
        else:
            found = datasets.load_dataset(name.name, name.config or None, split=name.split or None)
    except Exception as error:  # datasets raises errors of a dozen libraries, and Exception itself
        raise DataError(
            "datasets cannot load this data set",
            found=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            needed="hub:NAME[:CONFIG][:SPLIT]",
            where=where,
            hint="without the internet, name a local folder with the data set's files: hub:./FOLDER",
        ) from None
    if isinstance(found, datasets.DatasetDict):
        splits = list(found)
        if len(splits) != 1:
            raise UsageError(
                "which split is meant is not said",
                found=", ".join(splits),
                needed=f"{HUB}{name.name}:{name.config}:{splits[0] if splits else 'SPLIT'}",
                where=where,
            )
        return found[splits[0]], splits[0]
    return found, name.split or str(found.split or "")


def _rows(batches: Iterable[Any], name: str, names: Names) -> Iterator[Row | RecordError]:
    record = 0
    for batch in batches:
        for fields in batch.to_pylist():
            place = Place(name, record + 1, record=record)
            record += 1
            try:
                for column, classes in names.items():
                    fields[column] = _named(fields.get(column), classes, column, place)
            except RecordError as error:
                yield error
                continue
            yield Row(place, fields)


def _named(value: Any, classes: tuple[str, ...], column: str, place: Place) -> Any:
    if isinstance(value, list):
        return [_named(element, classes, column, place) for element in value]
    if value is None or value == _HIDDEN or not isinstance(value, int):
        return None if value == _HIDDEN else value
    if not 0 <= value < len(classes):
        raise RecordError(f'"{column}" has no such class', place, found=value, needed=f"0..{len(classes) - 1}")
    return classes[value]


def _class_names(feature: Any) -> tuple[str, ...]:
    """Of a ClassLabel, or of a list of them; () for any other feature."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names or ())
    inner = getattr(feature, "feature", None)
    return () if inner is None or isinstance(inner, dict) else _class_names(inner)


def _names_in_metadata(metadata: Mapping[bytes, bytes]) -> Names:
    """Class names of a file that `datasets` wrote; {} for any other."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        inner = _inner(feature)
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and isinstance(inner.get("names"), list):
            found[column] = tuple(map(str, inner["names"]))
    return found


def _inner(feature: Any) -> Any:
    """What a list holds, as the metadata of any version of `datasets` spells lists; other features as they are."""
    if isinstance(feature, list) and len(feature) == 1:
        return _inner(feature[0])
    if isinstance(feature, dict) and isinstance(feature.get("feature"), (dict, list)):
        return _inner(feature["feature"])
    return feature
