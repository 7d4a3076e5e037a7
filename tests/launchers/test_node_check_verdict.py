"""Who meets whom, and who is blamed: functions without files or processes."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.node_check.findings import Findings, FolderFacts, PairResult
from launchers.node_check.partners import rounds_of
from launchers.node_check.verdict import blame, judge, middle_clock

HOSTS = ["n1", "n2", "n3", "n4"]


def pairs_of(hosts: int) -> list[frozenset[int]]:
    return [
        frozenset((host, partner))
        for partners in rounds_of(hosts)
        for host, partner in enumerate(partners)
        if partner is not None and host < partner
    ]


@given(st.integers(0, 300))
def test_rounds_are_pairings_without_repetition(hosts: int) -> None:
    for partners in rounds_of(hosts):
        assert len(partners) == hosts
        assert all(partners[partner] == host != partner for host, partner in enumerate(partners) if partner is not None)
        assert sum(partner is None for partner in partners) == hosts % 2
    pairs = pairs_of(hosts)
    assert len(set(pairs)) == len(pairs)
    if hosts <= 8:
        assert set(pairs) == {frozenset(pair) for pair in combinations(range(hosts), 2)}
    else:
        assert len(rounds_of(hosts)) == (hosts - 1).bit_length() + 2
        assert len(within(steps=(hosts - 1).bit_length() // 2 + 1, hosts=hosts, pairs=pairs)) == hosts


def within(steps: int, hosts: int, pairs: list[frozenset[int]]) -> set[int]:
    """Hosts that host 0 reaches over so many pairs."""
    near: dict[int, set[int]] = {host: {host} for host in range(hosts)}
    for first, second in map(tuple, pairs):
        near[first].add(second)
        near[second].add(first)
    seen = {0}
    for _ in range(steps):
        seen = {other for host in seen for other in near[host]}
    return seen


@given(st.data())
def test_fewer_than_half_bad_hosts_are_named_exactly(data: st.DataObject) -> None:
    """Everybody meets everybody; bad hosts fail with all good ones, and with one another or not."""
    hosts = data.draw(st.integers(3, 8))
    names = [f"n{host}" for host in range(hosts)]
    bad = set(data.draw(st.lists(st.sampled_from(names), unique=True, max_size=(hosts - 1) // 2)))
    tested = [frozenset(pair) for pair in combinations(names, 2)]
    failed = {pair for pair in tested if len(pair & bad) == 1 or (pair <= bad and data.draw(st.booleans()))}
    assert set(blame(names, tested, failed)) == bad


@given(st.data())
def test_one_bad_host_among_many_is_named(data: st.DataObject) -> None:
    hosts = data.draw(st.integers(9, 200))
    bad = data.draw(st.integers(0, hosts - 1))
    names = [f"n{host}" for host in range(hosts)]
    tested = [frozenset(f"n{host}" for host in pair) for pair in pairs_of(hosts)]
    assert blame(names, tested, [pair for pair in tested if f"n{bad}" in pair]) == [f"n{bad}"]


@given(st.data())
def test_no_failed_pair_is_left_among_the_good(data: st.DataObject) -> None:
    hosts = data.draw(st.integers(2, 12))
    names = [f"n{host}" for host in range(hosts)]
    tested = [frozenset(f"n{host}" for host in pair) for pair in pairs_of(hosts)]
    failed = data.draw(st.lists(st.sampled_from(tested), unique=True))
    named = set(blame(names, tested, failed))
    assert all(pair & named for pair in failed)
    assert not named or all(any(host in pair for pair in failed) for host in named)


def test_of_two_hosts_the_first_is_kept() -> None:
    pair = frozenset(("n1", "n2"))
    assert blame(["n1", "n2"], [pair], [pair]) == ["n2"]
    assert blame(["n2", "n1"], [pair], [pair]) == ["n1"]


def found(host: str, **changes: object) -> Findings:
    good = Findings(
        token="1.0",
        host=host,
        problems=[],
        warnings=[],
        seconds=5.0,
        memory_available_gb=10.0,
        shared_memory_free_gb=10.0,
        folder=FolderFacts(write_seconds=0.01, free_gb=10.0, clock_offset_seconds=0.0),
        gpus=[],
        ready=True,
        unseen_hosts=[],
        pairs={other: PairResult(error=None, megabytes_per_second=100.0) for other in HOSTS if other != host},
    )
    return good.model_copy(update=changes)


def all_found(*changed: Findings) -> dict[str, Findings]:
    return {host: found(host) for host in HOSTS} | {findings.host: findings for findings in changed}


def offset(seconds: float) -> FolderFacts:
    return FolderFacts(write_seconds=0.01, free_gb=10.0, clock_offset_seconds=seconds)


def test_all_good() -> None:
    verdict = judge(HOSTS, all_found(), HOSTS, "n1", 2.0)
    assert (verdict.bad, verdict.warnings) == ({}, {})


def test_own_problems_are_reasons_and_warnings_are_not() -> None:
    findings = all_found(found("n2", problems=["1 GPU"]), found("n3", warnings=["odd"]))
    verdict = judge(HOSTS, findings, HOSTS, "n1", 2.0)
    assert verdict.bad == {"n2": ["1 GPU"]}
    assert verdict.warnings == {"n3": ["odd"]}


def test_a_missing_host_is_bad_and_its_partners_are_not() -> None:
    silent = {"n4": PairResult(error="no answer within 5.0 s")}
    findings = {host: found(host, pairs=found(host).pairs | silent) for host in HOSTS[:3]}
    stopped = judge(HOSTS, findings, HOSTS, "n1", 2.0)
    assert stopped.bad == {"n4": ["began and did not finish in time: it hangs or was stopped"]}
    absent = judge(HOSTS, findings, HOSTS[:3], "n1", 2.0)
    assert list(absent.bad) == ["n4"]
    assert "wrote no file" in absent.bad["n4"][0]


def test_a_failure_seen_by_one_side_counts() -> None:
    findings = {
        host: found(host, pairs=found(host).pairs | {"n2": PairResult(error="reset")}) for host in ("n1", "n3", "n4")
    }
    verdict = judge(HOSTS, all_found(*findings.values()), HOSTS, "n1", 2.0)
    assert verdict.bad == {"n2": ["no collective with n1, n3, n4 (3 of 3 partners): reset"]}


def test_a_judge_that_sees_nobody_blames_itself() -> None:
    verdict = judge(HOSTS, {"n1": found("n1")}, ["n1"], "n1", 2.0)
    assert list(verdict.bad) == ["n1"]
    assert judge(["n1", "n2"], {"n1": found("n1")}, ["n1"], "n1", 2.0).bad.keys() == {"n2"}


def test_a_host_that_does_not_see_the_others_is_bad() -> None:
    verdict = judge(HOSTS, all_found(found("n3", unseen_hosts=["n1", "n2"])), HOSTS, "n1", 2.0)
    assert verdict.bad == {"n3": ["does not see the files of n1, n2 in the shared folder"]}


@pytest.mark.parametrize(
    ("offsets", "bad"),
    [
        ([0.0, 0.0, 5.0, 0.0], {"n3": "its clock is 5.0 s fast"}),
        ([0.0, 0.0, -3.0, 0.0], {"n3": "its clock is 3.0 s slow"}),
        ([9.0, 9.0, 9.5, 0.0], {"n4": "its clock is 9.0 s slow"}),  # the file server is wrong, and so is n4
        ([1.9, 0.0, -1.9, 0.0], {}),
    ],
)
def test_the_deviating_clock_is_named(offsets: list[float], bad: dict[str, str]) -> None:
    findings = {host: found(host, folder=offset(seconds)) for host, seconds in zip(HOSTS, offsets, strict=True)}
    verdict = judge(HOSTS, findings, HOSTS, "n1", 2.0)
    assert {host: reasons[0] for host, reasons in verdict.bad.items()} == bad


def test_alone_the_file_server_has_the_right_time() -> None:
    assert middle_clock([7.0]) == 0.0
    assert middle_clock([]) == 0.0
    assert middle_clock([7.0, 7.0]) == 7.0


def test_a_slow_host_is_a_warning() -> None:
    slow = {host: PairResult(error=None, megabytes_per_second=20.0) for host in HOSTS if host != "n2"}
    verdict = judge(HOSTS, all_found(found("n2", pairs=slow)), HOSTS, "n1", 2.0)
    assert verdict.bad == {}
    assert verdict.warnings == {"n2": ["slow network: 20 MB/s, the median of all hosts is 100"]}


def test_late_hosts_are_bad_only_where_most_were_in_time() -> None:
    one = judge(HOSTS, all_found(found("n2", ready=False, pairs={})), HOSTS, "n1", 2.0)
    assert one.bad == {"n2": ["was not ready in time to meet the others"]}
    late = [found(host, ready=False, pairs={}) for host in HOSTS]
    most = judge(HOSTS, all_found(*late), HOSTS, "n1", 2.0)
    assert most.bad == {}
    assert set(most.warnings) == set(HOSTS)
