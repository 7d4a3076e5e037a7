"""The stages of a build as tasks that any process can take: what they make, and how one sees that it is made.

In:  what is to be built, and the output folder, which all processes see.
Out: one list of `Task`s a stage.

    sample       a unit             sample/<key>.json and .jsonl   candidates for the tokenizer's training sample
    tokenizer    one task           tokenizer-<key>.model          trained, or copied
    fingerprints a unit             fingerprints/<key>             of its documents
    links        a share of hashes  links-<key>/                   pairs of equal or similar documents
    duplicates   a scope            drops-<key>/                   which documents go
    encode       a unit             units/<key>.*                  tokens
    join         a shard            the shard's own files          and joined/<key>.json, its part of the manifest

All but the shards' files lie in `.work`. Names hold digests of everything that decides about their content. So what an
interrupted build has finished is found again, and what was made of other files or by another recipe is not.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import pydantic

from data_prep.board import Board
from data_prep.claims import Task
from data_prep.cleaning.document import Step
from data_prep.cleaning.steps import build_steps, index_evaluation_sets
from data_prep.duplicates.clusters import REASONS, Drops, write_drops
from data_prep.duplicates.fingerprints import Fingerprinter
from data_prep.duplicates.links import Share, find_links
from data_prep.encoding.engine import Encoder
from data_prep.encoding.training import ModelSettings, train_model
from data_prep.join import JoinPlan, PlacedUnit, join_rejected, join_shard
from data_prep.plan import ShardPlan
from data_prep.project import Project
from data_prep.sample import Candidates, balanced_sample, choose_candidates
from data_prep.segment import split_sequences
from data_prep.tokenizer import Tokenizer
from data_prep.unit_files import UnitRecord, UnitWriter
from data_prep.units import Unit
from data_prep.work import UnitReader, encode_unit
from mlc.config import digest
from mlc.data.manifest import ShardEntry
from mlc.errors import DataError
from mlc.files import write_atomically

DONE = "done"
SAMPLE_SPARE = 4
"""A unit offers so many times its share of the tokenizer's sample: shares of a uniform choice vary little."""
SMALLEST_OFFER_BYTES = 1 << 20
BYTES_OF_A_SHARE = 256 << 20
MOST_SHARES = 256
"""Of the hash space; as many processes can look for duplicates of one scope at once."""


