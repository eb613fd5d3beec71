"""The programs that are compared, each as the command a user would run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from processes import Command

T = 0.4
"""Where between the parents; any value inside (0, 1) costs the same."""


def fusion_slerp(parent_b: str = "b", **options: object) -> Command:
    """This package, as a plain Python call; with another parent b beside the usual one."""

    def command(a: Path, b: Path, out: Path) -> list[str]:
        b = b.with_name(parent_b)
        given = "".join(f", {name}={value!r}" for name, value in options.items())
        call = f"merge({str(a)!r}, {str(b)!r}, t={T}, out={str(out)!r}{given})"
        code = f"from fusion_slerp import merge; print('engine_s=', {call}.elapsed_s, sep='')"
        return [sys.executable, "-c", code]

    return command


def at_commit(checkout: Path) -> Command:
    """The package as it is in another checkout; its modules are compiled once, as installing does."""

    def command(a: Path, b: Path, out: Path) -> list[str]:
        given = ["-u", "PYTHONDONTWRITEBYTECODE", f"PYTHONPATH={checkout}"]
        return ["env", *given, *fusion_slerp()(a, b, out)]

    return command


def linear(a: Path, b: Path, out: Path) -> list[str]:
    """The weighted average of three models: a, b, and c next to them."""
    models = ", ".join(repr(str(a.with_name(name))) for name in "abc")
    weights = {"a": 0.4, "b": 0.35, "c": 0.25}
    call = f"merge({models}, method='linear', weight={weights}, out={str(out)!r})"
    return [
        sys.executable,
        "-c",
        f"from fusion_slerp import merge; print('engine_s=', {call}.elapsed_s, sep='')",
    ]


def floor_of_three(a: Path, b: Path, out: Path) -> list[str]:
    """Reading all three models and writing the output, and nothing else."""
    return [*io_floor(a, b, out), str(a.with_name("c"))]


def mergekit_linear(environment: Path) -> Command:
    """mergekit's linear of the same three models."""

    def command(a: Path, b: Path, out: Path) -> list[str]:
        weights = {"a": 0.4, "b": 0.35, "c": 0.25}
        models = "".join(
            f"- model: {a.with_name(name)}\n  parameters: {{weight: {weight}}}\n"
            for name, weight in weights.items()
        )
        recipe = out.with_suffix(".yml")
        recipe.write_text(f"merge_method: linear\nmodels:\n{models}dtype: bfloat16\n")
        return [str(environment / "bin" / "mergekit-yaml"), str(recipe), str(out), "--copy-tokenizer"]

    return command


FAMILY = ("a", "b", "c", "base")
"""The folders of three fine-tunes, and of their base, which can be merged as a fourth model."""


def of_method(name: str, options: Mapping[str, object], n_models: int, has_base: bool) -> Command:
    """This package's merge of a family by a method."""

    def command(a: Path, b: Path, out: Path) -> list[str]:
        models = ", ".join(repr(str(a.with_name(label))) for label in FAMILY[:n_models])
        base = f", base={str(a.with_name('base'))!r}" * has_base
        call = f"merge({models}{base}, method={name!r}, out={str(out)!r}, **{dict(options)!r})"
        code = f"from fusion_slerp import merge; print('engine_s=', {call}.elapsed_s, sep='')"
        return [sys.executable, "-c", code]

    return command


def mergekit_method(environment: Path, recipe: Callable[[Path], Mapping[str, object]]) -> Command:
    """mergekit's merge by a recipe, which is made from the folder of the models."""

    def command(a: Path, b: Path, out: Path) -> list[str]:
        file = out.with_suffix(".yml")
        file.write_text(json.dumps(recipe(a.parent)))  # JSON is YAML
        return [str(environment / "bin" / "mergekit-yaml"), str(file), str(out), "--copy-tokenizer"]

    return command


def without_safety(max_shard_size: str) -> Command:
    """The same merge without digests, journal, lock, manifest, fsync and rename: the engine alone."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from fusion_slerp.output.shard_writer import ShardWriter\n"
        "from fusion_slerp.engine.executor import execute\n"
        "from fusion_slerp.api import plan_merge\n"
        "from fusion_slerp.output.model_card import card_parent, model_card\n"
        "from fusion_slerp.output.side_files import side_files, write_side_files\n"
        "a, b, out = map(Path, sys.argv[1:])\n"
        f"plan = plan_merge(a, b, t={T}, max_shard_size={max_shard_size!r})\n"
        "out.mkdir()\n"
        "class Unsynced(ShardWriter):\n"
        "    def finish(self, shard):\n"
        "        pass\n"
        "with Unsynced(out, plan.shards) as writer:\n"
        "    reports = []\n"
        "    execute(plan, writer, lambda file: reports.extend(file.reports))\n"
        "write_side_files(side_files(plan.parents['a'], plan.tokenizer, plan.configs), out)\n"
        "cards = {label: card_parent(parent) for label, parent in plan.parents.items()}\n"
        "card = model_card(cards, plan.settings, reports, out.name)\n"
        "(out / 'README.md').write_text(card)\n"
    )
    return lambda a, b, out: [sys.executable, "-c", code, str(a), str(b), str(out)]


def io_floor(a: Path, b: Path, out: Path) -> list[str]:
    """Reading both inputs and writing the output, and nothing else."""
    return [sys.executable, str(Path(__file__).with_name("io_floor.py")), str(a), str(b), str(out)]


def load_and_save(a: Path, b: Path, out: Path) -> list[str]:
    """The least a merge with the safetensors library could do: load both, save one."""
    code = (
        "import pathlib, sys\n"
        "from safetensors.torch import load_file, save_file\n"
        "a, b, out = map(pathlib.Path, sys.argv[1:])\n"
        "out.mkdir()\n"
        "for file in sorted(a.glob('*.safetensors')):\n"
        "    mine, other = load_file(file), load_file(b / file.name)\n"
        "    total = sum(tensor.view(-1)[::2048].sum().item() for tensor in other.values())\n"
        "    save_file(mine, out / file.name)\n"
    )
    return [sys.executable, "-c", code, str(a), str(b), str(out)]


def fusion_bench_eager(a: Path, b: Path, out: Path) -> list[str]:
    """FusionBench's own SLERP on an eager pool; its lazy pool stops with an error."""
    code = (
        "from fusion_bench.method import SlerpForCausalLM\n"
        "from fusion_bench.modelpool import CausalLMPool\n"
        f"pool = CausalLMPool({{'a': {str(a)!r}, 'b': {str(b)!r}}}, tokenizer={str(a)!r})\n"
        f"SlerpForCausalLM(t={T}, model_save_path={str(out)!r}).run(pool)"
    )
    return [sys.executable, "-c", code]


def mergekit(environment: Path) -> Command:
    """mergekit, installed in a virtual environment of its own."""

    def command(a: Path, b: Path, out: Path) -> list[str]:
        recipe = out.with_suffix(".yml")
        recipe.write_text(
            f"merge_method: slerp\nbase_model: {a}\nmodels:\n- model: {a}\n- model: {b}\n"
            f"parameters:\n  t: {T}\ndtype: bfloat16\n"
        )
        return [str(environment / "bin" / "mergekit-yaml"), str(recipe), str(out), "--copy-tokenizer"]

    return command
