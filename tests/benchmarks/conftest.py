"""A study on shards of random tokens; the scripts of benchmarks/ can be imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from recipes_for_tests import ROOT
from study_for_tests import write_small_study

sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    return write_small_study(tmp_path)
