"""`mlc logs`: lines with their ranks from real files, and real processes that follow files while they grow."""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipes_for_tests import ROOT
from run_folders_for_tests import LISTEN_TO_CONTROL_C, write_event, write_exit, write_submission

from launchers.log_files import GrowingFile, read_tail, start_logs
from launchers.log_lines import Line, LineCutter, Said, fold, format_ranks, parse_line, parse_ranks, printable
from mlc import cli
from mlc.errors import UsageError

LIMIT_SECONDS = 30.0

LINES = st.lists(
    st.builds(Line, st.none() | st.integers(0, 5), st.sampled_from(["a", "b", "", "loss 1.0"])), max_size=40
)


@given(st.binary(max_size=400), st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_lines_do_not_depend_on_the_pieces_they_come_in(content: bytes, sizes: list[int]) -> None:
    cutter, stream, lines = LineCutter(), io.BytesIO(content), []
    while piece := stream.read(sizes[len(lines) % len(sizes)]):
        lines += cutter.feed(piece)
    assert [*lines, cutter.flush()] == content.split(b"\n")


def test_a_very_long_line_takes_little_memory() -> None:
    cutter = LineCutter(most_bytes=100)
    lines = [line for _ in range(1000) for line in cutter.feed(b"x" * 1000)]
    assert cutter.begun_bytes == 1_000_000
    lines += cutter.feed(b"\nnext\n")
    assert lines == [b"x" * 100 + b" ... (999,900 bytes more)", b"next"]


@given(LINES)
def test_folding_keeps_every_line_and_its_order(lines: list[Line]) -> None:
    said = fold(lines)
    unfolded = [Line(rank, one.text) for one in said for rank in (one.ranks or (None,))]
    assert unfolded == lines
    for one, following in itertools.pairwise(said):
        assert len(set(one.ranks)) == len(one.ranks)
        together = one.text == following.text and one.ranks and following.ranks
        assert not together or following.ranks[0] in one.ranks  # otherwise it belongs to the one before


@given(st.sets(st.integers(0, 300), min_size=1))
def test_ranks_are_written_as_they_are_read(ranks: set[int]) -> None:
    assert parse_ranks([format_ranks(ranks)]) == ranks
    assert parse_ranks([str(rank) for rank in ranks]) == ranks


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "-1", "1-", "1 2", "9999999"])
def test_no_list_of_ranks(text: str) -> None:
    with pytest.raises(UsageError, match="no list of ranks"):
        parse_ranks([text])


@pytest.mark.parametrize(
    ("raw", "rank", "text"),
    [
        (b"3: text", 3, "text"),
        (b"  3: text", 3, "text"),
        (b"12:   indented", 12, "  indented"),
        (b"3: ", 3, ""),
        (b"3: 4: x", 3, "4: x"),
        (b"[rank3]: Traceback", 3, "Traceback"),
        (b"[default3]:text", 3, "text"),
        (b"0: [rank5]: text", 5, "text"),
        (b"srun: error: n3: task 3: Killed", None, "srun: error: n3: task 3: Killed"),
        (b"", None, ""),
        (b"1: \xff\xfe caf\xc3\xa9", 1, "\ufffd\ufffd café"),
        (b"1:  10%|#  |\r1:  20%|## |\r", 1, "1:  20%|## |"),
        (b"1: \x1b[31mred\x1b[0m \x1b]0;title\x07x\x07", 1, "red x\\x07"),
    ],
)
def test_what_a_line_says(raw: bytes, rank: int | None, text: str) -> None:
    assert parse_line(raw) == Line(rank, text)


@given(st.binary(max_size=100))
def test_any_bytes_become_one_harmless_line(raw: bytes) -> None:
    text = parse_line(raw).text
    assert len(text.splitlines()) <= 1
    assert "\x1b" not in text
    assert printable(text) == text


