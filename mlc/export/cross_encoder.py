"""A re-ranking model's export as sentence-transformers' CrossEncoder opens it: the transformers folder as it is.

In:  the folder, sample rows and the logits of the model it was made from.
Out: how far the CrossEncoder's scores are from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mlc.errors import MlcError
from mlc.export.compare import Comparison, Limit, compare_tensors
from mlc.export.task_outputs import SampleRows
from mlc.model.registration import register_auto_classes


def compare_cross_encoder(rows: SampleRows, needed: Mapping[str, Tensor], folder: Path, limit: Limit) -> Comparison:
    """Compare scores of the sample's pairs; the library tokenizes, cuts and pads them by itself.

    Its default activation, a sigmoid, is left out: it keeps the order, and hides differences of large logits.

    Raises:
        MlcError: the library is missing, or the scores differ by more than the limit.
    """
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise MlcError(
            "sentence-transformers is needed", found=str(error), needed="version 6 or newer",
            hint="pip install 'mlc[export]'",
        ) from None  # fmt: skip
    register_auto_classes()  # so that the folder's own code is not run
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    pairs = list(zip(rows.texts, rows.seconds, strict=True))
    found = model.predict(
        pairs, batch_size=8, activation_fn=torch.nn.Identity(), convert_to_tensor=True, show_progress_bar=False
    )
    compared = compare_tensors("logits", "sentence-transformers", [(needed["logits"], found.float())], limit)
    return replace(compared, texts=len(rows.texts))
