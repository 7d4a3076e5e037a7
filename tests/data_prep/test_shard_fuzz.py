"""Damaged shards, drawn by hypothesis: never a crash, never wrong data; benchmarks/shard_fuzz.py does many."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    return importlib.import_module("shard_fuzz")


@pytest.fixture(scope="module")
def builds(fuzz: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return [fuzz.make_valid(tmp_path_factory.mktemp(dtype), dtype) for dtype in fuzz.VOCAB_SIZES]


@settings(max_examples=200)
@given(chance=st.randoms(use_true_random=False), which=st.integers(0, 1))
def test_no_damage_crashes_or_passes(fuzz: ModuleType, builds: list[Any], chance: random.Random, which: int) -> None:
    case = fuzz.draw_case(builds[which], chance)
    outcome, why = fuzz.judge(builds[which], case)
    assert outcome != "FAILURE", f"{case.kind} of {case.file}: {why}"


def test_half_of_the_cases_change_one_field_beyond_the_header(fuzz: ModuleType, builds: list[Any]) -> None:
    chance = random.Random(5)
    cases = [fuzz.draw_case(builds[0], chance) for _ in range(1000)]
    assert sum(case.one_field for case in cases) > 550


def test_a_careless_verification_is_noticed(
    fuzz: ModuleType, builds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hashes changed tokens pass; a reader that lets any exception through is seen as well."""
    token = next(case for case in cases_of(fuzz, builds[0]) if case.kind == "token")
    bound = next(case for case in cases_of(fuzz, builds[0]) if case.kind == "idx length")
    monkeypatch.setattr(fuzz, "find_faults", lambda manifest: [])
    assert fuzz.judge(builds[0], token) == ("FAILURE", "changed bytes without a fault")
    assert fuzz.judge(builds[0], bound)[0] == "FAILURE"

    def crash(path: Path) -> None:
        raise IndexError(path)

    monkeypatch.setattr(fuzz, "IndexedShard", crash)
    outcome, why = fuzz.judge(builds[0], token)
    assert outcome == "FAILURE"
    assert "IndexError" in why


def cases_of(fuzz: ModuleType, build: Any) -> Iterator[Any]:
    """Random damages that change something."""
    chance = random.Random(7)
    while True:
        case = fuzz.draw_case(build, chance)
        if case.content != build.files[case.file]:
            yield case


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("documents/aa.groups.npy", b""),
        ("documents/aa.groups.npy", b"PK\x03\x04 no archive"),
        ("documents/aa.groups.npy", b"\x93NUMPY\x01\x00\x76\x00" + b"{" * 118),
        ("manifest.json", b"[" * 100_000),
        ("manifest.json", b'{"format": "mlc-shards", "version": 1, "shards": null}'),
        ("manifest.json", b'{"format": "mlc-shards", "version": 1, "shards": 7}'),
        ("build.json", b'{"timing": []}'),
    ],
    ids=["no groups", "an archive", "a broken header", "deep nesting", "null shards", "shards = 7", "timing is a list"],
)
def test_what_once_crashed(fuzz: ModuleType, builds: list[Any], file: str, content: bytes) -> None:
    outcome, why = fuzz.judge(builds[0], fuzz.Case("once", file, False, content))
    assert outcome in ({"same data"} if file == "build.json" else {"refused"}), why


MANIFEST_CHANGES: list[tuple[list[Any], Any]] = [
    (["shards", 0, "files", "documents/aa.bin"], {}),
    (["shards", 0, "files", "documents/aa.bin", "bytes"], "many"),
    (["shards", 0, "prefixes"], ["/"]),
    (["shards", 0, "prefixes"], ["documents/\0"]),
    (["shards", 0, "prefixes"], ["documents/\ud800"]),
    (["shards", 0, "prefixes"], []),
    (["shards", 0, "documents"], 10**30),
    (["shards", 0, "documents"], -1),
    (["shards", 2, "prefixes"], ["pairs/aa-bb.aa", "pairs/aa-bb.aa"]),
    (["tokenizer", "vocab_size"], 0),
    (["tokenizer", "vocab_size"], 2**62),
    (["tokenizer", "file"], ""),
]


@pytest.mark.parametrize(("way", "value"), MANIFEST_CHANGES, ids=lambda value: repr(value)[:40])
def test_a_manifest_with_a_hash_made_anew_is_checked(
    fuzz: ModuleType, builds: list[Any], way: list[Any], value: Any
) -> None:
    import hashlib
    import json

    content = json.loads(builds[0].files["manifest.json"])
    del content["sha256"]
    holder = content
    for key in way[:-1]:
        holder = holder[key]
    holder[way[-1]] = value
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    content["sha256"] = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    outcome, why = fuzz.judge(builds[0], fuzz.Case("once", "manifest.json", True, json.dumps(content).encode()))
    assert outcome == "refused", why
    assert "the manifest is damaged" in why
