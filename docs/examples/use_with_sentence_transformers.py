"""Export a model and use it as any other model of sentence-transformers.

    python docs/examples/use_with_sentence_transformers.py runs/demo/joint exported/demo

The export has been compared with the model before it gets its name; see docs/export.md. The second half of this script
is what users of the folder do, who need sentence-transformers only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sentence_transformers import SentenceTransformer

from mlc.export.hugging_face import export_model

QUERY = "The prince cleaned three red candles."
TEXTS = [  # in the manner of the demo's grammar
    "Der Prinz putzte drei rote Kerzen.",
    "Die Tante rannte in den Park.",
    "Am Morgen war es im Dorf bewölkt.",
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Export, open, rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, checkpoint or export")
    parser.add_argument("out", type=Path, help="folder to make")
    chosen = parser.parse_args(arguments)
    report = export_model(chosen.model, chosen.out, formats=["sentence-transformers"])
    print(f"{report.folder}: differs from the model by at most {report.max_difference:.1g}")

    # trust_remote_code: the folder brings the code of the GLM, which transformers does not know.
    model = SentenceTransformer(str(chosen.out), trust_remote_code=True, device="cpu")
    similarity = model.similarity(model.encode([QUERY]), model.encode(TEXTS))[0].tolist()
    print(QUERY)
    for score, text in sorted(zip(similarity, TEXTS, strict=True), reverse=True):
        print(f"  {score:.3f} {text}")


if __name__ == "__main__":
    main()
