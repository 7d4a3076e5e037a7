"""What happens after a bad step: its update is left out, then the run returns to a checkpoint, then it stops.

In:  figures of every step that are equal on all ranks.
Out: a verdict on each step; the batches that the run steps over, and why (`RUN/skipped.json`).

A step is bad if its loss is not finite, if the norm of its gradient is not finite or over the limit, or if its update
was left out for another reason. A step that fp16 loss scaling leaves out is not bad. A loss or a norm that is not
finite tells that the batch or the weights are beyond use, and an update made of them would spoil every weight.

Going back alone would change nothing: batches are a function of their number, and the same one would bring the same
loss again. So a return to a checkpoint steps over the bad batches from then on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self

import pydantic
import xxhash

from mlc.errors import CheckpointError
from mlc.files import json_bytes
from mlc.recipe import DivergenceSection

SKIPPED_NAME = "skipped.json"
VERSION = 1
Precision = Literal["fp32", "bf16", "fp16"]
Verdict = Literal["good", "skip", "roll_back"]
Number = Annotated[int, pydantic.Field(ge=0)]


@dataclass(frozen=True)
class Return:
    """One return to a checkpoint.

    Attributes:
        to_step: the checkpoint's step; 0 = the run's start.
        batches: numbers of the global batches that are stepped over because of it, at least one.
        reason: for people.
    """

    to_step: Number
    batches: Annotated[tuple[Number, ...], pydantic.Field(min_length=1)]
    reason: str


@dataclass(frozen=True)
class SkippedBatches:
    """The global batches that a run steps over, by the returns that made it do so, in their order."""

    returns: tuple[Return, ...] = ()

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read skipped.json; a file that is not there is an empty list.

        Raises:
            CheckpointError: the file cannot be read, is damaged, or is of another version. It is never ignored: a run
                that forgets what it stepped over is another run.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            _refuse(path, str(error))
        try:
            file = _FILE.validate_json(content)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            _refuse(path, f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}")
        skipped = cls(file.returns)
        if file.xxh3 != skipped._checksum():
            _refuse(path, "a content that its checksum (xxh3) does not fit")
        if file.batches != skipped.batches:
            _refuse(path, "a list of batches that are not those of the returns")
        return skipped

    def to_bytes(self) -> bytes:
        """skipped.json: "version", "batches" (of all returns, for people and scripts), "returns", and their "xxh3"."""
        return json_bytes({**self._content(), "xxh3": self._checksum()})

    def add(self, to_step: int, batches: tuple[int, ...], reason: str) -> SkippedBatches:
        """The list after one more return."""
        assert batches, "a return that steps over nothing would bring the same batches again"
        return SkippedBatches((*self.returns, Return(to_step, tuple(batches), reason)))

    def restored(self, step: int, batches: Sequence[int]) -> SkippedBatches:
        """The list after a start from a checkpoint that steps over `batches`: those it lacks come back.

        So a lost skipped.json brings no batch back that was stepped over when that checkpoint was written. What comes
        back counts as one return to `step`, that checkpoint's.
        """
        missing = tuple(batch for batch in batches if batch not in self._batch_set)
        return self.add(step, missing, "listed in the checkpoint, but not in skipped.json") if missing else self

    @cached_property
    def batches(self) -> tuple[int, ...]:
        """All batches to step over, in ascending order."""
        return tuple(sorted({batch for entry in self.returns for batch in entry.batches}))

    def next_batch(self, batch: int) -> int:
        """The first number from `batch` on that is not stepped over."""
        while batch in self._batch_set:
            batch += 1
        return batch

    def returns_to(self, step: int) -> int:
        """How often the run has returned to that step's checkpoint."""
        return sum(entry.to_step == step for entry in self.returns)

    @cached_property
    def _batch_set(self) -> frozenset[int]:
        return frozenset(self.batches)

    def _content(self) -> dict[str, object]:
        return {
            "version": VERSION,
            "batches": list(self.batches),
            "returns": [asdict(entry) for entry in self.returns],
        }

    def _checksum(self) -> str:
        return xxhash.xxh3_64_hexdigest(json.dumps(self._content(), sort_keys=True).encode())


@dataclass(frozen=True)
class _File:
    version: Literal[1]
    batches: tuple[Number, ...]
    returns: tuple[Return, ...]
    xxh3: str

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid", strict=True)


_FILE = pydantic.TypeAdapter(_File)


