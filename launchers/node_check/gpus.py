"""The GPUs of a host: are they there, healthy, free, and do they multiply?

In:  the number that must be there; what nvidia-smi prints as CSV.
Out: names of the GPUs, problems and warnings as sentences.

nvidia-smi is asked three times, with `--format=csv,noheader,nounits` (its fields: `nvidia-smi --help-query-gpu`,
`--help-query-remapped-rows`, `--help-query-compute-apps`). One line a GPU or process, fields separated by ", ":

    GPU-5f3c..., NVIDIA H100 80GB HBM3, 0, No        uuid, name, uncorrected errors since the driver was loaded,
                                                     pages that wait for a reset to be retired
    GPU-5f3c..., 0, 0                                uuid, rows that wait for a reset to be remapped, failed remappings
    GPU-5f3c..., 4711, python, 1024                  uuid, process, its name, MiB

A field that the GPU does not have reads "[N/A]", "N/A" or "[Not Supported]".
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

GPU_QUERY = "--query-gpu=uuid,name,ecc.errors.uncorrected.volatile.total,retired_pages.pending"
ROWS_QUERY = "--query-remapped-rows=gpu_uuid,remapped_rows.pending,remapped_rows.failure"
PROCESSES_QUERY = "--query-compute-apps=gpu_uuid,pid,process_name,used_memory"
MATRIX_SIZE = 1024

AskSmi = Callable[[str], str]


@dataclass
class GpuFindings:
    """What is known of a host's GPUs.

    Attributes:
        names: of the GPUs that were found.
        problems, warnings: sentences.
    """

    names: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def ask_nvidia_smi(query: str, seconds: float) -> str:
    """What nvidia-smi prints for one query.

    Raises:
        OSError: there is no nvidia-smi, it failed, or it did not answer: the driver hangs where a GPU is lost.
    """
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except FileNotFoundError:
        raise OSError("nvidia-smi is not there") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"nvidia-smi did not answer within {seconds:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise OSError(f"nvidia-smi ended with code {done.returncode}: {said[-1] if said else 'no message'}")
    return done.stdout


def check_smi(expected: int, ask: AskSmi, environ: Mapping[str, str]) -> GpuFindings:
    """Number, memory errors and users of the GPUs.

    Args:
        expected: GPUs that must be there; more are no problem.
        ask: sends one query to nvidia-smi.
        environ: with CUDA_VISIBLE_DEVICES as UUIDs, other GPUs are not looked at. As numbers it says nothing here:
            CUDA and nvidia-smi may count differently.
    """
    findings = GpuFindings()
    try:
        gpus = _visible(_rows(ask(GPU_QUERY), 4), environ)
    except OSError as error:
        findings.problems.append(f"0 GPUs found, needed {expected}: {error}")
        return findings
    findings.names = [row[1] for row in gpus]
    if len(gpus) < expected:
        findings.problems.append(f"{len(gpus)} GPUs found, needed {expected}")
    numbers = {row[0]: number for number, row in enumerate(gpus)}
    for uuid, _, errors, pending in gpus:
        if _is_set(errors):
            findings.problems.append(f"GPU {numbers[uuid]} ({uuid}) has {errors} uncorrected memory errors")
        if _is_set(pending):
            findings.problems.append(f"GPU {numbers[uuid]} ({uuid}) must be reset: memory pages wait for retirement")
    try:
        for uuid, pending, failed in _rows(ask(ROWS_QUERY), 3):
            if uuid in numbers and _is_set(pending):
                findings.problems.append(f"GPU {numbers[uuid]} ({uuid}) must be reset: memory rows wait for remapping")
            if uuid in numbers and _is_set(failed):
                findings.problems.append(f"GPU {numbers[uuid]} ({uuid}) has no spare memory rows left")
    except OSError as error:  # GPUs and drivers without remapping
        findings.warnings.append(f"remapped memory rows are unknown: {error}")
    try:
        for uuid, process, name, used in _rows(ask(PROCESSES_QUERY), 4):
            if uuid in numbers:
                memory = f"{used} MiB" if used.isdigit() else "memory"
                findings.problems.append(f"GPU {numbers[uuid]} is in use: {memory} by process {process} ({name})")
    except OSError as error:
        findings.warnings.append(f"processes on the GPUs are unknown: {error}")
    return findings


def multiply_on_all(expected: int) -> GpuFindings:
    """Multiply two matrices of whole numbers on every GPU and compare with the CPU: the result is exact.

    Only where torch has CUDA.
    """
    import torch

    findings = GpuFindings()
    if torch.version.cuda is None:
        findings.warnings.append("GPUs were not tried: this torch has no CUDA")
        return findings
    found = torch.cuda.device_count()
    if found < expected:
        findings.problems.append(f"torch sees {found} GPUs, needed {expected}")
    generator = torch.Generator().manual_seed(0)
    # Values -1, 0, 1: sums are exact in fp32 and in TF32, in any order.
    left, right = (torch.randint(-1, 2, (MATRIX_SIZE, MATRIX_SIZE), generator=generator).float() for _ in range(2))
    product = left @ right
    for number in range(found):
        device = torch.device("cuda", number)
        try:
            if not torch.equal((left.to(device) @ right.to(device)).cpu(), product):
                findings.problems.append(f"GPU {number} multiplies wrongly")
        except RuntimeError as error:
            findings.problems.append(f"GPU {number} cannot multiply: {str(error).splitlines()[0]}")
    return findings


def _rows(text: str, fields: int) -> list[list[str]]:
    """Fields of each line. A comma inside a process's name stays in it: it is the last but one of its line."""
    rows = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) > fields == 4:
            parts = [*parts[:2], ", ".join(parts[2:-1]), parts[-1]]
        if len(parts) == fields:
            rows.append(parts)
    return rows


def _visible(gpus: list[list[str]], environ: Mapping[str, str]) -> list[list[str]]:
    wanted = [part.strip() for part in environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if not all(part.startswith("GPU-") for part in wanted):
        return gpus
    return [row for row in gpus if any(row[0].startswith(part) for part in wanted)]


def _is_set(value: str) -> bool:
    return value.lower() == "yes" or (value.isdigit() and int(value) > 0)
