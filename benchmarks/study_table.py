"""Results of a study: a Markdown table, and a plot as SVG.

In:  the runs of a study, finished or not.
Out: for each arm the mean over its finished seeds, with the sample standard deviation between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, stdev
from typing import Any

from study_plan import Run
from study_queue import SCORE, check_unchanged, read_json

Score = dict[str, Any]

MEASURES: tuple[tuple[str, str, Callable[[Score], float | None]], ...] = (
    ("retrieval top-1, higher is better", "{:.3f}", lambda score: score["retrieval"]["top1"]),
    ("masked tokens, loss, lower is better", "{:.2f}", lambda score: score["mlm"] and score["mlm"]["loss"]),
    ("filled blanks, loss, lower is better", "{:.2f}", lambda score: score["glm"] and score["glm"]["loss"]),
)


@dataclass(frozen=True)
class Arm:
    """An arm with the scores of its finished runs, in the order of the seeds."""

    title: str
    scores: list[Score]
    planned: int


def collect(runs: Sequence[Run]) -> list[Arm]:
    """The arms in their order.

    Raises:
        RecipeError: a folder belongs to another definition of its arm.
    """
    arms: dict[str, Arm] = {}
    for run in runs:
        check_unchanged(run)
        arm = arms.setdefault(run.arm, Arm(run.title, [], sum(other.arm == run.arm for other in runs)))
        if (score := read_json(run.folder / SCORE)) is not None:
            arm.scores.append(score)
    return list(arms.values())


def table(arms: Sequence[Arm]) -> Iterator[str]:
    """Lines of Markdown: scores, what they cost, and retrieval by language."""
    cost: tuple[tuple[str, str, Callable[[Score], float | None]], ...] = (
        ("steps", "{:,.0f}", lambda score: score["steps"]),
        ("text tokens", "{:,.0f}", lambda score: score["text_tokens"]),
        ("processed tokens", "{:,.0f}", lambda score: score["processed_tokens"]),
        ("minutes of steps", "{:.1f}", lambda score: score["training_seconds"] / 60),
    )
    languages = sorted({language for arm in arms for score in arm.scores for language in _languages(score)})
    by_language = [(language, "{:.3f}", _of_language(language)) for language in languages]
    yield "Mean ± sample standard deviation over the seeds that are finished."
    yield ""
    yield from _rows(arms, [("layer", "{}", _layer), *MEASURES])
    yield ""
    yield "Means over seeds. Text tokens: of the texts, each once. Processed: with [CLS], [SEP], Part B and copies."
    yield ""
    yield from _rows(arms, cost, spread=False)
    if languages:
        yield ""
        yield "Retrieval top-1 by language, means over seeds."
        yield ""
        yield from _rows(arms, by_language, spread=False)


def _rows(
    arms: Sequence[Arm], columns: Sequence[tuple[str, str, Callable[[Score], Any]]], *, spread: bool = True
) -> Iterator[str]:
    yield f"| arm | seeds | {' | '.join(name for name, _, _ in columns)} |"
    yield f"|{'---|' * (2 + len(columns))}"
    for arm in arms:
        seeds = f"{len(arm.scores)}" if len(arm.scores) == arm.planned else f"{len(arm.scores)} of {arm.planned}"
        cells = [_cell([read(score) for score in arm.scores], form, spread) for _, form, read in columns]
        yield f"| {arm.title} | {seeds} | {' | '.join(cells)} |"


def _cell(values: Sequence[Any], form: str, spread: bool) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    if isinstance(known[0], str):
        return ", ".join(dict.fromkeys(known))
    mean = form.format(fmean(known))
    return f"{mean} ± {form.format(stdev(known))}" if spread and len(known) > 1 else mean


def _layer(score: Score) -> str:
    chosen = " (chosen)" if score["retrieval"]["dev_top1"] else ""
    return f"{score['retrieval']['layer']}{chosen}"


def _languages(score: Score) -> Sequence[str]:
    return list(score["retrieval"]["by_language"])


def _of_language(language: str) -> Callable[[Score], float | None]:
    return lambda score: score["retrieval"]["by_language"].get(language)


# Plot: one panel a measure, one line an arm, one dot a seed, a stroke at the mean.
LEFT, PANEL, GAP, ROW, TOP, BOTTOM = 300, 260, 90, 30, 70, 40
TICKS = 4


def plot(arms: Sequence[Arm], title: str) -> str:
    """The measures as an SVG picture; arms without a score have an empty line."""
    panels = [
        (name, form, [[value for score in arm.scores if (value := read(score)) is not None] for arm in arms])
        for name, form, read in MEASURES
    ]
    panels = [panel for panel in panels if any(panel[2])]
    height = TOP + ROW * len(arms) + BOTTOM
    width = LEFT + len(panels) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="16" y="26" font-size="16" font-weight="bold">{escape(title)}</text>',
        f'<text x="16" y="{TOP - 16}" font-size="11">one dot a seed, the stroke is their mean</text>',
    ]
    for row, arm in enumerate(arms):
        y = TOP + ROW * (row + 0.5)
        parts.append(f'<text x="{LEFT - 20}" y="{y + 4}" text-anchor="end">{escape(arm.title)}</text>')
        if row % 2 == 0:
            parts.append(f'<rect x="0" y="{y - ROW / 2}" width="{width}" height="{ROW}" fill="black" opacity="0.04"/>')
    for number, (name, form, values) in enumerate(panels):
        parts += _panel(LEFT + number * (PANEL + GAP), name, form, values)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: float, name: str, form: str, values: Sequence[Sequence[float]]) -> Iterator[str]:
    every = [value for row in values for value in row]
    low, high = min(every), max(every)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin

    def x_of(value: float) -> float:
        return round(left + PANEL * (value - low) / (high - low), 1)

    bottom = TOP + ROW * len(values)
    yield f'<text x="{left}" y="{TOP - 16}" font-weight="bold">{escape(name)}</text>'
    for tick in range(TICKS):
        value = low + margin + (high - low - 2 * margin) * tick / (TICKS - 1)
        x = x_of(value)
        yield f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}" stroke="black" opacity="0.15"/>'
        yield f'<text x="{x}" y="{bottom + 18}" text-anchor="middle" font-size="11">{form.format(value)}</text>'
    for row, scores in enumerate(values):
        if not scores:
            continue
        y, mean = TOP + ROW * (row + 0.5), fmean(scores)
        for value in scores:
            yield f'<circle cx="{x_of(value)}" cy="{y}" r="4" fill="#0072b2" opacity="0.55"/>'
        x = x_of(mean)
        yield f'<line x1="{x}" x2="{x}" y1="{y - 9}" y2="{y + 9}" stroke="#d55e00" stroke-width="2.5"/>'
        yield f'<text x="{left + PANEL + 8}" y="{y + 4}" font-size="11">{form.format(mean)}</text>'
