"""Conversion to a model folder: the same numbers, little memory, all or nothing."""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes_for_tests import train_recipe
from safetensors.torch import load_file
from small_checkpoints import random_tensors, with_moments, write_checkpoint
from small_models import GLM, SPECIAL_IDS, train_tokenizer

from mlc.checkpoint.convert import Target, convert, find_checkpoint
from mlc.errors import CheckpointError, MlcError, UsageError
from mlc.model import build_training_model
from mlc.model.saving import load_training_model, save_model_folder
from mlc.tasks.encoder import TextEncoder
from mlc.tasks.locate import find_model

TARGETS = ("safetensors", "universal")
FORK = multiprocessing.get_context("fork")  # starts in milliseconds: torch is there already
SHAPES = {"a.weight": (5, 7), "a.bias": (7,), "scale": (1,), "b.weight": (2, 3, 4)}

shapes = st.dictionaries(
    st.text("ab.@", min_size=1, max_size=4).filter(lambda name: set(name) != {"."}),
    st.lists(st.integers(1, 5), max_size=3).map(tuple),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25)
@given(shapes=shapes, world_size=st.integers(1, 5), seed=st.integers(0, 9))
def test_the_whole_tensors_are_what_the_ranks_held(
    shapes: dict[str, tuple[int, ...]], world_size: int, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        weights = random_tensors(shapes, seed)
        folder = write_checkpoint(Path(name) / "run", 12, weights, world_size=world_size)
        out = Path(name) / "out"
        done = convert(folder, out, "safetensors")
        found = load_file(out / "model.safetensors")
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[key], weights[key]) for key in weights)
        assert {path.name for path in out.iterdir()} == {
            "config.json", "mlc.json", "tokenizer.model", "model.safetensors"
        }  # fmt: skip
        assert json.loads((out / "mlc.json").read_text()) == {}
        assert (done.step, done.tensors) == (12, len(shapes))
        assert done.bytes == sum(path.stat().st_size for path in out.iterdir())
        assert [path.name for path in Path(name).iterdir() if path.name.startswith(".")] == []


def test_a_converted_model_is_read_like_any_other(tmp_path: Path) -> None:
    """The folder is the one that the model would be saved as, with what only losses use besides; it encodes texts."""
    tokenizer = train_tokenizer(tmp_path / "tokenizer.model").read_bytes()
    objectives = train_recipe(objectives={"contrastive": {"weight": 1.0, "learn_temperature": True}}).objectives
    model = build_training_model(GLM, 520, SPECIAL_IDS, 24, seed=3, objectives=objectives)
    info = {
        "model": GLM.model_dump(mode="json"),
        "vocab_size": 520,
        "special_ids": SPECIAL_IDS,
        "max_tokens": 24,
        "tokenizer_sha256": hashlib.sha256(tokenizer).hexdigest(),
        "languages": ["de"],
        "contrastive": True,
    }
    save_model_folder(tmp_path / "whole", model.state_dict(), model.backbone_config, info)
    files = {name: (tmp_path / "whole" / name).read_bytes() for name in ("config.json", "mlc.json")}
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    files["tokenizer.model"] = tokenizer
    run = tmp_path / "run"
    write_checkpoint(run, 5, weights, world_size=3, model_files=files)

    out = tmp_path / "out"
    convert(run, out, "safetensors")
    assert json.loads((out / "mlc.json").read_text()) == json.loads((tmp_path / "whole" / "mlc.json").read_text())
    whole, found = load_file(tmp_path / "whole" / "model.safetensors"), load_file(out / "model.safetensors")
    assert found.keys() - whole.keys() == {"temperature.moved"}
    assert all(torch.equal(whole[name], found[name]) for name in whole)
    load_training_model(out)
    assert find_model(out).kind == "checkpoint"
    assert TextEncoder.load(str(out)).encode(["ein Text", "noch einer"]).shape == (2, 32)


