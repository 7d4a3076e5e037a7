"""One cluster for all tests that need SLURM: 4 nodes of 2 CPUs. It fails, and never skips, where it cannot start."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, start_in_free_place
from slurm_conf import ClusterLayout


@pytest.fixture(scope="session")
def session_cluster() -> Iterator[SlurmCluster]:
    """The cluster of all tests, in whatever state the test before left it: take `cluster` instead."""
    # Not in pytest's own folder: the paths of slurmstepd's sockets would be too long.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        running = start_in_free_place(ClusterLayout(Path(folder, "c")))
        try:
            yield running
        finally:
            running.stop()


@pytest.fixture
def cluster(session_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster, all nodes idle and no job in the queue; jobs and faults of a test end with it."""
    yield session_cluster
    session_cluster.settle()
