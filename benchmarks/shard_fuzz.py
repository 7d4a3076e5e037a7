"""Damaged shards: each has to be refused with a reason or to be found by verification, and never to crash the reader.

    python benchmarks/shard_fuzz.py --cases 20000 --json fuzz.json

Two small valid builds are made (documents and pairs; uint16 and int32 tokens). Every case changes one, at least half of
them by one field beyond a file's header: a length, offset or document bound of an `.idx`, a token, a group number, a
value of the manifest (its hash left, made anew or taken out). The rest are changed headers, files cut short, extended,
emptied, exchanged, filled with random bytes, or gone. Then the manifest is read, every shard is opened, every sequence
and document is read, and `find_faults` is called.

What counts as a failure: an exception that is no `MlcError`; a sequence or document outside the tokens; changed bytes
of a listed file without a fault; a manifest that is accepted, has no fault, and yields other documents than were
written. A manifest with a hash made anew may say other things about the same documents (names, languages, counts of
dropped records): nobody can notice that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from shard_damage import Case, Valid, draw_case

from data_prep.verify import find_faults
from mlc.data.indexed import IndexedShard, ShardWriter
from mlc.data.manifest import SPECIAL_TOKENS, Manifest, ShardEntry, TokenizerInfo
from mlc.errors import MlcError

VOCAB_SIZES = {"uint16": 60_000, "int32": 70_000}


def make_valid(folder: Path, dtype: str, seed: int = 1) -> Valid:
    """A build of two shards of documents and one of pairs."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(b"a tokenizer")
    shapes = {
        "documents/aa": ([1, 3, 2, 4, 1, 0, 2],),
        "documents/bb": ([1],),
        "pairs/aa-bb": ([1] * 6, [1] * 6),
    }
    entries = []
    for name, sides in shapes.items():
        languages = tuple(name.split("/")[1].split("-"))
        prefixes = (name,) if len(languages) == 1 else tuple(f"{name}.{language}" for language in languages)
        for prefix, sizes in zip(prefixes, sides, strict=True):
            with ShardWriter(folder / prefix, dtype) as writer:
                for size in sizes:
                    writer.add_document(
                        [generator.integers(10, VOCAB_SIZES[dtype], generator.integers(1, 6)) for _ in range(size)]
                    )
        np.save(folder / f"{name}.groups.npy", generator.integers(-1, 2**62, len(sides[0])))
        entries.append(_entry(folder, name, languages, prefixes))
    tokenizer = TokenizerInfo(
        file="tokenizer.model",
        sha256=hashlib.sha256(b"a tokenizer").hexdigest(),
        vocab_size=VOCAB_SIZES[dtype],
        special_ids={name: place for place, name in enumerate(SPECIAL_TOKENS)},
    )
    manifest = Manifest(folder, tokenizer, tuple(entries), recipe_sha256="ab", timing={"seconds": 1.0})
    manifest.write(folder)
    assert find_faults(manifest) == []
    data = {entry.name: read_all(manifest, entry) for entry in entries}
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return Valid(folder, dtype, data, files)


def _entry(folder: Path, name: str, languages: tuple[str, ...], prefixes: tuple[str, ...]) -> ShardEntry:
    shards = [IndexedShard(folder / prefix) for prefix in prefixes]
    names = [f"{prefix}{suffix}" for prefix in prefixes for suffix in (".bin", ".idx")] + [f"{name}.groups.npy"]
    return ShardEntry(
        name=name,
        kind="documents" if len(languages) == 1 else "pairs",
        languages=languages,
        prefixes=prefixes,
        documents=shards[0].num_documents,
        sequences=shards[0].num_sequences,
        tokens=sum(shard.num_tokens for shard in shards),
        files={
            file: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for file in names
            for content in [(folder / file).read_bytes()]
        },
        sources=("a.txt",),
        dropped={"empty": 1},
        text_bytes=7,
    )


def read_all(manifest: Manifest, entry: ShardEntry) -> Any:
    """Every document of every side, and the group numbers."""
    sides = [read_shard(shard) for shard in manifest.open(entry)]
    return sides, manifest.groups(entry).tolist()