def _measure(checkpoint: Path, out: Path, target: Target, answer: Connection) -> None:
    seen: list[int] = []

    @contextmanager
    def bar(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        seen.append(_anonymous_bytes())
        yield lambda count: seen.append(_anonymous_bytes())

    save = torch.save

    def save_and_look(content: object, file: BinaryIO) -> None:
        seen.append(_anonymous_bytes())
        save(content, file)

    torch.save = save_and_look  # in this process alone
    convert(checkpoint, out, target, bar=bar)
    answer.send(max(seen) - seen[0])


def _anonymous_bytes() -> int:
    """Memory in use, without the pages of mapped files, which the system takes back when it needs them."""
    ctypes.CDLL(None).malloc_trim(0)  # the C library keeps freed memory for later
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status, calls malloc_trim")
@pytest.mark.parametrize("target", TARGETS)
def test_one_tensor_is_in_memory_at_a_time(target: Target, tmp_path: Path) -> None:
    """Of 8 tensors of 4 MiB. Writing has a buffer of 4 MiB of its own; what is measured may miss a page or two."""
    weights = random_tensors({f"w{number}": (1024, 1024) for number in range(8)})
    folder = write_checkpoint(tmp_path / "run", 3, weights, with_moments(weights))
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_measure, args=(folder, tmp_path / "out", target, sender), daemon=True)
    process.start()
    assert receiver.poll(60)
    assert 3 << 20 <= receiver.recv() <= 10 << 20
    process.join(60)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "record"])
def test_a_damaged_checkpoint_is_refused_and_nothing_is_left(target: Target, damage: str, tmp_path: Path) -> None:
    weights = random_tensors(SHAPES)
    folder = write_checkpoint(tmp_path / "run", 3, weights, with_moments(weights))
    file = folder / ("complete.json" if damage == "record" else "model/weights-00001-of-00002.safetensors")
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if damage == "truncate" else content)
    with pytest.raises(CheckpointError, match=r"complete\.json" if damage == "record" else "weights-00001-of-00002"):
        convert(folder, tmp_path / "new" / "out", target)
    assert not (tmp_path / "new").exists()


def test_what_is_not_read_need_not_be_whole(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "run", 3, random_tensors(SHAPES))
    (folder / "optimizer" / "state-00000-of-00002.safetensors").unlink()
    convert(folder, tmp_path / "out", "safetensors")


def test_a_part_that_no_rank_wrote_is_named(tmp_path: Path) -> None:
    weights = random_tensors(SHAPES)
    shorter = {**weights, "a.bias": weights["a.bias"][:4]}
    folder = write_checkpoint(tmp_path / "run", 3, shorter, shapes=SHAPES)
    with pytest.raises(CheckpointError, match=r"a part of a\.bias is in none of the files; found no elements 4 to 6"):
        convert(folder, tmp_path / "out", "safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_out_must_not_exist_and_checkpoints_must(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "run", 3, random_tensors(SHAPES))
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="the folder exists"):
        convert(folder, tmp_path / "out", "safetensors")
    with pytest.raises(UsageError, match="no complete checkpoint"):
        find_checkpoint(tmp_path / "nowhere")
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="the run has no complete checkpoint"):
        find_checkpoint(tmp_path / "new")
    write_checkpoint(tmp_path / "run", 20, random_tensors(SHAPES))
    assert find_checkpoint(tmp_path / "run").name == "step-00000020"


def _be_killed(checkpoint: Path, out: Path, target: Target) -> None:
    @contextmanager
    def bar(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        yield lambda count: os.kill(os.getpid(), signal.SIGKILL) if what == "writing" else None

    convert(checkpoint, out, target, bar=bar)


@pytest.mark.parametrize("target", TARGETS)
def test_a_kill_leaves_nothing_under_the_name(target: Target, tmp_path: Path) -> None:
    weights = random_tensors(SHAPES)
    folder, out = write_checkpoint(tmp_path / "run", 3, weights, with_moments(weights)), tmp_path / "out"
    process = FORK.Process(target=_be_killed, args=(folder, out, target), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    convert(folder, out, target)


def _fill_the_disk(checkpoint: Path, out: Path, target: Target, answer: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
    try:
        convert(checkpoint, out, target)
    except Exception as error:
        answer.send((type(error).__name__, str(error)))


@pytest.mark.parametrize("target", TARGETS)
def test_a_disk_that_takes_no_more_leaves_nothing(target: Target, tmp_path: Path) -> None:
    weights = random_tensors(SHAPES)
    folder = write_checkpoint(tmp_path / "run", 3, weights, with_moments(weights))
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_fill_the_disk, args=(folder, tmp_path / "new" / "out", target, sender), daemon=True)
    process.start()
    assert receiver.poll(60)
    kind, text = receiver.recv()
    process.join(60)
    assert kind == "MlcError"
    assert "the checkpoint cannot be converted; found [Errno 27]" in text
    assert list((tmp_path / "new").iterdir()) == []


def test_too_little_space_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk cannot be had here without mounting one: what the system says of it is replaced."""
    folder = write_checkpoint(tmp_path / "run", 3, random_tensors(SHAPES))
    monkeypatch.setattr("mlc.checkpoint.convert.shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(MlcError, match="too little space"):
        convert(folder, tmp_path / "out", "safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
