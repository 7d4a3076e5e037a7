"""Retrieval over a run's checkpoints: quality against minutes of training, as a table.

For every checkpoint of a run: minutes of training until then (from metrics.jsonl), pairs and tokens seen, and Tatoeba
top-1 (mean of both directions) by language, as `mlc evaluate retrieval` scores it.

    python benchmarks/tatoeba_curve.py runs/tatoeba12/pairs data/eval/tatoeba --languages de,es,fr,ru,ar,tr,ko,uk,pt
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlc.engine.metrics import read_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("data", type=Path, help="folder of <xxx>-eng.jsonl.zst files")
    parser.add_argument("--languages", required=True, help="comma-separated codes")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--newest", action="store_true", help="score the newest checkpoint alone")
    options, passed_on = parser.parse_known_args()
    checkpoints = sorted((options.run / "checkpoints").glob("step-*"))
    if options.newest:
        checkpoints = checkpoints[-1:]
    rows = [(folder, _score(folder, options, passed_on)) for folder in checkpoints]
    languages = sorted(_by_language(rows[0][1]))
    print(f"| step | minutes | samples | tokens | mean | {' | '.join(languages)} |")
    print(f"|{'---|' * (5 + len(languages))}")
    for folder, result in rows:
        step, minutes, samples, tokens = _progress(options.run, folder)
        scores = _by_language(result)
        cells = [f"{scores[language]:.3f}" for language in languages]
        mean = sum(scores.values()) / len(scores)
        print(f"| {step} | {minutes:.1f} | {samples:,} | {tokens:,} | {mean:.3f} | {' | '.join(cells)} |")


def _score(folder: Path, options: argparse.Namespace, passed_on: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        result = Path(temporary) / "result.json"
        command = [sys.executable, "-m", "mlc", "evaluate", "retrieval", "--model", str(folder)]
        command += ["--data", str(options.data), "--languages", options.languages, "--threads", options.threads]
        subprocess.run([*command, "--json", str(result), *passed_on], check=True, stdout=sys.stderr)
        return json.loads(result.read_text())  # type: ignore[no-any-return]


def _by_language(result: dict[str, Any]) -> dict[str, float]:
    """Top-1, mean of both directions, by the language that is not English."""
    return {({pair["first"], pair["second"]} - {"en"}).pop(): pair["top1"] for pair in result["pairs"]}


def _progress(run: Path, checkpoint: Path) -> tuple[int, float, int, int]:
    """Step, minutes of training until it (the first logged step starts the clock), samples and tokens seen."""
    position = json.loads((checkpoint / "complete.json").read_text())["position"]
    lines = [line for line in read_metrics(run) if line["step"] <= position["step"]]
    if not lines:
        return 0, 0.0, 0, 0
    first, last = lines[0], lines[-1]
    seconds_before_first = first["step"] * first["seconds/step"]
    minutes = (last["time"] - first["time"] + seconds_before_first) / 60
    return position["step"], minutes, position["samples"], position["tokens"]


if __name__ == "__main__":
    main()
