"""The programs that are compared, each as the command a user would run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

T = 0.4
"""Where between the parents; any value inside (0, 1) costs the same."""

Command = list[str]


def fusion_slerp(a: Path, b: Path, out: Path) -> Command:
    """This package, as a plain Python call."""
    code = f"from fusion_slerp import merge; merge({str(a)!r}, {str(b)!r}, t={T}, out={str(out)!r})"
    return [sys.executable, "-c", code]


def io_floor(a: Path, b: Path, out: Path) -> Command:
    """Reading both inputs and writing the output, and nothing else."""
    return [sys.executable, str(Path(__file__).with_name("io_floor.py")), str(a), str(b), str(out)]


def fusion_bench_eager(a: Path, b: Path, out: Path) -> Command:
    """FusionBench's own SLERP on an eager pool; its lazy pool stops with an error."""
    code = (
        "from fusion_bench.method import SlerpForCausalLM\n"
        "from fusion_bench.modelpool import CausalLMPool\n"
        f"pool = CausalLMPool({{'a': {str(a)!r}, 'b': {str(b)!r}}}, tokenizer={str(a)!r})\n"
        f"SlerpForCausalLM(t={T}, model_save_path={str(out)!r}).run(pool)"
    )
    return [sys.executable, "-c", code]


def mergekit(environment: Path) -> Callable[[Path, Path, Path], Command]:
    """mergekit, installed in a virtual environment of its own."""

    def command(a: Path, b: Path, out: Path) -> Command:
        recipe = out.with_suffix(".yml")
        recipe.write_text(
            f"merge_method: slerp\nbase_model: {a}\nmodels:\n- model: {a}\n- model: {b}\n"
            f"parameters:\n  t: {T}\ndtype: bfloat16\n"
        )
        return [str(environment / "bin" / "mergekit-yaml"), str(recipe), str(out), "--copy-tokenizer"]

    return command
