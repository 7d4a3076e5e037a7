"""The momentum encoder and its queue under ZeRO-3, in real processes and through real optimizer steps.

The batches are made here, of random texts that are a function of the sample's number, and dealt to ranks in another
order than that of their numbers. The reference is the same model in one process, without DeepSpeed, with the average's
weights computed in closed form from the student's recorded ones.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from checkpoints_for_tests import full_weights, load_run, save_run
from ranks import run_on_ranks
from recipes_for_tests import ROOT, recipe_table, train_recipe
from small_models import SPECIAL_IDS
from transformers import BertConfig

from mlc.checkpoint.record import Record
from mlc.checkpoint.verify import damage
from mlc.config import parse_recipe
from mlc.distributed.queue import QueuedPairs
from mlc.distributed.ranks import RankInfo
from mlc.engine.deepspeed_config import deepspeed_config
from mlc.engine.momentum import MomentumQueue, build_momentum_queue, check_queue
from mlc.errors import RecipeError
from mlc.model.build import build_training_model
from mlc.recipe import TrainRecipe

VOCAB, SAMPLES_PER_STEP, MICRO_BATCHES, QUEUE, MOMENTUM = 61, 7, 2, 20, 0.7
STEPS, SAVED_AT = 3, 2
STALE = "persistent parameters"
SOUND = ("fp32", "bf16", "offload", "huggingface")

# fp32: a sum of a few products, each rounded at 6e-8 of its own size.
AVERAGE_TOLERANCE = 1e-6
# fp32 through two layers, added up in another order.
EMBEDDING_TOLERANCE = 1e-5
# bf16 keeps 8 bits, 0.4 % an operation; the elements of a unit vector are below 1.
BF16_TOLERANCE = 2e-2


class Batches:
    """Stands for mlc.data.batches.BatchBuilder: the same fields, from texts that need no shards."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._world_size = rank, world_size

    def build(self, step: int) -> Any:
        samples = step * SAMPLES_PER_STEP + np.random.default_rng(step).permutation(SAMPLES_PER_STEP)
        own = samples[self._rank :: self._world_size]
        size = -(-SAMPLES_PER_STEP // (self._world_size * MICRO_BATCHES))
        return SimpleNamespace(
            step=step, micro_batches=[self._part(part, size) for part in np.array_split(own, MICRO_BATCHES)]
        )

    @staticmethod
    def _part(samples: Any, size: int) -> Any:
        """One micro-batch; every fifth sample has no partner, as a single text has none."""
        number = np.full(size, -1)
        number[: len(samples)] = samples
        real = number >= 0
        rows = make_rows([2 * sample + side for sample in samples for side in (0, 1)])
        hashes = 2**62 + number * 12345  # more bits than any float keeps
        return SimpleNamespace(
            **rows,
            first_row=np.where(real, 2 * np.arange(size), 0),
            second_row=np.where(real, 2 * np.arange(size) + 1, 0),
            valid=real & (number % 5 != 4),
            group=np.where(real, number // 3, -1),
            first_text=np.where(real, hashes, -1),
            second_text=np.where(real, hashes + 1, -1),
            first_language=np.where(real, number % 2, -1),
            second_language=np.where(real, number % 3, -1),
            samples=number,
        )


def make_rows(texts: list[int]) -> dict[str, Any]:
    """Part A of 3 to 8 tokens and a Part B of 2, padded to 12 columns."""
    columns = np.arange(12)
    part_a = np.array([3 + text % 6 for text in texts])
    ids = np.stack([np.random.default_rng(text).integers(len(SPECIAL_IDS), VOCAB, 12) for text in texts])
    return {
        "input_ids": np.where(columns < part_a[:, None] + 2, ids, 0),
        "lengths": part_a + 2,
        "part_a_lengths": part_a,
        "positions": np.minimum(columns, part_a[:, None] - 1),
        "block_positions": np.maximum(0, columns - part_a[:, None] + 1),
        "texts": np.array(texts),
    }


def model_inputs(rows: Any) -> dict[str, torch.Tensor]:
    names = ("input_ids", "lengths", "part_a_lengths", "positions", "block_positions")
    return {name: torch.from_numpy(rows[name]) for name in names}


PROBE = make_rows([1001, 1002, 1003, 1004, 1005])


def recipe_of(case: str, folder: Path, queue: int = QUEUE) -> TrainRecipe:
    contrastive = {"weight": 1.0, "queue": {"size": queue, "momentum": MOMENTUM}}
    table = recipe_table(
        run={"precision": "bf16" if case == "bf16" else "fp32"},
        data={"samples_per_step": SAMPLES_PER_STEP, "micro_batches": MICRO_BATCHES},
        model={"projection_size": 16},
        objectives={"contrastive": contrastive},
        # An epsilon of the gradients' size: Adam would make whole steps of what is only rounding.
        optimizer={"learning_rate": 0.05, "epsilon": 1e-2, "gradient_clipping": 0.0},
        deepspeed={"config": str(ROOT / "ds_configs" / ("zero3_offload.json" if case == "offload" else "zero3.json"))},
    )
    if case == "huggingface":
        table["model"] = {"architecture": "huggingface", "config": str(folder / "bert")}
        table["objectives"]["glm"]["weight"] = 0.0
    return parse_recipe(table, TrainRecipe, where="test")


def student_step(engine: Any, batch: Any) -> None:
    """Pull every text towards a direction of its own; the gradient is that of the sum over all ranks."""
    for part in batch.micro_batches:
        rows = vars(part)
        count, columns = part.input_ids.shape
        last = torch.from_numpy(np.arange(count) * columns + part.lengths - 1)
        outputs = engine(**model_inputs(rows), glm_index=last, mlm_index=last)
        text_R1 = torch.from_numpy(rows["texts"])[:, None]
        direction_RE = torch.cos((1.0 + text_R1) * torch.arange(outputs["embeddings"].shape[1]))
        logits_R = outputs["glm_logits"].float().logsumexp(1) + outputs["mlm_logits"].float().logsumexp(1)
        loss = (outputs["embeddings"] * direction_RE).sum() + 0.1 * logits_R.sum()
        engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)
        engine.step()


def run_cases(cases: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """On every rank: what each case's teacher and queue became, and what the student was after each step."""
    from mlc.distributed.ranks import find_ranks
    from mlc.engine import momentum
    from mlc.engine.construct import prepare_process, start_process_group

    ranks = find_ranks(os.environ)
    prepare_process(recipe_of("fp32", folder), ranks)
    start_process_group()
    found: dict[str, Any] = {}
    for case in cases:
        with pytest.MonkeyPatch.context() as patch:
            if case == STALE:
                patch.setattr(momentum, "teacher_config", dict)
            found[case] = run_case(case, folder, ranks)
    found["without a queue"] = weights_without_a_queue(folder, ranks)
    dist.barrier()
    dist.destroy_process_group()
    return found


def run_case(case: str, folder: Path, ranks: RankInfo) -> dict[str, Any]:
    """A run with a checkpoint on the way, and (but for the mistake) a second one that goes on from there."""
    batches = Batches(ranks.rank, ranks.world_size)
    engine, queue = build(case, folder, ranks)
    queue.fill(batches, first_step=STEPS)
    filled = {name: tensor.clone() for name, tensor in queue.queue.state().items()}
    weights = [full_weights(engine)]
    for step in range(STEPS):
        if step == SAVED_AT:
            saved, outcome_saved = save_run(engine, folder / case, step, queue=queue), outcome(queue)
        train_on(engine, queue, batches.build(step))
        weights.append(full_weights(engine))
    results = {"filled": filled, "weights": weights, "saved": outcome_saved, "end": outcome(queue)}
    engine.destroy()
    if case == STALE:
        return results

    engine, queue = build(case, folder, ranks)
    assert load_run(engine, saved, queue=queue)
    results["loaded"] = outcome(queue)
    for step in range(SAVED_AT, STEPS):
        train_on(engine, queue, batches.build(step))
    results["resumed"] = outcome(queue)
    if ranks.rank == 0:
        queue.encoder.update()  # alone: a collective in it would wait for the other rank, or take its next one for it
    engine.destroy()
    return results


def weights_without_a_queue(folder: Path, ranks: RankInfo) -> dict[str, torch.Tensor]:
    engine, queue = build("fp32", folder, ranks, queue=0)
    assert queue is None
    for step in range(STEPS):
        student_step(engine, Batches(ranks.rank, ranks.world_size).build(step))
    weights = full_weights(engine)
    engine.destroy()
    return weights


def build(case: str, folder: Path, ranks: RankInfo, queue: int = QUEUE) -> tuple[Any, Any]:
    from mlc.engine.construct import build_engine

    recipe, cpu = recipe_of(case, folder, queue), torch.device("cpu")
    counts = np.ones(VOCAB, dtype=np.int64)
    vocabulary: dict[str, Any] = {"vocab_size": VOCAB, "special_ids": SPECIAL_IDS}
    engine = build_engine(recipe, ranks, **vocabulary, token_counts=counts, num_languages=3, device=cpu)
    return engine, build_momentum_queue(recipe, engine, **vocabulary, device=cpu)


def train_on(engine: Any, queue: MomentumQueue, batch: Any) -> None:
    student_step(engine, batch)
    queue.advance(batch)


def outcome(queue: MomentumQueue) -> dict[str, Any]:
    return {
        "average": {piece.key: piece.values.clone() for piece in queue.encoder.pieces()},
        "queue": {name: tensor.clone() for name, tensor in queue.queue.state().items()},
        "probe": queue.encoder.encode(model_inputs(PROBE)),
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    found = {world_size: tmp_path_factory.mktemp(f"ranks{world_size}") for world_size in (1, 2)}
    for folder in found.values():
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        BertConfig(**sizes, **no_dropout, max_position_embeddings=32).save_pretrained(folder / "bert")
    return found


@pytest.fixture(scope="module")
def of_two(folders: dict[int, Path]) -> list[dict[str, Any]]:
    return spawn(2, (*SOUND, STALE), folders[2])


@pytest.fixture(scope="module")
def of_one(folders: dict[int, Path]) -> dict[str, Any]:
    return spawn(1, ("fp32",), folders[1])[0]["fp32"]


def spawn(world_size: int, cases: tuple[str, ...], folder: Path) -> list[dict[str, Any]]:
    cpu = {"DS_ACCELERATOR": "cpu"}
    return run_on_ranks(run_cases, world_size, cases, folder, process_group=False, environ=cpu, timeout_seconds=240)


def whole_average(of_ranks: list[dict[str, Any]], case: str) -> dict[str, torch.Tensor]:
    shapes = {name: weight.shape for name, weight in of_ranks[0][case]["weights"][0].items()}
    shards = [of_rank[case]["end"]["average"] for of_rank in of_ranks]
    return {name: torch.cat([shard[name] for shard in shards]).view(shapes[name]) for name in shards[0]}


def plain_embeddings(case: str, folder: Path, weights: dict[str, torch.Tensor], rows: Any) -> torch.Tensor:
    recipe = recipe_of(case, folder)
    model = build_training_model(recipe.model, VOCAB, SPECIAL_IDS, recipe.data.max_tokens, seed=99)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing
    assert not unexpected
    with torch.no_grad():
        embeddings_RE = (model.bfloat16() if case == "bf16" else model).eval()(**model_inputs(rows))["embeddings"]
    return embeddings_RE.float()


@pytest.mark.parametrize("case", [*SOUND, STALE])
def test_the_average_is_that_of_the_recorded_weights(case: str, of_two: list[dict[str, Any]]) -> None:
    """m^N w_0 + (1 - m) sum over k of m^(N - k) w_k, for every parameter; and it is neither w_0 nor w_N."""
    recorded = of_two[0][case]["weights"]
    for name, average in whole_average(of_two, case).items():
        w = [weights[name].detach().double() for weights in recorded]
        expected = MOMENTUM**STEPS * w[0]
        for k in range(1, STEPS + 1):
            expected += (1 - MOMENTUM) * MOMENTUM ** (STEPS - k) * w[k]
        assert float((average - expected).norm()) <= AVERAGE_TOLERANCE * float(expected.norm()), name
        if float((w[-1] - w[0]).norm()) > 1e-3:
            for other in (w[0], w[-1]):
                assert float((average - other).norm()) > 1e-4 * float(other.norm()), name
    moved = [name for name, last in recorded[-1].items() if float((last - recorded[0][name]).norm()) > 1e-3]
    assert len(moved) > len(recorded[0]) / 2


@pytest.mark.parametrize("case", SOUND)
def test_the_teacher_computes_with_the_average(
    case: str, of_two: list[dict[str, Any]], folders: dict[int, Path]
) -> None:
    expected = plain_embeddings(case, folders[2], whole_average(of_two, case), PROBE)
    tolerance = BF16_TOLERANCE if case == "bf16" else EMBEDDING_TOLERANCE
    for of_rank in of_two:
        assert float((of_rank[case]["end"]["probe"] - expected).abs().max()) <= tolerance


def test_parameters_that_stay_gathered_would_be_stale(of_two: list[dict[str, Any]], folders: dict[int, Path]) -> None:
    """The mistake that `teacher_config` avoids: with the student's threshold the weights stay those of the filling."""
    expected = plain_embeddings("fp32", folders[2], whole_average(of_two, STALE), PROBE)
    assert float((of_two[0][STALE]["end"]["probe"] - expected).abs().max()) > 10 * BF16_TOLERANCE


@pytest.mark.parametrize("case", SOUND)
def test_saved_and_resumed_is_bit_identical(case: str, of_two: list[dict[str, Any]]) -> None:
    for of_rank in of_two:
        for one, other in (("saved", "loaded"), ("end", "resumed")):
            before, after = of_rank[case][one], of_rank[case][other]
            assert torch.equal(before["probe"], after["probe"]), other
            for part in ("average", "queue"):
                assert before[part].keys() == after[part].keys()
                for name, tensor in before[part].items():
                    assert torch.equal(tensor, after[part][name]), f"{other}: {part} {name}"


def test_the_teacher_leaves_the_student_as_it_was(of_two: list[dict[str, Any]]) -> None:
    """Bit for bit the weights of a run without a queue: two engines share hooks' state in DeepSpeed."""
    alone = of_two[0]["without a queue"]
    beside = of_two[0]["fp32"]["weights"][-1]
    assert alone.keys() == beside.keys()
    for name, weight in alone.items():
        assert torch.equal(weight, beside[name]), name


def test_every_file_is_in_the_list_of_the_checkpoint(of_two: list[dict[str, Any]], folders: dict[int, Path]) -> None:
    (checkpoint,) = (folders[2] / "fp32" / "checkpoints").glob("step-*")
    record = Record.read(checkpoint)
    momentum = {f"queue/momentum-{rank:05d}-of-00002.safetensors" for rank in range(2)}
    assert momentum | {"queue/queue.safetensors"} <= set(record.files)
    assert damage(checkpoint, record) is None
    damaged = checkpoint / "queue" / "queue.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert "queue/queue.safetensors" in str(damage(checkpoint, record))


def expected_samples() -> list[tuple[int, int]]:
    """(sample, step) of what the queue holds at the end, oldest first."""
    trained = range(STEPS * SAMPLES_PER_STEP)
    after = [sample for sample in range(len(trained), 100) if sample % 5 != 4]
    batches_read = after[QUEUE - 1] // SAMPLES_PER_STEP + 1
    filled = [(sample, -1) for sample in after if sample < batches_read * SAMPLES_PER_STEP]
    return (filled + [(sample, sample // SAMPLES_PER_STEP) for sample in trained if sample % 5 != 4])[-QUEUE:]


def test_the_queue_does_not_depend_on_the_number_of_ranks(of_one: dict[str, Any], of_two: list[dict[str, Any]]) -> None:
    one = [of_one["filled"], of_one["end"]["queue"]]
    for of_rank in of_two:
        two = [of_rank["fp32"]["filled"], of_rank["fp32"]["end"]["queue"]]
        for with_one, with_two in zip(one, two, strict=True):
            assert bool(with_two["valid"].all())
            for name, tensor in with_one.items():
                if name in ("first_QE", "second_QE"):
                    assert float((tensor - with_two[name]).abs().max()) <= EMBEDDING_TOLERANCE
                else:
                    assert torch.equal(tensor, with_two[name]), name


def test_the_queue_holds_the_newest_pairs(of_two: list[dict[str, Any]], folders: dict[int, Path]) -> None:
    """The samples of the last steps, before them the first ones after the run's end; the newest ones' embeddings are
    the teacher's, from whole rows."""
    state = dict(of_two[1]["fp32"]["end"]["queue"])
    oldest = int(state.pop("next"))
    pairs = QueuedPairs(**{name: tensor.roll(-oldest, 0) for name, tensor in state.items()})
    samples, steps = zip(*expected_samples(), strict=True)
    assert -1 in steps
    assert pairs.first_text.tolist() == [2**62 + sample * 12345 for sample in samples]
    assert pairs.second_text.tolist() == [2**62 + sample * 12345 + 1 for sample in samples]
    assert pairs.group.tolist() == [sample // 3 for sample in samples]
    assert pairs.first_language.tolist() == [sample % 2 for sample in samples]
    assert pairs.second_language.tolist() == [sample % 3 for sample in samples]
    assert pairs.step.tolist() == list(steps)
    newest = [place for place, step in enumerate(steps) if step == STEPS - 1]
    weights = whole_average(of_two, "fp32")
    for side, embeddings_QE in enumerate((pairs.first_QE, pairs.second_QE)):
        rows = make_rows([2 * samples[place] + side for place in newest])
        expected = plain_embeddings("fp32", folders[2], weights, rows)
        assert float((embeddings_QE[newest] - expected).abs().max()) <= EMBEDDING_TOLERANCE


@pytest.mark.parametrize(
    ("name", "offload", "message"),
    [("zero2", None, "found stage 2"), ("zero3", "offload_param", "found offload_param on nvme")],
)
def test_a_queue_is_refused_where_its_encoder_cannot_follow(name: str, offload: str | None, message: str) -> None:
    file = str(ROOT / "ds_configs" / f"{name}.json")
    queue = {"contrastive": {"weight": 1.0, "queue": {"size": QUEUE}}}
    recipe = train_recipe(objectives=queue, deepspeed={"config": file})
    config = deepspeed_config(recipe, 1)
    if offload:
        check_queue(recipe, config)
        config["zero_optimization"][offload] = {"device": "nvme", "nvme_path": "/tmp"}
    with pytest.raises(RecipeError, match=message):
        check_queue(recipe, config)
    check_queue(train_recipe(deepspeed={"config": file}), config)  # without a queue nothing is refused