def what_is_bad(
    *, loss: float, grad_norm: float | None, update_skipped: bool, precision: Precision, grad_norm_limit: float
) -> str | None:
    """Why a step is bad, in words; None = it is not. To be asked before the update, where that is possible.

    Args:
        loss: J of the global batch.
        grad_norm: global L2 norm of the gradient before clipping; None = not known. A negative one is DeepSpeed's mark
            for one that is not finite.
        update_skipped: whether the update was left out. In fp16 that, without a finite norm, is what finding the loss
            scale looks like (Micikevicius et al. 2018, "Mixed precision training", section 3.2), and is not bad.
            DeepSpeed 0.19.8 gives an infinite norm then, in stages 1 to 3.
        precision: of the run.
        grad_norm_limit: largest norm of a good step; 0 = any finite one.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if _is_loss_scaling(grad_norm=grad_norm, update_skipped=update_skipped, precision=precision):
        return None
    if grad_norm is not None and not _is_finite_norm(grad_norm):
        return f"the norm of the gradient is {grad_norm}"
    if grad_norm is not None and 0 < grad_norm_limit < grad_norm:
        return f"the norm of the gradient is {grad_norm:g}, over divergence.gradient_norm_limit = {grad_norm_limit:g}"
    if update_skipped:
        return "the update was left out"
    return None


class DivergenceGuard:
    """Judges every step of a run, from its last start or return on.

    Bad steps in a row are counted. `skip_updates` of them lose their update and nothing else; one more is a reason to
    return to a checkpoint from before the row and to step over the batches of all of it; but not more than
    `roll_backs` times to one and the same checkpoint: then the weights in it, or the recipe, are what is bad. A good
    step ends the row. A step that loss scaling left out says nothing about the run: it is no bad step, and it does not
    end a row.

    A verdict depends on the arguments alone, and these come from collectives (sums and norms over all ranks), so all
    ranks reach the same one without asking each other.

    Args:
        section: recipe section [divergence].
        skipped: what the run steps over by now, with its returns.
        precision: of the run.
        row: `row` of the guard that stood here when the run was saved. A run that is stopped amid bad steps would
            otherwise judge the next ones milder than one that was not stopped.
    """

    def __init__(
        self,
        section: DivergenceSection,
        skipped: SkippedBatches,
        *,
        precision: Precision,
        row: tuple[int, ...] = (),
    ) -> None:
        self._section, self._skipped, self._precision = section, skipped, precision
        self._row, self._reason = tuple(row), ""

    @property
    def skipped(self) -> SkippedBatches:
        """What the run steps over by now."""
        return self._skipped

    @property
    def row(self) -> tuple[int, ...]:
        """Batches of the bad steps in a row up to now; after "roll_back" those to step over."""
        return self._row

    @property
    def reason(self) -> str:
        """What was bad about the last bad step, and how many there were; for the log and for skipped.json."""
        return self._reason

    def judge(self, step: int, batch: int, *, loss: float, grad_norm: float | None, update_skipped: bool) -> Verdict:
        """Judge one step; once for every step, in their order.

        Args:
            step: steps taken, with this one.
            batch: number of its global batch.
            loss, grad_norm, update_skipped: see `what_is_bad`.

        Returns:
            "good": go on. "skip": the update is to be left out, or was; go on. "roll_back": return to a checkpoint
            (`may_return_to`), step over `row`, and go on from there with a new guard.
        """
        bad = what_is_bad(
            loss=loss,
            grad_norm=grad_norm,
            update_skipped=update_skipped,
            precision=self._precision,
            grad_norm_limit=self._section.gradient_norm_limit,
        )
        if bad is None:
            if not _is_loss_scaling(grad_norm=grad_norm, update_skipped=update_skipped, precision=self._precision):
                self._row = ()
            return "good"
        self._row = (*self._row, batch)
        self._reason = f"step {step}, batch {batch}: {bad} ({len(self._row)} bad steps in a row)"
        if len(self._row) <= self._section.skip_updates:
            return "skip"
        return "roll_back"

    def may_return_to(self, step: int) -> bool:
        """Whether the run may return once more to the checkpoint of that step."""
        return self._skipped.returns_to(step) < self._section.roll_backs


def _is_loss_scaling(*, grad_norm: float | None, update_skipped: bool, precision: Precision) -> bool:
    return precision == "fp16" and update_skipped and (grad_norm is None or not _is_finite_norm(grad_norm))


def _is_finite_norm(grad_norm: float) -> bool:
    return math.isfinite(grad_norm) and grad_norm >= 0


def _refuse(path: Path, found: str) -> NoReturn:
    raise CheckpointError(
        "the list of batches that this run steps over is damaged",
        found=found,
        needed=f"the file as mlc wrote it, version {VERSION}",
        where=str(path),
        hint=f"move {path} away and start again: the run's checkpoint lists the batches too, but for the newest ones, "
        "which would be met and judged once more",
    ) from None
