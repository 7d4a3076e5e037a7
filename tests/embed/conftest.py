from __future__ import annotations

from pathlib import Path

import pytest
from small_models import GLM, TRAINING_TEXTS, make_checkpoint

PROJECTED = GLM.model_copy(update={"projection_size": 12})


@pytest.fixture(scope="session")
def embedding_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_checkpoint(folder, 20, section=PROJECTED)
    return folder


@pytest.fixture(scope="session")
def lines() -> list[str]:
    """Short texts of many lengths, none equal to another."""
    return [f"{number} {text[: 3 + number % 19]}" for number, text in enumerate(TRAINING_TEXTS * 5)]
