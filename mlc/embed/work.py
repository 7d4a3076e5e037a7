"""Embedding a corpus: which units there are, which of them this process does, and the result when all are done.

In:  files of texts, a model, where the vectors go, and which rank of how many this is.
Out: a folder of parts with manifest.json, or one .npy or .parquet file with <file>.json beside it.

Ranks never talk: unit u belongs to rank u mod W, a part is renamed into its place when it is whole, and who sees that
all parts are there writes the result. So a start does what is missing, whatever happened to the ones before. Batches
are formed within a unit, so the bytes of a part are a function of its texts, the model and the settings, and of the
threads of a process (the order of sums within a matrix product), not of the number of ranks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mlc.data.text import clean_text
from mlc.embed.inputs import BadLines, InputFile, InputForm, InputPlan, Row, Source, UnitStart, read_unit, scan
from mlc.embed.parts import (
    FileForm,
    PartRecord,
    Vectors,
    checked_parts,
    join_parts,
    part_name,
    read_record,
    write_part,
    write_record,
)
from mlc.errors import DataError, UsageError
from mlc.files import hash_file, write_json
from mlc.tasks.encoder import TextEncoder

FORMAT, VERSION = "mlc-vectors", 1
PLAN, MANIFEST = "plan.json", "manifest.json"
FILE_FORMS: dict[str, FileForm] = {".npy": "npy", ".parquet": "parquet"}
OTHER_FORMS = (".csv", ".json", ".jsonl", ".npz", ".pt", ".safetensors", ".tsv", ".txt")
COUNTS = ("rows", "cut", "empty", "bad", "tokens")
SHOWN_BAD_PLACES = 20

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Settings:
    """What else the vectors depend on, beside texts and model.

    Attributes:
        form: of the files.
        precision: of the backbone.
        dtype: of the vectors on disk.
        batch_tokens: tokens of a batch, padding included.
        unit_rows: rows of a part.
        with_text: Parquet files keep the texts.
    """

    form: FileForm
    precision: Literal["fp32", "bf16"]
    dtype: Literal["float32", "float16"]
    batch_tokens: int
    unit_rows: int
    with_text: bool
    bad_lines: BadLines
    input: InputForm


@dataclass(frozen=True)
class Place:
    """Where vectors go.

    Attributes:
        out: a folder of parts, or the one file.
        parts: the folder of parts; of one file, beside it and removed when that is written.
        manifest: what says that everything is there.
    """

    out: Path
    parts: Path
    manifest: Path

    @property
    def is_one_file(self) -> bool:
        """Whether parts are joined."""
        return self.out != self.parts


@dataclass(frozen=True)
class Done:
    """What a call found or did: `manifest` is None where other ranks still have units to do."""

    rows_here: int
    units_here: int
    units: int
    units_missing: int
    manifest: Mapping[str, Any] | None


def place_of(out: Path) -> Place:
    """Where parts and manifest lie: a name that ends in .npy or .parquet is a file, any other a folder."""
    if out.suffix in FILE_FORMS:
        return Place(out, out.with_name(out.name + ".parts"), out.with_name(out.name + ".json"))
    return Place(out, out, out / MANIFEST)


def check_place(place: Place) -> None:
    """Refuse to write over what is not this command's.

    Raises:
        UsageError: something else is there, or the name is that of another form.
    """
    out = place.out
    if out.suffix in OTHER_FORMS:
        raise UsageError("no such form of vectors", found=out.name, needed="a folder, .npy or .parquet", where="--out")
    if place.is_one_file:
        foreign = out.exists() and not place.manifest.is_file() and not (place.parts / PLAN).is_file()
    else:
        foreign = out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / PLAN).is_file()))
    if foreign:
        raise UsageError("this is there and none of this command's", found=str(out), needed="a new one", where="--out")


def plan_work(
    place: Place, sources: Sequence[Source], settings: Settings, identity: Mapping[str, Any], model: str
) -> InputPlan:
    """The plan of this work: the one that lies there, if it is of the same input, model and settings, or a new one.

    Raises:
        UsageError: what lies there is other work.
        DataError: see `scan`.
    """
    wanted = {"format": FORMAT, "version": VERSION, "model": dict(identity), "settings": asdict(settings)}
    for file in (place.manifest, place.parts / PLAN, place.manifest):  # another rank may be replacing one by the other
        try:
            found = _read_json(file)
        except FileNotFoundError:
            continue
        _refuse_other_work(found, wanted, file)
        _refuse_other_input(found["inputs"], sources, file)
        return _plan_from_json(found)
    plan = scan(sources, settings.input, settings.unit_rows, settings.bad_lines)
    write_json(place.parts / PLAN, {**wanted, "model_name": model, **_plan_to_json(plan)})
    return plan


def do_work(
    place: Place,
    sources: Sequence[Source],
    plan: InputPlan,
    settings: Settings,
    encoder: TextEncoder,
    *,
    rank: int,
    world_size: int,
    progress: Progress,
) -> Done:
    """Do this rank's missing units, then put the result together if nobody has anything left to do.

    Args:
        plan: of `plan_work`.
        rank, world_size: this process does the units whose number leaves `rank` when divided by `world_size`.
        progress: told the rows of each batch.

    Raises:
        DataError: the input is not what was planned, or a part on disk is damaged.
    """
    units = len(plan.units)
    if place.manifest.is_file():
        manifest = _checked_manifest(place)
        if place.is_one_file:
            shutil.rmtree(place.parts, ignore_errors=True)  # of a rank that was killed there, or came late
        return Done(0, 0, units, 0, manifest)
    mine = [unit for unit in range(rank, units, world_size) if read_record(place.parts, unit) is None]
    rows = 0
    for unit in mine:
        texts = read_unit(sources, plan, unit, settings.input)
        _write_unit(place, plan, unit, texts, settings, encoder, progress)
        rows += len(texts)
    missing = sum(read_record(place.parts, unit) is None for unit in range(units))
    if missing and place.manifest.is_file():  # another rank has just put the result together, and the parts are gone
        missing = 0
    return Done(rows, len(mine), units, missing, None if missing else finish(place, plan))


def encode_rows(encoder: TextEncoder, rows: Sequence[Row], settings: Settings, progress: Progress) -> Vectors:
    """(len(rows), E): the vector of every text, 0 where there is none. `encoder.counts` are those of the texts."""
    usable = [place for place, row in enumerate(rows) if row.text is not None]
    texts = [row.text for row in rows if row.text is not None]
    found = encoder.encode(texts, batch_tokens=settings.batch_tokens, progress=progress)
    vectors = np.zeros((len(rows), found.shape[1]), dtype=np.float32)
    vectors[usable] = found
    return vectors if settings.dtype == "float32" else vectors.astype(np.float16)


def _write_unit(
    place: Place,
    plan: InputPlan,
    unit: int,
    rows: Sequence[Row],
    settings: Settings,
    encoder: TextEncoder,
    progress: Progress,
) -> None:
    vectors = encode_rows(encoder, rows, settings, progress)
    path = place.parts / part_name(unit, settings.form)
    write_part(path, unit * plan.unit_rows, rows, vectors, with_text=settings.with_text)
    bad = [row.where for row in rows if row.text is None]
    record = PartRecord(
        file=path.name,
        bytes=path.stat().st_size,
        xxh3=hash_file(path),
        rows=len(rows),
        cut=encoder.counts.cut,
        empty=sum(row.text is not None and not clean_text(row.text) for row in rows),
        bad=len(bad),
        bad_places=tuple(bad[:SHOWN_BAD_PLACES]),
        tokens=encoder.counts.tokens,
        threads=torch.get_num_threads(),
    )
    write_record(place.parts, unit, record)


def finish(place: Place, plan: InputPlan) -> Mapping[str, Any]:
    """Join the parts where one file is asked for, and write the manifest last; returns it.

    Several ranks may come here at once: each writes the same bytes under a name of its own and renames them.
    """
    try:
        records = [_present(read_record(place.parts, unit)) for unit in range(len(plan.units))]
        if place.is_one_file:
            join_parts(place.parts, records, place.out, lambda rows: None)
            files = [{"file": place.out.name, "rows": plan.rows, **_facts(place.out)}]
        else:
            files = [
                {"file": record.file, "rows": record.rows, "bytes": record.bytes, "xxh3": record.xxh3}
                for record, _ in checked_parts(place.parts, records)
            ]
        manifest = {**_read_json(place.parts / PLAN), **_summary(records), "files": files}
    except FileNotFoundError:
        if place.manifest.is_file():  # another rank was faster, and the parts are gone
            return _read_json(place.manifest)
        raise
    write_json(place.manifest, manifest)
    if place.is_one_file:
        shutil.rmtree(place.parts, ignore_errors=True)
    return manifest


def _present(record: PartRecord | None) -> PartRecord:
    if record is None:
        raise FileNotFoundError
    return record


def _summary(records: Sequence[PartRecord]) -> dict[str, Any]:
    places = [where for record in records for where in record.bad_places]
    return {
        "counts": {name: sum(getattr(record, name) for record in records) for name in COUNTS},
        "bad_places": places[:SHOWN_BAD_PLACES],
        "threads": sorted({record.threads for record in records}),
    }


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "xxh3": hash_file(path)}


def _checked_manifest(place: Place) -> dict[str, Any]:
    """The manifest of finished work.

    Raises:
        DataError: a file is gone or has been changed.
    """
    manifest = _read_json(place.manifest)
    for entry in manifest["files"]:
        path = place.out if place.is_one_file else place.out / entry["file"]
        if not path.is_file() or _facts(path) != {"bytes": entry["bytes"], "xxh3": entry["xxh3"]}:
            raise DataError(
                "the vectors are not what was written",
                found="another content" if path.is_file() else "no file",
                where=str(path),
                hint=f"rm {place.manifest}, then start the same command again",
            )
    return manifest


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("format") == FORMAT and content.get("version") == VERSION:
            return content
    except ValueError:
        pass
    raise DataError("this file is damaged, or of another version", needed=f"{FORMAT} {VERSION}", where=str(file))


def _refuse_other_work(found: Mapping[str, Any], wanted: Mapping[str, Any], file: Path) -> None:
    for key, problem in (("model", "these are vectors of another model"), ("settings", "the settings have changed")):
        differing = [name for name in wanted[key] if found[key].get(name) != wanted[key][name]]
        if differing:
            raise UsageError(
                problem,
                found=", ".join(f"{name} {wanted[key][name]}" for name in differing),
                needed=", ".join(f"{name} {found[key].get(name)}" for name in differing),
                where=str(file),
                hint="choose another --out",
            )


def _refuse_other_input(found: Sequence[Mapping[str, Any]], sources: Sequence[Source], file: Path) -> None:
    problem, hint = "the input has changed since the work began", "choose another --out"
    if len(found) != len(sources):
        raise UsageError(problem, found=f"{len(sources)} files", needed=f"{len(found)}", where=str(file), hint=hint)
    for before, source in zip(found, sources, strict=True):
        size = source.path.stat().st_size
        if size != before["bytes"] or hash_file(source.path) != before["xxh3"]:
            needed = f"{before['bytes']} bytes, xxh3 {before['xxh3']}, as in {file}"
            raise UsageError(problem, found=f"{size} bytes", needed=needed, where=source.name, hint=hint)


def _plan_to_json(plan: InputPlan) -> dict[str, Any]:
    return {
        "inputs": [asdict(file) for file in plan.files],
        "rows": plan.rows,
        "blank_lines": plan.blank_lines,
        "unit_starts": [[start.file, start.row] for start in plan.units],
    }


def _plan_from_json(content: Mapping[str, Any]) -> InputPlan:
    return InputPlan(
        files=tuple(InputFile(**file) for file in content["inputs"]),
        rows=content["rows"],
        blank_lines=content["blank_lines"],
        unit_rows=content["settings"]["unit_rows"],
        units=tuple(UnitStart(*start) for start in content["unit_starts"]),
    )


def with_defaults(settings: Settings, encoder: TextEncoder) -> Settings:
    """Settings with the encoder's own size of a batch where none was asked for."""
    return settings if settings.batch_tokens else replace(settings, batch_tokens=encoder.batch_tokens)
