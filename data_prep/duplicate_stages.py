"""The stages of a build that look for duplicates: fingerprints of units, links between documents, which of them go.

In:  the project; a reader of any unit's documents.
Out: `Task`s (data_prep.stages has the list of stages); for a unit, which of its documents go and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

from data_prep.claims import Task
from data_prep.duplicates.clusters import REASONS, Drops, write_drops
from data_prep.duplicates.fingerprints import Fingerprinter
from data_prep.duplicates.links import Share, find_links
from data_prep.project import Project
from data_prep.units import Unit
from mlc.config import digest

DONE = "done"
BYTES_OF_A_SHARE = 256 << 20
MOST_SHARES = 256
"""Of the hash space; as many processes can look for duplicates of one scope at once."""
WHOLE_CORPUS = "corpus"


class DuplicateStages:
    """The stages that look for duplicates, in one process; without tasks where the recipe does not ask for them.

    Args:
        project: what is built.
        texts_of: the documents of a unit, each with the texts of its sides.
    """

    def __init__(self, project: Project, texts_of: Callable[[Unit], Iterator[tuple[str, ...]]]) -> None:
        self._project, self._texts_of = project, texts_of
        self._section, self._work = project.recipe.duplicates, project.work

    def fingerprints(self) -> list[Task]:
        """Fingerprints of every unit."""
        units = self._project.all_units if self._section.is_on else ()
        return [
            Task(path.name, unit.bytes, path, partial(self._fingerprint, unit, path))
            for unit in units
            for path in [self._fingerprint_file(unit)]
        ]

    def links(self) -> list[Task]:
        """Pairs of equal or similar documents, a share of the hash space in each task."""
        tasks = []
        for name, units in self._scopes.items():
            folder = self._scope_folder("links", name)
            shares = _shares_for(units)
            for number in range(shares):
                done = folder / f"{number}.{DONE}"
                work = partial(self._find_links, units, Share(number, shares), folder, done)
                tasks.append(Task(f"{folder.name}.{number}", sum(unit.bytes for unit in units), done, work))
        return tasks

    def duplicates(self) -> list[Task]:
        """Which documents go."""
        tasks = []
        for name, units in self._scopes.items():
            folder = self._scope_folder("drops", name)
            work = partial(self._write_drops, units, self._scope_folder("links", name), folder)
            tasks.append(Task(folder.name, 0, folder / DONE, work))
        return tasks

    def drops_of(self, unit: Unit) -> dict[int, str]:
        """{place among the unit's documents, from 0: why it goes}, once `duplicates` is done."""
        for name in self._scopes:
            if name in (WHOLE_CORPUS, unit.shard):
                drops = Drops.read(_drops_file(self._scope_folder("drops", name), unit))
                return {int(p): REASONS[r] for p, r in zip(drops.places, drops.reasons, strict=True)}
        return {}

    @property
    def decided_by(self) -> list[str]:
        """Names that hold digests of all that decides about which documents go."""
        return [self._scope_folder("drops", name).name for name in self._scopes]

    @cached_property
    def _fingerprinter(self) -> Fingerprinter:
        return Fingerprinter(self._section)

    @cached_property
    def _scopes(self) -> dict[str, tuple[Unit, ...]]:
        """Units whose documents are compared with one another, by a name for them."""
        if not self._section.is_on:
            return {}
        if self._section.within == "corpus":
            return {WHOLE_CORPUS: self._project.all_units}
        return self._project.units

    @cached_property
    def _scope_digests(self) -> dict[str, str]:
        section = self._section.model_dump_json()
        return {
            name: digest([section, *(self._fingerprint_file(unit).name for unit in units)])
            for name, units in self._scopes.items()
        }

    def _scope_folder(self, what: str, name: str) -> Path:
        return self._work / f"{what}-{name.replace('/', '.')}-{self._scope_digests[name][:16]}"

    def _fingerprint_file(self, unit: Unit) -> Path:
        key = unit.key(self._project.text_digest, str(self._section.fingerprint_key))
        return self._work / "fingerprints" / key

    def _fingerprint(self, unit: Unit, path: Path) -> None:
        self._fingerprinter.fingerprint_unit(self._texts_of(unit), path)

    def _find_links(self, units: Sequence[Unit], share: Share, folder: Path, done: Path) -> None:
        folder.mkdir(exist_ok=True)
        find_links([self._fingerprint_file(unit) for unit in units], self._section, share, folder)
        done.touch()

    def _write_drops(self, units: Sequence[Unit], links: Path, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        files = [self._fingerprint_file(unit) for unit in units]
        drops = [_drops_file(folder, unit) for unit in units]
        write_drops(files, drops, self._section, _shares_for(units), links)
        (folder / DONE).touch()


def _shares_for(units: Sequence[Unit]) -> int:
    return min(MOST_SHARES, 1 + sum(unit.bytes for unit in units) // BYTES_OF_A_SHARE)


def _drops_file(folder: Path, unit: Unit) -> Path:
    return folder / f"{unit.shard.replace('/', '.')}.{unit.number:06d}.npy"
