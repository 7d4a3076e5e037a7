"""How well the model under an engine finds passages: every query of a set against all its passages.

In:  examples of a ranking task, the tokenizer, the engine.
Out: `Scores` by language of the queries.
Letters: R rows, L columns, E size of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from mlc.tasks.encoder import batches_by_length
from mlc.tasks.examples import RankingExample
from mlc.tasks.features_batch import padded
from mlc.tasks.features_pieces import distinct
from mlc.tasks.scores import Scores
from mlc.tasks.scores_rankings import score_rankings
from mlc.tasks.tokenizers import TextTokenizer

Floats = NDArray[np.float32]


class RetrievalSet:
    """Queries, tokenised, and all different passages of their examples, which they are looked for among.

    Args:
        examples: each with a right passage.
        tokenizer: of the model.
        batch_tokens: longest row x rows of one batch.

    Attributes:
        cut: different texts that lost their end.
    """

    def __init__(self, examples: Sequence[RankingExample], tokenizer: TextTokenizer, batch_tokens: int) -> None:
        queries, self._query_of = distinct(example.query for example in examples)
        passages, _ = distinct(text for e in examples for text in (*e.positives, *e.negatives))
        number = {text: place for place, text in enumerate(passages)}
        self._right = [np.array([number[text] for text in example.positives]) for example in examples]
        self._languages = [example.place.language for example in examples]
        tokenized = tokenizer.tokenize([*queries, *passages])
        self._queries, self._ids, self._pad = len(queries), tokenized.ids, tokenizer.pad_id
        self.cut = tokenized.cut
        batches = list(batches_by_length([len(ids) for ids in self._ids], batch_tokens))
        rank, world_size = dist.get_rank(), dist.get_world_size()
        rounds = -(-len(batches) // world_size)
        # As many forwards on every rank, which gather parameters together.
        self._batches = [*batches[rank::world_size], *[[0]] * world_size][:rounds]

    def score(self, engine: Any, device: torch.device, resamples: int) -> dict[str, Scores]:
        """MRR, MAP, nDCG and recall; a collective, whose result is on rank 0 alone (empty elsewhere)."""
        own = self._embed(engine.module, device)
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, own)
        if dist.get_rank() != 0:
            return {}
        vectors = np.empty((len(self._ids), own[1].shape[1]), np.float32)
        for places, found in gathered:
            vectors[places] = found
        queries, passages = vectors[: self._queries], vectors[self._queries :]
        scores = {}
        for language in sorted(set(self._languages)):
            chosen = [place for place, other in enumerate(self._languages) if other == language]
            similarities = queries[self._query_of[chosen]] @ passages.T
            relevance = np.zeros(similarities.shape, np.int8)
            for row, place in enumerate(chosen):
                relevance[row, self._right[place]] = 1
            scores[language or "all"] = score_rankings(list(relevance), list(similarities), resamples=resamples)
        return scores

    @torch.no_grad()
    def _embed(self, model: Any, device: torch.device) -> tuple[list[int], Floats]:
        """Which texts this rank has, and their vectors (n, E)."""
        places: list[int] = []
        parts: list[Floats] = []
        model.eval()
        try:
            for batch in self._batches:
                places += batch
                parts.append(model(**self._inputs(batch, device))["embeddings"].float().cpu().numpy())
        finally:
            model.train()
        return places, np.concatenate(parts)

    def _inputs(self, batch: Sequence[int], device: torch.device) -> dict[str, torch.Tensor]:
        rows = [np.asarray(self._ids[place], np.int64) for place in batch]
        ids_RL = padded(rows, self._pad, count=len(rows))
        lengths_R = np.array([len(row) for row in rows], np.int64)
        arrays = {
            "input_ids": ids_RL,
            "lengths": lengths_R,
            "part_a_lengths": lengths_R,
            "positions": padded([np.arange(len(row)) for row in rows], 0, count=len(rows)),
            "block_positions": np.zeros_like(ids_RL),
        }
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
