"""Find translations in two piles of sentences, most of which have none.

    python docs/examples/mine_parallel_sentences.py runs/demo/joint
    python docs/examples/mine_parallel_sentences.py runs/base --first en.txt --second de.txt --threshold 1.06

Pairs are scored by the ratio margin (Artetxe & Schwenk 2019, arXiv:1811.01136): a cosine counts by how much it is above
those of the neighbours, because some sentences are near to everything. Without files the script makes up two piles, of
which half has a translation. `mlc evaluate mining` scores this on data with known pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.demo_corpus.corpus import generate
from mlc.tasks.encoder import TextEncoder

NEIGHBOURS = 4


def main(arguments: Sequence[str] | None = None) -> None:
    """Mine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, checkpoint, export, Hugging Face folder or name")
    parser.add_argument("--first", type=Path, help="sentences, one a line")
    parser.add_argument("--second", type=Path, help="sentences in another language, one a line")
    parser.add_argument("--threshold", type=float, default=1.1, help="least margin; higher = fewer and better pairs")
    chosen = parser.parse_args(arguments)
    made_up = not (chosen.first and chosen.second)
    if made_up:
        held_out = generate(documents=1, held_out=240, seed=17).held_out
        # Documents 0 to 159 in English, 80 to 239 in German: 80 of each have a translation, 80 places further up.
        first = [record["text"] for record in held_out["en"][:160]]
        second = [record["text"] for record in held_out["de"][80:]]
        print("made-up documents: 160 in English, 160 in German, 80 of them translations")
    else:
        first, second = chosen.first.read_text().splitlines(), chosen.second.read_text().splitlines()

    encoder = TextEncoder.load(chosen.model)
    cosine = encoder.encode(first) @ encoder.encode(second).T
    around_first = np.sort(cosine, axis=1)[:, -NEIGHBOURS:].mean(1)
    around_second = np.sort(cosine, axis=0)[-NEIGHBOURS:].mean(0)
    margin = cosine / ((around_first[:, None] + around_second[None, :]) / 2)
    best = margin.argmax(1)
    # Both have to choose each other: one-sided choices pile up on few sentences.
    pairs = [
        (float(margin[row, column]), row, int(column))
        for row, column in enumerate(best)
        if margin[:, column].argmax() == row and margin[row, column] >= chosen.threshold
    ]
    for score, row, column in sorted(pairs, reverse=True)[:3]:
        print(f"{score:.3f}: {first[row].splitlines()[0][:60]} | {second[column].splitlines()[0][:60]}")
    print(f"{len(pairs)} pairs above {chosen.threshold:g}")
    if made_up and pairs:
        right = sum(row == column + 80 for _, row, column in pairs)
        print(f"precision {right / len(pairs):.3f}, recall {right / 80:.3f}")


if __name__ == "__main__":
    main()
