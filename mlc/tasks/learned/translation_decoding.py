"""Translate texts with a fine-tuned model: whole, or word by word while the source is still being read.

In:  a fine-tuned model, texts, the languages to read and to write.
Out: translations; of simultaneous ones also what had been read when each word was written.
Letters: V vocabulary.

Wait-k (Ma et al. 2019, "STACL", section 3): word t of the translation is written when g(t) = min(k + t - 1, |x|) words
of the source have been read. The encoder is bidirectional and was trained on whole texts ("test-time wait-k" there),
so what was read is encoded anew with each word. A word is what stands between spaces; in scripts without spaces, a
character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from mlc.data.spacing import writes_spaces
from mlc.errors import UsageError
from mlc.tasks.encoder import batch_tokens_of, batches_by_length
from mlc.tasks.examples import Place, TranslationExample
from mlc.tasks.features_pieces import Ints, Progress
from mlc.tasks.learned.models import FinetunedModel, load_finetuned
from mlc.tasks.learned.predict import to_device
from mlc.tasks.learned.translation import EncoderDecoderTranslation, PartBTranslation, banned_ids
from mlc.tasks.learned.translation_rows import WritableRows
from mlc.tasks.learned.translation_settings import direction
from mlc.tasks.locate import find_model

_SENTENCES_AT_ONCE = 64


@dataclass(frozen=True)
class Simultaneous:
    """A translation that was written while the source was read.

    Attributes:
        text: the translation.
        source_words: |x|.
        read: words of the source that had been read when each word of the translation was finished, (|y|,).
    """

    text: str
    source_words: int
    read: tuple[int, ...]


class Translator:
    """A fine-tuned model that translates; `load` makes one.

    Args:
        model: from `load_finetuned`.
        device: torch device; None = a GPU where there is one.

    Attributes:
        cut: of the last texts, how many were longer than the model takes and lost their end.

    Raises:
        UsageError: the model was fine-tuned for another task.
    """

    def __init__(self, model: FinetunedModel, *, device: str | torch.device | None = None) -> None:
        task: Any = model.task
        if not isinstance(task, EncoderDecoderTranslation | PartBTranslation):
            raise UsageError(
                "the model was not fine-tuned to translate", found=model.task.settings.kind,
                needed='a run of mlc finetune with task.kind = "translation"', where=model.source.name,
            )  # fmt: skip
        self.finetuned, self.task, self.settings, self.cut = model, task, task.translation, 0
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model = model.model.eval().to(self.device)

    @classmethod
    def load(cls, model: str | Path, *, threads: int | None = None, device: str | None = None) -> Self:
        """Open a model.

        Args:
            model: run folder, checkpoint or export.
            threads: torch's intra-op threads of this process; None = as they are.

        Raises:
            UsageError: it is no model, or not one that translates.
            CheckpointError: a file is missing or damaged.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        return cls(load_finetuned(find_model(model)), device=device)

    def is_trained(self, source: str, target: str) -> bool:
        """Whether the direction was among those of training; else it is a zero-resource one.

        Raises:
            UsageError: the target language was never written in training, so its tag means nothing to the model.
        """
        if target not in self.settings.targets:
            raise UsageError(
                "the model never learned to write this language", found=target or "no language",
                needed=f"one of {', '.join(self.settings.targets)}", where="the target language",
            )  # fmt: skip
        return direction(source, target) in self.settings.directions

    def translate(
        self,
        texts: Sequence[str],
        target: str,
        *,
        beams: int = 1,
        batch_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> list[str]:
        """Translate whole texts, with a cache of keys and values.

        Args:
            texts: none of them empty.
            target: language to write.
            beams: width of the search; 1 = greedy.
            batch_tokens: longest row x rows x beams of one batch; None = by device.
            progress: told how many texts were finished since the last call.

        Returns:
            One translation each, in the order of the texts.
        """
        if not texts:
            return []
        rows: Any = self._rows(texts, target)
        self.cut = rows.cut
        largest = batch_tokens or batch_tokens_of(self.device)
        written: list[Any] = [None] * len(texts)
        lengths = [(length + self.settings.max_target_tokens) * beams for length in rows.lengths.tolist()]
        with torch.no_grad():
            for places in batches_by_length(lengths, largest):
                inputs = to_device(rows.batch(places).inputs, self.device)
                for place, ids in zip(places, self.task.write(self._model, rows, inputs, beams=beams), strict=True):
                    written[place] = ids
                if progress is not None:
                    progress(len(places))
        return self.task.answers(rows, [], written)

    def translate_simultaneously(
        self, texts: Sequence[str], source: str, target: str, *, wait: int | None, progress: Progress | None = None
    ) -> list[Simultaneous]:
        """Translate greedily by wait-k.

        The end is not written before all of the source was read. Nothing is cached, since every word that is read
        changes all states of the encoder: this is for measuring, not for speed.

        Args:
            texts: none of them empty.
            source, target: languages.
            wait: k; None = infinity, all of the source before the first word.
            progress: told how many texts were finished since the last call.
        """
        found: list[Simultaneous] = []
        self.cut = 0
        for first in range(0, len(texts), _SENTENCES_AT_ONCE):
            chunk = texts[first : first + _SENTENCES_AT_ONCE]
            ends = [word_ends(text, source) or [len(text)] for text in chunk]
            leasts = [len(words) if wait is None else min(wait, len(words)) for words in ends]
            prefixes = [
                text if count == len(words) else text[: words[count - 1]]
                for text, words, least in zip(chunk, ends, leasts, strict=True)
                for count in range(least, len(words) + 1)
            ]
            rows: Any = self._rows(prefixes, target)
            whole = self._rows(chunk, target)
            self.cut += whole.cut
            starts = np.cumsum([0, *[len(words) - least + 1 for words, least in zip(ends, leasts, strict=True)]])
            states = [
                _Sentence(int(start) - least, least, len(words))
                for start, least, words in zip(starts, leasts, ends, strict=False)
            ]
            with torch.inference_mode():
                self._run(states, rows, target, wait)
            for state in states:
                text = self._text(rows, state.written)
                found.append(Simultaneous(text, state.words, tuple(state.delays) if text else ()))
            if progress is not None:
                progress(len(chunk))
        return found

    def _run(self, states: list[_Sentence], rows: Any, target: str, wait: int | None) -> None:
        """Write all of some sentences, token by token."""
        limit = self.settings.most_tokens
        while live := [state for state in states if not state.ended]:
            chosen = self._next_tokens(live, rows)
            for state, token in zip(live, chosen, strict=True):
                if token == rows.ids.end:
                    state.ended = True
                    continue
                text = self._text(rows, np.append(state.written, token))
                number = max(1, len(word_ends(text, target)))
                needed = state.words if wait is None else min(wait + number - 1, state.words)
                if state.read < needed:  # the token would begin a word for which more has to be read
                    state.read = needed
                    continue
                state.take(token, number)
                state.ended = len(state.written) >= limit

    def _next_tokens(self, live: Sequence[_Sentence], rows: WritableRows) -> list[int]:
        """The most probable next token of each; no end before all is read."""
        places = [state.first_row + state.read for state in live]
        inputs, index = rows.begun(places, [state.written for state in live])
        logits = self._model(**to_device(inputs, self.device)).logits.float()
        scores_V = logits.flatten(0, -2)[torch.from_numpy(index).to(logits.device)]
        scores_V[:, list(banned_ids(rows, scores_V.shape[1]))] = -torch.inf
        early = torch.tensor([state.read < state.words for state in live], device=logits.device)
        scores_V[early, rows.ids.end] = -torch.inf
        chosen: list[int] = scores_V.argmax(-1).tolist()
        return chosen

    def _rows(self, texts: Sequence[str], target: str) -> Any:
        place = Place("", 0)
        examples = [TranslationExample(text, None, target, place) for text in texts]
        return self.task.rows(self.finetuned.encoder, examples)

    def _text(self, rows: WritableRows, ids: Ints) -> str:
        return self.task.answers(rows, [], [ids])[0]


@dataclass
class _Sentence:
    """How far one sentence is.

    Attributes:
        first_row: with the words that were read added, the row of what was read.
        read, words: words of the source, read and in all.
    """

    first_row: int
    read: int
    words: int

    def __post_init__(self) -> None:
        self.written: Ints = np.empty(0, np.int64)
        self.delays: list[int] = []
        self.ended = False

    def take(self, token: int, number: int) -> None:
        """Write a token of word `number`, counted from 1: a word is finished with its last token."""
        self.written = np.append(self.written, token)
        del self.delays[number:]
        self.delays += [self.read] * (number - len(self.delays))
        self.delays[-1] = self.read


def word_ends(text: str, language: str) -> list[int]:
    """Where the words of a text end, in characters; in a language without spaces every character is one."""
    pattern = r"\S+" if writes_spaces(language) else r"\S"
    return [found.end() for found in re.finditer(pattern, text)]
