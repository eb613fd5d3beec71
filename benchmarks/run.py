"""Runs the benchmarks: whole processes, side by side, one JSON file each in benchmarks/results/.

    python benchmarks/run.py [--mergekit VENV] [--runs 5] [EXPERIMENT ...]

Without names, all experiments run one after another. `report.py` makes tables and the plot.
"""

from __future__ import annotations

import argparse
import inspect
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import contenders
import methods as families
from processes import Command, about_this_machine, digest, in_turn, make_parents, measure, write_json

HERE = Path(__file__).absolute().parents[1]
RESULTS = Path(__file__).with_name("results")
OURS, FLOOR, MERGEKIT, BEFORE = "fusion_slerp", "I/O floor", "mergekit", "before"
VOCABULARIES = ("b", "b-32-more", "b-own", "b-permuted")
"""Parents b of `checkpoints.py`: the tokens of a, more, some of their own, and all in other rows."""

CHECKSUMS = ("xxh3_128", "blake3", "sha256")

SHAPES = ("one-tensor", "small-tensors", "tiny", "vocabularies", "three", "family", "3", "11", "22", "65")
"""Names of folders that `--models` may have: shapes of `checkpoints.py`."""

UNFINISHED = "unfinished"

LAYERS = ("3", "11", "22", "65")
"""Of TinyLlama's shape: 0.26, 0.6, 1.1 and 3.0 billion parameters."""


class Bench:
    """What every experiment needs: a folder for checkpoints, the number of runs, the peers."""

    def __init__(
        self, folder: Path, n_runs: int, mergekit: Path | None, commit: str, only: Sequence[str]
    ) -> None:
        self._folder = folder
        self._n_runs = n_runs
        self._commit = commit
        self.only = only
        self.environment = mergekit
        self.ours: dict[str, Command] = {OURS: contenders.fusion_slerp()}
        self.floor: dict[str, Command] = {FLOOR: contenders.io_floor}
        self.mergekit: dict[str, Command] = {MERGEKIT: contenders.mergekit(mergekit)} if mergekit else {}
        self.mergekit_linear: dict[str, Command] = (
            {MERGEKIT: contenders.mergekit_linear(mergekit)} if mergekit else {}
        )

    @contextmanager
    def before(self) -> Iterator[Path]:
        """A checkout of the commit that is compared with, for a while."""
        with tempfile.TemporaryDirectory() as folder:
            checkout = Path(folder) / "before"
            git = ["git", "-C", str(HERE), "worktree"]
            subprocess.run([*git, "add", "--detach", str(checkout), self._commit], check=True)
            try:
                yield checkout
            finally:
                subprocess.run([*git, "remove", "--force", str(checkout)], check=True)

    def parents(self, shape: str) -> tuple[Path, Path, int]:
        """Checkpoints of a shape, and the bytes of all weight files of a, b and c; one shape at a time."""
        folder = self._folder / shape
        if not folder.exists():
            for other in self._folder.iterdir():  # `folder_for_models` has let in nothing of others
                shutil.rmtree(other)
            make_parents(self._folder / UNFINISHED, shape)
            (self._folder / UNFINISHED).rename(folder)
        shutil.rmtree(folder / "out", ignore_errors=True)  # of a run that was killed
        nbytes = sum(file.stat().st_size for file in folder.glob("[abc]/*.safetensors"))
        return folder / "a", folder / "b", nbytes

    def compare(
        self,
        shape: str,
        commands: dict[str, Command],
        cold: bool = False,
        warm_up: Container[str] | None = None,
    ) -> dict[str, object]:
        """Runs the commands on one shape; those of `warm_up` (default: all) once before, uncounted."""
        a, b, nbytes = self.parents(shape)
        print(f"{shape}, {'cold' if cold else 'warm'}:", file=sys.stderr)
        runs = in_turn(commands, a, b, self._n_runs, cold, warm_up)
        return {
            "shape": shape,
            "in_nbytes": nbytes,
            "page_cache": "cold" if cold else "warm",
            "runs": {name: [asdict(run) for run in each] for name, each in runs.items()},
        }


def peers(bench: Bench) -> list[dict[str, object]]:
    """1.1 billion parameters, warm: everybody."""
    host: dict[str, Command] = {"FusionBench, eager": contenders.fusion_bench_eager}
    library: dict[str, Command] = {"safetensors load + save": contenders.load_and_save}
    return [bench.compare("22", bench.ours | bench.floor | library | bench.mergekit | host)]


def sizes(bench: Bench) -> list[dict[str, object]]:
    """Growing models, warm."""
    return [bench.compare(shape, bench.ours | bench.floor | bench.mergekit) for shape in LAYERS]


def cold(bench: Bench) -> list[dict[str, object]]:
    """1.1 billion parameters that are not in the page cache."""
    return [bench.compare("22", bench.ours | bench.floor, cold=True)]


def shapes(bench: Bench) -> list[dict[str, object]]:
    """A single tensor of 1.1 GB, 20,000 of 4 KB, and a model of 11 MB."""
    few = [bench.compare(shape, bench.ours | bench.floor) for shape in ("one-tensor", "small-tensors")]
    return [*few, bench.compare("tiny", bench.ours | bench.mergekit)]


def vocabularies(bench: Bench) -> list[dict[str, object]]:
    """1.1 billion parameters whose tokens are alike, or differ in one way or another."""
    commands = {name: contenders.fusion_slerp(name) for name in VOCABULARIES}
    return [bench.compare("vocabularies", dict(commands))]


