"""Runs command lines of `fusion_bench`, each in a process of its own, and pays its start only once.

    python tests/fusion_bench_commands.py

Everything heavy is imported, then each line of the standard input is a job: the module to run as
`python -m` does, its arguments, the folder to run it in, environment variables that are set there, and the
file for all that it prints. Each is answered by a line with the exit code.
"""

import atexit
import json
import os
import runpy
import sys
import traceback

HOST_SETTINGS = {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
"""For the real command: no network, long lines, and no threads that wait for each other on a busy machine."""

HEAVY = (
    "fusion_bench.utils",
    "fusion_bench.modelpool.causal_lm",
    "fusion_bench.programs.fabric_fusion_program",
    "fusion_bench.method.base_algorithm",
    "fusion_bench.taskpool.base_pool",
    "peft",
    "transformers.generation",
    "transformers.models.llama.modeling_llama",
)
"""What every command comes to import: the host and its libraries, but nothing of ours."""


def run(module: str, arguments: list[str]) -> int:
    """Runs it to its end; returns its exit code."""
    sys.argv = ["fusion_bench", *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def start(module: str, arguments: list[str], folder: str, environment: dict[str, str], output: str) -> int:
    """Does the same in a child of this process, whose state it inherits and does not change."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        os.chdir(folder)
        os.environ.update(environment)
        code = run(module, arguments)
        atexit._run_exitfuncs()  # the end of the child does not
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    """Answers until the input ends."""
    del sys.path[0]  # this folder; the command has its own there
    for name in HEAVY:
        __import__(name)
    for line in iter(sys.stdin.readline, ""):
        print(start(*json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
