"""`mlc submit` without a cluster: what is written, what is refused, and what sbatch is called with."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from recipes_for_tests import recipe_table
from small_shards import write_small_shards
from submissions_for_tests import NotingClients, call_mlc, command, requests, train, tree, write_scripts

from launchers.settings import Site
from launchers.submission import script_of, submit
from mlc.config import read_recipe
from mlc.errors import UsageError
from mlc.recipe import TrainRecipe

Captured = pytest.CaptureFixture[str]
PREP_RECIPE = """# mine
[build]
output = "somewhere"
[tokenizer]
vocab_size = 300
[[documents]]
language = "en"
paths = ["x"]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe whose shards are there."""
    write_small_shards(tmp_path / "shards")
    return write_recipe(tmp_path / "run.toml")


def write_recipe(path: Path, **changes: dict[str, Any]) -> Path:
    path.write_bytes(tomli_w.dumps(recipe_table(**changes)).encode())
    return path


@pytest.mark.parametrize("name", list(requests(Path("/x"))))
def test_bash_takes_every_script(name: str, tmp_path: Path) -> None:
    script = write_scripts(tmp_path, tmp_path / "runs")[name]
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "#@" not in script.read_text()


def test_a_submission_holds_all_a_job_needs(
    clients: NotingClients, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    words = ["submit", "run.toml", "--nodes", "2-4", "--time", "1:00:00", "--name", "my 'job'", "--set", "run.seed=5"]
    assert call_mlc(words, monkeypatch) == 0
    folder = tmp_path / "run" / "slurm" / "submit-00001"
    printed = capsys.readouterr().out
    assert printed.startswith(f"job 17: train {tmp_path / 'run'}, 2-4 nodes x 1 ranks\n")
    for line in (f"  written to  {folder}\n", f"mlc jobs {tmp_path / 'run'};", "scancel 17\n"):
        assert line in printed
    described = json.loads((folder / "submit.json").read_text())
    shown = ("kind", "job_ids", "nodes", "ranks_per_node", "time_limit", "subject", "command")
    assert [described[key] for key in shown] == [
        *("train", ["17"], "2-4", 1, "1:00:00", str(tmp_path / "run")),
        ["mlc", *words],
    ]
    assert described["versions"]["mlc"]
    assert read_recipe(folder / "recipe.toml", TrainRecipe).run.seed == 5
    assert (folder / "code" / "mlc" / "cli.py").is_file()
    script = (folder / "job.sbatch").read_text()
    assert "#SBATCH --job-name=\"my 'job'\"\n" in script
    assert "#SBATCH --nodes=2-4\n" in script
    assert f"arguments=(train {folder}/recipe.toml)\n" in script
    ((arguments, _),) = clients.calls()
    assert arguments == ["--parsable", str(folder / "job.sbatch")]
    assert call_mlc(words, monkeypatch) == 0
    assert (folder.parent / "submit-00002" / "job.sbatch").is_file()


def test_a_dry_run_prints_the_script_and_writes_nothing(
    clients: NotingClients, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "prep.toml").write_text(PREP_RECIPE)
    before = tree(tmp_path)
    for words in (["run.toml", "--nodes", "2"], ["--dry-run", "run.toml"], ["prep", "prep.toml", "--tasks", "3"]):
        assert call_mlc(["submit", *words, *([] if "--dry-run" in words else ["--dry-run"])], monkeypatch) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("#!/bin/bash\n#SBATCH --job-name=mlc-")
        assert "submit-NNNNN" in printed
    assert "#SBATCH --array=1-3\n" in printed
    assert tree(tmp_path) == before
    assert not clients.calls()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "optimizer.learning_rat=1"], "did you mean learning_rate?"),
        (["--set", "data.shards=nowhere"], "the run's shards are not there"),
        (["--nodes", "4-2"], "a number of nodes or a range such as 2-4 is needed"),
        (["--time", "soon"], "not a time of SLURM"),
        (["--partition", "a\nb"], "one line of printable characters is needed"),
        (["--name", "a\tb"], "one line of printable characters"),
        (["--container", "image"], "a container needs a kind"),
        (["--site", "nowhere.toml"], "no such site file"),
        (["--template", "nowhere.sbatch"], "the template cannot be read"),
        (["--set", "run.folder=a\\\\b"], "SLURM cannot write to a path with a backslash"),
    ],
)
def test_what_is_refused_never_reaches_sbatch(
    words: list[str],
    said: str,
    clients: NotingClients,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    assert call_mlc(["submit", "run.toml", *words], monkeypatch) == 2
    assert said in capsys.readouterr().err
    assert not clients.calls()
    assert [path for path in tree(tmp_path) if "submit-" in path] == []


def test_shards_may_be_missing_where_a_job_makes_them(
    clients: NotingClients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    write_recipe(tmp_path / "run.toml")
    assert call_mlc(["submit", "run.toml"], monkeypatch) == 2
    said = capsys.readouterr().err
    assert "run.toml: data.shards: the run's shards are not there; found shards" in said
    assert "next: mlc prep build RECIPE, or wait for the job that builds them: --after JOB" in said
    assert call_mlc(["submit", "run.toml", "--after", "16", "--after", "15"], monkeypatch) == 0
    script = (tmp_path / "run" / "slurm" / "submit-00001" / "job.sbatch").read_text()
    assert "#SBATCH --dependency=afterok:16:15\n" in script
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in script


def test_a_second_job_of_a_folder_is_refused(clients: NotingClients, tmp_path: Path) -> None:
    folder = tmp_path / "a | run "

    def queue(state: str, comment: str) -> None:
        clients.write(f"16_[2-3%1]|16|16|{state}|2||Priority|{comment}\n")

    queue("PENDING", f"mlc:{folder}")
    with pytest.raises(UsageError, match=r"there is a job of this folder already; found job 16.*PENDING") as refusal:
        submit(command(folder), Site(), ["mlc"])
    assert refusal.value.hint == f"mlc jobs '{folder}', or scancel 16"
    assert not clients.calls()
    for state, comment in (("FAILED", f"mlc:{folder}"), ("PENDING", f"mlc:{folder}x"), ("RUNNING", str(folder))):
        queue(state, comment)
        submit(command(folder), Site(), ["mlc"])
    assert len(clients.calls()) == 3


def test_what_sbatch_refuses_leaves_no_submission(clients: NotingClients, tmp_path: Path) -> None:
    clients.write(sbatch_code=1)
    with pytest.raises(UsageError, match="sbatch refuses; found sbatch: error: no such partition"):
        submit(train(tmp_path / "run"), Site(), ["mlc"])
    assert len(clients.calls()) == 1
    assert list((tmp_path / "run" / "slurm").iterdir()) == []


def test_without_slurm_it_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="there is no sbatch here") as refusal:
        submit(train(tmp_path / "run"), Site(), ["mlc"])
    assert "--dry-run" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_submits_hands_nothing_of_itself_on(
    clients: NotingClients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_CLUSTERS": "a", "SBATCH_ACCOUNT": "b"}
    of_a_job = ("SLURM_RESTART_COUNT", "SLURM_ARRAY_JOB_ID", "SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK", "PMIX_RANK")
    for name, value in (*ours.items(), *((name, "3") for name in of_a_job)):
        monkeypatch.setenv(name, value)
    submit(command(tmp_path / "run"), Site(), ["mlc"])
    ((_, environ),) = clients.calls()
    assert {name: environ[name] for name in ours} == ours
    assert [name for name in of_a_job if name in environ] == []


def test_words_are_replaced_only_where_there_is_a_recipe(tmp_path: Path) -> None:
    line = re.compile(r"^arguments=.*$", re.MULTILINE)
    for request, expected in (
        (train(tmp_path, arguments=("{recipe}", "x{recipe}")), "arguments=(/s/recipe.toml 'x{recipe}')"),
        (train(tmp_path, arguments=("{recipe}",), recipe=None), "arguments=('{recipe}')"),
    ):
        found = line.search(script_of(request, Site(), Path("/s")))
        assert found is not None
        assert found[0] == expected


def test_a_build_is_submitted_beside_its_folder_with_its_recipe(
    clients: NotingClients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prep.toml").write_text(PREP_RECIPE)
    assert call_mlc(["submit", "prep", "prep.toml", "--set", "build.output=built", "--tasks", "2"], monkeypatch) == 0
    folder = tmp_path / "built.slurm" / "submit-00001"
    assert (folder / "recipe.toml").read_text() == PREP_RECIPE
    assert (
        f"arguments=(prep build {folder}/recipe.toml --set build.output=built)" in (folder / "job.sbatch").read_text()
    )
    assert not (tmp_path / "built").exists()


def test_mpi_and_an_array_exclude_each_other(
    clients: NotingClients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "prep.toml").write_text(PREP_RECIPE)
    assert call_mlc(["submit", "prep", "prep.toml", "--tasks", "2", "--start", "mpi"], monkeypatch) == 2
    assert "a job array needs no MPI" in capsys.readouterr().err
    assert not clients.calls()
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "prep.toml"}
