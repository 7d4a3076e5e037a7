"""A new run's first weights from another model's: which parameter comes from where.

In:  a `StartSource`, the model that is to be trained, the recipe's `[start]`, rows of the token embeddings.
Out: a `StartPlan`: for each parameter that is carried how its value is made, and a report for people.

Growing in depth: **stack** puts the blocks on top of themselves, block i + L from block i (Gong et al. 2019, "Efficient
training of BERT by progressively stacking", section 3.2); **interleave** takes each block several times in a row. Added
blocks whose writing matrices are 0 leave the function as it is (Wu et al. 2024, "LLaMA Pro", section 3.2).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from mlc.errors import RecipeError
from mlc.model.configuration_glm import MlcGlmConfig
from mlc.model.start_carried import EMBEDDINGS, FINAL_NORM, WRITERS, Carried, EncoderSizes, Family
from mlc.model.start_families import family_of
from mlc.model.start_source import BACKBONE, StartSource
from mlc.model.start_table import TableRows, carry_rows
from mlc.model.training_model import TRAINING_ONLY
from mlc.recipe import StartSection

BIASES = ("glm_bias.bias", "mlm_bias.bias")
"""One number a token, which mean something for the vocabulary of the start alone."""
TIED_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class StartTarget:
    """The model that is to be trained.

    Attributes:
        config: of its encoder.
        shapes: of its parameters and buffers, by name, whole.
        table: name of its token embeddings.
        seed: of the run.
    """

    config: PretrainedConfig
    shapes: Mapping[str, tuple[int, ...]]
    table: str
    seed: int


@dataclass(frozen=True)
class StartReport:
    """What became of every parameter.

    Attributes:
        source: where the weights are from, for people.
        layers: "12 from 6 (stack, added blocks write 0)".
        tokens: rows of the token embeddings by how they start: same, special, mean, none (drawn).
        parameters: {name: {"how": exact | adapted | zero | new, "from": names in the start, "note"}}.
        values: numbers by how.
        left_behind: names of the start's encoder whose values no parameter has.
    """

    source: str
    layers: str
    tokens: dict[str, int]
    parameters: dict[str, dict[str, Any]]
    values: dict[str, int]
    left_behind: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Of plain types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people: parameters that differ in their block's number alone share a line."""
        total = sum(self.values.values())
        shares = ", ".join(f"{how} {count / total:.1%}" for how, count in self.values.items() if count)
        tokens = ", ".join(f"{how} {count}" for how, count in self.tokens.items() if count)
        lines = [f"starts from {self.source}; blocks: {self.layers}", f"weights: {shares}", f"tokens: {tokens}"]
        groups = Counter(
            (facts["how"], re.sub(r"\.\d+\.", ".*.", name), facts["note"]) for name, facts in self.parameters.items()
        )
        for how in ("exact", "adapted", "zero", "new"):
            for (found, name, note), count in groups.items():
                if found == how:
                    times = f" ({count})" if count > 1 else ""
                    lines.append(f"  {how:8s}{name}{times}{': ' + note if note else ''}")
        left = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in self.left_behind)
        lines += [f"  left    {name}{f' ({count})' if count > 1 else ''}" for name, count in left.items()]
        return lines


@dataclass(frozen=True)
class StartPlan:
    """How the first weights are made.

    Attributes:
        carried: by name; parameters that are missing keep what was drawn for them.
        target: the model.
        report: for people.
    """

    carried: Mapping[str, Carried]
    target: StartTarget
    report: StartReport

    @torch.no_grad()
    def value(self, name: str) -> Tensor | None:
        """The first value (fp32, on the CPU, whole) of a parameter; None where it keeps what was drawn.

        Raises:
            CheckpointError: the start cannot be read.
        """
        if name not in self.carried:
            return None
        value = self.carried[name].make()
        assert tuple(value.shape) == self.target.shapes[name], (name, tuple(value.shape), self.target.shapes[name])
        return value


