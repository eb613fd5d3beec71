"""One and two ranks under torchrun on this machine, and what the model of a shared merge predicts for them.

    python benchmarks/cluster.py [--quick] [--runs 2] [--folder FOLDER]

Two models of 1.1 billion parameters (`--quick`: 0.26) are merged by the command alone, by one rank under
torchrun and by two: from the page cache and from the disk to weight files of 500 MB (100 MB), and from the
page cache to one file. The model is calibrated with single rates (`cluster_rates.py`), with a model of 11 MB,
whose merge is all start-up, and with merges of 0.26 and 0.62 billion parameters by one process without a
launcher, which give the time per chunk and that of a last file: none of these is predicted. All merges are
run in turn, so that a machine that drifts drifts for all. Writes `results/cluster-DATE.json`; prints
predicted and measured times.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import contenders
from processes import Command, Run, about_this_machine, in_turn, make_parents, write_json

if TYPE_CHECKING:
    from fusion_slerp.planning.plan import MergePlan

RESULTS = Path(__file__).with_name("results")
ALONE, ONE, TWO = "no launcher", "torchrun, 1 rank", "torchrun, 2 ranks"
RANKS = {ALONE: 1, ONE: 1, TWO: 2}


class Case(NamedTuple):
    """What is measured in one table.

    Attributes:
        shape: Of `checkpoints.py`.
        max_shard_size: Of the merged model's files.
        is_cold: Whether the models come from the disk.
    """

    shape: str
    max_shard_size: str
    is_cold: bool

    @property
    def name(self) -> str:
        """For tables."""
        return f"{'cold' if self.is_cold else 'warm'}, files of {self.max_shard_size}"


START, SMALL, MEDIUM = (Case(*each, False) for each in (("tiny", "5GB"), ("3", "500MB"), ("11", "500MB")))
"""With which the model is calibrated: the start-up, the time of a last file, and that per chunk."""


def command(folder: Path, case: Case, n_ranks: int | None) -> Command:
    """The merge of a case by N ranks under torchrun; None is the command alone."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_ranks)]
    start = [sys.executable, *(launcher if n_ranks else []), "-m", "fusion_slerp", "merge"]
    models = [str(folder / case.shape / label) for label in "ab"]
    options = ["-t", str(contenders.T), "--max-shard-size", case.max_shard_size, "--quiet"]
    return lambda a, b, out: [*start, *models, *options, "-o", str(out)]


def measured(folder: Path, cases: Sequence[Case], n_runs: int) -> dict[Case, dict[str, list[Run]]]:
    """Runs all cases, whose models are all cold or all warm, in turn, as machines drift."""
    ways = {
        case: {ALONE: None} if case in (SMALL, MEDIUM) else {ALONE: None, ONE: 1, TWO: 2} for case in cases
    }
    commands = {
        f"{case.shape}, {case.name}, {way}": command(folder, case, n)
        for case in cases
        for way, n in ways[case].items()
    }
    models = [folder / cases[-1].shape / label for label in "ab"]
    runs = iter(in_turn(commands, models[0], models[1], n_runs, cases[-1].is_cold).values())
    return {case: {way: next(runs) for way in ways[case]} for case in cases}


def wall(runs: Sequence[Run]) -> float:
    """The median wall time."""
    return median(run.wall_s for run in runs)


def typical(runs: Sequence[Run]) -> Run:
    """The medians of times."""
    return replace(runs[0], wall_s=wall(runs), cpu_s=median(run.cpu_s for run in runs))


def less(run: Run, other: Run) -> Run:
    """The difference of times."""
    return replace(run, wall_s=run.wall_s - other.wall_s, cpu_s=run.cpu_s - other.cpu_s)


