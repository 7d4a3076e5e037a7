"""Let the model write: fill gaps in a text, or go on from its beginning. GLMs only, with objectives.glm.

    python docs/examples/fill_blanks.py runs/demo/joint
    python docs/examples/fill_blanks.py runs/base --text 'The committee [MASK] on Tuesday.' --samples 3

[MASK] stands for a few words, [sMASK] for whole sentences, [gMASK] for the rest; a text without any is continued. On
the command line: `mlc generate`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mlc.generate.filling import BlankFiller
from mlc.generate.marked_text import read_marks
from mlc.model.decoding_glm import Decoding

# In the manner of the demo's grammar.
TEXTS = ["In the morning the [MASK] went to the park.", "Am Morgen ging der [MASK] in den Park.", "The aunt bought"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder or checkpoint; exports hold the encoder alone")
    parser.add_argument("--text", action="append", help="a text; may be given several times")
    parser.add_argument("--samples", type=int, default=1, help="1 = the most probable tokens; more are drawn")
    parser.add_argument("--max-new-tokens", type=int, default=12, help="of each gap")
    chosen = parser.parse_args(arguments)
    texts = [read_marks(text, f"text {number}") for number, text in enumerate(chosen.text or TEXTS, start=1)]

    filler = BlankFiller.load(chosen.model)
    decoding = Decoding(chosen.max_new_tokens)
    if chosen.samples > 1:  # the most probable tokens are the same every time: several samples have to be drawn
        decoding = Decoding(chosen.max_new_tokens, temperature=0.8, top_p=0.95, samples=chosen.samples)
    prompts = filler.prompts(texts, decoding)
    for given, fillings in zip(chosen.text or TEXTS, filler.fill(texts, prompts, decoding, seed=1), strict=True):
        print(given)
        for filled in fillings:
            print("  ->", " ".join(filled.text.split()))


if __name__ == "__main__":
    main()
