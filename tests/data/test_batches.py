"""Global batches: the same samples whatever the ranks and micro-batches, and rows that say what the texts said."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipes_for_tests import train_recipe
from small_shards import write_small_shards

from mlc.data.batches import BatchBuilder, MicroBatch, assign
from mlc.data.corpus import Corpus, text_hash
from mlc.data.manifest import Manifest
from mlc.errors import RecipeError
from mlc.recipe import TrainRecipe

MIXED = [
    {"kind": "documents", "view": "translations", "weight": 2.0},
    {"kind": "documents", "view": "spans"},
    {"kind": "pairs", "view": "pair"},
    {"kind": "documents", "view": "text", "languages": ["bb"]},
]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_small_shards(tmp_path_factory.mktemp("shards"))


def _recipe(manifest: Manifest, micro_batches: int = 1, **data: object) -> TrainRecipe:
    settings = {
        "shards": str(manifest.folder),
        "samples_per_step": 23,
        "sources": MIXED,
        "micro_batches": micro_batches,
    }
    objectives = {"contrastive": {"weight": 0.0}} if micro_batches > 1 else {}
    return train_recipe(data={**settings, **data}, objectives=objectives)


def _batches(
    recipe: TrainRecipe, manifest: Manifest, step: int, world_size: int, **changes: object
) -> list[list[MicroBatch]]:
    corpus = Corpus(recipe.data, manifest, seed=recipe.run.seed)
    return [
        BatchBuilder.of(recipe, corpus, rank=rank, world_size=world_size).build(step).micro_batches
        for rank in range(world_size)
    ]


def _contents(parts: list[list[MicroBatch]]) -> dict[int, tuple]:
    """What each sample feeds to the model, keyed by its index, whoever holds it."""
    found: dict[int, tuple] = {}
    for part in (part for rank in parts for part in rank):
        for place in range(len(part.samples)):
            index = int(part.samples[place])
            if index < 0:
                continue
            rows = [int(part.first_row[place]), int(part.second_row[place])]
            fed = tuple(
                tuple(array[row, : part.lengths[row]].tolist())
                for row in rows
                for array in (part.input_ids, part.positions, part.block_positions)
            )
            identity = (int(part.group[place]), int(part.first_text[place]), int(part.second_text[place]))
            assert index not in found, "no sample is held twice"
            found[index] = (fed, identity, bool(part.valid[place]))
    return found


# Of batches built before there were sentence blanks, joined views, clean rows and hard negatives.
FIELDS_OF_OLD = (
    *("input_ids", "lengths", "part_a_lengths", "positions", "block_positions", "glm_index", "glm_targets"),
    *("glm_weights", "mlm_index", "mlm_targets", "mlm_weights", "first_row", "second_row", "valid", "group"),
    *("first_text", "second_text", "samples"),
)
DIGESTS_OF_OLD = [
    ({}, "512d369220972f0f0c527b7384cadd1685e0c0c14eed9e244ede9e443a6a4e83"),
    ({"max_tokens": 12, "min_span_tokens": 4}, "f54cda01b84b9d664dbbfe70f89c6b0c519dd3ce0d7678ef013dddf328aeb8fc"),
    ({"language_pure": True}, "280c990d783269c1fda3357f4b446977522f19d50afa653d1df39fb36f62db67"),
]


@pytest.mark.parametrize(("data", "digest"), DIGESTS_OF_OLD, ids=lambda value: str(value)[:20])
def test_a_recipe_that_sets_nothing_new_gives_the_batches_it_always_gave(
    manifest: Manifest, data: dict[str, object], digest: str
) -> None:
    """Golden values: a change would silently give every user's run other batches."""
    found = hashlib.sha256()
    recipe = _recipe(manifest, **data)
    for world_size in (1, 3):
        steps = [_batches(recipe, manifest, step, world_size) for step in (0, 5)]
        for part in (part for rank in range(world_size) for step in steps for part in step[rank]):
            for name in FIELDS_OF_OLD:
                array = getattr(part, name)
                found.update(f"{name} {array.dtype.str} {array.shape}".encode())
                found.update(np.ascontiguousarray(array).tobytes())
    assert found.hexdigest() == digest


@pytest.mark.parametrize("step", [0, 7])
def test_the_global_batch_does_not_depend_on_ranks_or_micro_batches(manifest: Manifest, step: int) -> None:
    whole = _contents(_batches(_recipe(manifest), manifest, step, 1))
    assert sorted(whole) == list(range(step * 23, (step + 1) * 23))
    assert any(not valid for _, _, valid in whole.values())
    for world_size in (2, 3, 5):
        assert _contents(_batches(_recipe(manifest), manifest, step, world_size)) == whole
    for world_size, micro_batches in ((1, 4), (3, 2)):
        split = _contents(_batches(_recipe(manifest, micro_batches), manifest, step, world_size))
        assert split.keys() == whole.keys()
        assert all(split[i][0] == whole[i][0] for i in whole)


