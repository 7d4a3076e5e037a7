"""Rows: what each objective reads, clean rows and hard negatives, and the same ones for any ranks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from recipes_for_tests import train_recipe
from small_shards import LANGUAGES, write_small_shards

from mlc.data.batches import BatchBuilder, MicroBatch, longest_row
from mlc.data.corpus import Corpus, Sample, text_hash
from mlc.data.corruption import SpecialTokens
from mlc.data.manifest import SPECIAL_TOKENS, Manifest
from mlc.data.rows import RowBuilder
from mlc.errors import ShardError
from mlc.recipe import TrainRecipe

ID = {name: number for number, name in enumerate(SPECIAL_TOKENS)}
BLANK_IDS = (ID["[MASK]"], ID["[sMASK]"], ID["[gMASK]"])
SOURCES = [
    {"kind": "documents", "view": "translations", "weight": 2.0},
    {"kind": "documents", "view": "spans"},
    {"kind": "pairs", "view": "pair"},
    {"kind": "documents", "view": "text", "languages": ["bb"]},
    {"kind": "documents", "view": "ranked"},
]
ALL_KINDS = {"weight": 0.5, "token_share": 0.4, "sentence_share": 0.3, "document_share": 0.3}
OFF = {"weight": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "corrupted": {"glm": ALL_KINDS, "contrastive": {"weight": 1.0, "hard_negatives": 2}},
    "clean": {"glm": ALL_KINDS, "contrastive": {"weight": 1.0, "clean_text": True, "hard_negatives": 1}},
    "joined": {"glm": ALL_KINDS, "join_views": True},
    "joined, adversary": {"glm": ALL_KINDS, "join_views": True, "language_adversary": {"weight": 0.1}},
    "joined, no contrast": {"glm": ALL_KINDS, "join_views": True, "contrastive": OFF},
    "joined, adversary alone": {"join_views": True, "contrastive": OFF, "language_adversary": {"weight": 0.1}},
    "contrast alone": {"contrastive": {"weight": 1.0, "clean_text": True, "hard_negatives": 2}, "glm": OFF, "mlm": OFF},
}
CLEAN_ROWS = {"clean", "joined", "joined, adversary", "joined, adversary alone"}
N = 31


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Documents of 0 to 5 sequences: ranked, they have up to 3 hard negatives, or no partner, or no text at all."""
    return write_small_shards(tmp_path_factory.mktemp("shards"), sequences=(1, 2, 3, 4, 5, 0))


def _recipe(manifest: Manifest, case: str, micro_batches: int = 1, **data: object) -> TrainRecipe:
    settings = {"shards": str(manifest.folder), "samples_per_step": N, "sources": SOURCES}
    return train_recipe(data={**settings, "micro_batches": micro_batches, **data}, objectives=CASES[case])


def _corpus(recipe: TrainRecipe, manifest: Manifest) -> Corpus:
    return Corpus(recipe.data, manifest, seed=recipe.run.seed)


def _batches(recipe: TrainRecipe, manifest: Manifest, step: int, world_size: int) -> list[list[MicroBatch]]:
    corpus = _corpus(recipe, manifest)
    return [
        BatchBuilder.of(recipe, corpus, rank=rank, world_size=world_size).build(step).micro_batches
        for rank in range(world_size)
    ]


