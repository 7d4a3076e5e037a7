"""gigatoken behind a small door: lines of bytes in, flat arrays out.

In:  a tokenizer.json; lines of UTF-8.
Out: ids and the number of them a line, as the library's own arrays.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARY = "gigatoken"


class NoRankedEngine(Exception):
    """gigatoken cannot be used; the message says why."""


class RankedEngine:
    """gigatoken with one tokenizer, on the calling thread.

    What it remembers of the words it met lasts for one call, so memory does not grow with the text, and one call should
    hold megabytes. (Its `encode` of a single text remembers for as long as the object lives, without a bound.)

    Args:
        tokenizer_json: content of such a file.

    Raises:
        NoRankedEngine: the library is not installed, or does not know this kind of tokenizer.
    """

    def __init__(self, tokenizer_json: str) -> None:
        try:
            import gigatoken
        except ImportError:  # no wheel for this platform
            raise NoRankedEngine("gigatoken is not installed") from None
        try:
            self._tokenizer: Any = gigatoken.Tokenizer.from_json(tokenizer_json)
        except Exception as error:  # its own errors have no common class
            raise NoRankedEngine(f"gigatoken does not take it: {str(error).splitlines()[0]}") from None
        self._source = gigatoken.BytesSource
        self.name = f"{LIBRARY} {importlib.metadata.version(LIBRARY)}"

    def encode_lines(self, text: bytes) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Ids of all lines, and how many each line has.

        Args:
            text: lines of valid UTF-8 between line feeds (the library trusts it to be valid), none empty.
        """
        rows = self._tokenizer.encode_batch(self._source([text], separator=b"\n"), parallel=False).layout
        return rows.content.data, np.diff(rows.offsets.data)
