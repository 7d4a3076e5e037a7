"""Arithmetic of a step and the share of the hardware's peak it reached (MFU)."""

from __future__ import annotations

import torch

from mlc.recipe import ModelSection

PEAK_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "V100": 125e12}
"""Dense bf16 (V100: fp16) peaks from the vendor's data sheets, FLOP/s."""


def step_flops(model: ModelSection, vocab_size: int, tokens: int, squared_lengths: int, predicted: float) -> float:
    """Floating-point operations of one step's matrix products, forward and backward (3 x forward), of the GLM.

    Args:
        model: sizes.
        vocab_size: V.
        tokens: real tokens, all ranks.
        squared_lengths: sum over texts of length squared (attention).
        predicted: tokens the head scored.

    Source: counted as in Chowdhery et al. 2022 (PaLM), appendix B: matrix products only, no recomputation.
    """
    width = model.hidden_size
    per_token = model.layers * (4 * width * width + 3 * width * model.feed_forward_size)
    attention = 2 * model.layers * width * squared_lengths
    return 6.0 * (per_token * tokens + attention + vocab_size * width * predicted)


def peak_flops(device: torch.device) -> float | None:
    """bf16 peak of one device in FLOP/s; None where it is not known (CPUs among them)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_BF16_FLOPS.items() if key in name), None)
