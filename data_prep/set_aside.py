"""When a build gives up because too much of its input cannot be read.

In:  counts of records, and of those set aside because they could not be read or normalised.
Out: nothing, or a `DataError` that says what was found and where to look.

What steps of cleaning drop does not count: it could be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.unit_files import UnitRecord
from mlc.errors import DataError

FEWEST_UNUSABLE = 1000
"""Nothing is concluded from fewer: many small records may follow on a few huge ones."""
_WHERE = "build.max_rejected_fraction"


@dataclass(frozen=True)
class Example:
    """A record that was set aside; `line` counts from 1 at the beginning of the file, or of the range of it."""

    file: Path
    line: int
    reason: str
    beginning: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}: {self.beginning[:80]!r}"


class UnusableSoFar:
    """Counts what one process has read of each shard in one stage, and stops before it has read all of it.

    The number of records of the whole shard is taken to be in proportion to its bytes. The build stops once more
    records are unusable than the whole shard may have; until then the rest might still make up for them.

    Args:
        shard_bytes: {shard: bytes of its source files}.
        largest_fraction: of a shard's records that may be unusable.
    """

    def __init__(self, shard_bytes: Mapping[str, int], largest_fraction: float) -> None:
        self._shard_bytes, self._largest_fraction = shard_bytes, largest_fraction
        self._bytes: Counter[str] = Counter()
        self._records: Counter[str] = Counter()
        self._reasons: dict[str, Counter[str]] = {}

    def note(
        self, shard: str, unit_bytes: int, records: int, reasons: Mapping[str, int], example: Example | None
    ) -> None:
        """Count a unit that has been read.

        Args:
            shard: it belongs to.
            unit_bytes: of its source files.
            records: in it, whether they could be used or not.
            reasons: {reason: unusable records}.
            example: of these, for the message.

        Raises:
            DataError: too many records of the shard are unusable, even if the rest of it is not.
        """
        self._bytes[shard] += unit_bytes
        self._records[shard] += records
        counts = self._reasons.setdefault(shard, Counter())
        counts.update(reasons)
        share = max(1e-12, min(1.0, self._bytes[shard] / max(1, self._shard_bytes[shard])))
        if counts.total() < FEWEST_UNUSABLE or counts.total() <= self._largest_fraction * self._records[shard] / share:
            return
        raise DataError(
            f"too many records of {shard} cannot be used",
            found=f"{counts.total():,} of {self._records[shard]:,} in {share:.0%} of its bytes: {_listed(counts)}",
            needed=f"at most {self._largest_fraction:.2%} of the whole",
            where=_WHERE,
            hint=f"such as {example}; mend the files or raise {_WHERE}",
        )


def check_shard(name: str, units: Sequence[UnitRecord], largest_fraction: float, listed_in: Path) -> None:
    """Stop a build whose input is not what the recipe's author thinks it is.

    Args:
        name: of the shard.
        units: of the shard.
        largest_fraction: of its records that may be unusable.
        listed_in: file of the records set aside.

    Raises:
        DataError: no record could be used, or more than `largest_fraction` of them could not be read.
    """
    records = sum(unit.numbers["records"] for unit in units)
    unusable = sum(unit.numbers["unusable"] for unit in units)
    listed = _listed(sum((Counter(unit.dropped) for unit in units), Counter()))
    if unusable > largest_fraction * records:
        raise DataError(
            f"too many records of {name} had to be set aside",
            found=f"{unusable} of {records} ({unusable / records:.2%}): {listed}",
            needed=f"at most {largest_fraction:.2%}",
            where=_WHERE,
            hint=f"look at {listed_in}, then mend the files or raise {_WHERE}",
        )
    if not sum(unit.documents for unit in units):
        raise DataError(
            f"{name} has no usable record",
            found=f"{records} records: {listed or 'none set aside'}",
            hint="take it out of the recipe, or give it other files",
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))
