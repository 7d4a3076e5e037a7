"""One server for all tests that start runs: importing what a rank needs costs more than most runs here.

The scripts of benchmarks/ can be imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from recipes_for_tests import ROOT
from training_processes import TrainingServer

sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingServer]:
    with TrainingServer(tmp_path_factory.mktemp("printed")) as running:
        yield running
