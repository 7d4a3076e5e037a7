"""`mlc submit prep` on a real cluster: whatever starts the processes and whichever are lost, the same bytes."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster
from small_corpus import build_in, text, write_corpus
from submitted_jobs import batch_log, events, states, wait_for_states

from launchers.submission import Submitted
from mlc.data.manifest import BUILD_NAME

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]
DOCUMENTS = 700
UNITS = "build.unit_bytes=1500"
UNITS_BEFORE_FAULT = 40
"""Of about 180."""
BUILD_SECONDS = 240.0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of many units, and `alone`: what one process makes of it."""
    home = write_corpus(tmp_path_factory.mktemp("corpus"))
    rows = (json.dumps({"id": f"m{number}", "text": text("en", number, 60)}) for number in range(DOCUMENTS))
    (home / "corpus" / "many.jsonl").write_text("".join(f"{row}\n" for row in rows))
    with (home / "prep.toml").open("a") as recipe:
        recipe.write(f'[[documents]]\nlanguage = "en"\npaths = ["{home}/corpus/many.jsonl"]\n')
    build_in(home, "alone", UNITS)
    return home


def hashes(folder: Path) -> dict[str, str]:
    """Of every file, the manifest included; build.json tells of times."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != BUILD_NAME)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def submit(cluster: SlurmCluster, corpus: Path, name: str, *options: str) -> Submitted:
    """`mlc submit prep` of the corpus into a folder of this name."""
    resources = ("--ranks-per-node", "2", "--time", "20:00")
    overrides = ("--set", f"build.output={corpus / name}", "--set", UNITS)
    words = ("submit", "prep", str(corpus / "prep.toml"), *overrides, *resources, *options)
    printed = cluster.run(sys.executable, "-m", "mlc", *words, cwd=corpus).stdout
    return Submitted(printed.split()[1].rstrip(":"), corpus / f"{name}.slurm" / "submit-00001")


def wait_for_units(cluster: SlurmCluster, corpus: Path, name: str) -> None:
    """Until the build is under way and far from its end."""

    def under_way() -> bool:
        return len(list((corpus / name / ".work" / "units").glob("*.bin"))) >= UNITS_BEFORE_FAULT

    cluster.wait_for(under_way, BUILD_SECONDS, f"{UNITS_BEFORE_FAULT} units of {name}")


def logs(submitted: Submitted) -> str:
    """What was printed, for the message of a failed test."""
    files = sorted((submitted.folder.parent / "logs").glob("*.log"))
    return "\n".join([batch_log(submitted), *(f"== {path.name}\n{path.read_text()[-2000:]}" for path in files)])


OF_EVERY_KIND = [
    pytest.param(("--nodes", "1", "--tasks", "4"), 4, id="array"),
    pytest.param(("--nodes", "4"), 1, id="srun"),
    pytest.param(("--nodes", "4", "--start", "mpi"), 1, id="mpi"),
]


@pytest.mark.parametrize(("options", "jobs"), OF_EVERY_KIND)
def test_the_same_bytes_on_four_nodes(
    options: tuple[str, ...], jobs: int, cluster: SlurmCluster, corpus: Path, request: pytest.FixtureRequest
) -> None:
    name = f"whole-{request.node.callspec.id}"
    submitted = submit(cluster, corpus, name, *options)
    wait_for_states(cluster, submitted.job, *["COMPLETED"] * jobs, seconds=BUILD_SECONDS)
    assert hashes(corpus / name) == hashes(corpus / "alone"), logs(submitted)
    starts = events(submitted, "start")
    assert [start["nodes"] * start["ranks"] for start in starts] == ([2] * 4 if jobs == 4 else [32])


# The array's other tasks take the lost one's work over when its claims have run out, after two minutes.
@pytest.mark.parametrize(
    ("options", "jobs"), [(("--nodes", "1", "--tasks", "4"), 4), (("--nodes", "2-4", "--start", "mpi"), 1)]
)
def test_the_same_bytes_without_a_node_that_was_lost(
    options: tuple[str, ...], jobs: int, cluster: SlurmCluster, corpus: Path
) -> None:
    name = f"lost-{jobs}"
    submitted = submit(cluster, corpus, name, *options)
    wait_for_units(cluster, corpus, name)
    cluster.power_off("n2")
    assert not (corpus / name / "manifest.json").exists()
    wait_for_states(cluster, submitted.job, *["COMPLETED"] * jobs, seconds=BUILD_SECONDS)
    assert hashes(corpus / name) == hashes(corpus / "alone"), logs(submitted)
    assert states(cluster, submitted.job) == ["COMPLETED"] * jobs
    # SLURM may take some seconds to see it, and start the job there once more.
    last = max(events(submitted, "start"), key=lambda start: start["restart"])
    assert last["restart"] > 0
    assert last["hosts"] in ("n1", "n3", "n4", "n[1,3-4]")
