"""The report of a build's tokenizer: a file to read on, a picture, and a table for the terminal.

In:  `TokenCounts` of each language, over everything that was encoded.
Out: `tokens.json` and `tokens.svg` beside the manifest, which does not list them: they say nothing that training needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pydantic
from rich import box
from rich.table import Table

from data_prep.token_counts import TokenCounts
from data_prep.token_plot import token_plot
from mlc.files import write_atomically, write_json

REPORT_NAME, PLOT_NAME = "tokens.json", "tokens.svg"
_PARSER = pydantic.TypeAdapter(dict[str, TokenCounts])


def write_report(folder: Path, counts: Mapping[str, TokenCounts]) -> None:
    """Write both files.

    Args:
        folder: of the manifest.
        counts: of each language.
    """
    write_json(folder / REPORT_NAME, {language: found.as_table() for language, found in counts.items()})
    plot = token_plot({language: found.tokens for language, found in counts.items()})
    write_atomically(folder / PLOT_NAME, plot.encode())


def read_report(folder: Path) -> dict[str, TokenCounts]:
    """What `write_report` wrote; empty where nothing readable is there, as in shards from elsewhere."""
    try:
        return _PARSER.validate_python(json.loads((folder / REPORT_NAME).read_bytes()))
    except (OSError, ValueError):
        return {}


def report_table(counts: Mapping[str, TokenCounts]) -> Table:
    """One line a language, and one for all of several."""
    table = Table(box=box.SIMPLE)
    table.add_column("language")
    for name in ("lines", "MB of text", "tokens", "tokens/byte", "tokens/word", "unknown", "as bytes"):
        table.add_column(name, justify="right")
    rows = sorted(counts.items())
    if len(rows) > 1:
        rows.append(("all", sum(counts.values(), TokenCounts())))
    for language, found in rows:
        # A sum over languages would add words to characters.
        per_word = f"{found.tokens_per_word:.2f}" if language in counts else ""
        table.add_row(
            language,
            f"{found.lines:,}",
            f"{found.text_bytes / 1e6:,.2f}",
            f"{found.tokens:,}",
            f"{found.tokens_per_byte:.3f}",
            per_word,
            f"{found.unknown_share:.2%}",
            f"{found.byte_share:.2%}",
        )
    return table
