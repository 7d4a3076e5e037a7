"""Training on token embeddings that are moved a step along their own gradient.

In:  a `TrainingModel`, and two forward passes of the same batch: one to record, one to apply.
Out: the second pass reads the token embeddings of each text moved to where the loss rises fastest (Miyato et al. 2017,
     "Adversarial training methods for semi-supervised text classification", eq. 3 and 5).

Only the calls of the embedding module are touched, so the same code serves packed tokens (T, D), as the GLM looks them
up, and padded ones (R, L, D), as encoders of transformers do.

Shape letters: R rows (texts), L columns, T tokens without padding, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mlc.model.training_model import TrainingModel


class EmbeddingPerturbation:
    """Records the gradient of token embeddings and adds a step along it.

        with perturbation.recording():
            loss = loss_of(model(**inputs))  # one forward
            loss.backward()
        with perturbation.applied(lengths):
            loss_of(model(**inputs)).backward()

    The parameters keep the gradients of both passes. Hooks stand on the embedding module only inside the two contexts,
    after those that DeepSpeed has put there.

    Args:
        model: its token embeddings are moved.
        size: length of the step of each text, as a multiple of the mean norm of its token embeddings.
    """

    def __init__(self, model: TrainingModel, size: float) -> None:
        self._embedding: nn.Module = model.backbone.get_input_embeddings()  # type: ignore[operator]
        self._size = size
        self._states: Tensor | None = None
        self._gradient: Tensor | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside: one forward pass with gradients, then its backward pass. What was recorded before is forgotten."""
        self._states, self._gradient = None, None

        def keep_gradient(gradient: Tensor) -> None:
            self._gradient = gradient.detach()

        def watch(module: nn.Module, inputs: object, output: Tensor) -> None:
            assert self._states is None, "one forward pass a recording"
            self._states = output.detach()
            output.register_hook(keep_gradient)

        handle = self._embedding.register_forward_hook(watch)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def applied(self, lengths_R: Tensor) -> Iterator[None]:
        """Inside: the recorded batch once more; its token embeddings are moved by a constant.

        Args:
            lengths_R: int (R,), tokens of each row that were looked up; the rest of a padded row is not moved.

        Raises:
            RuntimeError: no backward pass reached the token embeddings since `recording`.
        """
        states, gradient = self._states, self._gradient
        if states is None or gradient is None:
            raise RuntimeError("no gradient was recorded: run forward and backward inside recording() first")
        step = perturbation_step(states, gradient, lengths_R, self._size)
        self._states, self._gradient = None, None

        def move(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            return output + step

        handle = self._embedding.register_forward_hook(move)
        try:
            yield
        finally:
            handle.remove()


@torch.no_grad()
def perturbation_step(states: Tensor, gradient: Tensor, lengths_R: Tensor, size: float) -> Tensor:
    """size x (mean norm of a row's tokens) x (gradient of the row / its norm over all tokens of the row).

    A factor of the loss changes nothing, however small or large: that of ranks, denominators, or fp16's loss scale.

    Args:
        states: token embeddings, (T, D) row after row without padding, or right-padded (R, L, D).
        gradient: of the loss in them; same shape.
        lengths_R: int (R,), tokens of each row.
        size: see `EmbeddingPerturbation`.

    Returns:
        Same shape and type as `states`; 0 in the padding and in rows whose gradient is 0 or not finite.
    """
    rows, width = len(lengths_R), states.shape[-1]
    wide = torch.promote_types(states.dtype, torch.float32)
    states_TD, gradient_TD = states.reshape(-1, width).to(wide), gradient.reshape(-1, width).to(wide)
    row_R, lengths_R = torch.arange(rows, device=states.device), lengths_R.long()
    if states.ndim == 2:
        row_T = row_R.repeat_interleave(lengths_R, output_size=len(states_TD))
        real_T = torch.ones_like(row_T, dtype=torch.bool)
    else:
        row_T = row_R.repeat_interleave(states.shape[1])
        column_T = torch.arange(states.shape[1], device=states.device).repeat(rows)
        real_T = column_T < lengths_R[row_T]

    zeros_R = torch.zeros(rows, dtype=wide, device=states.device)
    norm_T = torch.linalg.vector_norm(states_TD, dim=1).where(real_T, 0)
    mean_norm_R = zeros_R.index_add(0, row_T, norm_T) / lengths_R.clamp(min=1)
    # Squares of a gradient over- and underflow where the gradient does not: first its largest element becomes 1.
    largest_T = gradient_TD.abs().amax(1).where(real_T, 0)
    largest_R = zeros_R.scatter_reduce(0, row_T, largest_T, "amax")
    moved_R = (largest_R > 0) & largest_R.isfinite()
    direction_TD = gradient_TD / largest_R.where(moved_R, 1)[row_T, None]
    squares_T = direction_TD.square().sum(1)
    norm_R = zeros_R.index_add(0, row_T, squares_T.where(real_T & moved_R[row_T], 0)).sqrt()
    scale_R = size * mean_norm_R / norm_R.where(moved_R, 1)
    kept_T = real_T & moved_R[row_T]
    step_TD = (direction_TD * scale_R[row_T, None]).where(kept_T[:, None], 0)
    return step_TD.view(states.shape).to(states.dtype)
