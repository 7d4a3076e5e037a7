"""A small GLM that fills blanks, with weights as large as after training, and prompts of different shapes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from mlc.data.corruption import SpecialTokens
from mlc.model import TrainingModel, build_training_model
from mlc.model.decoding_glm import BlankPrompt, BlankTokens, FilledBlank
from mlc.model.generation_glm import MlcGlmForBlankInfilling
from mlc.recipe import ModelSection

NAMES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[sMASK]", "[gMASK]", "[sop]", "[eop]", "[MLM]")
SPECIAL_IDS = {name: place for place, name in enumerate(NAMES)}
VOCABULARY = 50
SPECIAL = SpecialTokens.from_ids(SPECIAL_IDS, VOCABULARY)
IDS = BlankTokens(SPECIAL.start, SPECIAL.end, tuple(i for i in SPECIAL.every if i != SPECIAL.end))
PROMPTS = [
    BlankPrompt((2, 11, 4, 12, 13, 4, 3), (2, 5)),
    BlankPrompt((2, 4, 3), (1,)),
    BlankPrompt((2, 20, 21, 22, 23, 24, 25, 26, 27, 5, 3), (9,)),
    BlankPrompt((2, 31, 4, 4, 30, 4, 33, 3), (5, 2, 3)),
    BlankPrompt((2, 31, 3), ()),
    BlankPrompt((2, 40, 41, 6, 3), (3,)),
]


def trained_model(seed: int = 1) -> TrainingModel:
    """Weights as large as after training: random ones nearly copy their input, and every blank would end at once."""
    section = ModelSection(layers=3, hidden_size=24, heads=3, feed_forward_size=20)
    model = build_training_model(section, VOCABULARY, SPECIAL_IDS, 64, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            writes = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
            parameter.mul_(6.0 if writes else 1.0).add_(noise, alpha=0.15 if parameter.dim() == 1 else 0.02)
    return model.eval()


def generator_model(dtype: torch.dtype = torch.float64, seed: int = 1) -> MlcGlmForBlankInfilling:
    return MlcGlmForBlankInfilling.from_training_model(trained_model(seed)).to(dtype)


def check_equal(found: Sequence[FilledBlank], expected: Sequence[FilledBlank], tolerance: float) -> None:
    assert [(blank.tokens, blank.ended) for blank in found] == [(blank.tokens, blank.ended) for blank in expected]
    logs = [[blank.log_probability for blank in blanks] for blanks in (found, expected)]
    assert logs[0] == pytest.approx(logs[1], rel=tolerance, abs=tolerance)
