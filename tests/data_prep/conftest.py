"""The corpus that whole builds start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_corpus import write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three languages of documents, plain, gzip and zstd, two of pairs; and a recipe."""
    return write_corpus(tmp_path)
