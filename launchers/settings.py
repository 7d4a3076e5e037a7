"""What a job asks of SLURM, and what every job of a site shares.

In:  a site file (TOML) and the options of `mlc submit`, or a table of a pipeline file.
Out: a `Site` and a `Resources`, checked.

A site file is looked for at `--site`, `$MLC_SITE`, `~/.config/mlc/site.toml` and `/etc/mlc/site.toml`; the first one
counts. A value of the command line comes before the site's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from mlc.config import NonNegative, Positive, PositiveFloat, Section, parse_recipe, read_recipe
from mlc.errors import UsageError

SITE_VARIABLE = "MLC_SITE"
SITE_PLACES = ("~/.config/mlc/site.toml", "/etc/mlc/site.toml")
TIME_FORMATS = "minutes, [D-]HH:MM:SS, MM:SS, D-HH or D-HH:MM"
_TIME = re.compile(r"(\d+|\d+:\d{1,2}|(\d+-)?\d+:\d{1,2}:\d{1,2}|\d+-\d{1,2}(:\d{1,2})?|UNLIMITED|INFINITE)")
_NODES = re.compile(r"([1-9]\d*)(?:-([1-9]\d*))?")
_OPTION = re.compile(r"--[a-z][a-z0-9-]*(=.*)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _one_line(value: str) -> str:
    if any(not character.isprintable() for character in value):
        raise ValueError("one line of printable characters is needed")
    return value


def _time(value: str) -> str:
    if not _TIME.fullmatch(value):
        raise ValueError(f"not a time of SLURM: {TIME_FORMATS}")
    return value


def _nodes(value: str) -> str:
    found = _NODES.fullmatch(value)
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise ValueError("a number of nodes or a range such as 2-4 is needed")
    return value


def _option(value: str) -> str:
    if not _OPTION.fullmatch(value):
        raise ValueError(f"not an option: {value!r}; needed --name or --name=value")
    return _one_line(value)


Text = Annotated[str, pydantic.AfterValidator(_one_line)]
Time = Annotated[str, pydantic.AfterValidator(_time)]
Nodes = Annotated[str, pydantic.AfterValidator(_nodes)]
Option = Annotated[str, pydantic.AfterValidator(_option)]


class Resources(Section):
    """What one job asks for; "" or 0 leaves a choice to SLURM.

    Attributes:
        nodes: how many, or a range such as "2-4": a job that comes back may then come back smaller, and goes on.
        gpus_per_node: 0 on a cluster of CPUs.
        ranks_per_node: 0 = one for each GPU, or one.
        cpus_per_rank: 0 = one.
        time: limit of one start.
        memory: of a node, as `--mem` takes it.
        exclude: hosts never to be used.
    """

    nodes: Nodes = "1"
    gpus_per_node: NonNegative = 0
    ranks_per_node: NonNegative = 0
    cpus_per_rank: NonNegative = 0
    time: Time | Literal[""] = ""
    memory: Text = ""
    partition: Text = ""
    account: Text = ""
    qos: Text = ""
    constraint: Text = ""
    reservation: Text = ""
    exclude: Text = ""

    @property
    def ranks_of_a_node(self) -> int:
        """Processes on each node."""
        return self.ranks_per_node or max(1, self.gpus_per_node)

    @property
    def cpus_of_a_rank(self) -> int:
        """CPUs of each process."""
        return self.cpus_per_rank or 1

    @property
    def may_shrink(self) -> bool:
        """Whether the job may run on another number of nodes when it comes back."""
        return "-" in self.nodes


class ContainerSettings(Section):
    """What ranks run in.

    Attributes:
        kind: "pyxis" (srun's --container-image, with enroot) or "apptainer"; "none" = the nodes' own software.
        image: squashfs, SIF or registry name, as the kind takes it.
        mounts: "/from:/to"; the working folder and the run folder have to be in it under their own names.
        options: more of them, of srun (pyxis) or `apptainer exec`.
    """

    kind: Literal["none", "pyxis", "apptainer"] = "none"
    image: Text = ""
    mounts: tuple[Text, ...] = ()
    options: tuple[Text, ...] = ()

    @pydantic.model_validator(mode="after")
    def _image_is_named(self) -> ContainerSettings:
        if self.kind != "none" and not self.image:
            raise ValueError("a container needs an image")
        return self


class CheckSettings(Section):
    """The node check before training (docs/node_check.md).

    Attributes:
        seconds: after which a verdict is there; a host that said nothing until then is bad.
    """

    enabled: bool = True
    seconds: Annotated[int, pydantic.Field(ge=5)] = 50
    min_memory_gb: Annotated[float, pydantic.Field(ge=0)] = 2.0
    min_shm_gb: Annotated[float, pydantic.Field(ge=0)] = 0.0
    min_free_gb: Annotated[float, pydantic.Field(ge=0)] = 1.0
    max_clock_skew_seconds: PositiveFloat = 2.0


class Site(Section):
    """What all jobs of a cluster share.

    Attributes:
        resources: defaults of every job.
        gpu_request: how GPUs are asked for: "gpus-per-node" or "gres".
        sbatch_options: further options of every batch script, such as "--exclusive".
        srun_options: further options of every step, such as "--cpu-bind=none".
        setup: bash lines before everything else on the first node, such as "module load cuda"; they are code.
        variables: environment of the ranks, such as NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME.
        python: of the nodes or of the container; "" = the one that submits.
        requeue: whether jobs may requeue themselves; if not, use --chain.
        warning_seconds: before the time limit, at which the run is asked to save. SLURM looks at limits every 30 s, and
            a save, one step and that have to fit in.
        starts_without_progress: so many starts in a row may end without a new checkpoint.
    """

    resources: Resources = Resources()
    gpu_request: Literal["gpus-per-node", "gres"] = "gpus-per-node"
    sbatch_options: tuple[Option, ...] = ()
    srun_options: tuple[Option, ...] = ()
    setup: str = ""
    variables: Mapping[str, Text] = {}
    python: Text = ""
    requeue: bool = True
    warning_seconds: Positive = 300
    starts_without_progress: Positive = 3
    container: ContainerSettings = ContainerSettings()
    check: CheckSettings = CheckSettings()

    @pydantic.field_validator("variables")
    @classmethod
    def _names_are_names(cls, variables: Mapping[str, str]) -> Mapping[str, str]:
        for name in variables:
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"no name of a variable: {name!r}")
        return variables


def read_site(path: Path | None, environ: Mapping[str, str] = os.environ) -> Site:
    """The site's settings; defaults where there is no site file.

    Args:
        path: of `--site`; None = look in the usual places.
        environ: for $MLC_SITE.

    Raises:
        UsageError: a file that was asked for is not there.
        RecipeError: it is refused.
    """
    asked = path or (Path(environ[SITE_VARIABLE]) if environ.get(SITE_VARIABLE) else None)
    if asked is not None:
        if not asked.is_file():
            raise UsageError("no such site file", where=str(asked), hint="mlc submit --help names the places")
        return read_recipe(asked, Site)
    usual = (Path(place).expanduser() for place in SITE_PLACES)
    found = next((place for place in usual if place.is_file()), None)
    return Site() if found is None else read_recipe(found, Site)


def site_example() -> str:
    """A site file with every key, its default and what it means."""
    return (files("launchers") / "templates" / "site.toml").read_text(encoding="utf-8")


def resources_of(site: Site, changes: Mapping[str, Any], *, where: str) -> Resources:
    """The site's resources with the given ones in their place; None changes nothing.

    Raises:
        RecipeError: a value is refused.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    return parse_recipe({**site.resources.model_dump(), **given}, Resources, where=where)