def safety(bench: Bench) -> list[dict[str, object]]:
    """1.1 billion parameters, warm, in one file and in twenty-two: with and without what makes it safe."""
    found = []
    for size in ("5GB", "100MB"):
        commands = {
            f"without safety, {size}": contenders.without_safety(size),
            **{
                f"{name}, {size}": contenders.fusion_slerp(checksum=name, max_shard_size=size)
                for name in CHECKSUMS
            },
        }
        found.append(bench.compare("22", dict(commands)))
    return found


def threads(bench: Bench) -> list[dict[str, object]]:
    """One thread and two: the speed-up, and the same bytes."""
    commands = {f"threads={n}": contenders.fusion_slerp(threads=n) for n in (1, 2)}
    result = bench.compare("22", dict(commands))
    a, b, _ = bench.parents("22")
    digests = {}
    for name, command in commands.items():
        out = a.parent / "out"
        measure(command(a, b, out), out)
        digests[name] = digest(out)
        shutil.rmtree(out)
    return [result | {"sha256": digests}]


def linear(bench: Bench) -> list[dict[str, object]]:
    """The weighted average of three models of 1.1 billion parameters, warm."""
    commands: dict[str, Command] = {OURS: contenders.linear, FLOOR: contenders.floor_of_three}
    return [bench.compare("three", commands | bench.mergekit_linear)]


def methods(bench: Bench) -> list[dict[str, object]]:
    """Every method on three fine-tunes of 1.1 billion parameters and their base, warm."""
    return [bench.compare("family", families.ours())]


def methods_of_mergekit(bench: Bench) -> Iterator[dict[str, object]]:
    """Each method on three fine-tunes of 1.1 billion parameters and their base, warm: ours, mergekit's."""
    assert bench.environment, "name mergekit's environment: --mergekit VENV"
    peers = families.mergekits(bench.environment)
    for name, command in families.ours().items():
        peer = f"{MERGEKIT} {name}"
        if peer in peers and (not bench.only or name in bench.only):
            yield bench.compare("family", {name: command, peer: peers[peer]}, warm_up=[name])


def ties_of_two(bench: Bench) -> list[dict[str, object]]:
    """TIES of two fine-tunes of 1.1 billion parameters and their base, warm, beside mergekit's."""
    return [bench.compare("family", families.ties_of_two(bench.environment))]


def commits(bench: Bench) -> list[dict[str, object]]:
    """This checkout beside the commit of `--before`, on four shapes."""
    with bench.before() as before:
        commands = {BEFORE: contenders.at_commit(before), OURS: contenders.at_commit(HERE)}
        found = [bench.compare(shape, dict(commands)) for shape in ("22", "small-tensors", "tiny")]
        return [*found, bench.compare("22", dict(commands), cold=True)]


def kernels(bench: Bench) -> list[dict[str, object]]:
    """The kernels alone, by type."""
    script = str(Path(__file__).with_name("kernel_rates.py"))  # apart: this process must stay small
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


ON_REQUEST = ("commits", "methods_of_mergekit", "ties_of_two")
"""Experiments that run only if they are named."""

EXPERIMENTS: dict[str, Callable[[Bench], Iterable[dict[str, object]]]] = {
    run.__name__: run
    for run in (
        *(peers, sizes, cold, shapes, vocabularies, safety, threads, kernels, linear),
        *(methods, methods_of_mergekit, ties_of_two, commits),
    )
}


def arguments() -> argparse.Namespace:
    """The command line; ends the program if it names an experiment that there is not."""
    names = "\n".join(f"  {name}: {inspect.getdoc(run)}" for name, run in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nexperiments:\n{names}", formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT")
    parser.add_argument("--mergekit", type=Path, help="virtual environment with mergekit; default: left out")
    parser.add_argument(
        "--before", default="HEAD~1", help="commit that `commits` compares with (default HEAD~1)"
    )
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each (default 5)")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="METHOD",
        choices=families.ours(),
        help="with `methods_of_mergekit`: these methods, added to the file of the day",
    )
    parser.add_argument(
        "--models", type=Path, help="new folder, in which the last models are kept; default: temporary"
    )
    args = parser.parse_args()
    if args.only and args.experiments != ["methods_of_mergekit"]:
        parser.error("--only goes with methods_of_mergekit")
    if unknown := [name for name in args.experiments if name not in EXPERIMENTS]:
        parser.error(f"no such experiment: {', '.join(unknown)} (there are {', '.join(EXPERIMENTS)})")
    return args


@contextmanager
def folder_for_models(kept: Path | None) -> Iterator[Path]:
    """The folder of `--models`, which has nothing else in it, or one that is removed afterwards."""
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
        if foreign := sorted({file.name for file in kept.iterdir()} - {*SHAPES, UNFINISHED}):
            sys.exit(f"{kept} has other files: {', '.join(foreign)}\nFix: name a new folder")
        yield kept.absolute()
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def main() -> None:
    """Runs the experiments and writes one JSON file for each, after each of its results."""
    args = arguments()
    mergekit = args.mergekit.absolute() if args.mergekit else None
    command = " ".join(["python", "benchmarks/run.py", *(Path(arg).name for arg in sys.argv[1:])])
    for name in args.experiments or [name for name in EXPERIMENTS if name not in ON_REQUEST]:
        file = RESULTS / f"{name}-{time.strftime('%Y-%m-%d')}.json"
        results = json.loads(file.read_text())["results"] if args.only and file.exists() else []
        with folder_for_models(args.models) as folder:
            bench = Bench(folder, args.runs, mergekit, args.before, args.only)
            for found in EXPERIMENTS[name](bench):
                results.append(found)
                about = about_this_machine(mergekit) | {"command": command, "experiment": name}
                write_json(file, about | {"results": results})
        print(f"written: results/{file.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
