"""Files of every format as ranges, and ranges as records. Bad data is set aside with a reason, never raised."""

from data_prep.readers.ranges import FileRange, plan_ranges
from data_prep.readers.read import RangeReader, read_range
from data_prep.readers.record import KEPT_CHARACTERS, Record, Rejected
from data_prep.readers.source import MAX_LINE_BYTES, Format, SourceFormat, compression_of, format_of

__all__ = [
    "KEPT_CHARACTERS",
    "MAX_LINE_BYTES",
    "FileRange",
    "Format",
    "RangeReader",
    "Record",
    "Rejected",
    "SourceFormat",
    "compression_of",
    "format_of",
    "plan_ranges",
    "read_range",
]
