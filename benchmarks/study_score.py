"""Scores of a study: losses of the token objectives on held-out texts, and parallel texts cut in two.

In:  a checkpoint's model folder; shards of held-out documents; parallel texts.
Out: MLM and GLM loss of the texts' tokens as JSON; a dev and a test folder.

Every model sees the same windows of the same documents with the same masks and blanks, whatever it was trained with:
they depend on a fixed seed alone. Masks and blanks come on copies of their own, so that an arm that was trained with
one of them is not scored on text with the other. A head that was not trained has no score.

    python benchmarks/study_score.py runs/study/objectives/mlm-seed1/run/checkpoints/step-00000540/model \\
        runs/study/heldout tokens.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from mlc.data.batches import BatchBuilder
from mlc.data.corpus import Corpus
from mlc.data.corruption import SpecialTokens
from mlc.data.manifest import Manifest
from mlc.errors import MlcError
from mlc.files import write_atomically, write_json
from mlc.model.saving import load_training_model
from mlc.model.training_model import TrainingModel
from mlc.objectives.token_losses import token_cross_entropy_sum
from mlc.recipe import DataSection, SourceSection
from mlc.recipe_objectives import BlankSection, MaskSection, ObjectivesSection
from mlc.tasks.parallel_texts import read_parallel_texts

SEED = 1
TEXTS_PER_BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder of a checkpoint")
    parser.add_argument("heldout", help="shards of held-out documents")
    parser.add_argument("json", type=Path, help="file to write")
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--mask-fraction", type=float, default=0.15)
    options = parser.parse_args()
    write_json(options.json, token_losses(options.model, options.heldout, options.texts, options.mask_fraction))


def token_losses(model_folder: Path, heldout: str, texts: int, mask_fraction: float) -> dict[str, Any]:
    """Mean loss of each token objective the model was trained with.

    Args:
        model_folder: as `mlc.model.saving` writes it.
        heldout: shards; every language gives as many windows, each of at most the model's `max_tokens`.
        texts: windows, rounded up to whole batches.
        mask_fraction: share of the tokens that masks, and blanks, take.

    Returns:
        {"mlm", "glm"}: {"loss" in nats a predicted token, "accuracy", "predicted_tokens"}, or None if it was not
        trained.

    Raises:
        MlcError: the shards have another tokenizer than the model.
    """
    model, info = load_training_model(model_folder)
    manifest = Manifest.read(heldout)
    if manifest.tokenizer.sha256 != info["tokenizer_sha256"]:
        raise MlcError(
            "the held-out shards have another tokenizer than the model",
            found=f"sha256 {manifest.tokenizer.sha256[:12]}",
            needed=f"sha256 {info['tokenizer_sha256'][:12]}",
            where=heldout,
            hint="build them with tokenizer.path = that of the training shards",
        )
    objectives = {
        "mlm": ObjectivesSection(mlm=MaskSection(weight=1.0, mask_fraction=mask_fraction)),
        "glm": ObjectivesSection(glm=BlankSection(weight=1.0, mask_fraction=mask_fraction)),
    }
    result: dict[str, Any] = {"mlm": None, "glm": None}
    for name, section in objectives.items():
        if info["objectives"][name]["weight"]:
            result[name] = _mean_loss(model, manifest, name, section, texts, info["max_tokens"])
    return result


@torch.inference_mode()
def _mean_loss(
    model: TrainingModel, manifest: Manifest, name: str, objectives: ObjectivesSection, texts: int, max_tokens: int
) -> dict[str, float]:
    builder = heldout_batches(manifest, objectives, max_tokens)
    loss, correct, count = 0.0, 0.0, 0.0
    for step in range(-(-texts // TEXTS_PER_BATCH)):
        (batch,) = builder.build(step).micro_batches
        # The heads' places are named one by one: a batch has fields that only training reads.
        inputs = ("input_ids", "lengths", "part_a_lengths", "positions", "block_positions", f"{name}_index")
        outputs = model(**{field: torch.from_numpy(getattr(batch, field)) for field in inputs})
        sums = token_cross_entropy_sum(
            outputs[f"{name}_logits"],
            *(torch.from_numpy(getattr(batch, f"{name}_{field}")) for field in ("targets", "weights")),
        )
        loss, correct, count = loss + float(sums.loss), correct + float(sums.correct), count + float(sums.count)
    return {"loss": loss / count, "accuracy": correct / count, "predicted_tokens": count}


def heldout_batches(manifest: Manifest, objectives: ObjectivesSection, max_tokens: int) -> BatchBuilder:
    """The batches every model is scored on."""
    data = DataSection(
        shards=str(manifest.folder),
        sources=(SourceSection(kind="documents", view="text"),),
        samples_per_step=TEXTS_PER_BATCH,
        max_tokens=max_tokens,
        language_exponent=0.0,
    )
    return BatchBuilder(
        Corpus(data, manifest, seed=SEED),
        SpecialTokens.from_ids(manifest.tokenizer.special_ids, manifest.tokenizer.vocab_size),
        objectives,
        seed=SEED,
        samples_per_step=TEXTS_PER_BATCH,
        micro_batches=1,
        rank=0,
        world_size=1,
    )


def split_parallel_texts(source: Path, target: Path, languages: Collection[str], dev_every: int) -> tuple[Path, Path]:
    """Cut parallel texts in two: one of `dev_every` lines into `target`/dev, the others into `target`/test.

    The files are written anew each time, so that they are those of the source.
    """
    dev, test = target / "dev", target / "test"
    for texts in read_parallel_texts([source], languages=languages):
        first, second = texts.languages
        lines = [
            json.dumps({first: a, second: b}, ensure_ascii=False) + "\n"
            for a, b in zip(texts.first, texts.second, strict=True)
        ]
        chosen = lines[dev_every - 1 :: dev_every]
        others = [line for number, line in enumerate(lines, 1) if number % dev_every]
        for folder, part in ((dev, chosen), (test, others)):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / f"{first}-{second}.jsonl", "".join(part).encode())
    return dev, test


if __name__ == "__main__":
    main()
