"""Is a sentence's translation its nearest neighbour? Tatoeba's question, both ways, in a few lines.

    python docs/examples/tatoeba_retrieval.py runs/demo/joint
    python docs/examples/tatoeba_retrieval.py runs/base --first eng.txt --second deu.txt

Two files hold translations line by line. Without them the script makes up documents with the grammar of the demo: the
scores then say nothing about real text. `mlc evaluate retrieval` does the same with intervals and a table of languages.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.demo_corpus.corpus import generate
from mlc.tasks.encoder import TextEncoder


def main(arguments: Sequence[str] | None = None) -> None:
    """Score one pair of languages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, checkpoint, export, Hugging Face folder or name")
    parser.add_argument("--first", type=Path, help="sentences, one a line")
    parser.add_argument("--second", type=Path, help="their translations, one a line")
    chosen = parser.parse_args(arguments)
    if chosen.first and chosen.second:
        first, second = chosen.first.read_text().splitlines(), chosen.second.read_text().splitlines()
    else:
        made_up = generate(documents=1, held_out=200, seed=7).held_out
        first, second = ([record["text"] for record in made_up[language]] for language in ("en", "de"))
        print("made-up documents in English and German")
    assert len(first) == len(second), f"{len(first)} sentences and {len(second)} translations"

    encoder = TextEncoder.load(chosen.model)
    # Vectors have norm 1, so their products are cosines: row i, column j compares sentence i with translation j.
    cosine = encoder.encode(first) @ encoder.encode(second).T
    right = np.arange(len(first))
    forward, backward = (cosine.argmax(1) == right).mean(), (cosine.argmax(0) == right).mean()
    print(f"{len(first)} pairs: nearest is the translation for {forward:.1%} forward, {backward:.1%} backward")


if __name__ == "__main__":
    main()
