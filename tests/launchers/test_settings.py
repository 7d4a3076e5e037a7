"""Site files and resources: what is refused, which file counts, which value comes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from launchers import settings as site_settings
from launchers.settings import Resources, Site, read_site, resources_of, site_example
from mlc.config import parse_recipe
from mlc.errors import RecipeError, UsageError


@pytest.fixture(autouse=True)
def usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """No site file of this machine counts."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    system = tmp_path / "etc" / "site.toml"
    monkeypatch.setattr(site_settings, "SITE_PLACES", (site_settings.SITE_PLACES[0], str(system)))
    return tmp_path / "home" / ".config" / "mlc" / "site.toml", system


def write_site(path: Path, warning_seconds: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"warning_seconds = {warning_seconds}\n")
    return path


def test_the_first_site_file_counts(tmp_path: Path, usual_places: tuple[Path, Path]) -> None:
    own, system = usual_places
    assert read_site(None, {}) == Site()
    write_site(system, 2)
    assert read_site(None, {}).warning_seconds == 2
    write_site(own, 3)
    assert read_site(None, {}).warning_seconds == 3
    named = {"MLC_SITE": str(write_site(tmp_path / "named.toml", 4))}
    assert read_site(None, named).warning_seconds == 4
    assert read_site(write_site(tmp_path / "option.toml", 5), named).warning_seconds == 5


def test_a_site_file_that_is_asked_for_has_to_be_there(tmp_path: Path, usual_places: tuple[Path, Path]) -> None:
    write_site(usual_places[0], 3)
    for path, environ in ((tmp_path / "no.toml", {}), (None, {"MLC_SITE": str(tmp_path / "no.toml")})):
        with pytest.raises(UsageError, match=r"no\.toml: no such site file"):
            read_site(path, environ)


def keys_of(table: dict[str, Any], prefix: str = "") -> set[str]:
    inner = (keys_of(value, f"{prefix}{key}.") for key, value in table.items() if isinstance(value, dict))
    return {f"{prefix}{key}" for key in table}.union(*inner)


def test_the_example_has_every_key_with_its_default(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(site_example())
    read = read_site(path, {})
    # Its setup is a comment.
    assert read.model_copy(update={"setup": ""}) == Site()
    assert [line for line in read.setup.splitlines() if not line.startswith("#")] == []
    assert keys_of(read.model_dump(exclude_unset=True)) == keys_of(Site().model_dump())


@pytest.mark.parametrize("nodes", ["1", "16", "2-4", "3-3"])
def test_nodes(nodes: str) -> None:
    assert Resources(nodes=nodes).may_shrink == ("-" in nodes)


@pytest.mark.parametrize("nodes", ["", "0", "4-2", "0-2", "-1", "2-", "2-4-6", "1,2", "4 ", "x", "1\n", "\u0661"])
def test_numbers_of_nodes_that_are_refused(nodes: str) -> None:
    with pytest.raises(RecipeError, match="a number of nodes or a range such as 2-4 is needed"):
        resources_of(Site(), {"nodes": nodes}, where="here")


@pytest.mark.parametrize(
    "time", ["", "90", "24:00:00", "120:00:00", "30:00", "2-12", "2-12:30", "1-00:00:00", "UNLIMITED"]
)
def test_times(time: str) -> None:
    assert Resources(time=time).time == time


@pytest.mark.parametrize("time", ["24h", "1:2:3:4", "-1", "1-", "1.5", "tomorrow", "1:00:00 ", "$(date)", "1-2-3"])
def test_times_that_are_refused(time: str) -> None:
    with pytest.raises(RecipeError, match=r"not a time of SLURM: minutes"):
        resources_of(Site(), {"time": time}, where="here")


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"variabels": {}}, "unknown key variabels; did you mean variables?"),
        ({"resources": {"gpu_per_node": 8}}, "unknown key resources.gpu_per_node; did you mean gpus_per_node?"),
        ({"check": {"secunds": 8}}, "unknown key check.secunds; did you mean seconds?"),
        ({"variables": {"A B": "1"}}, "no name of a variable: 'A B'"),
        ({"variables": {"A": "1\n2"}}, "one line of printable characters is needed"),
        ({"container": {"kind": "pyxis"}}, "a container needs an image"),
        ({"sbatch_options": ["exclusive"]}, "not an option: 'exclusive'"),
        ({"srun_options": ["--cpu-bind none"]}, "not an option: '--cpu-bind none'"),
        ({"srun_options": [""]}, "not an option: ''"),
        ({"sbatch_options": ["--mail-user=a\nb"]}, "not an option"),
        ({"warning_seconds": "300"}, "warning_seconds"),
        ({"resources": {"partition": "a\tb"}}, "one line of printable characters is needed"),
    ],
)
def test_site_files_that_are_refused(table: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes(tomli_w.dumps(table).encode())
    with pytest.raises(RecipeError) as refusal:
        read_site(path, {})
    assert complaint in str(refusal.value)
    assert str(path) in str(refusal.value)


@given(
    st.fixed_dictionaries({}, optional={"partition": st.just("site"), "ranks_per_node": st.just(7)}),
    st.fixed_dictionaries({}, optional={"partition": st.just("mine"), "ranks_per_node": st.just(3)}),
)
def test_what_is_asked_for_comes_before_the_site(site_has: dict[str, Any], asked: dict[str, Any]) -> None:
    site = parse_recipe({"resources": site_has}, Site, where="site")
    given_ = {"partition": None, "ranks_per_node": None, **asked}
    expected = {**Resources().model_dump(), **site_has, **asked}
    assert resources_of(site, given_, where="here").model_dump() == expected


def test_nothing_and_empty_are_not_the_same() -> None:
    site = Site(resources=Resources(partition="gpu", gpus_per_node=8))
    changed = resources_of(site, {"partition": "", "gpus_per_node": 0}, where="here")
    assert (changed.partition, changed.gpus_per_node) == ("", 0)


def test_ranks_are_gpus_where_nothing_is_said() -> None:
    assert Resources(gpus_per_node=8).ranks_of_a_node == 8
    assert Resources(gpus_per_node=8, ranks_per_node=2).ranks_of_a_node == 2
    assert Resources().ranks_of_a_node == 1
