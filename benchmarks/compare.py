"""Compares whole merges with the peers: wall time, CPU time and peak memory, side by side.

    python benchmarks/compare.py --mergekit VENV [--layers 22] [--runs 5]

Makes two checkpoints in a temporary folder, runs every contender in turn (A B C, A B C, ...) so
that a machine that drifts drifts for all, prints medians with their range, and writes one JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import contenders

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("fusion-slerp", "fusion-bench", "transformers", "torch", "safetensors", "llvmlite", "numpy")


@dataclass(frozen=True, slots=True)
class Run:
    """One whole process.

    Attributes:
        wall_s: Seconds from start to end.
        cpu_s: User and system seconds.
        peak_mb: Peak resident memory in MB (10^6 bytes).
        out_nbytes: Bytes in the output folder.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    out_nbytes: int


def measure(command: list[str], out: Path) -> Run:
    """Runs a command that writes the folder `out`, removes the folder, returns the costs.

    Raises:
        RuntimeError: The command failed; with the end of what it printed.
    """
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=out.parent)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        if status:
            log.seek(0)
            raise RuntimeError(f"{command[0]} failed:\n{log.read().decode()[-2000:]}")
    nbytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    shutil.rmtree(out)
    return Run(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6, nbytes)


def compare(
    folder: Path, commands: dict[str, Callable[[Path, Path, Path], list[str]]], n_layers: int, n_runs: int
) -> dict[str, list[Run]]:
    """Makes the parents in `folder` and runs the commands in turn; one uncounted round first."""
    # In a process of its own: Linux counts the memory of the process that starts a command as the
    # command's own peak, so this one must stay small.
    maker = [sys.executable, str(Path(__file__).with_name("checkpoints.py")), str(folder), str(n_layers)]
    subprocess.run(maker, check=True)
    a, b = folder / "a", folder / "b"
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for round_number in range(n_runs + 1):
        for name, command in commands.items():
            run = measure(command(a, b, folder / "out"), folder / "out")
            print(f"  {name}: {run.wall_s:.2f} s, {run.peak_mb:.0f} MB", file=sys.stderr)
            if round_number:
                runs[name].append(run)
    return runs


def table(runs: dict[str, list[Run]]) -> str:
    """A Markdown table of medians (smallest to largest), and the ratios to fusion_slerp."""
    ours = {key: _median(runs["fusion_slerp"], key) for key in ("wall_s", "cpu_s", "peak_mb")}
    lines = ["| | wall s | CPU s | peak MB | wall, times ours |", "|---|---|---|---|---|"]
    for name, all_runs in runs.items():
        cells = []
        for key, digits in (("wall_s", 1), ("cpu_s", 1), ("peak_mb", 0)):
            values = [getattr(run, key) for run in all_runs]
            low, high = min(values), max(values)
            cells.append(f"{statistics.median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})")
        ratio = _median(all_runs, "wall_s") / ours["wall_s"]
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(lines)


def _median(runs: list[Run], key: str) -> float:
    return statistics.median(getattr(run, key) for run in runs)


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


def main() -> None:
    """Parses the arguments, runs, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mergekit", type=Path, help="virtual environment with mergekit; default: left out")
    parser.add_argument("--layers", type=int, default=22, help="depth; 22 (default) is 1.1B parameters")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each (default 5)")
    parser.add_argument("--without-host", action="store_true", help="leave out FusionBench's own SLERP")
    args = parser.parse_args()
    commands = {"fusion_slerp": contenders.fusion_slerp, "I/O floor": contenders.io_floor}
    if args.mergekit:
        commands["mergekit"] = contenders.mergekit(args.mergekit.absolute())
    if not args.without_host:
        commands["FusionBench, eager"] = contenders.fusion_bench_eager
    with tempfile.TemporaryDirectory() as folder:
        runs = compare(Path(folder), commands, args.layers, args.runs)
    print(table(runs))
    result = about_this_machine(args.mergekit) | {
        "command": " ".join(["python", "benchmarks/compare.py", *(Path(arg).name for arg in sys.argv[1:])]),
        "layers": args.layers,
        "page_cache": "warm",
        "runs": {name: [asdict(run) for run in all_runs] for name, all_runs in runs.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"compare-{args.layers}-layers-{time.strftime('%Y-%m-%d')}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten: {file}")


if __name__ == "__main__":
    main()
