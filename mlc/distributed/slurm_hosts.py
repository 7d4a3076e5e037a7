"""SLURM's short forms for lists of hosts and of tasks per node.

In:  text as in SLURM_STEP_NODELIST ("n[1-3,05],login") and SLURM_STEP_TASKS_PER_NODE ("2(x3),1").
Out: host names in order; the number of tasks on one node.
"""

from __future__ import annotations

import re

from mlc.errors import UsageError

_SEPARATOR = re.compile(r",(?![^\[]*\])")  # a comma outside brackets
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def expand_hosts(text: str) -> list[str]:
    """Names of all hosts in SLURM's order, e.g. "n[08-10]-ib,x" -> n08-ib, n09-ib, n10-ib, x.

    Raises:
        UsageError: the text is empty or not such a list.
    """
    return [host for part in _SEPARATOR.split(text) for host in _expand(part, whole=text)]


def tasks_of_node(text: str, node: int) -> int:
    """Tasks on the node with relative number `node` (from 0), e.g. ("2(x3),1", 3) -> 1.

    Raises:
        UsageError: the text is not such a list or has no such node.
    """
    first = 0
    for part in text.split(","):
        match = _TASKS.fullmatch(part)
        if match is None:
            raise UsageError("cannot read SLURM's tasks per node", found=text, needed='a list such as "2(x3),1"')
        tasks, nodes = int(match[1]), int(match[2] or 1)
        if node < first + nodes:
            return tasks
        first += nodes
    raise UsageError("SLURM's tasks per node lack this node", found=f"{text}, node {node}", needed=f"< {first} nodes")


def _expand(part: str, *, whole: str) -> list[str]:
    brackets = _BRACKETS.search(part)
    if brackets is None:
        if not part or "[" in part or "]" in part:
            raise UsageError("cannot read SLURM's list of hosts", found=whole, needed='a list such as "n[1-3,5]"')
        return [part]
    head, tail = part[: brackets.start()], part[brackets.end() :]
    # Only the last bracket of a name may be followed by nothing; further brackets multiply.
    tails = _expand(tail, whole=whole) if tail else [""]
    return [head + number + rest for number in _numbers(brackets[1], whole=whole) for rest in tails]


def _numbers(text: str, *, whole: str) -> list[str]:
    numbers: list[str] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UsageError("cannot read SLURM's list of hosts", found=whole, needed='a list such as "n[1-3,5]"')
        width = len(match[1])  # leading zeros are part of the name
        numbers += [str(number).zfill(width) for number in range(int(match[1]), int(match[2] or match[1]) + 1)]
    return numbers
