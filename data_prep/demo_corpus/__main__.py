"""Command line: python -m data_prep.demo_corpus --output DIR."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.demo_corpus.corpus import generate
from data_prep.demo_corpus.writing import write_corpus
from mlc.errors import MlcError

_EXAMPLE = """example:
  python -m data_prep.demo_corpus --output corpus --documents 4000 --held-out 600 --seed 1
writes corpus/train/<lang>.jsonl and corpus/heldout/<lang>.jsonl, {"id", "lang", "text"} a line; the same id is the same
document in another language, and the text has one sentence a line. corpus/summary.json has sizes and overlap."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Generates and writes the corpus; prints sizes and the overlap check. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.demo_corpus",
        description="Generate a parallel corpus in ten languages from a small grammar.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--documents", type=int, default=4000, help="training documents (default: 4000)")
    parser.add_argument("--held-out", type=int, default=600, help="documents for scoring (default: 600)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same bytes (default: 1)")
    parser.add_argument(
        "--formats",
        choices=("jsonl", "mixed"),
        default="jsonl",
        help="mixed: de as .jsonl.zst, es as .jsonl.gz, and extra documents in one language as plain text",
    )
    parser.add_argument("--extra", type=int, default=200, help="extra documents with --formats mixed (default: 200)")
    chosen = parser.parse_args(arguments)
    try:
        extra = chosen.extra if chosen.formats == "mixed" else 0
        corpus = generate(chosen.documents, chosen.held_out, chosen.seed, extra=extra)
        summary = write_corpus(corpus, chosen.output, chosen.formats)
    except MlcError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    _print_summary(summary, chosen.output)
    return 0


def _print_summary(summary: dict[str, Any], output: Path) -> None:
    print(
        f"{output}: {summary['documents']} training documents ({summary['sentences']} sentences) and "
        f"{summary['held_out_documents']} held out ({summary['held_out_sentences']} sentences), "
        f"each in {len(summary['languages'])} languages; {summary['extra_documents']} extra documents"
    )
    print(f"held-out documents differ in at least {summary['held_out_min_differing_concepts']} concepts")
    print(f"{'':4}{'tokens':>9}{'types':>7}{'unseen types':>14}{'held-out sentences in training':>32}{'5-grams':>9}")
    for language, report in summary["by_language"].items():
        print(
            f"{language:4}{report['train_tokens']:>9}{report['train_types']:>7}{report['held_out_types_unseen']:>14}"
            f"{report['repeated_sentences']:>32}{report['five_gram_overlap']:>9.1%}"
        )


if __name__ == "__main__":
    sys.exit(main())
