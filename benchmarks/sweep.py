"""Eleven values of t: from one reading, and by eleven merges, ours and mergekit's.

    python benchmarks/sweep.py [--mergekit VENV] [--runs 3] [--folder FOLDER]

Two models of 3 layers of TinyLlama's shape (0.26 billion parameters, 0.5 GB each), t = 0, 0.1, ..., 1, before
anything is evaluated. `in memory` makes one model take each value in turn; `children` writes eleven folders
from one reading; `eleven merges` is the command `fusion_slerp merge` eleven times, and `merges, loaded` loads
each merged model with transformers as well, as its evaluation does; `writing` writes as many bytes as the
eleven folders have, with direct I/O and fsync, and reads nothing. All is read from the page cache; what is
written is on the disk at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median

from processes import Command, Run, about_this_machine, in_turn, make_parents, write_json

RESULTS = Path(__file__).with_name("results")
SHAPE = "3"
VALUES = [i / 10 for i in range(11)]
CHUNK_NBYTES = 2 << 20

IN_MEMORY = """
import os, sys, time
from fusion_slerp.evaluation.resident import ResidentModel
started = time.perf_counter()
resident = ResidentModel(sys.argv[1:3], None, {})
for t in VALUES:
    model = resident.at({"t": t})
nbytes = sum(each.numel() * each.element_size() for each in model.parameters())
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[1])
print("engine_s=", time.perf_counter() - started, sep="")
os.mkdir(sys.argv[3])
with open(os.path.join(sys.argv[3], "resident"), "w") as file:
    file.write(f"{pages * os.sysconf('SC_PAGE_SIZE')} {nbytes}")
"""

CHILDREN = """
import sys, time
from fusion_slerp.api import prepare_merge
from fusion_slerp.merging import run_merges
started = time.perf_counter()
models, out = sys.argv[1:3], sys.argv[3]
results = run_merges([prepare_merge(models, f"{out}/{t}", t=t) for t in VALUES])
print("engine_s=", time.perf_counter() - started, sep="")
print("read", results[0].nbytes_read / results[4].plan.nbytes_in, "times the inputs", file=sys.stderr)
"""


LOADING = (
    "import sys; from transformers import AutoModelForCausalLM as Auto; "
    "Auto.from_pretrained(sys.argv[1], dtype='auto')"
)


def in_process(code: str) -> Command:
    """Python code, with the models and the output as its arguments."""
    text = code.replace("VALUES", repr(VALUES))
    return lambda a, b, out: [sys.executable, "-c", text, str(a), str(b), str(out)]


def eleven(one: str) -> Command:
    """A shell command for each value, `$t`; `$0`, `$1` and `$2` are the models and the output."""
    loop = f'mkdir "$2"; for t in {" ".join(map(str, VALUES))}; do {one} >/dev/null 2>&1 || exit 1; done'
    return lambda a, b, out: ["sh", "-c", loop, str(a), str(b), str(out)]


def mergekit(environment: Path) -> Command:
    """mergekit's SLERP, eleven times."""
    recipe = (
        "printf 'merge_method: slerp\\nbase_model: %s\\nmodels: [{model: %s}, {model: %s}]\\n"
        'parameters: {t: %s}\\ndtype: bfloat16\\n\' "$0" "$0" "$1" $t > "$2/recipe.yml"'
    )
    return eleven(f'{recipe}; {environment}/bin/mergekit-yaml "$2/recipe.yml" "$2/$t" --copy-tokenizer')


def writing(folder: Path) -> None:
    """Writes the bytes of the eleven merged models, as a merge writes them, and nothing else."""
    from fusion_slerp.engine.buffers import BufferPool
    from fusion_slerp.output.output_file import OutputFile
    from fusion_slerp.planning.memory import WRITERS

    nbytes, out = int(folder.name.rpartition("-")[2]), folder
    out.mkdir()
    buffer = BufferPool(CHUNK_NBYTES, 1).take()
    buffer[:] = 7
    files = [OutputFile(out / f"{i}.safetensors", nbytes, "auto") for i in range(len(VALUES))]
    with ThreadPoolExecutor(WRITERS) as writers:
        started = [
            writers.submit(file.write, buffer[: min(CHUNK_NBYTES, nbytes - start)].data, start)
            for start in range(0, nbytes, CHUNK_NBYTES)
            for file in files
        ]
        for each in started:
            each.result()
    for i, file in enumerate(files):
        file.close()
        with (out / f"{i}.safetensors").open("rb+") as stream:
            os.fsync(stream.fileno())


def writing_alone(a: Path, b: Path, out: Path) -> list[str]:
    """The command for `writing`."""
    nbytes = sum(file.stat().st_size for file in a.glob("*.safetensors"))
    link = out.with_name(f"{out.name}-{nbytes}")
    code = 'mkdir "$1"; "$0" "$2" --write "$3" && mv "$3" "$1/"'
    return ["sh", "-c", code, sys.executable, str(out), __file__, str(link)]


def compared(folder: Path, n_runs: int, environment: Path | None) -> dict[str, object]:
    """Runs all contenders in turn; returns their runs, and the ratios of the medians."""
    a, b = make_parents(folder, SHAPE)
    program = Path(sys.executable).with_name("fusion_slerp")
    merge = f'{program} merge "$0" "$1" -t $t -o "$2/$t" --quiet'
    commands = {
        "in memory": in_process(IN_MEMORY),
        "children": in_process(CHILDREN),
        "writing": writing_alone,
        "eleven merges": eleven(merge),
        "merges, loaded": eleven(f'{merge} && {sys.executable} -c "{LOADING}" "$2/$t"'),
    }
    if environment:
        commands["mergekit"] = mergekit(environment)
    runs = in_turn(commands, a, b, n_runs)
    wall = {name: median(run.wall_s for run in each) for name, each in runs.items()}
    return {
        "shape": SHAPE,
        "page_cache": "warm",
        "ratios": {
            "merges, loaded to in memory": wall["merges, loaded"] / wall["in memory"],
            "eleven merges to in memory": wall["eleven merges"] / wall["in memory"],
            **({"mergekit to in memory": wall["mergekit"] / wall["in memory"]} if environment else {}),
            "children to writing, processes": wall["children"] / wall["writing"],
            "children to writing, engine": engine(runs["children"]) / wall["writing"],
            "eleven merges to children": wall["eleven merges"] / wall["children"],
        },
        "runs": {name: [asdict(run) for run in each] for name, each in runs.items()},
    }


def engine(runs: list[Run]) -> float:
    """The median time without imports."""
    return median(run.engine_s or run.wall_s for run in runs)


def main() -> None:
    """Runs the comparison and writes a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mergekit", type=Path, help="virtual environment with mergekit; default: left out")
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each (default 3)")
    parser.add_argument("--folder", type=Path, help="where checkpoints are made; default: the system's")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        writing(args.write)
        return
    environment = args.mergekit.absolute() if args.mergekit else None
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = compared(Path(folder) / SHAPE, args.runs, environment)
    result = about_this_machine(environment) | {
        "command": "python benchmarks/sweep.py",
        "experiment": "sweep",
        "results": [found],
    }
    write_json(RESULTS / f"sweep-{time.strftime('%Y-%m-%d')}.json", result)
    print(found["ratios"])


if __name__ == "__main__":
    main()
