"""What tests of submissions share."""

from __future__ import annotations

from pathlib import Path

import pytest
from submissions_for_tests import NotingClients


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NotingClients:
    """Clients of SLURM that note calls; no site file; the working folder is the test's."""
    noting = NotingClients(tmp_path / "bin")
    noting.write()
    noting.use(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLC_SITE", raising=False)
    monkeypatch.chdir(tmp_path)
    return noting
