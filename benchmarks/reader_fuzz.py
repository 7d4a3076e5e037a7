"""Damaged source files in every format: records, reasons or one clear error; never a traceback, never wrong text.

    python benchmarks/reader_fuzz.py --cases 12000 --seed 1 --json fuzz.json

Files of 12 records are made in every format, plain and compressed. Every case changes one. More than half change one
thing beyond a header: the value of a field (another type, empty, too long, with delimiters, quotes, markup, halves of
surrogate pairs), or a byte. The rest: a byte of the header, a file cut short, bytes put in, taken out or repeated,
bytes of a compressed file, random bytes.

What is checked in every case: no exception but a `DataError` (of a data set also a `RecipeError`), no process that
dies, and the same records whether the file is read whole or in ranges of 50 bytes. Besides:

  text, JSON lines, tsv, moses  the records and the lines set aside are those of a plain reading written without
                                data_prep (`reader_files.py`), whatever the bytes
  csv                           the same, by Python's csv, where every line is short and UTF-8, no quote goes over lines
                                and no carriage return stands alone; else records before the changed one are as before
  tmx                           one field or byte changed beyond the header: every other unit is as it was; only those
                                before it where the field opens a comment or CDATA, which may reach over the rest
  Parquet                       one field: every other record is as it was. A byte: the file is refused, or no text is
                                given that it never held (pages have checksums, the footer has none)
  data set                      nothing more: Arrow files have no checksums
  compressed                    a byte changed in the compressed file: refused, or read as if nothing had been changed
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reader_files import COMPRESSORS, KINDS, ROWS, Kind, Reading, Row, as_line, as_reading, read

CASES_A_PROCESS = 500
"""A process that dies takes so many with it."""
FAILURE = "FAILURE"
DATA_SET = "data set"
ODD_VALUES: list[Any] = [
    None, 3, True, 2**70, 1.5, [], {"a": 1}, "", "  ", "\u3000", "x" * 600, "ä" * 240, "a\tb", 'say "x', '"', '"a"',
    "a,b", "a\nb", "a\n\nb", "a\r\nb", "\r", "\x00", "\ufeff", "\u2028", "&", "&amp;", "<b>", "</tu>", "<tu>", "<!--",
    "-->", "]]>", "<![CDATA[", "\\", "\ud800", "{", "new text",
]  # fmt: skip
PIECES = [b"\n", b"\r\n", b'"', b",", b"\t", b"{", b"}", b'{"text": "a"}', b"\xff", b"\xef\xbb\xbf", b"<tu>", b"</tu>",
          b"<!--", b"<![CDATA[", b"&", b"PAR1", b"\x00", b"a" * 300, b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A changed file.

    Attributes:
        kind, suffix: its format and compression.
        how: what was done.
        content: the file's bytes, decompressed where the compression is whole.
        stored: the file's bytes.
        one_thing: a valid file with one thing changed beyond its header.
        row: the record that was changed, where it is one.
        value: what its text became, if that was changed.
    """

    kind: Kind
    suffix: str
    how: str
    content: bytes
    stored: bytes
    one_thing: bool
    row: int | None = None
    value: Any = None


def draw_case(chance: random.Random) -> Case:
    """A change; two of three are one thing beyond the header."""
    kind = chance.choice(KINDS)
    suffix = chance.choice(["", *COMPRESSORS]) if kind.compressed else ""
    ways = (_field, _byte, _header_byte, _stored_byte, _cut, _piece, _random)
    return chance.choices(ways, (40, 27, 5, 8, 5, 10, 5))[0](kind, suffix, chance)


def _field(kind: Kind, suffix: str, chance: random.Random) -> Case:
    row, which, value = chance.randrange(len(ROWS)), chance.choice([0, 1, 1, 1]), chance.choice(ODD_VALUES)
    rows: list[Row] = list(ROWS)
    rows[row] = (value, rows[row][1]) if which == 0 else (rows[row][0], value)
    content = kind.write(rows)
    text = value if which == 1 else rows[row][1]
    return Case(kind, suffix, "field", content, COMPRESSORS[suffix](content), True, row, text)


def _byte(kind: Kind, suffix: str, chance: random.Random, header: bool = False) -> Case:
    good = kind.write(ROWS)
    start = kind.header_bytes(good)
    place = chance.randrange(start) if header and start else chance.randrange(start, len(good))
    value = chance.choice([good[place] ^ (1 << chance.randrange(8)), chance.randrange(256), *b'\n\r",\t<{\\'])
    content = good[:place] + bytes([value]) + good[place + 1 :]
    beyond = place >= start
    row = None if kind.name == "a.parquet" or not beyond else _row_at(kind, good, place)
    return Case(kind, suffix, "byte" if beyond else "header", content, COMPRESSORS[suffix](content), beyond, row)


