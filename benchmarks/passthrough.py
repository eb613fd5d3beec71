"""Stacking layers beside a plain copy: `passthrough`, and `cp` with fsync of as many bytes.

    python benchmarks/passthrough.py [--mergekit VENV] [--runs 5] [--folder FOLDER]

Two models of 11 layers of TinyLlama's shape (1.2 GB each). `one model` writes all of model a; `stack` takes
layers 0 to 7 of a and 3 to 10 of b, 16 together. `cp` copies as many bytes: model a's folder, and a folder
with the bytes of the stack. Everything is read from the page cache and is on the disk at the end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

from processes import Command, Run, about_this_machine, digest, in_turn, make_parents, measure, write_json

RESULTS = Path(__file__).with_name("results")
SHAPE = "11"
SLICES = [{"a": [0, 8]}, {"b": [3, 11]}]
STACK = "stack"
"""The folder with the stack that `cp` copies."""


def ours(labels: str, **options: object) -> Command:
    """This package, as a plain Python call."""

    def command(a: Path, b: Path, out: Path) -> list[str]:
        models = ", ".join(repr(str(a.with_name(label))) for label in labels)
        call = f"merge({models}, method='passthrough', out={str(out)!r}, **{options!r})"
        code = f"from fusion_slerp import merge; print('engine_s=', {call}.elapsed_s, sep='')"
        return [sys.executable, "-c", code]

    return command


def cp(name: str) -> Command:
    """`cp` of a folder, then fsync of every file in the copy."""

    def command(a: Path, b: Path, out: Path) -> list[str]:
        return ["sh", "-c", 'cp -r "$0" "$1" && sync "$1"/*', str(a.with_name(name)), str(out)]

    return command


def mergekit(environment: Path) -> Command:
    """mergekit's passthrough of the same slices."""

    def command(a: Path, b: Path, out: Path) -> list[str]:
        slices = "".join(
            f"- sources: [{{model: {a.with_name(label)}, layer_range: {layers}}}]\n"
            for part in SLICES
            for label, layers in part.items()
        )
        recipe = out.with_suffix(".yml")
        recipe.write_text(f"merge_method: passthrough\nslices:\n{slices}dtype: bfloat16\nbase_model: {a}\n")
        program = str(environment / "bin" / "mergekit-yaml")
        return [program, str(recipe), str(out), "--copy-tokenizer", "--no-write-model-card"]

    return command


def compared(folder: Path, n_runs: int, environment: Path | None) -> dict[str, object]:
    """Runs all contenders in turn; returns their runs, and the ratios of the medians."""
    a, b = make_parents(folder, SHAPE)
    one, stack = ours("a"), ours("ab", slices=SLICES)
    measure(stack(a, b, a.with_name(STACK)), a.with_name(STACK))
    digest(a.with_name(STACK))  # now in the page cache, as the models are
    commands = {"one model": one, "cp one model": cp("a"), "stack": stack, "cp stack": cp(STACK)}
    if environment:
        commands["mergekit stack"] = mergekit(environment)
    runs = in_turn(commands, a, b, n_runs)
    return {
        "shape": SHAPE,
        "page_cache": "warm",
        "ratios_to_cp": {name: ratio(runs[name], runs[f"cp {name}"]) for name in ("one model", "stack")},
        "runs": {name: [asdict(run) for run in each] for name, each in runs.items()},
    }


def ratio(runs: list[Run], copies: list[Run]) -> dict[str, float]:
    """The median time of the engine, and of the whole process with its imports, to that of `cp`."""
    copy_s = median(run.wall_s for run in copies)
    return {
        "engine": median(run.engine_s or run.wall_s for run in runs) / copy_s,
        "process": median(run.wall_s for run in runs) / copy_s,
    }


def main() -> None:
    """Runs the comparison and writes a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mergekit", type=Path, help="virtual environment with mergekit; default: left out")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each (default 5)")
    parser.add_argument(
        "--folder", type=Path, help="where checkpoints are made and deleted; default: the system's"
    )
    args = parser.parse_args()
    environment = args.mergekit.absolute() if args.mergekit else None
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = compared(Path(folder) / SHAPE, args.runs, environment)
    command = "python benchmarks/passthrough.py"
    result = about_this_machine(environment) | {
        "command": command,
        "experiment": "passthrough",
        "results": [found],
    }
    write_json(RESULTS / f"passthrough-{time.strftime('%Y-%m-%d')}.json", result)
    print(found["ratios_to_cp"])


if __name__ == "__main__":
    main()
