"""Runs a command as a whole process and returns what it cost; and says what machine this is."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("fusion-slerp", "fusion-bench", "transformers", "torch", "safetensors", "llvmlite", "numpy")

REST_S = 3
"""Before every run: virtual disks grant a burst after a rest, and so to everybody or to nobody."""

Command = Callable[[Path, Path, Path], list[str]]
"""From the folders of a, b and the child to the arguments of a process."""


@dataclass(frozen=True, slots=True)
class Run:
    """One whole process.

    Attributes:
        wall_s: Seconds from start to end.
        cpu_s: User and system seconds.
        peak_mb: Peak resident memory in MB (10^6 bytes).
        engine_s: Seconds without imports, as the process itself says; None if it does not.
        out_nbytes: Bytes in the output folder.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    engine_s: float | None
    out_nbytes: int


def in_turn(
    commands: Mapping[str, Command],
    a: Path,
    b: Path,
    n_runs: int,
    cold: bool = False,
    warm_up: Container[str] | None = None,
) -> dict[str, list[Run]]:
    """Runs the commands A B C, A B C, ..., so that a machine that drifts drifts for all.

    Before each run the disk comes to rest. One uncounted round goes first, unless the inputs are
    dropped from the page cache each time; of the commands in `warm_up` alone, if it is given.
    """
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for round_number in range(0 if not cold else 1, n_runs + 1):
        for name, command in commands.items():
            if not round_number and warm_up is not None and name not in warm_up:
                continue
            out = a.parent / "out"
            if cold:
                drop_from_page_cache(a, b)
            os.sync()  # what the one before left to the system is not this one's burden
            time.sleep(REST_S)
            run = measure(command(a, b, out), out)
            shutil.rmtree(out)
            print(f"  {name}: {run.wall_s:.2f} s, {run.peak_mb:.0f} MB", file=sys.stderr)
            if round_number:
                runs[name].append(run)
    return runs


def measure(command: list[str], out: Path) -> Run:
    """Runs a command that writes the folder `out`.

    Raises:
        RuntimeError: The command failed; with the end of what it printed.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=log, cwd=out.parent)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        printed, messages = (_text(stream) for stream in (output, log))
        if status:
            raise RuntimeError(f"{command[0]} failed:\n{printed[-1000:]}{messages[-2000:]}")
    nbytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    said = [line.partition("engine_s=")[2] for line in printed.splitlines() if line.startswith("engine_s=")]
    engine_s = float(said[-1]) if said else None
    return Run(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6, engine_s, nbytes)


def _text(stream) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")


def drop_from_page_cache(*folders: Path) -> None:
    """Makes the next read of every file in the folders come from the disk."""
    for folder in folders:
        for file in folder.iterdir():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def digest(folder: Path) -> str:
    """sha256 over the weight files of a folder."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                found.update(block)
    return found.hexdigest()


def about_this_machine(mergekit: Path | None) -> dict[str, object]:
    """What a figure depends on: commit, processor, cores, memory, versions."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    versions = {name: version(name) for name in PACKAGES}
    if mergekit:
        code = "from importlib.metadata import version; print(version('mergekit'))"
        python = str(mergekit / "bin" / "python")
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        versions["mergekit"] = found.stdout.strip()
    return {
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": versions,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def make_parents(folder: Path, shape: str) -> tuple[Path, Path]:
    """Makes the checkpoints in a process of their own.

    Linux counts the memory of the process that starts a command as the command's own peak, so
    this one must stay small.
    """
    maker = [sys.executable, str(Path(__file__).with_name("checkpoints.py")), str(folder), shape]
    subprocess.run(maker, check=True)
    return folder / "a", folder / "b"


def write_json(file: Path, value: object) -> None:
    """Writes a result."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n")