class Stages:
    """The stages of one build, in one process.

    Args:
        project: what is built.
        board: where this process counts.
    """

    def __init__(self, project: Project, board: Board) -> None:
        self._project, self._recipe, self._board = project, project.recipe, board
        self._work = project.work
        self._plans = {plan.name: plan for plan in project.plans}

    def tasks(self, stage: str) -> list[Task]:
        """The tasks of a stage of `STAGE_NAMES`."""
        made: dict[str, Callable[[], list[Task]]] = {
            "sample": self.sample,
            "tokenizer": self.tokenizer,
            "evaluation sets": self.evaluation_sets,
            "fingerprints": self.fingerprints,
            "links": self.links,
            "duplicates": self.duplicates,
            "encode": self.encode,
            "join": self.join,
        }
        return made[stage]()

    def sample(self) -> list[Task]:
        """Candidates for the tokenizer's sample, where one is trained."""
        if self._recipe.tokenizer.path:
            return []
        return [self._unit_task(unit, self._candidates_file(unit), self._choose) for unit in self._project.all_units]

    def tokenizer(self) -> list[Task]:
        """The tokenizer itself."""
        return [Task("tokenizer", 0, self.tokenizer_file.exists, self._make_tokenizer)]

    def evaluation_sets(self) -> list[Task]:
        """The index of the evaluation sets that documents may not repeat."""
        if self._recipe.cleaning.contamination is None:
            return []
        done = self._evaluation_index / DONE
        return [Task("evaluation-sets", 0, done.exists, partial(self._index_evaluation_sets, done))]

    def fingerprints(self) -> list[Task]:
        """Fingerprints of every unit, where duplicates are looked for."""
        if not self._looks_for_duplicates:
            return []
        return [
            self._unit_task(unit, self._fingerprint_file(unit), self._fingerprint) for unit in self._project.all_units
        ]

    def links(self) -> list[Task]:
        """Pairs of equal or similar documents, a share of the hash space in each task."""
        tasks = []
        for name, units in self._scopes().items():
            folder = self._scope_folder("links", name)
            shares = _shares_for(units)
            for number in range(shares):
                done = folder / f"{number}.{DONE}"
                work = partial(self._find_links, units, Share(number, shares), folder, done)
                tasks.append(Task(f"{folder.name}.{number}", sum(unit.bytes for unit in units), done.exists, work))
        return tasks

    def duplicates(self) -> list[Task]:
        """Which documents go."""
        tasks = []
        for name, units in self._scopes().items():
            folder = self._scope_folder("drops", name)
            work = partial(self._write_drops, units, self._scope_folder("links", name), folder)
            tasks.append(Task(folder.name, 0, (folder / DONE).exists, work))
        return tasks

    def encode(self) -> list[Task]:
        """Tokens of every unit."""
        folder = self._work / "units"
        return [
            Task(key, unit.bytes, partial(_is_finished, folder, key), partial(self._encode, unit, key))
            for unit in self._project.all_units
            for key in [self._encoded_key(unit)]
        ]

    def join(self) -> list[Task]:
        """The files of every shard."""
        return [
            Task(path.name, plan.source_bytes, path.exists, partial(self._join, plan, path))
            for plan in self._project.plans
            for path in [self._joined_file(plan)]
        ]

    def entries(self) -> list[ShardEntry]:
        """What `join` has made, for the manifest."""
        parser = pydantic.TypeAdapter(ShardEntry)
        return [parser.validate_json(self._joined_file(plan).read_bytes()) for plan in self._project.plans]

    @cached_property
    def tokenizer_file(self) -> Path:
        """The tokenizer, once `tokenizer` is done."""
        section = self._recipe.tokenizer
        if section.path:
            decided_by = [hashlib.sha256(Path(section.path).read_bytes()).hexdigest()]
        else:
            units = [unit.key(self._project.text_digest) for unit in self._project.all_units]
            decided_by = [section.model_dump_json(), str(self._recipe.build.seed), *units]
        return self._work / f"tokenizer-{digest(decided_by)[:16]}.model"

    @cached_property
    def _steps(self) -> tuple[Step, ...]:
        return build_steps(self._recipe.cleaning, self._evaluation_index)

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer_file)

    @cached_property
    def _fingerprinter(self) -> Fingerprinter:
        return Fingerprinter(self._recipe.duplicates)

    @cached_property
    def _evaluation_index(self) -> Path:
        return self._work / f"evaluation-sets-{self._project.text_digest[:16]}"

    @property
    def _looks_for_duplicates(self) -> bool:
        return self._recipe.duplicates.exact or self._recipe.duplicates.near

    def _unit_task(self, unit: Unit, made: Path, work: Callable[[Unit, Path], None]) -> Task:
        return Task(made.name, unit.bytes, made.exists, partial(work, unit, made))

    def _reader(self, unit: Unit) -> UnitReader:
        plan, on_bytes = self._plans[unit.shard], partial(_count_bytes, self._board)
        source = plan.sources[unit.source]
        return UnitReader(unit, source, plan.languages, self._recipe.normalise, self._steps, on_bytes)

    def _candidates_file(self, unit: Unit) -> Path:
        section = self._recipe.tokenizer
        key = unit.key(self._project.text_digest, str(section.sample_bytes), str(self._recipe.build.seed))
        return self._work / "sample" / f"{key}.json"

    def _choose(self, unit: Unit, path: Path) -> None:
        plan = self._plans[unit.shard]
        share = unit.bytes / max(1, sum(other.bytes for other in self._project.units[unit.shard]))
        budget = self._recipe.tokenizer.sample_bytes
        found = choose_candidates(
            self._sequences(unit),
            plan.languages,
            min(budget, SMALLEST_OFFER_BYTES + int(SAMPLE_SPARE * share * budget)),
            self._recipe.build.seed,
            path.parent,
            path.stem,
        )
        content = [[each.language, each.file.name, each.total_bytes] for each in found]
        write_atomically(path, json.dumps(content).encode())

    def _sequences(self, unit: Unit) -> Iterator[tuple[list[str], ...]]:
        split = self._plans[unit.shard].sources[unit.source].sequences
        for chunk in self._reader(unit):
            for kept in chunk.kept:
                yield tuple(split_sequences(text, split) for text in kept.document.texts)

    def _make_tokenizer(self) -> None:
        section = self._recipe.tokenizer
        if section.path:
            Tokenizer(Path(section.path))
            write_atomically(self.tokenizer_file, Path(section.path).read_bytes())
            return
        candidates = []
        for unit in self._project.all_units:
            path = self._candidates_file(unit)
            for language, name, total_bytes in json.loads(path.read_bytes()):
                candidates.append(Candidates(language, path.parent / name, total_bytes))
        sequences = balanced_sample(candidates, section.sample_bytes, section.language_exponent)
        settings = ModelSettings(
            kind=section.model_type,
            vocab_size=section.vocab_size,
            character_coverage=section.character_coverage,
            split_digits=section.split_digits,
            max_piece_characters=section.max_piece_characters,
        )
        write_atomically(self.tokenizer_file, train_model(sequences, settings))

    def _index_evaluation_sets(self, done: Path) -> None:
        section = self._recipe.cleaning.contamination
        assert section is not None, "there is a task only where there is a table"
        index_evaluation_sets(section, done.parent)
        done.touch()

    def _fingerprint_file(self, unit: Unit) -> Path:
        key = unit.key(self._project.text_digest, str(self._recipe.duplicates.fingerprint_key))
        return self._work / "fingerprints" / key

    def _fingerprint(self, unit: Unit, path: Path) -> None:
        texts = (kept.document.texts for chunk in self._reader(unit) for kept in chunk.kept)
        self._fingerprinter.fingerprint_unit(texts, path)

    def _scopes(self) -> dict[str, tuple[Unit, ...]]:
        """Units whose documents are compared with one another, by a name for them."""
        if not self._looks_for_duplicates:
            return {}
        if self._recipe.duplicates.within == "corpus":
            return {"corpus": self._project.all_units}
        return self._project.units

    @cached_property
    def _scope_digests(self) -> dict[str, str]:
        section = self._recipe.duplicates.model_dump_json()
        return {
            name: digest([section, *(self._fingerprint_file(unit).name for unit in units)])
            for name, units in self._scopes().items()
        }

    def _scope_folder(self, what: str, name: str) -> Path:
        return self._work / f"{what}-{name.replace('/', '.')}-{self._scope_digests[name][:16]}"

    def _find_links(self, units: Sequence[Unit], share: Share, folder: Path, done: Path) -> None:
        folder.mkdir(exist_ok=True)
        find_links([self._fingerprint_file(unit) for unit in units], self._recipe.duplicates, share, folder)
        done.touch()

    def _write_drops(self, units: Sequence[Unit], links: Path, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        files = [self._fingerprint_file(unit) for unit in units]
        drops = [_drops_file(folder, unit) for unit in units]
        write_drops(files, drops, self._recipe.duplicates, _shares_for(units), links)
        (folder / DONE).touch()

    def _drops_of(self, unit: Unit) -> dict[int, str]:
        for name in self._scopes():
            if name in ("corpus", unit.shard):
                drops = Drops.read(_drops_file(self._scope_folder("drops", name), unit))
                return {int(p): REASONS[r] for p, r in zip(drops.places, drops.reasons, strict=True)}
        return {}

    @cached_property
    def _encoding_digest(self) -> str:
        tokenizer = hashlib.sha256(self.tokenizer_file.read_bytes()).hexdigest()
        scopes = [self._scope_folder("drops", name).name for name in self._scopes()]
        return digest([self._project.text_digest, tokenizer, *scopes])

    def _encoded_key(self, unit: Unit) -> str:
        return unit.key(self._encoding_digest, self._plans[unit.shard].sources[unit.source].sequences)

    def _encode(self, unit: Unit, key: str) -> None:
        plan = self._plans[unit.shard]
        with UnitWriter(self._work / "units", key, self._encoder.dtype, len(plan.languages)) as writer:
            encode_unit(
                self._reader(unit),
                writer,
                self._encoder,
                self._drops_of(unit),
                plan.sources[unit.source].sequences,
                partial(_count_done, self._board),
            )

    def _joined_file(self, plan: ShardPlan) -> Path:
        units = [self._encoded_key(unit) for unit in self._project.units[plan.name]]
        limits = [source.max_documents for source in plan.sources]
        name = f"{plan.name.replace('/', '.')}.{digest([units, limits])[:16]}.json"
        return self._work / "joined" / name

    def _join(self, plan: ShardPlan, path: Path) -> None:
        placed = [
            PlacedUnit(
                UnitRecord.read(self._work / "units", self._encoded_key(unit)),
                unit.source,
                tuple(str(part.file) for part in unit.parts),
            )
            for unit in self._project.units[plan.name]
        ]
        limits = [source.max_documents for source in plan.sources]
        joined = JoinPlan(plan.name, plan.kind, plan.languages, placed, limits, tuple(map(str, plan.files)))
        listed = self._project.output / "rejected" / f"{plan.name}.jsonl"
        fraction = self._recipe.build.max_rejected_fraction
        try:
            check_rejected(plan.name, [unit.record for unit in placed], fraction, listed)
        except DataError:
            join_rejected(self._project.output, joined)  # it is what a person looks at then
            raise
        entry = join_shard(self._project.output, joined)
        write_atomically(path, json.dumps(asdict(entry)).encode())


def check_rejected(name: str, units: Sequence[UnitRecord], largest_fraction: float, listed_in: Path) -> None:
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
    counts: Counter[str] = sum((Counter(unit.dropped) for unit in units), Counter())
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
    if unusable > largest_fraction * records:
        raise DataError(
            f"too many records of {name} had to be set aside",
            found=f"{unusable} of {records} ({unusable / records:.2%}): {listed}",
            needed=f"at most {largest_fraction:.2%}",
            where="build.max_rejected_fraction",
            hint=f"look at {listed_in}, then mend the files or raise build.max_rejected_fraction",
        )
    if not sum(unit.documents for unit in units):
        raise DataError(
            f"{name} has no usable record",
            found=f"{records} records: {listed or 'none set aside'}",
            hint="take it out of the recipe, or give it other files",
        )


def _is_finished(folder: Path, key: str) -> bool:
    return UnitRecord.find(folder, key) is not None


def _shares_for(units: Sequence[Unit]) -> int:
    return min(MOST_SHARES, 1 + sum(unit.bytes for unit in units) // BYTES_OF_A_SHARE)


def _drops_file(folder: Path, unit: Unit) -> Path:
    return folder / f"{unit.shard.replace('/', '.')}.{unit.number:06d}.npy"


def _count_bytes(board: Board, count: int) -> None:
    board.add(bytes=count)


def _count_done(board: Board, documents: int, tokens: int) -> None:
    board.add(documents=documents, tokens=tokens)