def plan_start(
    source: StartSource, target: StartTarget, section: StartSection, rows: TableRows, *, same_vocabulary: bool
) -> StartPlan:
    """Decide for each parameter of the model what it starts from. Nothing but headers is read.

    Args:
        source: of the weights.
        target: the model.
        section: the recipe's `[start]`.
        rows: of the token embeddings, as many as the model has.
        same_vocabulary: ids mean the same in both, so that the biases of the token heads can be carried.

    Raises:
        RecipeError: the start does not fit the model: which size, found, needed.
    """
    if target.config.model_type == MlcGlmConfig.model_type:
        family = family_of(source)
        carried = _glm_blocks(family, target, section, str(source.folder))
        ends = family.ends()
        carried[BACKBONE + FINAL_NORM] = ends[FINAL_NORM]
        table = ends[EMBEDDINGS]
        layers = _layers_line(family.sizes.layers, target.config.num_hidden_layers, section)
    else:
        carried = _same_encoder(source, target, section)
        table = carried[target.table]
        layers = str(target.config.num_hidden_layers)
    carried[target.table] = _table(table, rows, target)
    if section.heads:
        carried |= _heads(source, target, same_vocabulary=same_vocabulary)
    return StartPlan(carried, target, _report(source, target, carried, rows, layers))


