"""A heat map of pairs of languages.

In:  {(language that asks, language that answers): share}.
Out: an .svg or .png file. matplotlib belongs to the extra "plots" and is imported when a plot is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlc.errors import MlcError, UsageError
from mlc.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")
_NUMBERED_CELLS = 700
"""More cells than this have no room for their number."""


def check_plot(file: Path | None) -> None:
    """Refuse a plot that could not be drawn, before any work.

    Raises:
        UsageError: another suffix, or the folder does not exist.
        MlcError: matplotlib is not installed.
    """
    if file is None:
        return
    if file.suffix not in SUFFIXES:
        raise UsageError("a plot of this form cannot be drawn", found=file.name, needed=" or ".join(SUFFIXES))
    if not file.absolute().parent.is_dir():
        raise UsageError("the folder does not exist", found=str(file.parent), where="--plot")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MlcError(
            "plots need matplotlib", needed="the extra 'plots'", hint="pip install 'mlc[plots]'", where="--plot"
        ) from None


def draw_heat_map(cells: Mapping[tuple[str, str], float], file: Path, title: str) -> None:
    """Draw shares 0..1 as per cent: query language down, candidate language across.

    Where every pair has one language in common, as in English-X data, two rows say the same in less room: from that
    language, and into it.

    Args:
        cells: what is not given stays white.
        file: .svg or .png.
    """
    from matplotlib.figure import Figure

    rows, columns, share_RC = _grid(cells)
    numbered = share_RC.size <= _NUMBERED_CELLS
    size = 0.42 if numbered else 0.22  # inches a cell
    figure = Figure(figsize=(max(5, 2.5 + size * len(columns)), 1.8 + size * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(100 * share_RC, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title, fontsize=9)
    if numbered:
        for row, column in np.argwhere(np.isfinite(share_RC)):
            share = share_RC[row, column]
            axes.text(
                column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color="wk"[int(share > 0.6)]
            )
    figure.colorbar(image, ax=axes, label="%")
    save_figure(figure, file)


def save_figure(figure: Figure, file: Path) -> None:
    """Write .svg or .png. Equal figures give equal bytes: no date, and no names that are drawn at random."""
    from matplotlib import rc_context

    content = BytesIO()
    metadata = {"Date": None} if file.suffix == ".svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "mlc"}):
        figure.savefig(content, format=file.suffix[1:], dpi=150, metadata=metadata)
    write_atomically(file, content.getvalue())


def _grid(cells: Mapping[tuple[str, str], float]) -> tuple[list[str], list[str], np.ndarray]:
    languages = sorted({language for pair in cells for language in pair})
    common = set(languages).intersection(*map(set, cells))
    if len(languages) > 2 and len(common) == 1:
        (pivot,) = common
        others = [language for language in languages if language != pivot]
        rows = [f"{pivot} → ...", f"... → {pivot}"]
        share_RC = np.array(
            [[cells.get((pivot, x), np.nan) for x in others], [cells.get((x, pivot), np.nan) for x in others]]
        )
        return rows, others, share_RC
    return languages, languages, np.array([[cells.get((a, b), np.nan) for b in languages] for a in languages])
