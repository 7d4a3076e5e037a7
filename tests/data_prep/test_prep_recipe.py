"""Recipes of a build: what is refused before any work starts, and the plan they make."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.plan import plan_shards, sources_digest
from data_prep.ranks import Ranks, find_ranks
from data_prep.recipe import PrepRecipe
from mlc.config import read_recipe
from mlc.errors import DataError, MlcError, RecipeError, UsageError

HEAD = '[build]\noutput = "out"\n[tokenizer]\nvocab_size = 300\n'


def read(folder: Path, text: str, *overrides: str) -> PrepRecipe:
    (folder / "prep.toml").write_text(text)
    return read_recipe(folder / "prep.toml", PrepRecipe, overrides)


def documents(paths: str, more: str = 'language = "en"') -> str:
    return f"{HEAD}[[documents]]\n{more}\npaths = {paths}\n"


def pairs(paths: str, more: str) -> str:
    return f"{HEAD}[[pairs]]\n{more}\npaths = {paths}\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (HEAD, r"\[\[documents\]\] or \[\[pairs\]\]"),
        (documents('["x"]').replace("output", "ouput"), "did you mean output"),
        (documents('["x"]', 'language = "en"\nseparater = "line"'), "did you mean separator"),
        (documents('["x"]', ""), "exactly one of language and languages"),
        (documents('["x"]', 'language = "en"\nlanguages = ["de"]'), "exactly one of language and languages"),
        (documents('["x"]', 'languages = ["en", "de"]'), r'\{language\} in every path, "x"'),
        (documents('["{language}"]', 'languages = ["en", "en"]'), "named twice"),
        (documents('["x"]', 'language = "../en"'), "no language code"),
        (documents('["x"]', 'language = "en"\nmax_documents = 0'), "max_documents = 0"),
        (documents("[]"), "paths"),
        (documents('["x"]').replace("vocab_size = 300", ""), "exactly one of path"),
        (documents('["x"]').replace("vocab_size", 'path = "x"\nvocab_size'), "exactly one of path"),
        (documents('["x"]').replace("300", "299"), "must be >= 300"),
        (documents('["x"]').replace("300", "300\ncharacter_coverage = 0.9"), "character_coverage = 0.9"),
        (documents('["x"]').replace("300", '"300"'), "vocab_size = '300'"),
        (pairs('["x"]', ""), "needs either languages"),
        (pairs('["x"]', 'first = "en"'), "needs either languages"),
        (pairs('["x"]', 'languages = ["en", "de"]\nfirst = "en"\nseconds = ["fr"]'), "needs either languages"),
        (pairs('["x"]', 'languages = ["en"]'), "must be 2"),
        (pairs('["x"]', 'languages = ["en", "en"]'), "named twice"),
        (pairs('["x"]', 'languages = ["en", "de"]\nfields = ["a"]'), "must be 2"),
        (pairs('["x"]', 'first = "en"\nseconds = ["de"]'), r"\{second\} in every path"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        read(tmp_path, text)


@pytest.mark.parametrize("paths", ["missing.txt", "*.none", "{folder}"])
def test_missing_files_are_refused(tmp_path: Path, paths: str) -> None:
    paths = str(tmp_path) if paths == "{folder}" else str(tmp_path / paths)
    with pytest.raises(RecipeError, match=r"r\.toml: documents\[0\]\.paths"):
        plan_shards(read(tmp_path, documents(f'["{paths}"]')), "r.toml")


def test_both_orders_of_a_pair_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").touch()
    text = pairs(f'["{tmp_path}/x.jsonl"]', 'languages = ["en", "de"]')
    text += text.removeprefix(HEAD).replace('"en", "de"', '"de", "en"')
    with pytest.raises(RecipeError, match="both orders"):
        plan_shards(read(tmp_path, text), "r.toml")


def test_shards_that_would_share_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").touch()
    text = pairs(f'["{tmp_path}/x.jsonl"]', 'languages = ["en", "de-at"]')
    text += text.removeprefix(HEAD).replace('"en", "de-at"', '"en-de", "at"')
    with pytest.raises(RecipeError, match="same file name"):
        plan_shards(read(tmp_path, text), "r.toml")


def test_the_plan(tmp_path: Path) -> None:
    for name in ("en-2.txt", "en-1.txt", "de-1.txt", "more.txt", "p.de.jsonl", "p.fr.jsonl"):
        (tmp_path / name).write_text("x" * (len(name) if name != "de-1.txt" else 100))
    text = f"""{HEAD}
