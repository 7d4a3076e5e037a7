"""Counts of several processes, summed by any of them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from data_prep.board import Board, Counts


def count(folder: Path, times: int) -> None:
    board = Board(folder)
    for _ in range(times):
        board.add(bytes=10, documents=2, tokens=7)
    board.note()


def test_totals_are_those_of_all_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=count, args=(tmp_path, 100 * number)) for number in range(1, 4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    board = Board(tmp_path)
    board.add(tokens=1)
    assert board.totals() == Counts(6000, 1200, 4201)
    assert len(list(tmp_path.iterdir())) == 4


def test_what_cannot_be_read_or_written_counts_nothing(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text('{"bytes": 1')
    (tmp_path / "newer.json").write_text('{"bytes": 1, "pages": 2}')
    board = Board(tmp_path, seconds_between_notes=1000.0)
    board.add(bytes=5)
    assert board.totals() == Counts(bytes=5)
    gone = Board(tmp_path / "gone")
    gone.add(bytes=3)
    assert gone.totals() == Counts(bytes=3)
