"""Damages to a small valid build of shards, drawn at random.

In:  a `Valid` build and a source of chance.
Out: a `Case`: the new bytes of one file, of two that are exchanged, or that a file is gone.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlc.data.indexed import HEADER

ODD_NUMBERS = (0, 1, -1, 2, 255, 2**15, 2**31 - 1, -(2**31), 2**31, 2**32, 2**62, 2**63 - 1, -(2**63), 2**64 - 1)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, *ODD_NUMBERS, 10**30, 1.5, 1e308, float("nan"), "", "\0", ".", "..", "/", "../x", "documents",
    "\ud800", "60", "pairs", [], {}, [[]], {"bytes": 1}, ["aa"], ["aa", "bb"], "ä" * 300,
)  # fmt: skip


@dataclass(frozen=True)
class Valid:
    """The build that is damaged: its folder, the tokens' dtype, what each shard holds, and the bytes of every file."""

    folder: Path
    dtype: str
    data: dict[str, Any]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A damage: its kind, which file, whether it is one field beyond the header, and the file's new bytes (None: gone).

    `further` are files that change besides.
    """

    kind: str
    file: str
    one_field: bool
    content: bytes | None
    further: tuple[tuple[str, bytes], ...] = ()


def draw_case(valid: Valid, chance: random.Random) -> Case:
    """A damage; two of three are one field beyond the header."""
    if chance.randrange(3):
        kinds: Sequence[Callable[[Valid, random.Random], Case]] = (_index_field, _manifest_field, _group, _token)
        return kinds[chance.choices(range(4), (5, 5, 1, 1))[0]](valid, chance)
    kinds = (_index_header, _groups_header, _whole_file, _exchanged, _build_report)
    return kinds[chance.choices(range(5), (4, 1, 8, 1, 1))[0]](valid, chance)


def _with(content: bytes, place: int, code: str, chance: random.Random) -> bytes:
    """The bytes with one number changed: by a little, to an odd one, or in one bit."""
    size = 8 * struct.calcsize(f"<{code}")
    (number,) = struct.unpack_from(f"<{code}", content, place)
    changed = chance.choice(
        [
            number + chance.choice([-2, -1, 1, 2, 4, 8]),
            number ^ (1 << chance.randrange(size)),
            chance.choice(ODD_NUMBERS),
        ]
    )
    value: bytes = (changed % (1 << size)).to_bytes(size // 8, "little")
    return content[:place] + value + content[place + size // 8 :]


def _index_field(valid: Valid, chance: random.Random) -> Case:
    name = _choose(valid, ".idx", chance)
    content = valid.files[name]
    _, _, _, sequences, bounds = HEADER.unpack_from(content)
    starts = {"length": (HEADER.size, sequences, "i"), "offset": (HEADER.size + 4 * sequences, sequences, "q")}
    starts["bound"] = (HEADER.size + 12 * sequences, bounds, "q")
    field = chance.choice(sorted(starts))
    start, count, code = starts[field]
    place = start + struct.calcsize(f"<{code}") * chance.randrange(count)
    return Case(f"idx {field}", name, True, _with(content, place, code, chance))


def _token(valid: Valid, chance: random.Random) -> Case:
    name = _choose(valid, ".bin", chance)
    size, code = (2, "H") if valid.dtype == "uint16" else (4, "i")
    place = size * chance.randrange(len(valid.files[name]) // size)
    return Case("token", name, True, _with(valid.files[name], place, code, chance))


def _group(valid: Valid, chance: random.Random) -> Case:
    name = _choose(valid, ".npy", chance)
    count = len(np.frombuffer(valid.files[name][128:], "<i8"))
    return Case("group", name, True, _with(valid.files[name], 128 + 8 * chance.randrange(count), "q", chance))


def _index_header(valid: Valid, chance: random.Random) -> Case:
    name = _choose(valid, ".idx", chance)
    content = bytearray(valid.files[name])
    field, place, code = chance.choice(
        [("magic", 0, "B"), ("version", 9, "Q"), ("dtype", 17, "B"), ("sequences", 18, "Q"), ("bounds", 26, "Q")]
    )
    changed = _with(bytes(content), place, code, chance)
    if field == "sequences" and chance.randrange(2):  # counts that give the same size
        _, _, _, sequences, bounds = HEADER.unpack_from(content)
        struct.pack_into("<QQ", content, 18, sequences + 2, max(bounds - 3, 0))
        changed = bytes(content)
    return Case(f"idx header {field}", name, False, changed)


def _groups_header(valid: Valid, chance: random.Random) -> Case:
    name = _choose(valid, ".npy", chance)
    content = bytearray(valid.files[name])
    if chance.randrange(2):
        content[chance.randrange(128)] = chance.randrange(256)
    else:
        texts = [
            b"<i8",
            b">i8",
            b"|O8",
            b"<f8",
            b"<u8",
            b"True ",
            b"(9,) ",
            b"(-1,)",
            b"(99999999999999,)",
            b"__import__('os')",
        ]
        new, old = chance.choice(texts), chance.choice([b"<i8", b"False", b"(7,)", b"(6,)", b"descr"])
        content = bytearray(bytes(content[:128]).replace(old, new)[:128].ljust(128) + bytes(content[128:]))
    return Case("groups header", name, False, bytes(content))


def _whole_file(valid: Valid, chance: random.Random) -> Case:
    name = chance.choice(sorted(valid.files))
    content = valid.files[name]
    kind = chance.choice(["cut", "extended", "empty", "random", "gone", "flipped"])
    changed: bytes | None = {
        "cut": content[: chance.randrange(max(len(content), 1))],
        "extended": content + chance.randbytes(chance.choice([1, 4, 8, 20, 300])),
        "empty": b"",
        "random": chance.randbytes(chance.choice([1, 34, len(content)])),
        "gone": None,
        "flipped": content,
    }[kind]
    if kind == "flipped":
        place = chance.randrange(len(content))
        changed = content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]
    return Case(f"file {kind}", name, False, changed)


def _exchanged(valid: Valid, chance: random.Random) -> Case:
    suffix = chance.choice([".bin", ".idx", ".npy"])
    one, other = chance.sample([name for name in sorted(valid.files) if name.endswith(suffix)], 2)
    return Case("files exchanged", one, False, valid.files[other], ((other, valid.files[one]),))


def _build_report(valid: Valid, chance: random.Random) -> Case:
    content = json.loads(valid.files["build.json"])
    content[chance.choice(sorted(content))] = chance.choice(ODD_VALUES)
    return Case("build.json", "build.json", False, _json(content))


def _manifest_field(valid: Valid, chance: random.Random) -> Case:
    content = json.loads(valid.files["manifest.json"])
    hashed = chance.choice(["hash left", "hash made anew", "hash taken out"])
    stated = content.pop("sha256")
    holder, key = chance.choice(list(_leaves(content)))
    how = chance.choice(["changed", "changed", "changed", "removed", "renamed"])
    old = holder[key]
    if how == "changed":
        near = [old + 1, old - 1] if isinstance(old, int) else [old + "x", old[:-1]] if isinstance(old, str) else [old]
        holder[key] = chance.choice(
            [*near, copy.deepcopy(chance.choice(ODD_VALUES)), copy.deepcopy(chance.choice(ODD_VALUES))]
        )
    else:
        del holder[key]
        if how == "renamed" and isinstance(holder, dict):
            holder[f"{key}x"] = old
    if hashed == "hash left":
        content["sha256"] = stated
    elif hashed == "hash made anew":
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        content["sha256"] = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return Case(f"manifest, {hashed}", "manifest.json", True, _json(content))


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _leaves(value[key])


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()


def _choose(valid: Valid, suffix: str, chance: random.Random) -> str:
    return chance.choice([name for name in sorted(valid.files) if name.endswith(suffix)])