[[documents]]
languages = ["en", "de"]
paths = ["{tmp_path}/{{language}}-*.txt"]
[[documents]]
language = "en"
paths = ["{tmp_path}/more.txt"]
sequences = "sentence"
[[pairs]]
first = "en"
seconds = ["fr", "de"]
fields = ["english", "text_{{second}}"]
paths = ["{tmp_path}/p.{{second}}.jsonl"]
"""
    recipe = read(tmp_path, text)
    plans = plan_shards(recipe, "r.toml")
    assert [plan.name for plan in plans] == ["documents/de", "documents/en", "pairs/en-de", "pairs/en-fr"]
    assert [path.name for path in plans[1].files] == ["en-1.txt", "en-2.txt", "more.txt"]
    assert [source.sequences for source in plans[1].sources] == ["line", "sentence"]
    assert plans[2].prefixes == ("pairs/en-de.en", "pairs/en-de.de")
    assert plans[2].sources[0].reading.text_fields == ("english", "text_de")
    before = sources_digest(plans, recipe)
    (tmp_path / "more.txt").write_text("other")
    assert sources_digest(plans, recipe) != before


def test_the_digest_ignores_where_the_shards_go(tmp_path: Path) -> None:
    text = documents('["x"]')
    digests = {
        read(tmp_path, text, *overrides).bytes_digest
        for overrides in ((), ("build.output=elsewhere",), ("build.max_rejected_fraction=0.5",))
    }
    assert len(digests) == 1
    for override in ("build.seed=2", "normalise.nfc=false", "tokenizer.vocab_size=301"):
        assert read(tmp_path, text, override).bytes_digest not in digests


def test_alone_without_a_launcher() -> None:
    for environ in ({}, {"OMPI_COMM_WORLD_SIZE": "1"}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}):
        assert find_ranks(environ) == Ranks()  # a batch script is no step, whatever SLURM_NTASKS says


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun started 2, MPI sees 1"),
        ({"PMI_SIZE": "3"}, "mpiexec started 3, MPI sees 1"),
        (
            {"PMIX_RANK": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
            r"srun started 2, MPI sees 1.*\n.*--mpi=none",
        ),
        ({"PMI_SIZE": "two"}, "PMI_SIZE"),
        ({"MLC_WORLD_SIZE": "4"}, "found 1; needed 4"),
    ],
)
def test_a_launcher_that_mpi_does_not_see_is_an_error(environ: dict[str, str], complaint: str) -> None:
    pytest.importorskip("mpi4py.MPI", exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=complaint):
        find_ranks(environ)


STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "2"}
ARRAY = {"SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_ID": "5"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (ARRAY, Ranks(2, 4)),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "9"}, Ranks(3, 4)),  # --array=3-9:2
        ({"SLURM_ARRAY_TASK_COUNT": "4"}, Ranks()),
        (STEP, Ranks(1, 2)),
        (STEP | ARRAY, Ranks(5, 8)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Ranks(3, 4)),
        ({"WORLD_SIZE": "2"}, Ranks()),
    ],
)
def test_tasks_without_mpi_know_their_place(environ: dict[str, str], expected: Ranks) -> None:
    assert find_ranks(environ) == expected
    assert expected.is_unconnected == (expected.size > 1)


class TwoRanks:
    """A communicator of two ranks in which the other one's outcome is given."""

    def __init__(self, other: object) -> None:
        self.other = other

    def allgather(self, mine: object) -> list[object]:
        return [mine, self.other]

    def bcast(self, mine: object) -> object:
        return mine


def test_the_failure_of_another_rank_is_raised_here() -> None:
    ranks = Ranks(0, 2, TwoRanks((None, DataError("bad file"))))
    done = []
    with pytest.raises(DataError, match="rank 1: bad file"):
        ranks.everywhere(lambda: done.append(1))
    assert done == [1]
    assert Ranks(0, 2, TwoRanks((7, None))).everywhere(lambda: 5) == [5, 7]


def test_a_fault_of_ours_reaches_the_others_as_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    ranks = Ranks(0, 2, TwoRanks((None, None)))
    with pytest.raises(MlcError, match="ZeroDivisionError") as error:
        ranks.on_first(lambda: 1 // 0)
    assert error.value.exit_code == 1
    assert "Traceback" in capfd.readouterr().err
