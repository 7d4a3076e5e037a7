"""One server for all tests that start runs: importing what a rank needs costs more than most runs here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from training_processes import TrainingServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingServer]:
    with TrainingServer(tmp_path_factory.mktemp("printed")) as running:
        yield running
