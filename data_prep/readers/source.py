"""How files are to be read: what the recipe says about one table's files, and what their names say.

In:  keys of a recipe; a path.
Out: a `SourceFormat` to hand to `plan_ranges` and `read_range`, in any process; the format and compression of a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlc.errors import RecipeError

Format = Literal["text", "jsonl", "csv", "tsv", "parquet", "moses", "tmx", "dataset"]
Compression = Literal["", "gz", "zst", "xz", "bz2"]

MAX_LINE_BYTES = 64 << 20
_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tmx": "tmx",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst", ".xz": "xz", ".bz2": "bz2"}


@dataclass(frozen=True, slots=True)
class SourceFormat:
    """How the records of one table's files are read.

    Attributes:
        format: "auto" goes by the file's name (`format_of`).
        text_fields: one field of a document, two of a pair (jsonl, csv, tsv, parquet, dataset). A name with dots
            reaches into nested objects where no field has the whole name: "translation.de". Of csv and tsv without a
            header: the column's number from 0, as "0".
        group_fields: fields whose values together name the meaning (jsonl, csv, tsv, parquet, dataset), or attributes
            of a unit of translation (tmx). An empty value is a missing one.
        group_required: a record without them is set aside; otherwise it has no group.
        language_field: field with the record's language; then every record needs it. Empty: none.
        separator: text: what ends a document.
        delimiter: csv, tsv: one ASCII character; empty: a comma, or a tab in tsv.
        header: csv, tsv: the first line names the columns.
        quoted: csv, tsv: fields may be quoted as in RFC 4180. None: csv yes, tsv no. Such a file is one range.
        languages: tmx: codes of the two sides; "en" also takes "en-US" where a unit has no "en".
        second_path: moses: the file of the second side.
        config, split, revision: dataset: which part of it.
        streaming: dataset: read over the network (or from its files) as it is used, without preparing it on disk.
        max_line_bytes: a longer line (document, row, unit) is streamed past and set aside.
    """

    format: Format | Literal["auto"] = "auto"
    text_fields: tuple[str, ...] = ("text",)
    group_fields: tuple[str, ...] = ()
    group_required: bool = False
    language_field: str = ""
    separator: Literal["blank_line", "line"] = "blank_line"
    delimiter: str = ""
    header: bool = True
    quoted: bool | None = None
    languages: tuple[str, ...] = ()
    second_path: str = ""
    config: str = ""
    split: str = "train"
    revision: str = ""
    streaming: bool = False
    max_line_bytes: int = MAX_LINE_BYTES

    def __post_init__(self) -> None:
        if len(self.text_fields) not in (1, 2):
            raise RecipeError("wrong number of text fields", found=self.text_fields, needed="one, or two of a pair")
        if self.format == "moses" and not self.second_path:
            raise RecipeError("moses files come in twos", needed="second_path, the file of the second side")
        if self.format == "tmx" and len(self.languages) != 2:
            raise RecipeError(
                "a tmx file gives pairs", found=self.languages, needed="languages: the codes of two sides"
            )
        if self.delimiter and (len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in '"\r\n'):
            raise RecipeError(
                "not a delimiter", found=self.delimiter, needed="one ASCII character, no quote or line end"
            )
        names = (*self.text_fields, *self.group_fields, *filter(None, [self.language_field]))
        if self.format in ("csv", "tsv") and not self.header and not all(map(_is_column_number, names)):
            raise RecipeError("columns without a header have numbers", found=names, needed='numbers from 0, as "0"')

    def has_quotes(self, found: Format) -> bool:
        """Whether fields of a csv or tsv file may be quoted."""
        return self.quoted if self.quoted is not None else found == "csv"

    def delimiter_of(self, found: Format) -> bytes:
        """What separates the columns of a csv or tsv file."""
        return (self.delimiter or ("," if found == "csv" else "\t")).encode()


def format_of(path: Path, stated: Format | Literal["auto"]) -> Format:
    """The format of a file: as stated, else by its name without the compression's suffix; a folder is a dataset."""
    if stated != "auto":
        return stated
    name = path.with_suffix("") if compression_of(path) else path
    found = _FORMATS.get(name.suffix.lower())
    return found or ("dataset" if path.is_dir() else "text")


def compression_of(path: Path) -> Compression:
    """The compression of a file, by its suffix."""
    return _COMPRESSIONS.get(path.suffix.lower(), "")


def _is_column_number(name: str) -> bool:
    return name.isascii() and name.isdigit()