def _row_at(kind: Kind, good: bytes, place: int) -> int:
    """The record that a byte belongs to; the line feed between two belongs to the first."""
    line_feeds = good[kind.header_bytes(good) : place].count(b"\n")
    return min(len(ROWS) - 1, line_feeds // 2 if kind.name == "a.txt" else line_feeds)


def _header_byte(kind: Kind, suffix: str, chance: random.Random) -> Case:
    return _byte(kind, suffix, chance, header=True)


def _stored_byte(kind: Kind, suffix: str, chance: random.Random) -> Case:
    if not suffix:
        return _byte(kind, suffix, chance)
    good = kind.write(ROWS)
    stored = COMPRESSORS[suffix](good)
    place = chance.randrange(len(stored))
    changed = stored[:place] + bytes([stored[place] ^ (1 << chance.randrange(8))]) + stored[place + 1 :]
    return Case(kind, suffix, "compressed byte", good, changed, place >= 16)


def _cut(kind: Kind, suffix: str, chance: random.Random) -> Case:
    good = kind.write(ROWS)
    stored = COMPRESSORS[suffix](good)
    if suffix and chance.randrange(2):
        return Case(kind, suffix, "compressed cut", good, stored[: chance.randrange(len(stored))], False)
    content = good[: chance.randrange(len(good))]
    return Case(kind, suffix, "cut", content, COMPRESSORS[suffix](content), False)


def _piece(kind: Kind, suffix: str, chance: random.Random) -> Case:
    good = kind.write(ROWS)
    first, second = sorted(chance.randrange(len(good) + 1) for _ in range(2))
    second = min(second, first + 200)
    content = chance.choice(
        [
            good[:first] + chance.choice(PIECES) + good[first:],
            good[:first] + chance.choice(PIECES) + good[second:],
            good[:first] + good[second:],
            good[:second] + good[first:second] + good[second:],
            good + good[first:second],
        ]
    )
    return Case(kind, suffix, "bytes put in or out", content, COMPRESSORS[suffix](content), False)


def _random(kind: Kind, suffix: str, chance: random.Random) -> Case:
    pieces = [
        chance.choice(PIECES) if chance.randrange(2) else chance.randbytes(chance.randrange(8)) for _ in range(20)
    ]
    content = b"".join(pieces[: chance.randrange(21)])
    inside = chance.randrange(2)
    how = "random bytes" if inside or not suffix else "compressed random"
    return Case(kind, suffix, how, content, COMPRESSORS[suffix](content) if inside else content, False)


def judge(path: Path, case: Case) -> tuple[str, str]:
    """Write the file, read it whole and in ranges, and compare.

    Returns:
        ("refused" | "as the reference" | "the rest as before" | "no crash" | FAILURE, why).
    """
    path.write_bytes(case.stored)
    try:
        whole, ranges = read(path, 1 << 30), read(path, 50)
    except Exception:
        return FAILURE, traceback.format_exc()
    if whole != ranges:
        return FAILURE, f"whole {whole}, in ranges {ranges}"
    whole_container = not case.how.startswith("compressed")
    if whole is None:
        decided = case.kind.name != "a.parquet" and whole_container
        return (FAILURE, "a file that is whole was refused") if decided else ("refused", "")
    found = as_reading(whole)
    if case.how == "compressed random":
        return "no crash", ""
    reference = case.kind.reference(case.content)
    if reference is not None:
        return ("as the reference", "") if found == reference else (FAILURE, f"found {found}, needed {reference}")
    return _rest(case, found)


def _rest(case: Case, found: Reading) -> tuple[str, str]:
    """Compare what the change has left alone, where it is known."""
    texts = [texts[0] for _, texts in found if texts]
    originals = [text for _, text in ROWS]
    if not case.how.startswith("compressed") and case.row is None and case.kind.name != "a.parquet":
        return "no crash", ""
    if case.how.startswith("compressed"):
        others, after = originals, originals
    elif case.row is None:  # a byte of a Parquet file
        strange = [text for text in texts if text not in {value for row in ROWS for value in row}]
        whole_file = case.how in ("byte", "header")
        return (FAILURE, f"texts it never held: {strange}") if strange and whole_file else ("no crash", "")
    else:
        others = originals[: case.row]
        reaches_on = b"<!--" in case.content or b"<![CDATA[" in case.content
        comes_back = case.kind.name == "a.parquet" or (case.kind.name == "a.tmx" and not reaches_on)
        after = originals[case.row + 1 :] if comes_back else []
    kept = texts[: len(others)] == others and (not after or texts[-len(after) :] == after)
    if not kept:
        return FAILURE, f"found {texts}, needed {others} first and {after} last"
    added = texts[len(others) : len(texts) - len(after)]
    if case.kind.name == "a.parquet" and case.how == "field" and any(text != as_line(case.value) for text in added):
        return FAILURE, f"found {added} for {case.value!r}"
    return "the rest as before", ""


def make_data_set(folder: Path) -> None:
    """The rows as a data set that `save_to_disk` has written."""
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"id": [row[0] for row in ROWS], "text": [row[1] for row in ROWS]}).save_to_disk(folder)


