"""What the GPU benchmarks share: tables that are printed as they grow, and mlc commands that may fail.

In:  lines of Markdown; arguments of `mlc`.
Out: the lines on standard output and in a file; the last line of a command that failed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def print_tables(lines: Iterable[str], out: Path | None) -> None:
    """Print each line when it is there, and write all so far to `out`: a run that is cut short leaves its tables."""
    written: list[str] = []
    for line in lines:
        print(line, flush=True)
        written.append(line)
        if out:
            out.write_text("\n".join(written) + "\n")


def run_mlc(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Run an mlc command: its last line if it fails, "" otherwise; and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "mlc", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=environment,
    )
    return json.dumps(done.stdout.strip().splitlines()[-1][:200]) if done.returncode else "", done.stdout