@given(tokens=st.lists(st.integers(2, 200), min_size=12, max_size=60), world=st.integers(1, 5), micro=st.integers(1, 2))
def test_assignment_is_even_and_complete(tokens: list[int], world: int, micro: int) -> None:
    parts = [assign(np.array(tokens), world, rank, micro) for rank in range(world)]
    places = np.concatenate([part for rank in parts for part in rank])
    assert sorted(places.tolist()) == list(range(len(tokens)))
    sizes = [sum(len(part) for part in rank) for rank in parts]
    assert max(sizes) - min(sizes) <= 1
    limit = -(-len(tokens) // (world * micro))
    assert all(1 <= len(part) <= limit for rank in parts for part in rank)


def test_rows_are_padded_right_and_padded_samples_weigh_nothing(manifest: Manifest) -> None:
    for rank in _batches(_recipe(manifest), manifest, 3, 3):
        (part,) = rank
        assert len(part.samples) == 8
        columns = np.arange(part.input_ids.shape[1])
        padding = columns >= part.lengths[:, None]
        assert (part.input_ids[padding] == 0).all()
        assert (part.input_ids[~padding] != 0).all()
        assert (np.diff(part.lengths) <= 0).all(), "rows are sorted by length"
        assert not part.valid[part.samples < 0].any()
        flat = part.input_ids.reshape(-1)
        assert not np.isin(flat[part.glm_index], [0]).any()
        assert (part.glm_targets != 0).all()


def test_an_objective_that_is_off_leaves_one_dummy(manifest: Manifest) -> None:
    recipe = train_recipe(
        data={"shards": str(manifest.folder)}, objectives={"glm": {"weight": 0.0}, "mlm": {"weight": 0.0}}
    )
    ((part,),) = _batches(recipe, manifest, 0, 1)
    assert part.glm_weights.tolist() == [0.0]
    assert part.mlm_weights.tolist() == [0.0]
    assert (part.lengths == part.part_a_lengths).all()


def test_translations_share_a_group_and_differ_in_language(manifest: Manifest) -> None:
    recipe = train_recipe(data={"shards": str(manifest.folder)})
    corpus = Corpus(recipe.data, manifest, seed=1)
    shards = {entry.languages[0]: manifest.open(entry)[0] for entry in manifest.shards if entry.kind == "documents"}
    for sample in corpus.samples(np.arange(300)):
        assert sample.first_language != sample.second_language
        for tokens, language in ((sample.first, sample.first_language), (sample.second, sample.second_language)):
            document = shards[language].document(sample.group - 1000)
            assert tokens is not None
            assert len(tokens) == min(len(document), 30)
            assert tuple(tokens) in {tuple(document[i : i + len(tokens)]) for i in range(len(document))}


def test_language_pure_batches_pair_two_languages(manifest: Manifest) -> None:
    recipe = _recipe(manifest, sources=[{"kind": "documents", "view": "translations"}], language_pure=True)
    corpus = Corpus(recipe.data, manifest, seed=1)
    seen = set()
    for step in range(40):
        samples = corpus.samples(corpus.step_indices(step))
        languages = {(sample.first_language, sample.second_language) for sample in samples}
        assert len(languages) == 1
        seen |= languages
    assert len(seen) == 6, "all directions of three languages come up"


def test_token_counts_are_those_of_the_first_samples(manifest: Manifest) -> None:
    corpus = Corpus(_recipe(manifest).data, manifest, seed=1)
    counts = corpus.token_counts(200, samples=50)
    texts = [t for s in corpus.samples(np.arange(50)) for t in (s.first, s.second) if t is not None]
    assert counts.shape == (200,)
    assert counts.sum() == sum(map(len, texts))
    assert counts[int(texts[0][0])] == sum(int((text == texts[0][0]).sum()) for text in texts)


def test_planned_tokens_bound_the_real_ones(manifest: Manifest) -> None:
    corpus = Corpus(_recipe(manifest).data, manifest, seed=1)
    index = np.arange(400)
    for planned, sample in zip(corpus.planned_tokens(index), corpus.samples(index), strict=True):
        own = len(sample.first) + (0 if sample.second is None else len(sample.second))
        if sample.first_language == sample.second_language:
            assert own <= planned
        assert planned <= 2 * 30


def test_text_hash_ignores_the_dtype() -> None:
    assert text_hash(np.array([5, 6], dtype=np.uint16)) == text_hash(np.array([5, 6], dtype=np.int64))
    assert text_hash(np.array([5, 6])) != text_hash(np.array([6, 5]))


def test_too_small_a_batch_is_refused(manifest: Manifest) -> None:
    with pytest.raises(RecipeError, match=r"samples_per_step = 2 on 3 ranks.*needed data.samples_per_step >= 3"):
        _batches(_recipe(manifest, samples_per_step=2), manifest, 0, 3)


def test_sources_the_shards_do_not_hold_are_refused(manifest: Manifest) -> None:
    source = {"kind": "documents", "view": "spans", "languages": ["aa", "xx"]}
    with pytest.raises(RecipeError, match=r"found languages aa, bb, cc.*needed languages xx"):
        Corpus(_recipe(manifest, sources=[source]).data, manifest, seed=1)
    lonely = {"kind": "documents", "view": "translations", "languages": ["aa"]}
    with pytest.raises(RecipeError, match="no document exists in two"):
        Corpus(_recipe(manifest, sources=[lonely]).data, manifest, seed=1)


def test_every_document_with_a_translation_comes_once_an_epoch(manifest: Manifest, tmp_path: Path) -> None:
    recipe = train_recipe(data={"shards": str(manifest.folder)})
    corpus = Corpus(recipe.data, manifest, seed=1)
    counts: dict[tuple[str, int], int] = {}
    for sample in corpus.samples(np.arange(3 * 59)):
        key = (sample.first_language, sample.group)
        counts[key] = counts.get(key, 0) + 1
    assert max(counts.values()) <= 2
    assert len(counts) >= 3 * 59 - 20