def rates(folder: Path) -> dict[str, float]:
    """The single rates, measured by a process of its own."""
    script = str(Path(__file__).with_name("cluster_rates.py"))
    done = subprocess.run([sys.executable, script, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def calibrated(folder: Path, found: dict[str, float], beyond: dict[Case, Run]) -> Any:
    """The machine for merges from the page cache.

    Args:
        folder: With the models.
        found: The single rates.
        beyond: What some cases took beyond the start-up, by one process without a launcher. The processor
            time gives that per chunk; what the wall time is longer than predicted is taken for a last file's.
    """
    from cluster_model import phases, predict
    from cluster_running import Machine

    from fusion_slerp.cluster.sharing import shares
    from fusion_slerp.settings.merge_settings import available_cpus

    machine = Machine(
        threads=available_cpus(),
        read=float("inf"),
        network=float("inf"),
        total_read=float("inf"),
        total_write=float("inf"),
        # More than 1 is that of reading and writing all the time, which merges do for a part of it.
        slowdown=min(1.0, max(0.0, found["slowdown"])),
        read_cpu=found["cached_cpu"],
        start_s=0.0,
        file_s=0.0,
        end_s=0.0,
        spread_s=0.0,
        write=found["write"],
        write_cpu=found["write_cpu"],
        cached_cpu=found["cached_cpu"],
        measure_ns=found["measure_ns"],
        combine_ns=found["combine_ns"],
        task_us=0.0,
    )
    plans = {case: _plan(folder, case) for case in beyond}

    def cpu_s(task_us: float) -> float:
        on = replace(machine, task_us=task_us)
        return sum(phase.cpu for plan in plans.values() for phase in phases(plan, shares(plan, [""])[0], on))

    measured_s = sum(run.cpu_s for run in beyond.values())
    task_us = (measured_s - cpu_s(0.0)) / (cpu_s(1.0) - cpu_s(0.0))
    machine = replace(machine, task_us=max(0.0, task_us))
    longer = [run.wall_s - predict(plans[case], machine).seconds for case, run in beyond.items()]
    return replace(machine, file_s=max(0.0, sum(longer) / len(longer)))


def _plan(folder: Path, case: Case) -> MergePlan:
    from fusion_slerp import plan_merge

    models = [folder / case.shape / label for label in "ab"]
    return plan_merge(*models, t=contenders.T, max_shard_size=case.max_shard_size)


def predictions(
    folder: Path, case: Case, machine: Any, starts: dict[str, float], found: dict[str, float]
) -> dict[str, float]:
    """Returns the predicted wall times of a case.

    Args:
        folder: With the models.
        case: The case.
        machine: Calibrated for merges from the page cache.
        starts: Seconds that a merge of next to nothing takes, by way.
        found: The single rates.
    """
    from cluster_model import predict

    plan = _plan(folder, case)
    if case.is_cold:
        machine = replace(machine, read=found["read"], read_cpu=found["read_cpu"])
    return {
        name: predict(plan, replace(machine, ranks_per_node=n, start_s=starts[name])).seconds
        for name, n in RANKS.items()
    }


def compared(folder: Path, cases: Sequence[Case], n_runs: int) -> dict[str, Any]:
    """Measures all cases and predicts them; returns what is written."""
    shape = cases[0].shape
    for each in sorted({START.shape, SMALL.shape, MEDIUM.shape, shape}):
        make_parents(folder / each, each)
    runs = measured(folder, [START, SMALL, MEDIUM, *(case for case in cases if not case.is_cold)], n_runs)
    runs |= measured(folder, [case for case in cases if case.is_cold], n_runs)
    starts = {name: wall(each) for name, each in runs[START].items()}
    found = rates(folder / shape)
    start = typical(runs[START][ALONE])
    beyond = {case: less(typical(runs[case][ALONE]), start) for case in (SMALL, MEDIUM)}
    machine = calibrated(folder, found, beyond)
    return {
        "rates": found,
        "machine": {key: value for key, value in asdict(machine).items() if value != float("inf")},
        "starts": row(START, runs[START], starts, starts),
        "calibration": [row(case, runs[case], starts, {ALONE: wall(runs[case][ALONE])}) for case in beyond],
        "results": [
            row(case, runs[case], starts, predictions(folder, case, machine, starts, found)) for case in cases
        ],
    }


def main() -> None:
    """Measures, predicts, writes a JSON file and prints a table."""
    args = _arguments()
    shape, size = (SMALL.shape, "100MB") if args.quick else ("22", "500MB")
    cases = [Case(shape, size, False), Case(shape, size, True), Case(shape, "5GB", False)]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        os.environ["TMPDIR"] = folder  # torchrun leaves its logs there
        found = compared(Path(folder), cases, args.runs)
    about = {"command": f"python benchmarks/cluster.py --runs {args.runs}", "experiment": "cluster"}
    if not args.quick:
        write_json(
            RESULTS / f"cluster-{time.strftime('%Y-%m-%d')}.json", about_this_machine(None) | about | found
        )
    print(table(found))


def row(
    case: Case, runs: dict[str, list[Run]], starts: dict[str, float], predicted: dict[str, float]
) -> dict[str, Any]:
    """The result of a case, as it is written."""
    return {
        **case._asdict(),
        "name": case.name,
        "wall_s": {name: wall(each) for name, each in runs.items()},
        "predicted_s": predicted,
        "merging_s": {name: wall(each) - starts[name] for name, each in runs.items()},
        "predicted_merging_s": {name: seconds - starts[name] for name, seconds in predicted.items()},
        "runs": {name: [asdict(run) for run in each] for name, each in runs.items()},
    }


def table(result: dict[str, Any]) -> str:
    """Measured and predicted wall times, as Markdown."""
    lines = [
        "| | | start, s | wall, s | predicted, s | difference | without start, s | predicted, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in result["results"]:
        for name, wall_s in each["wall_s"].items():
            predicted = each["predicted_s"][name]
            cells = [
                each["name"],
                name,
                f"{result['starts']['wall_s'][name]:.1f}",
                f"{wall_s:.2f}",
                f"{predicted:.2f}",
            ]
            cells += [f"{100 * (predicted / wall_s - 1):+.0f} %"]
            cells += [f"{each[key][name]:.2f}" for key in ("merging_s", "predicted_merging_s")]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small models; writes no file")
    parser.add_argument("--runs", type=int, default=2, help="counted runs of each (default 2)")
    parser.add_argument("--folder", type=Path, help="where checkpoints are made; default: the system's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
