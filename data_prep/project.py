"""What all processes of a build agree on before they begin.

In:  a recipe's plan.
Out: a `Project`, which travels to other processes; the names of the stages (data_prep.stages).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_prep.cleaning.evaluation_texts import find_evaluation_sets
from data_prep.plan import ShardPlan
from data_prep.recipe import PrepRecipe
from data_prep.units import Unit
from mlc.config import digest
from mlc.files import hash_file

STAGE_NAMES = (
    "sort",
    "evaluation sets",
    "sample",
    "tokenizer",
    "fingerprints",
    "links",
    "duplicates",
    "encode",
    "join",
)
"""In the order in which each needs what those before it have made."""
STAGES_OF_UNITS = ("sample", "fingerprints", "encode")
"""These read all source files."""
WORK_FOLDER = ".work"


@dataclass(frozen=True)
class Project:
    """What all processes of a build agree on.

    Attributes:
        plans: of the shards, in the manifest's order.
        units: of each shard, by its name.
    """

    recipe: PrepRecipe
    output: Path
    plans: tuple[ShardPlan, ...]
    units: dict[str, tuple[Unit, ...]]

    @property
    def work(self) -> Path:
        """Folder of what is only needed until the build is finished."""
        return self.output / WORK_FOLDER

    @cached_property
    def all_units(self) -> tuple[Unit, ...]:
        """In the order of the corpus."""
        return tuple(unit for plan in self.plans for unit in self.units[plan.name])

    @cached_property
    def text_digest(self) -> str:
        """Of what decides about the text of documents; evaluation sets are read for it, once in a process."""
        cleaning = self.recipe.cleaning
        paths = () if cleaning.contamination is None else find_evaluation_sets(cleaning.contamination)
        evaluation_sets = [[str(path), hash_file(path)] for path in paths]
        return digest([self.recipe.normalise.model_dump_json(), cleaning.model_dump_json(), evaluation_sets])
