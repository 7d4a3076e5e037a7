"""Which hosts are bad, from what all of them found.

In:  the findings of those hosts that wrote some.
Out: bad hosts with reasons, warnings. No files, no clocks: a function of its arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from launchers.node_check.findings import Findings

SLOW_SHARE = 0.25
"""Below this share of the median bandwidth a host is named as slow."""


@dataclass
class Verdict:
    """The result of the check.

    Attributes:
        bad: reasons by host, in the order of the hosts.
        warnings: by host.
    """

    bad: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)


def judge(
    hosts: Sequence[str],
    findings: Mapping[str, Findings],
    began: Collection[str],
    judge_host: str,
    clock_skew_seconds: float,
) -> Verdict:
    """Name the bad hosts.

    Args:
        hosts: all that should have taken part.
        findings: by host, of those whose file is there.
        began: hosts of which there is any file.
        judge_host: who judges. One that sees nobody else, of two or more others, has itself lost the folder: that is
            likelier than that all others failed.
        clock_skew_seconds: how far a clock may be from the others.
    """
    reasons: dict[str, list[str]] = {host: [] for host in hosts}
    others = [host for host in hosts if host != judge_host]
    if len(others) > 1 and not any(host in findings or host in began for host in others):
        own = findings[judge_host].problems if judge_host in findings else []
        reasons[judge_host] = [*own, f"sees no file of the {len(others)} other hosts in the shared folder"]
        return Verdict(bad={judge_host: reasons[judge_host]})
    for host in hosts:
        if host in findings:
            reasons[host] += findings[host].problems
        elif host in began:
            reasons[host].append("began and did not finish in time: it hangs or was stopped")
        else:
            reasons[host].append("wrote no file: its process did not start, or the shared folder is not there")
    for found in (_blind(findings), _wrong_clocks(findings, clock_skew_seconds), _unreachable(hosts, findings)):
        for host, reason in found.items():
            reasons[host].append(reason)
    return Verdict(
        bad={host: list(dict.fromkeys(said)) for host, said in reasons.items() if said}, warnings=_warnings(findings)
    )


def blame(hosts: Sequence[str], tested: Collection[frozenset[str]], failed: Collection[frozenset[str]]) -> list[str]:
    """Hosts without which no pair fails: the greedy vertex cover of the failed pairs.

    Again and again the host that failed with the largest share of its remaining partners is taken out; of equal ones
    that with more failures, then the later one in the list: of two hosts that cannot reach each other alone, both
    cannot be told apart. Where everybody met everybody and fewer than half of the hosts are bad, these and no others
    are named: a bad host fails with all good ones, at least half of its partners, and a good one with fewer.

    Args:
        hosts: in the order of the job.
        tested: pairs that tried.
        failed: those of them that did not succeed.
    """
    left, taken = list(hosts), []
    while any(pair <= set(left) for pair in failed):
        shares = {}
        for place, host in enumerate(left):
            pairs = [pair for pair in tested if host in pair and pair <= set(left)]
            failures = sum(pair in failed for pair in pairs)
            shares[host] = (failures / len(pairs) if pairs else 0.0, failures, place)
        worst = max(left, key=lambda host: shares[host])
        taken.append(worst)
        left.remove(worst)
    return [host for host in hosts if host in taken]


def middle_clock(offsets: Sequence[float]) -> float:
    """The clock that most agree with: the middle of the hosts' and the file server's, 0.

    Of two middle ones the nearer to the file server's.
    """
    clocks = sorted([*offsets, 0.0])
    return min(clocks[(len(clocks) - 1) // 2], clocks[len(clocks) // 2], key=abs)


def _blind(findings: Mapping[str, Findings]) -> dict[str, str]:
    """Hosts that do not see more than half of the other hosts that did finish."""
    found = {}
    for host, own in findings.items():
        unseen = [other for other in own.unseen_hosts if other in findings and findings[other].ready]
        if len(unseen) > (len(findings) - 1) / 2:
            found[host] = f"does not see the files of {_listed(unseen)} in the shared folder"
    return found


def _wrong_clocks(findings: Mapping[str, Findings], limit_seconds: float) -> dict[str, str]:
    offsets = {host: own.folder.clock_offset_seconds for host, own in findings.items() if own.folder is not None}
    reference = middle_clock(list(offsets.values()))
    return {
        host: f"its clock is {abs(offset - reference):.1f} s {'fast' if offset > reference else 'slow'}"
        for host, offset in offsets.items()
        if abs(offset - reference) > limit_seconds
    }


def _unreachable(hosts: Sequence[str], findings: Mapping[str, Findings]) -> dict[str, str]:
    """Hosts that the network, or their own process, keeps from their partners."""
    ready = [host for host in hosts if host in findings and findings[host].ready]
    found = {}
    if 2 * len(ready) > len(findings):  # else the time was too short for the machines, which says nothing of one
        found = {host: "was not ready in time to meet the others" for host in findings if host not in ready}
    tested, failed, errors = set(), set(), {}
    for host in ready:
        for partner, result in findings[host].pairs.items():
            if partner in ready:
                pair = frozenset((host, partner))
                tested.add(pair)
                if result.error is not None:
                    failed.add(pair)
                    errors[host, partner] = result.error
    for host in blame(ready, tested, failed):
        partners = [other for other in ready if frozenset((host, other)) in failed]
        met = sum(host in pair for pair in tested)
        said = next(errors[pair] for other in partners for pair in ((host, other), (other, host)) if pair in errors)
        found[host] = f"no collective with {_listed(partners)} ({len(partners)} of {met} partners): {said}"
    return found


def _warnings(findings: Mapping[str, Findings]) -> dict[str, list[str]]:
    warnings = {host: list(own.warnings) for host, own in findings.items()}
    speeds = {}
    for host, own in findings.items():
        rates = [pair.megabytes_per_second for pair in own.pairs.values() if pair.megabytes_per_second is not None]
        if rates:
            speeds[host] = median(rates)
    usual = median(speeds.values()) if speeds else 0.0
    for host, speed in speeds.items():
        if speed < SLOW_SHARE * usual:
            warnings[host].append(f"slow network: {speed:.0f} MB/s, the median of all hosts is {usual:.0f}")
    not_ready = [host for host, own in findings.items() if not own.ready]
    if len(findings) > 1 and 2 * len(not_ready) >= len(findings):
        for host in not_ready:
            warnings[host].append("pairs were not tried: torch was not imported in time; more --seconds")
    return {host: said for host, said in warnings.items() if said}


def _listed(hosts: Sequence[str]) -> str:
    return ", ".join(hosts) if len(hosts) <= 4 else f"{', '.join(hosts[:3])} and {len(hosts) - 3} others"
