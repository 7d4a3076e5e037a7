"""Jobs, as `scontrol --oneliner show job` prints them.

In:  its output.
Out: one `Job` a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_USER = re.compile(r" UserId=[^ ]*\(\d+\) GroupId=")


@dataclass(frozen=True)
class Job:
    """One job, or one task of an array.

    `id` is `17`, or `17_2` for a task; `nodes` is SLURM's list (`n[1-2]`), empty before the start; `fields` has
    everything, by SLURM's names.
    """

    id: str
    name: str
    state: str
    reason: str
    restarts: int
    nodes: str
    fields: Mapping[str, str]


def parse_jobs(printed: str) -> list[Job]:
    """Jobs in the order printed.

    A name may hold anything but a line's end; other values hold no ` Key=` of SLURM's own.
    """
    return [_parse_job(line) for line in printed.splitlines() if line.startswith("JobId=")]


def _parse_job(line: str) -> Job:
    # The name stands before the user and the group; paths behind them are free text as well.
    *_, user = _USER.finditer(line)
    numbers, _, name = line[: user.start()].partition(" JobName=")
    pairs = re.split(r"(?:^| )([A-Z][A-Za-z/:]*)=", numbers + line[user.start() :])
    fields = {key: value.strip() for key, value in zip(pairs[1::2], pairs[2::2], strict=True)} | {"JobName": name}
    task = f"_{fields['ArrayTaskId']}" if "ArrayTaskId" in fields else ""
    nodes = fields.get("NodeList", "")
    return Job(
        id=fields.get("ArrayJobId", fields["JobId"]) + task,
        name=name,
        state=fields["JobState"],
        reason=fields["Reason"],
        restarts=int(fields["Restarts"]),
        nodes="" if nodes == "(null)" else nodes,
        fields=fields,
    )
