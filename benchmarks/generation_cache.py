"""Tokens a second of blank infilling: with the cache of keys and values, and computing everything anew at every token.

    python benchmarks/generation_cache.py                                   # 6 layers x 256, random weights
    python benchmarks/generation_cache.py --model runs/base/checkpoints/step-00001000/model --texts 1 16 --tokens 32

In:  a model folder (default: random weights); how many texts are filled side by side, their lengths in tokens.
Out: a table: medians of the rounds, their ratio, and whether the tokens were the same.

Every text has one [gMASK] and gets as many tokens as --tokens says: [eop] is not allowed, so that both ways do the same
work. Both are greedy and compute the texts side by side. Rounds alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mlc.model import build_training_model
from mlc.model.decoding_glm import BlankPrompt, BlankTokens, Decoding
from mlc.model.generation_glm import MlcGlmForBlankInfilling
from mlc.model.saving import load_training_model
from mlc.recipe import ModelSection

SPECIAL_IDS = {"[PAD]": 0, "[CLS]": 2, "[SEP]": 3, "[gMASK]": 6, "[sop]": 7, "[eop]": 8}


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.model is None:
        section = ModelSection(layers=6, hidden_size=256, heads=4, feed_forward_size=683)
        trained, special_ids = build_training_model(section, 32_000, SPECIAL_IDS, 512, seed=1), SPECIAL_IDS
    else:
        trained, info = load_training_model(options.model)
        special_ids = info["special_ids"]
    model = MlcGlmForBlankInfilling.from_training_model(trained)
    ids = BlankTokens(special_ids["[sop]"], special_ids["[eop]"], tuple(special_ids.values()))
    print("texts | tokens before | new | tokens/s anew | tokens/s with the cache | ratio | same tokens")
    for texts in options.texts:
        for length in options.lengths:
            prompts = make_prompts(texts, length, special_ids, model.config.vocab_size)
            compare(model, prompts, ids, options.tokens, options.rounds)


def compare(
    model: MlcGlmForBlankInfilling, prompts: Sequence[BlankPrompt], ids: BlankTokens, tokens: int, rounds: int
) -> None:
    decoding = Decoding(max_new_tokens=tokens)
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "anew": lambda: fill_anew(model, prompts, ids, tokens),
        "cache": lambda: [list(row[0][0].tokens) for row in model.fill_blanks(prompts, ids, decoding)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {name: way() for name, way in ways.items()}  # warm-up
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    rate = {name: len(prompts) * tokens / statistics.median(times) for name, times in seconds.items()}
    print(
        f"{len(prompts)} | {len(prompts[0].part_a)} | {tokens} | {rate['anew']:.0f} | {rate['cache']:.0f} | "
        f"{rate['cache'] / rate['anew']:.1f} | {'yes' if found['anew'] == found['cache'] else 'no'}",
        flush=True,
    )


@torch.inference_mode()
def fill_anew(
    model: MlcGlmForBlankInfilling, prompts: Sequence[BlankPrompt], ids: BlankTokens, tokens: int
) -> list[list[int]]:
    """Greedy filling of prompts of equal length by the full forward pass of every prefix."""
    part_a = torch.tensor([prompt.part_a for prompt in prompts])
    place = torch.tensor([prompt.places for prompt in prompts])
    rows, length = part_a.shape
    part_b = torch.full((rows, 1), ids.start)
    column = torch.arange(length).expand(rows, length)
    for _ in range(tokens):
        grown = part_b.shape[1]
        count = torch.arange(1, grown + 1).expand(rows, grown)
        logits: Tensor = model(
            torch.cat([part_a, part_b], 1),
            part_a_lengths=torch.full((rows,), length),
            position_ids=torch.cat([column, place.expand(rows, grown)], 1),
            block_position_ids=torch.cat([torch.zeros_like(column), count], 1),
            logits_index=torch.arange(rows) * (length + grown) + length + grown - 1,
        ).logits
        logits[:, list(ids.banned)] = -torch.inf
        part_b = torch.cat([part_b, logits.argmax(-1, keepdim=True)], 1)
    return part_b[:, 1:].tolist()


def make_prompts(texts: int, length: int, special_ids: dict[str, int], vocab_size: int) -> list[BlankPrompt]:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(10, vocab_size, (texts, length - 3), generator=generator).tolist()
    end = (special_ids["[gMASK]"], special_ids["[SEP]"])
    return [BlankPrompt((special_ids["[CLS]"], *row, *end), (length - 2,)) for row in words]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model folder of a checkpoint; default: random weights")
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128], help="of Part A")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