def read_shard(shard: IndexedShard) -> list[Any]:
    """Every document as the list of its sequences.

    Raises:
        AssertionError: a sequence or document reaches out of the tokens, or they do not cover them.
    """
    sequences = [shard.sequence(s).tolist() for s in range(shard.num_sequences)]
    bounds = shard.document_bounds.tolist()
    assert [len(sequence) for sequence in sequences] == shard.lengths.tolist(), "a sequence is shorter than its length"
    assert sum(map(len, sequences)) == shard.num_tokens, "the sequences do not cover the tokens"
    documents = [sequences[bounds[d] : bounds[d + 1]] for d in range(shard.num_documents)]
    for d, document in enumerate(documents):
        flat = [token for sequence in document for token in sequence]
        assert shard.document(d).tolist() == flat, "a document is not its sequences"
    assert int(shard.document_lengths.sum()) == shard.num_tokens, "the documents do not cover the tokens"
    return documents


def judge(valid: Valid, case: Case) -> tuple[str, str]:
    """Do the damage, look, and mend it again.

    Returns:
        ("refused" | "fault found" | "same data" | "FAILURE", why).
    """
    changes = {case.file: case.content, **dict(case.further)}
    if all(valid.files[name] == content for name, content in changes.items()):
        return "no change", ""
    try:
        for name, content in changes.items():
            (valid.folder / name).unlink()
            if content is not None:
                (valid.folder / name).write_bytes(content)
        return _look(valid, case)
    except Exception:
        return "FAILURE", traceback.format_exc()
    finally:
        for name in changes:
            (valid.folder / name).unlink(missing_ok=True)  # rewritten in place, a file waits for the disk
            (valid.folder / name).write_bytes(valid.files[name])


def _look(valid: Valid, case: Case) -> tuple[str, str]:
    _read_alone(valid)
    try:
        manifest = Manifest.read(valid.folder)
    except MlcError as error:
        return "refused", str(error)
    found, refused = {}, ""
    try:
        manifest.check()
        for entry in manifest.shards:
            found[entry.name] = read_all(manifest, entry)
    except MlcError as error:
        refused = str(error)
    faults = find_faults(manifest)
    if faults:
        return ("refused" if refused else "fault found"), faults[0]
    wrong = f"refused, but without a fault: {refused}" if refused else _accepted(valid, case, manifest, found)
    return ("FAILURE", wrong) if wrong else ("same data", "")


def _read_alone(valid: Valid) -> None:
    """Open every pair of files without the manifest: refused, or every sequence lies inside the tokens."""
    for name in valid.files:
        if name.endswith(".idx"):
            with suppress(MlcError):
                read_shard(IndexedShard(valid.folder / name.removesuffix(".idx")))


def _accepted(valid: Valid, case: Case, manifest: Manifest, found: dict[str, Any]) -> str:
    """What is wrong with a build that was accepted and has no fault."""
    if case.file not in {"manifest.json", "build.json"}:
        return "changed bytes without a fault"
    known = list(valid.data.values())
    for entry in manifest.shards:
        sides, groups = found[entry.name]
        listed = entry.groups_file in entry.files  # a shard whose manifest lists no groups has none
        if not any(sides == each[0] and (groups == each[1] or not listed) for each in known):
            return f"{entry.name} has other documents or groups"
    original = json.loads(valid.files["manifest.json"])
    if "hash left" in case.kind and manifest.sha256 != original["sha256"]:
        return "a manifest changed without its hash was accepted"
    return ""


def run_cases(folder: Path, cases: int, seed: int) -> dict[str, Any]:
    """Judge many cases; a summary by kind and outcome, and every failure."""
    builds, chance = [make_valid(folder / dtype, dtype, seed) for dtype in VOCAB_SIZES], random.Random(seed)
    outcomes: dict[str, Counter[str]] = {}
    failures: list[str] = []
    done = one_field = 0
    while done < cases:
        valid = builds[done % len(builds)]
        case = draw_case(valid, chance)
        outcome, why = judge(valid, case)
        if outcome == "no change":
            continue
        done += 1
        one_field += case.one_field
        outcomes.setdefault(case.kind, Counter())[outcome] += 1
        if outcome == "FAILURE":
            failures.append(f"{case.kind} of {case.file}: {why}")
    return {
        "cases": done,
        "one_field_beyond_the_header": one_field,
        "failures": len(failures),
        "outcomes": {kind: dict(sorted(counts.items())) for kind, counts in sorted(outcomes.items())},
        "examples": failures[:20],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="shard-fuzz-") as name:
        result = run_cases(Path(name), options.cases, options.seed)
    result["seconds"] = round(time.monotonic() - started, 1)
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
