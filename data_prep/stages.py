"""The stages of a build as tasks that any process can take: what they make, and how one sees that it is made.

In:  what is to be built, and the output folder, which all processes see.
Out: one list of `Task`s a stage.

    sort         a range            sorted/<key>/                  records by language, of files that hold several
    sample       a unit             sample/<key>.json and .jsonl   candidates for the tokenizer's training sample
    tokenizer    one task           tokenizer-<key>/               trained, or copied
    fingerprints a unit             fingerprints/<key>             of its documents
    links        a share of hashes  links-<key>/                   pairs of equal or similar documents
    duplicates   a scope            drops-<key>/                   which documents go
    encode       a unit             units/<key>.*                  tokens
    join         a shard            the shard's own files          and joined/<key>.json, its part of the manifest

All but the shards' files lie in `.work`. Names hold digests of everything that decides about their content. So what an
interrupted build has finished is found again, and what was made of other files or by another recipe is not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import pydantic

from data_prep.board import Board
from data_prep.claims import Task
from data_prep.cleaned import CleanedReader, is_kept, keep, remove
from data_prep.cleaning.document import Step
from data_prep.cleaning.steps import build_steps, index_evaluation_sets
from data_prep.duplicate_stages import DONE, DuplicateStages
from data_prep.encoding.engine import Encoder
from data_prep.encoding.reference import content_of, copy_tokenizer, kind_of
from data_prep.encoding.report import TokenCounter
from data_prep.encoding.training import ModelSettings, train_model
from data_prep.join import JoinPlan, PlacedUnit, join_rejected, join_shard
from data_prep.plan import ShardPlan
from data_prep.project import Project
from data_prep.sample import Candidates, balanced_sample, choose_candidates
from data_prep.segment import split_sequences
from data_prep.set_aside import UnusableSoFar, check_shard
from data_prep.sorting import record_readers, sort_tasks
from data_prep.token_counts import TokenCounts
from data_prep.unit_files import UnitRecord, UnitWriter, record_name
from data_prep.units import Unit, check_unchanged
from data_prep.work import ChunkReader, SideEncoder, UnitReader, encode_unit
from mlc.config import digest
from mlc.data.manifest import TOKENIZER_NAMES, ShardEntry
from mlc.errors import DataError, ShardError
from mlc.files import write_atomically

SAMPLE_SPARE = 4
"""A unit offers so many times its share of the tokenizer's sample: shares of a uniform choice vary little."""
SMALLEST_OFFER_BYTES = 1 << 20