def _rows(part: MicroBatch) -> list[tuple[Any, ...]]:
    """Each row with all that is to be predicted in it."""
    rows = []
    columns = part.input_ids.shape[1]
    for row, length in enumerate(part.lengths.tolist()):
        fed = [tuple(a[row, :length].tolist()) for a in (part.input_ids, part.positions, part.block_positions)]
        for index, targets, weights in (
            (part.glm_index, part.glm_targets, part.glm_weights),
            (part.mlm_index, part.mlm_targets, part.mlm_weights),
        ):
            own = (index // columns == row) & (weights > 0)
            fed.append(tuple(zip((index[own] % columns).tolist(), targets[own].tolist(), strict=True)))
        rows.append((int(part.part_a_lengths[row]), *fed))
    return rows


def _of_samples(parts: list[list[MicroBatch]]) -> dict[int, tuple[Any, ...]]:
    """What each sample's entries say, rows spelled out, whoever holds it."""
    found: dict[int, tuple[Any, ...]] = {}
    for part in (part for rank in parts for part in rank):
        rows = _rows(part)
        for place, index in enumerate(part.samples.tolist()):
            if index < 0:
                assert not part.pooled[place]
                assert not part.valid[place]
                assert not part.hard_valid[place].any()
                assert part.first_language[place] == part.second_language[place] == -1
                continue
            assert index not in found, "no sample is held twice"
            hard = [rows[row] for row in part.hard_row[place][part.hard_valid[place]]]
            named = (part.group, part.first_text, part.second_text, part.first_language, part.second_language)
            found[index] = (
                rows[part.first_row[place]],
                rows[part.second_row[place]],
                hard,
                bool(part.pooled[place]),
                bool(part.valid[place]),
                tuple(int(array[place]) for array in named),
                part.hard_text[place].tolist(),
            )
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_rows_of_all_ranks_are_those_of_one(manifest: Manifest, case: str) -> None:
    for step in (0, 3):
        (whole,) = _batches(_recipe(manifest, case), manifest, step, 1)
        rows = Counter(row for part in whole for row in _rows(part))
        for world_size, micro_batches in ((2, 1), (3, 2), (1, 4)):
            parts = _batches(_recipe(manifest, case, micro_batches), manifest, step, world_size)
            assert _of_samples(parts) == _of_samples([whole])
            assert Counter(row for rank in parts for part in rank for row in _rows(part)) == rows


def _clean(*views: np.ndarray) -> tuple[int, ...]:
    return (ID["[CLS]"], *(token for view in views for token in [*view.tolist(), ID["[SEP]"]]))


def _restored(row: tuple[Any, ...]) -> tuple[int, ...]:
    """The text of a row, masks and blanks filled."""
    a, tokens, positions, block_positions, glm, mlm = row
    content: dict[int, list[int]] = {}
    for place, target in glm:
        assert (tokens[place] == ID["[sop]"]) == (block_positions[place] == 1)
        content.setdefault(positions[place], []).append(target)
    part_a = list(tokens[:a])
    for place, target in mlm:
        assert part_a[place] not in (ID["[CLS]"], ID["[SEP]"], *BLANK_IDS)
        part_a[place] = target
    filled: list[int] = []
    for place, token in enumerate(part_a):
        if token not in BLANK_IDS:
            filled.append(token)
            continue
        *span, end = content.pop(place)
        assert end == ID["[eop]"]
        filled += span
    assert not content
    return tuple(filled)


def _kind(row: tuple[Any, ...]) -> str:
    kinds = {SPECIAL_TOKENS[token] for token in row[1][: row[0]] if token in BLANK_IDS}
    assert len(kinds) <= 1, "a text has blanks of one kind"
    return kinds.pop() if kinds else ""


def _expected(sample: Sample, case: str) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Texts of the token objectives' rows, and of the clean rows beside them, hard negatives aside."""
    views = [tokens for tokens, _ in sample.views]
    joined = "joined" in case and len(views) == 2
    clean = case in CLEAN_ROWS and (len(views) == 2 or "adversary" in case)
    token_rows = [_clean(*views)] if joined else [_clean(view) for view in views]
    return token_rows, [_clean(view) for view in views] if clean else []


@pytest.mark.parametrize("case", CASES)
def test_each_objective_reads_what_it_should(manifest: Manifest, case: str) -> None:
    recipe = _recipe(manifest, case)
    corpus = _corpus(recipe, manifest)
    hard_negatives = recipe.objectives.info_nce.hard_negatives if recipe.objectives.info_nce else 0
    kinds: Counter[str] = Counter()
    for step in range(4):
        (whole,) = _batches(recipe, manifest, step, 1)
        found = _of_samples([whole])
        wanted: Counter[tuple[int, ...]] = Counter()
        for sample in corpus.samples(corpus.step_indices(step)):
            first, second, hard, pooled, valid, named, hard_texts = found[sample.index]
            views = [tokens for tokens, _ in sample.views]
            token_rows, clean_rows = _expected(sample, case)
            wanted.update(token_rows + clean_rows)
            if clean_rows:
                assert (first[1], second[1]) == (clean_rows[0], clean_rows[-1])
            else:
                assert (_restored(first), _restored(second)) == (token_rows[0], token_rows[-1])
                kinds.update([_kind(first)])
                assert len({_kind(first), _kind(second)} - {""}) <= 1, "both views get blanks of one kind"
            readable = bool(clean_rows) or (
                _kind(first) in ("", "[MASK]")
                and _kind(second) in ("", "[MASK]")
                and case not in CLEAN_ROWS
                and len(token_rows) == len(views)
            )
            if min(map(len, views)) > 0:  # a view without tokens does not show which kind was drawn
                assert pooled == readable
                assert valid == (readable and len(views) == 2)
            assert not (pooled and not len(views[0]))
            assert not (valid and not len(views[-1]))
            given = [tokens for tokens in sample.hard if len(tokens)]
            assert len(hard) == (min(hard_negatives, len(given)) if valid else 0)
            assert {row[1] for row in hard} <= {_clean(tokens) for tokens in given}
            assert all(not row[4] and not row[5] for row in hard), "nothing is predicted in a hard negative"
            wanted.update(row[1] for row in hard)
            hashes = {_clean(tokens): text_hash(tokens) for tokens in given}
            assert hard_texts == [hashes[row[1]] for row in hard] + [-1] * (hard_negatives - len(hard))
            codes = [LANGUAGES.index(code) for code in (sample.first_language, sample.second_language)]
            assert named == (sample.group, text_hash(views[0]), text_hash(views[-1]), *codes)
        assert Counter(_restored(row) for part in whole for row in _rows(part)) == wanted
    if case == "corrupted":
        assert set(kinds) >= {"[MASK]", "[sMASK]", "[gMASK]"}


def test_some_samples_of_every_sort_come_up(manifest: Manifest) -> None:
    """The tests above would say nothing of hard negatives, lonely ranked documents or empty ones that never come."""
    recipe = _recipe(manifest, "corrupted")
    corpus = _corpus(recipe, manifest)
    samples = [s for step in range(4) for s in corpus.samples(corpus.step_indices(step))]
    assert {len(sample.hard) for sample in samples} == {0, 1, 2, 3}
    assert any(not len(sample.first) for sample in samples)
    ranked = _corpus(_recipe(manifest, "contrast alone", sources=[SOURCES[-1]]), manifest)
    lonely = [sample for sample in ranked.samples(np.arange(180)) if sample.second is None]
    assert {len(sample.first) > 0 for sample in lonely} == {True, False}


def test_ranked_documents_are_anchor_partner_and_hard_negatives(manifest: Manifest) -> None:
    recipe = _recipe(manifest, "contrast alone", sources=[SOURCES[-1]], max_tokens=10)
    corpus = _corpus(recipe, manifest)
    shards = {entry.languages[0]: manifest.open(entry)[0] for entry in manifest.shards if entry.kind == "documents"}
    for sample in corpus.samples(np.arange(180)):
        shard = shards[sample.first_language]
        assert sample.second_language == sample.first_language
        # The last document of a language has no group number, and so one of its name.
        document = sample.group - 1000 if 1000 <= sample.group < 1059 else 59
        low, high = shard.document_bounds[document : document + 2].tolist()
        sequences = [shard.sequence(place)[:8].tolist() for place in range(low, high)]
        assert [tokens.tolist() for tokens, _ in sample.views] == (sequences[:2] or [[]])
        assert [tokens.tolist() for tokens in sample.hard] == sequences[2:]
        assert [ends.tolist() for _, ends in sample.views if len(ends)] == [[len(s)] for s in sequences[:2]]


def test_other_hard_negatives_come_with_other_samples(manifest: Manifest) -> None:
    recipe = train_recipe(
        data={"shards": str(manifest.folder), "samples_per_step": N, "sources": [SOURCES[-1]]},
        objectives={"contrastive": {"weight": 1.0, "hard_negatives": 1}, "glm": OFF, "mlm": OFF},
    )
    seen: dict[tuple[int, int], set[int]] = {}
    for step in range(60):
        ((part,),) = _batches(recipe, manifest, step, 1)
        for place in np.flatnonzero(part.hard_valid[:, 0]):
            key = (int(part.first_text[place]), int(part.second_text[place]))
            seen.setdefault(key, set()).add(int(part.hard_text[place, 0]))
    # 10 epochs: one of three negatives stays away from all with probability (2/3) ** 10 = 0.02.
    assert sum(len(texts) == 3 for texts in seen.values()) > 20
    assert max(map(len, seen.values())) == 3


@pytest.mark.parametrize("view", ["translations", "spans", "text", "pair"])
def test_ends_are_those_of_the_sequences(manifest: Manifest, view: str) -> None:
    kind = "pairs" if view == "pair" else "documents"
    case = "joined, no contrast" if view == "text" else "joined"
    recipe = _recipe(manifest, case, sources=[{"kind": kind, "view": view}], max_tokens=16)
    last_tokens = set()
    for entry in manifest.shards:
        if entry.kind == kind:
            for shard in manifest.open(entry):
                last_tokens |= {tuple(shard.sequence(s)[-3:].tolist()) for s in range(shard.num_sequences)}
    inner = 0
    for sample in _corpus(recipe, manifest).samples(np.arange(200)):
        for tokens, ends in sample.views:
            assert (ends[-1] if len(ends) else 0) == len(tokens)
            assert (np.diff(ends, prepend=0) > 0).all()
            # Where a text goes on behind an end, a sequence of the shard ended there (they have at least 3 tokens).
            for end in ends[:-1][ends[:-1] >= 3]:
                assert tuple(tokens[end - 3 : end].tolist()) in last_tokens
                inner += 1
    assert inner > 20 or view == "pair"


@pytest.mark.parametrize("case", CASES)
def test_planned_tokens_follow_the_rows(manifest: Manifest, case: str) -> None:
    """What is planned decides about balance: within a tenth of what is fed, special tokens and Part B aside."""
    recipe = _recipe(manifest, case, max_tokens=64, samples_per_step=N)
    planned = fed = 0
    for step in range(10):
        parts = _batches(recipe, manifest, step, 2)
        loads = [sum(part.tokens for part in rank) for rank in parts]
        assert max(loads) < 1.35 * min(loads)
        ((part,),) = _batches(recipe, manifest, step, 1)
        fed += sum(len(_restored(row)) - 2 for row in _rows(part))
        rows_of_view = 2 if case in CLEAN_ROWS else 1
        planned += int(
            _corpus(recipe, manifest)
            .planned_tokens(
                np.arange(step * N, (step + 1) * N),
                rows_per_pair=rows_of_view,
                rows_per_text=rows_of_view if "adversary" in case else 1,
                hard_negatives=part.hard_row.shape[1],
            )
            .sum()
        )
    # Hard negatives of samples that the kind of their blanks takes out of the contrast are planned, but not fed.
    assert fed <= 1.1 * planned
    assert planned <= 1.2 * fed


def test_rows_need_no_more_positions_than_announced(manifest: Manifest) -> None:
    for case, factor in (("corrupted", 10), ("joined", 2 * 10 - 1)):
        recipe = _recipe(manifest, case, max_tokens=10)
        assert longest_row(recipe.data, recipe.objectives) == factor
        longest = 0
        for step in range(10):
            ((part,),) = _batches(recipe, manifest, step, 1)
            assert part.positions.max() < factor
            longest = max(longest, *(len(_restored(row)) for row in _rows(part)))
        assert longest == factor
    texts = _recipe(manifest, "joined, no contrast", sources=[SOURCES[3]], max_tokens=10)
    assert longest_row(texts.data, texts.objectives) == 10


def test_whole_words_need_a_sentencepiece_model(manifest: Manifest) -> None:
    recipe = train_recipe(
        data={"shards": str(manifest.folder), "samples_per_step": N},
        objectives={"mlm": {"weight": 1.0, "whole_word": True}},
    )
    with pytest.raises(ShardError, match="whole words need the shards' SentencePiece model"):
        _batches(recipe, manifest, 0, 1)


@pytest.mark.parametrize("case", ["corrupted", "clean", "contrast alone"])
def test_a_side_without_tokens_has_nothing_to_contrast(manifest: Manifest, case: str) -> None:
    special = SpecialTokens.from_ids(manifest.tokenizer.special_ids, manifest.tokenizer.vocab_size)
    rows = RowBuilder(special, _recipe(manifest, case).objectives, seed=1)
    text, nothing = np.array([20, 21, 22]), np.empty(0, dtype=np.int64)
    found = {}
    for first, second in ((text, text), (text, nothing), (nothing, text)):
        ends = [np.array([len(tokens)])[: len(tokens)] for tokens in (first, second)]
        # Of the first ten samples, one has short blanks or none.
        made = [rows.make(Sample(i, first, second, *ends, "aa", "bb", 1, (text,))) for i in range(10)]
        best = max(made, key=lambda sample_rows: (sample_rows.valid, sample_rows.pooled))
        found[len(first), len(second)] = (best.pooled, best.valid, len(best.hard))
    assert found == {(3, 3): (True, True, 1), (3, 0): (True, False, 0), (0, 3): (False, False, 0)}