def judge_data_set(good: Path, folder: Path, chance: random.Random) -> tuple[str, bool, str, str]:
    """Change a byte of one of a data set's files, or cut it short: (how, one thing beyond the header, outcome, why)."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    file = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    content, cut = file.read_bytes(), chance.randrange(8) == 0
    place = chance.randrange(len(content))
    changed = content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]
    file.write_bytes(content[:place] if cut else changed)
    how, beyond = ("cut", False) if cut else ("byte", place >= 16)
    try:
        whole, ranges = read(folder, 1 << 30), read(folder, 50)
    except Exception:
        return how, beyond, FAILURE, f"{file.name} at {place}: {traceback.format_exc()}"
    if whole != ranges:
        return how, beyond, FAILURE, f"{file.name} at {place}: whole {whole}, in ranges {ranges}"
    return how, beyond, "refused" if whole is None else "no crash", ""


def run_some(numbers: Sequence[int], seed: int) -> list[tuple[str, str, bool, str, str]]:
    """Judge the cases of these numbers: (format, how, one thing changed beyond the header, outcome, why) of each."""
    found = []
    with tempfile.TemporaryDirectory(prefix="reader-fuzz-") as name:
        folder = Path(name)
        make_data_set(folder / "good")
        for number in numbers:
            chance = random.Random(f"{seed}-{number}")
            if number % (len(KINDS) + 1) == 0:
                found.append((DATA_SET, *judge_data_set(folder / "good", folder / "set", chance)))
                continue
            case = draw_case(chance)
            path = folder / f"{case.kind.name}{case.suffix}"
            outcome, why = judge(path, case)
            path.unlink()
            found.append((case.kind.name.removeprefix("a."), case.how, case.one_thing, outcome, why))
    return found


def run_cases(cases: int, seed: int) -> dict[str, Any]:
    """Judge many cases in processes of their own; a summary by format and outcome, and every failure."""
    outcomes: dict[str, Counter[str]] = {}
    ways: dict[str, Counter[str]] = {}
    failures: list[str] = []
    done = one_thing = 0
    for first in range(0, cases, CASES_A_PROCESS):
        numbers = range(first, min(cases, first + CASES_A_PROCESS))
        for number, (name, how, beyond, outcome, why) in zip(numbers, _in_process(numbers, seed), strict=False):
            done += 1
            one_thing += beyond
            outcomes.setdefault(name, Counter())[outcome] += 1
            ways.setdefault(how, Counter())[outcome] += 1
            if outcome == FAILURE:
                failures.append(f"case {number} of seed {seed}, {name}, {how}: {why}")
    return {
        "cases": done,
        "one_thing_beyond_the_header": one_thing,
        "failures": len(failures) + cases - done,
        "outcomes": {name: dict(sorted(counts.items())) for name, counts in sorted(outcomes.items())},
        "by_change": {name: dict(sorted(counts.items())) for name, counts in sorted(ways.items())},
        "examples": failures[:20],
    }


def _in_process(numbers: Sequence[int], seed: int) -> list[tuple[str, str, bool, str, str]]:
    with ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(run_some, numbers, seed).result()
        except BrokenProcessPool:
            return [("?", "?", False, FAILURE, f"a process died over cases {numbers[0]} to {numbers[-1]}")]


def table(result: dict[str, Any]) -> list[str]:
    """Markdown, one line a format."""
    names = sorted({outcome for counts in result["outcomes"].values() for outcome in counts})
    lines = [f"| format | cases | {' | '.join(names)} |", "|---|" + "---:|" * (len(names) + 1)]
    for kind, counts in result["outcomes"].items():
        cells = [kind, str(sum(counts.values())), *(str(counts.get(name, 0)) for name in names)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(arguments: Sequence[str] | None = None, show: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    result = run_cases(options.cases, options.seed)
    result["seconds"] = round(time.monotonic() - started, 1)
    for line in (*table(result), "", *result["examples"]):
        show(line)
    beyond = result["one_thing_beyond_the_header"]
    show(f"{result['cases']} cases, {beyond} of them one thing changed beyond the header")
    show(f"{result['failures']} failures; {result['seconds']} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