class Stages:
    """The stages of one build, in one process.

    Args:
        project: what is built.
        board: where this process counts.
    """

    def __init__(self, project: Project, board: Board) -> None:
        self._project, self._recipe, self._board = project, project.recipe, board
        self._work, self._units_folder = project.work, project.work / "units"
        self._plans = {plan.name: plan for plan in project.plans}
        self._duplicates = DuplicateStages(project, self._texts)
        shard_bytes = {plan.name: plan.source_bytes for plan in project.plans}
        self._unusable = UnusableSoFar(shard_bytes, self._recipe.build.max_rejected_fraction)

    def tasks(self, stage: str) -> list[Task]:
        """The tasks of a stage of `STAGE_NAMES`."""
        made: dict[str, Callable[[], list[Task]]] = {
            "sort": self.sort,
            "sample": self.sample,
            "tokenizer": self.tokenizer,
            "evaluation sets": self.evaluation_sets,
            "fingerprints": self._duplicates.fingerprints,
            "links": self._duplicates.links,
            "duplicates": self._duplicates.duplicates,
            "encode": self.encode,
            "join": self.join,
        }
        return made[stage]()

    def sort(self) -> list[Task]:
        """The records of each language out of files that hold several."""
        return sort_tasks(self._project, partial(_count_bytes, self._board))

    def sample(self) -> list[Task]:
        """Candidates for the tokenizer's sample, where one is trained."""
        if self._recipe.tokenizer.path:
            return []
        return [self._unit_task(unit, self._candidates_file(unit), self._choose) for unit in self._project.all_units]

    def tokenizer(self) -> list[Task]:
        """The tokenizer itself."""
        return [Task("tokenizer", 0, self.tokenizer_file, self._make_tokenizer)]

    def evaluation_sets(self) -> list[Task]:
        """The index of the evaluation sets that documents may not repeat."""
        if self._recipe.cleaning.contamination is None:
            return []
        done = self._evaluation_index / DONE
        return [Task("evaluation-sets", 0, done, partial(self._index_evaluation_sets, done))]

    def encode(self) -> list[Task]:
        """Tokens of every unit."""
        tasks = []
        for plan in self._project.plans:
            bytes_from_here = plan.source_bytes
            for unit in self._project.units[plan.name]:
                key = self._encoded_key(unit)
                # The first units of a source with a limit decide whether the others are needed.
                is_limited = plan.sources[unit.source].max_documents is not None
                weight = bytes_from_here if is_limited else unit.bytes
                made, work = self._units_folder / record_name(key), partial(self._encode, unit, key)
                tasks.append(Task(key, weight, made, work, partial(self._is_behind, unit)))
                bytes_from_here -= unit.bytes
        return tasks

    def join(self) -> list[Task]:
        """The files of every shard."""
        return [
            Task(path.name, plan.source_bytes, path, partial(self._join, plan, path))
            for plan in self._project.plans
            for path in [self._joined_file(plan)]
        ]

    def entries(self) -> list[ShardEntry]:
        """What `join` has made, for the manifest."""
        parser = pydantic.TypeAdapter(ShardEntry)
        return [parser.validate_json(self._joined_file(plan).read_bytes()) for plan in self._project.plans]

    def token_counts(self) -> dict[str, TokenCounts]:
        """{language: how well the tokenizer fits it}, over all units that the shards were made of."""
        counts: dict[str, TokenCounts] = {}
        for plan in self._project.plans:
            for unit, record in self._needed(plan):
                sides = (record or self._whole(unit)).token_counts
                for language, found in zip(plan.languages, sides, strict=True):
                    counts[language] = counts.get(language, TokenCounts()) + found
        return dict(sorted(counts.items()))

    @cached_property
    def tokenizer_file(self) -> Path:
        """The tokenizer, once `tokenizer` is done."""
        section = self._recipe.tokenizer
        if section.path:
            decided_by = content_of(Path(section.path))
        else:
            units = [unit.key(self._project.text_digest) for unit in self._project.all_units]
            decided_by = [section.model_dump_json(), str(self._recipe.build.seed), *units]
        kind = kind_of(Path(section.path)) if section.path else "sentencepiece"
        return self._work / f"tokenizer-{digest(decided_by)[:16]}" / TOKENIZER_NAMES[kind]

    @cached_property
    def _steps(self) -> tuple[Step, ...]:
        return build_steps(self._recipe.cleaning, self._evaluation_index)

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer_file)

    @cached_property
    def _counter(self) -> TokenCounter:
        return TokenCounter(self._encoder)

    @cached_property
    def _evaluation_index(self) -> Path:
        return self._work / f"evaluation-sets-{self._project.text_digest[:16]}"

    def _unit_task(self, unit: Unit, made: Path, work: Callable[[Unit, Path], None]) -> Task:
        return Task(made.name, unit.bytes, made, partial(work, unit, made))

    @cached_property
    def _keeps_cleaned(self) -> bool:
        """Whether documents are cleaned once for several stages."""
        recipe = self._recipe
        reads_again = not recipe.tokenizer.path or recipe.duplicates.is_on
        return recipe.build.keep_cleaned and bool(self._steps) and reads_again

    def _cleaned_file(self, unit: Unit) -> Path:
        return self._work / "cleaned" / unit.key(self._project.text_digest)

    def _reader(self, unit: Unit) -> ChunkReader:
        plan, on_bytes = self._plans[unit.shard], partial(_count_bytes, self._board)
        if self._keeps_cleaned and is_kept(self._cleaned_file(unit)):
            check_unchanged([unit])
            return CleanedReader(self._cleaned_file(unit), plan.languages, partial(on_bytes, unit.bytes))
        source = plan.sources[unit.source]
        read = record_readers(self._work, unit, source, plan.languages[0], on_bytes)
        return UnitReader(unit, source, plan.languages, self._recipe.normalise, self._steps, read)

    def _candidates_file(self, unit: Unit) -> Path:
        section = self._recipe.tokenizer
        key = unit.key(self._project.text_digest, str(section.sample_bytes), str(self._recipe.build.seed))
        return self._work / "sample" / f"{key}.json"

    def _choose(self, unit: Unit, path: Path) -> None:
        plan = self._plans[unit.shard]
        share = unit.bytes / max(1, plan.source_bytes)
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
        for texts in self._texts(unit):
            yield tuple(split_sequences(text, split) for text in texts)

    def _texts(self, unit: Unit) -> Iterator[tuple[str, ...]]:
        reader, path = self._reader(unit), self._cleaned_file(unit)
        is_new = self._keeps_cleaned and not isinstance(reader, CleanedReader)
        for chunk in keep(reader, path) if is_new else reader:
            for kept in chunk.kept:
                yield kept.document.texts
        self._note_unusable(unit, reader)

    def _note_unusable(self, unit: Unit, reader: ChunkReader) -> None:
        if self._plans[unit.shard].sources[unit.source].max_documents is not None:
            return  # what lies behind the last document that is taken does not count
        self._unusable.note(unit.shard, unit.bytes, reader.records, reader.unusable, reader.example)

    def _make_tokenizer(self) -> None:
        section = self._recipe.tokenizer
        self.tokenizer_file.parent.mkdir(exist_ok=True)
        if section.path:
            copy_tokenizer(Path(section.path), self.tokenizer_file.parent)
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

    @cached_property
    def _encoding_digest(self) -> str:
        return digest([self._project.text_digest, *content_of(self.tokenizer_file), *self._duplicates.decided_by])

    def _encoded_key(self, unit: Unit) -> str:
        return unit.key(self._encoding_digest, self._plans[unit.shard].sources[unit.source].sequences)

    def _encode(self, unit: Unit, key: str) -> None:
        plan, reader = self._plans[unit.shard], self._reader(unit)
        with UnitWriter(self._units_folder, key, self._encoder.dtype, len(plan.languages)) as writer:
            encode_unit(
                reader,
                writer,
                SideEncoder(self._encoder, self._counter, plan.languages),
                self._duplicates.drops_of(unit),
                plan.sources[unit.source].sequences,
                partial(_count_done, self._board),
            )
        self._note_unusable(unit, reader)
        remove(self._cleaned_file(unit))

    def _needed(self, plan: ShardPlan) -> Iterator[tuple[Unit, UnitRecord | None]]:
        """The units of a shard that reach its `max_documents`, and their records; None: not finished yet.

        A unit is left out once those before it are known to hold enough documents of their source.
        """
        held: Counter[int] = Counter()
        for unit in self._project.units[plan.name]:
            limit = plan.sources[unit.source].max_documents
            if limit is not None and held[unit.source] >= limit:
                continue
            record = UnitRecord.find(self._units_folder, self._encoded_key(unit))
            held[unit.source] += record.documents if record else 0
            yield unit, record

    def _is_behind(self, unit: Unit) -> bool:
        """Whether a unit is known not to be needed."""
        plan = self._plans[unit.shard]
        if plan.sources[unit.source].max_documents is None:
            return False
        return all(needed != unit for needed, _ in self._needed(plan))

    def _whole(self, unit: Unit) -> UnitRecord:
        """The record of a finished unit.

        Raises:
            ShardError: its files are damaged; the next build does it again.
        """
        key = self._encoded_key(unit)
        try:
            return UnitRecord.read(self._units_folder, key)
        except ShardError:
            (self._units_folder / record_name(key)).unlink(missing_ok=True)
            raise

    def _joined_file(self, plan: ShardPlan) -> Path:
        units = [self._encoded_key(unit) for unit in self._project.units[plan.name]]
        limits = [source.max_documents for source in plan.sources]
        name = f"{plan.name.replace('/', '.')}.{digest([units, limits])[:16]}.json"
        return self._work / "joined" / name

    def _join(self, plan: ShardPlan, path: Path) -> None:
        placed = [
            PlacedUnit(
                record or self._whole(unit),
                unit.source,
                tuple(str(part.file) for part in unit.parts),
            )
            for unit, record in self._needed(plan)
        ]
        limits = [source.max_documents for source in plan.sources]
        joined = JoinPlan(plan.name, plan.kind, plan.languages, placed, limits, tuple(map(str, plan.files)))
        listed = self._project.output / "rejected" / f"{plan.name}.jsonl"
        fraction = self._recipe.build.max_rejected_fraction
        try:
            check_shard(plan.name, [unit.record for unit in placed], fraction, listed)
        except DataError:
            join_rejected(self._project.output, joined)  # it is what a person looks at then
            raise
        entry = join_shard(self._project.output, joined)
        write_atomically(path, json.dumps(asdict(entry)).encode())


def _count_bytes(board: Board, count: int) -> None:
    board.add(bytes=count)


def _count_done(board: Board, documents: int, tokens: int) -> None:
    board.add(documents=documents, tokens=tokens)
