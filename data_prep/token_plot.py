"""A picture of how many tokens each language has.

In:  {language: tokens}.
Out: SVG, as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_LEFT, _BAR, _RIGHT, _ROW, _TOP, _BOTTOM = 90, 560, 130, 18, 64, 20


def token_plot(tokens: Mapping[str, int], title: str = "Tokens") -> str:
    """One bar a language, the largest first; languages of equal size by name.

    Args:
        tokens: of each language, 0 or more.
        title: of the picture.
    """
    largest, every = max(tokens.values(), default=0), sum(tokens.values())
    width, height = _LEFT + _BAR + _RIGHT, _TOP + _ROW * len(tokens) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="16" y="26" font-size="16" font-weight="bold">{escape(title)}</text>',
        f'<text x="16" y="46" font-size="11">tokens a language; {every:,} in {len(tokens)} languages</text>',
    ]
    for row, (language, count) in enumerate(sorted(tokens.items(), key=lambda item: (-item[1], item[0]))):
        y = _TOP + _ROW * row
        length = _BAR * count / largest if largest else 0
        parts += [
            f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(language)}</text>',
            f'<rect x="{_LEFT}" y="{y + 2}" width="{length:.1f}" height="{_ROW - 4}" fill="#4477aa"/>',
            f'<text x="{_LEFT + length + 6:.1f}" y="{y + 13}" font-size="11">{count:,}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
