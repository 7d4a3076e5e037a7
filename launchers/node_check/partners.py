"""Who meets whom in which round.

In:  the number of hosts.
Out: rounds; in each every host has at most one partner, and no two hosts meet twice.
"""

from __future__ import annotations

from math import ceil, log2

ALL_MEET_UP_TO_HOSTS = 8


def rounds_of(hosts: int) -> list[list[int | None]]:
    """For every round the partner of each host, by index; None where a host has no partner.

    Up to eight hosts everybody meets everybody; more hosts meet ceil(log2(hosts)) + 2 others. The rounds are those of
    a round-robin tournament by the circle method (Lucas, 1883): in round r hosts i and j meet where i + j = r modulo
    the number of rounds, and the last host meets the one that would meet itself.
    """
    if hosts < 2:
        return []
    places = hosts + hosts % 2
    turns = places - 1
    if hosts <= ALL_MEET_UP_TO_HOSTS:
        chosen = list(range(turns))
    else:
        wanted = ceil(log2(hosts)) + 2
        # Two rounds r and s together move by r - s: powers of two reach every host in few steps.
        doubling = [0, *(2**power for power in range(turns.bit_length()) if 2**power < turns)]
        others = [turn for turn in range(turns) if turn not in doubling]
        chosen = (doubling + others)[:wanted]
    return [[_partner(host, turn, turns, hosts) for host in range(hosts)] for turn in chosen]


def _partner(host: int, turn: int, turns: int, hosts: int) -> int | None:
    if host == turns:
        partner = next(other for other in range(turns) if 2 * other % turns == turn)
    else:
        other = (turn - host) % turns
        partner = turns if other == host else other
    return partner if partner < hosts else None