def layer_sources(source_layers: int, target_layers: int, how: str) -> list[tuple[int, bool]]:
    """For each block of a model: the block of the start that it comes from, and whether it is an added copy.

    Raises:
        RecipeError: the numbers do not fit.
    """
    times, rest = divmod(target_layers, source_layers)
    if how == "copy" and target_layers == source_layers:
        return [(number, False) for number in range(target_layers)]
    if how == "copy" or rest or not times:
        needed = f"model.layers = {source_layers}" + ("" if how == "copy" else " or a multiple of it")
        raise RecipeError(
            "the start has another number of blocks",
            found=f"model.layers = {target_layers}, the start has {source_layers}",
            needed=needed,
            where=f'start.layers = "{how}"',
            hint='a deeper model: start.layers = "stack" or "interleave"' if target_layers > source_layers else None,
        )
    if how == "stack":
        return [(number % source_layers, number >= source_layers) for number in range(target_layers)]
    return [(number // times, number % times > 0) for number in range(target_layers)]


def _layers_line(source_layers: int, target_layers: int, section: StartSection) -> str:
    if source_layers == target_layers:
        return str(target_layers)
    added = "added blocks write 0" if section.added_blocks == "zero" else "added blocks are copies"
    return f"{target_layers} from {source_layers} ({section.layers}, {added})"


def _glm_blocks(family: Family, target: StartTarget, section: StartSection, where: str) -> dict[str, Carried]:
    config = target.config
    needed = EncoderSizes(
        config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size
    )
    _check_sizes(family.sizes, needed, where)
    carried = {}
    origins = layer_sources(family.sizes.layers, needed.layers, section.layers)
    for number, (origin, is_added) in enumerate(origins):
        for name, parameter in family.block(origin).items():
            full = f"{BACKBONE}blocks.{number}.{name}"
            writes_nothing = is_added and section.added_blocks == "zero" and name in WRITERS
            carried[full] = _nothing(target.shapes[full]) if writes_nothing else parameter
    return carried


def _check_sizes(found: EncoderSizes, needed: EncoderSizes, where: str) -> None:
    keys = ("hidden_size", "heads", "feed_forward_size")
    wrong = [key for key in keys if getattr(found, key) != getattr(needed, key)]
    if wrong:
        raise RecipeError(
            "the start's weights do not fit the model",
            found=", ".join(f"{key} {getattr(found, key)} in the start" for key in wrong),
            needed=", ".join(f"model.{key} = {getattr(needed, key)}" for key in wrong),
            where=f"start.model = {where}",
            hint="set " + ", ".join(f"model.{key} = {getattr(found, key)}" for key in wrong),
        )


def _same_encoder(source: StartSource, target: StartTarget, section: StartSection) -> dict[str, Carried]:
    """An encoder of transformers from a run that trained the same one."""
    where = f"start.model = {source.folder}"
    if source.kind == "huggingface" or source.config.model_type != target.config.model_type:
        raise RecipeError(
            "an encoder of transformers can start from a run or an export of its own type alone",
            found=f"{source.config.model_type} ({source.kind})",
            needed=f"a run that trained {target.config.model_type}",
            where=where,
            hint="a Hugging Face folder belongs in model.path, without [start]",
        )
    if section.layers != "copy":
        raise RecipeError("only the GLM can be grown", found=section.layers, needed='"copy"', where="start.layers")
    names = [name for name in target.shapes if name.startswith(BACKBONE)]
    different = [
        f"{name} {source.shapes.get(name, 'absent')} in the start, needed {target.shapes[name]}"
        for name in names
        if name != target.table and source.shapes.get(name) != target.shapes[name]
    ]
    if different or target.table not in source.shapes:
        raise RecipeError(
            "the start's weights do not fit the model",
            found="; ".join(different[:3]) or f"no {target.table}",
            needed="the sizes of model.config",
            where=where,
        )
    return {name: Carried("exact", (name,), "", _reading(source, name)) for name in names}


def _table(table: Carried, rows: TableRows, target: StartTarget) -> Carried:
    changes = {how: count for how, count in rows.counts.items() if how != "same" and count}
    note = table.note
    if changes:
        words = ", ".join(f"{count} {how}" for how, count in changes.items())
        note = f"{note}{'; ' if note else ''}rows but the same ones: {words}"
    return replace(
        table,
        how="adapted" if changes else table.how,
        note=note,
        make=lambda: carry_rows(table.make(), rows, target.seed, target.table),
    )


def _heads(source: StartSource, target: StartTarget, *, same_vocabulary: bool) -> dict[str, Carried]:
    """Token heads, projection and the query of attention pooling, where the start has them."""
    carried = {}
    for name, needed in target.shapes.items():
        if name.startswith((BACKBONE, *TRAINING_ONLY)) or name == TIED_HEAD or name not in source.shapes:
            continue
        if name in BIASES and not (same_vocabulary and source.shapes[name] == needed):
            continue
        if source.shapes[name] != needed:
            raise RecipeError(
                "the start's heads do not fit the model",
                found=f"{name} {source.shapes[name]} in the start",
                needed=str(needed),
                where=f"start.model = {source.folder}",
                hint="set model.projection_size as there, or begin with new heads: --set start.heads=false",
            )
        carried[name] = Carried("exact", (name,), "", _reading(source, name))
    return carried


def _report(
    source: StartSource, target: StartTarget, carried: Mapping[str, Carried], rows: TableRows, layers: str
) -> StartReport:
    parameters: dict[str, dict[str, Any]] = {}
    values = Counter[str](dict.fromkeys(("exact", "adapted", "zero", "new"), 0))
    for name, shape in target.shapes.items():
        if name == TIED_HEAD:
            continue
        found = carried.get(name)
        how = found.how if found else "new"
        parameters[name] = {"how": how, "from": found.sources if found else (), "note": found.note if found else ""}
        values[how] += torch.Size(shape).numel()
    used = {name for parameter in carried.values() for name in parameter.sources}
    left = sorted(name for name in source.shapes if name.startswith(BACKBONE) and name not in used)
    return StartReport(
        source=f"{source.folder} ({source.kind}, {source.config.model_type})",
        layers=layers,
        tokens=dict(rows.counts),
        parameters=parameters,
        values=dict(values),
        left_behind=tuple(left),
    )


def _reading(source: StartSource, name: str) -> Callable[[], Tensor]:
    return lambda: source.read(name)


def _nothing(shape: tuple[int, ...]) -> Carried:
    return Carried("zero", (), "an added block does nothing at first", lambda: torch.zeros(shape))
