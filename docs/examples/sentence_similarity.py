"""How alike are two texts? Cosines of a model against judgements, by Spearman's rank correlation (STS).

    python docs/examples/sentence_similarity.py runs/demo/joint
    python docs/examples/sentence_similarity.py runs/base --data sts.tsv

The file has three columns between tabs, without a heading: a text, another, a number. Without it the script makes up
pairs of English and German texts that share 0 to 4 of 4 sentences; that share is the number. `mlc evaluate sts` reads
more formats and adds intervals.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from scipy.stats import spearmanr

from data_prep.demo_corpus.corpus import generate
from mlc.tasks.encoder import TextEncoder

SENTENCES = 4


def made_up_pairs(count: int) -> list[tuple[str, str, float]]:
    """(English text, German text, share of sentences that are translations)."""
    held_out = generate(documents=1, held_out=4 * count, seed=11).held_out
    sentences = [
        pair
        for english, german in zip(held_out["en"], held_out["de"], strict=True)
        for pair in zip(english["text"].split("\n"), german["text"].split("\n"), strict=True)
    ]
    pairs = []
    for number in range(count):
        own = sentences[number * 2 * SENTENCES :][: 2 * SENTENCES]
        shared = number % (SENTENCES + 1)
        english = [en for en, _ in own[:SENTENCES]]
        german = [de for _, de in own[SENTENCES - shared : 2 * SENTENCES - shared]]
        random.Random(number).shuffle(german)  # the order of sentences must not give it away
        pairs.append((" ".join(english), " ".join(german), shared / SENTENCES))
    return pairs


def main(arguments: Sequence[str] | None = None) -> None:
    """Correlate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, checkpoint, export, Hugging Face folder or name")
    parser.add_argument("--data", type=Path, help="text, text, number; columns between tabs")
    chosen = parser.parse_args(arguments)
    if chosen.data:
        rows = [line.split("\t") for line in chosen.data.read_text().splitlines()]
        pairs = [(first, second, float(score)) for first, second, score in rows]
    else:
        pairs = made_up_pairs(60)
        print("made-up pairs of English and German texts")

    encoder = TextEncoder.load(chosen.model)
    first, second = (encoder.encode([pair[side] for pair in pairs]) for side in (0, 1))
    cosine = (first * second).sum(1)  # vectors have norm 1
    for place in (int(cosine.argmax()), int(cosine.argmin())):
        print(
            f"cosine {cosine[place]:.3f}, judged {pairs[place][2]:g}: {pairs[place][0][:50]} | {pairs[place][1][:50]}"
        )
    rho = spearmanr(cosine, [pair[2] for pair in pairs]).statistic
    print(f"{len(pairs)} pairs: Spearman's rho {rho:.3f}")


if __name__ == "__main__":
    main()