@given(LINES, st.integers(0, 10), st.sets(st.integers(0, 5)), st.integers(0, 3000))
def test_the_last_lines_are_those_of_the_whole_file(
    lines: list[Line], count: int, ranks: set[int], padding: int
) -> None:
    lines = lines + [Line(0, f"{'x' * padding}{number}") for number in range(40)] + lines
    raw = [line.text if line.rank is None else f"{line.rank}: {line.text}" for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_text("".join(f"{line}\n" for line in raw) + "3: begun")
        wanted = fold(line for line in lines if line.rank in ranks)

        def reader(text: bytes) -> Line | None:
            line = parse_line(text)
            return line if line.rank in ranks else None

        tail = read_tail(path, count, reader)
        assert tail.said == (wanted[-count:] if count else [])
        assert tail.begun == b"3: begun"
        assert path.read_bytes()[tail.end_bytes :] == b"3: begun"


def test_what_many_ranks_said_is_folded_wherever_reading_began(tmp_path: Path) -> None:
    text = "x" * 20_000
    (tmp_path / "log").write_text("0: before\n" + "".join(f"{rank}: {text}\n" for rank in range(8)))
    assert read_tail(tmp_path / "log", 1, parse_line).said == [Said(tuple(range(8)), text)]


def test_the_end_of_a_huge_log_is_found_from_its_end(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        file.seek(20 << 30)  # 20 GiB of nothing
        file.write(b"\n" + b"".join(b"0: line %d\n" % number for number in range(1000)))
    begun = time.process_time()
    tail = read_tail(tmp_path / "log", 2, parse_line)
    assert tail.said == [Said((0,), "line 998"), Said((0,), "line 999")]
    assert time.process_time() - begun < 1.0  # of work, whatever runs beside; reading all of it takes far more


def test_a_growing_file_is_read_through_truncation_and_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = GrowingFile(path)
    assert file.read() == b""
    path.write_bytes(b"one")
    assert file.read() == b"one"
    with path.open("ab") as log:
        log.write(b" two")
    assert (file.read(), file.is_new) == (b" two", False)
    path.write_bytes(b"3")
    assert (file.read(), file.is_new) == (b"3", True)
    with path.open("ab") as log:
        log.write(b"left")
        path.rename(tmp_path / "log.1")
        path.write_bytes(b"new")
    assert (file.read(), file.is_new) == (b"left", False)
    assert (file.read(), file.is_new) == (b"new", True)
    path.unlink()
    assert file.read() == b""
    path.write_bytes(b"again")
    assert file.read() == b"again"
    file.close()


def write_log(run: Path, name: str, content: str, *, time: float | None = None) -> Path:
    path = run / "logs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if time is not None:
        os.utime(path, (time, time))
    return path


def test_logs_come_in_the_order_of_their_starts(tmp_path: Path) -> None:
    now = time.time()
    first = write_submission(tmp_path, 1, time=now - 9000, job_ids=("900",))
    second = write_submission(tmp_path, 2, time=now - 5000, job_ids=("12",))  # job ids began anew
    write_event(first, "start", time=now - 8000, job="900", hosts="n[1-4]")
    write_event(second, "start", time=now - 4000, job="12_0")
    write_log(tmp_path, "12_0.0.log", "", time=now)
    write_log(tmp_path, "900.0.log", "", time=now)  # an old copy of the job still writes
    write_log(tmp_path, "900.1.log", "", time=now - 7000)  # nothing tells when it began
    write_log(tmp_path, "notes.txt", "")
    assert [(log.job, log.restart) for log in start_logs(tmp_path)] == [("900", 0), ("900", 1), ("12_0", 0)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two starts of job 123 on two ranks; its newest start has more than the default lines to show."""
    run, now = tmp_path / "run", time.time()
    submission = write_submission(run, 1, time=now - 9000)
    (submission / "batch.log").write_text("checking nodes\nstarting\n")
    write_event(submission, "start", time=now - 8000, hosts="n[1-2]")
    write_event(submission, "start", time=now - 4000, restart=1, hosts="n1")
    write_log(run, "123.0.log", "0: first start\n1: first start\n1: torn")
    steps = "".join(f"0: step {step}\n" for step in range(200))
    write_log(run, "123.1.log", f"0: hello\n1: hello\n{steps}srun: error: bye\n1: last\n")
    return run


def _mlc(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["mlc", "logs", *map(str, arguments)])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    output = capsys.readouterr()
    return int(ending.value.code or 0), output.out, output.err


Command = Callable[..., list[str]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Lines on standard output of a command that does what it should."""

    def lines(*arguments: object) -> list[str]:
        code, out, err = _mlc(monkeypatch, capsys, *arguments)
        assert code == 0, err
        return out.splitlines()

    return lines


def test_the_newest_start_is_shown(run: Path, shown: Command) -> None:
    lines = shown(run)
    assert lines[0].startswith("== job 123, start 2 (restart 1), nodes n1, 20")
    assert lines[1] == "rank 0 | step 102"
    assert lines[-2:] == ["no rank | srun: error: bye", "rank 1 | last"]
    assert len(lines) == 101


def test_all_starts_one_start_some_ranks_and_the_batch_script(run: Path, shown: Command) -> None:
    lines = shown(run, "--start", "all", "--lines", 1000)
    assert lines[1:3] == ["ranks 0-1 | first start", "rank 1 | torn"]
    assert lines[4] == "ranks 0-1 | hello"
    assert len(lines) == 3 + 204
    assert shown(run, "--start", 1, "--rank", "1")[1:] == ["rank 1 | first start", "rank 1 | torn"]
    assert shown(run, "--rank", "1,5-7", "--rank", "9")[1:] == ["rank 1 | hello", "rank 1 | last"]
    lines = shown(run, "--batch", "--lines", 1)
    assert lines[0].startswith("== batch script, ")
    assert (lines[1], lines[3:]) == ("batch | starting", ["rank 1 | last"])


def test_logs_of_shards_lie_beside_them(run: Path, shown: Command) -> None:
    shards = run.parent / "shards"
    shards.mkdir()
    (run.parent / "shards.slurm").mkdir()
    (run / "logs").rename(run.parent / "shards.slurm" / "logs")
    assert shown(shards)[-1] == "rank 1 | last"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--start", "3"], "needed a number from 1 to 2, or all"),
        (["--start", "newest"], "no such start"),
        (["--rank", "x"], "no list of ranks"),
    ],
)
def test_refusals(
    run: Path,
    arguments: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = _mlc(monkeypatch, capsys, run, *arguments)
    assert code == 2
    assert expected in err


def test_a_run_without_logs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = _mlc(monkeypatch, capsys, tmp_path)
    assert code == 2
    assert "no start of this run has written a log yet" in err
    code, _, err = _mlc(monkeypatch, capsys, tmp_path / "nowhere")
    assert "no such run folder" in err


class Following:
    """`mlc logs --follow` as a process of its own, on a machine without SLURM's clients."""

    def __init__(self, *arguments: object, path: Path) -> None:
        environ = {**os.environ, "PATH": str(path), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [*LISTEN_TO_CONTROL_C, sys.executable, "-m", "mlc", "logs", *map(str, arguments), "--follow"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        self.lines: list[str] = []
        self.notes: list[str] = []
        streams = ((self.process.stdout, self.lines), (self.process.stderr, self.notes))
        self._threads = [threading.Thread(target=self._collect, args=pair) for pair in streams]
        for thread in self._threads:
            thread.start()

    def wait_for(self, line: str) -> None:
        """Until it has printed a line."""
        limit = time.monotonic() + LIMIT_SECONDS
        while line not in self.lines + self.notes:
            assert time.monotonic() < limit, f"no {line!r} in {self.lines}, {self.notes}"
            assert self.process.poll() is None or self._threads[0].is_alive(), (self.lines, self.notes)
            time.sleep(0.02)

    def end(self) -> int:
        """Its exit code, once it has ended."""
        code = self.process.wait(LIMIT_SECONDS)
        for thread in self._threads:
            thread.join(LIMIT_SECONDS)
        return code

    @staticmethod
    def _collect(stream: io.TextIOBase, lines: list[str]) -> None:
        lines.extend(line.rstrip("\n") for line in iter(stream.readline, ""))


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[..., Following]]:
    started: list[Following] = []
    empty = tmp_path / "bin"
    empty.mkdir()

    def start(*arguments: object) -> Following:
        started.append(Following(*arguments, path=empty))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.end()


def append(path: Path, content: str) -> None:
    with path.open("a") as file:
        file.write(content)


def test_following_through_starts_until_the_run_has_finished(run: Path, follow: Callable[..., Following]) -> None:
    log = run / "logs" / "123.1.log"
    process = follow(run, "--lines", 1)
    process.wait_for("rank 1 | last")
    append(log, "0: all\n1: all\n0: half a li")
    process.wait_for("ranks 0-1 | all")
    append(log, "ne\n")
    process.wait_for("rank 0 | half a line")
    append(log, "1: seen\n0: begun before it is cut")
    process.wait_for("rank 1 | seen")
    log.write_text("0: cut short\n")
    process.wait_for("rank 0 | cut short")
    assert "rank 0 | begun before it is cut" in process.lines
    log.rename(log.with_name("old"))
    log.write_text("0: rotated\n")
    process.wait_for("rank 0 | rotated")
    append(log, "1: killed amid a l")
    submission = run / "slurm" / "submit-00001"
    write_event(submission, "start", time=time.time(), restart=2, hosts="n2")
    newer = write_log(run, "123.2.log", "0: back\n")
    process.wait_for("rank 0 | back")
    assert process.lines.index("rank 1 | killed amid a l") < process.lines.index("rank 0 | back")
    assert process.lines[process.lines.index("rank 0 | back") - 1].startswith(
        "== job 123, start 3 (restart 2), nodes n2, "
    )
    write_exit(run, 75, "saved on request", 10, time=time.time())
    append(newer, "0: saved\n")
    process.wait_for("rank 0 | saved")
    assert process.process.poll() is None
    write_exit(run, 0, "finished", 400, time=time.time())
    append(newer, "0: goodbye without an end of line")
    assert process.end() == 0
    assert process.lines[-1] == "rank 0 | goodbye without an end of line"
    assert process.notes[-1] == "the run has finished: finished"


def test_following_a_job_that_has_not_begun(tmp_path: Path, follow: Callable[..., Following]) -> None:
    run = tmp_path / "run"
    submission = write_submission(run, 1, time=time.time())
    process = follow(run, "--batch", "--rank", "1")
    process.wait_for("no start has written a log yet; waiting")
    append(submission / "batch.log", "checking nodes\n")
    process.wait_for("batch | checking nodes")
    write_event(submission, "start", time=time.time())
    write_log(run, "123.0.log", "0: hidden\n1: seen\n")
    process.wait_for("rank 1 | seen")
    write_event(submission, "end", time=time.time(), code=1, reason="out of memory", next="stop")
    assert process.end() == 0
    assert process.notes[-1] == "job 123 has ended and does not come back: out of memory"
    assert not any("hidden" in line for line in process.lines)


def test_control_c_ends_following_quietly(run: Path, follow: Callable[..., Following]) -> None:
    process = follow(run)
    process.wait_for("rank 1 | last")
    process.process.send_signal(signal.SIGINT)
    assert process.end() == 130
    assert not any("Traceback" in line or "Abort" in line for line in process.notes)


def test_a_reader_that_has_seen_enough_is_no_error(run: Path) -> None:
    command = f"{sys.executable} -m mlc logs {run} --start all --lines 100000 | head -n 1"
    write_log(run, "123.2.log", "0: text\n1: other\n" * 50_000)
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("== job 123, start 1")
    assert done.stderr == ""
