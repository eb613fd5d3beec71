"""How long a merge takes on a cluster, and what it waits for: from headers alone, nothing is merged.

    python benchmarks/cluster_simulation.py [--models 72B 405B 1T] [--nodes 1 2 8 64 512]
    python benchmarks/cluster_simulation.py --models 72B --nodes 16 --read 5 --total-read 15 --total-write 10
    python benchmarks/cluster_simulation.py --report

Prints a table; with `--report` the tables of docs/cluster.md, which takes minutes, and the plot
docs/images/cluster.svg, which needs matplotlib. How the time comes about: `cluster_model.py` and
`cluster_running.py`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import report
from cluster_model import Predicted, predict
from cluster_plans import MODELS, plans_of
from cluster_running import Machine

from fusion_slerp.cluster.sharing import shares
from fusion_slerp.planning.plan import MergePlan

PLOT = Path(__file__).resolve().parents[1] / "docs" / "images" / "cluster.svg"
NODES = (1, 2, 8, 64, 512)
PLOTTED = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

SYSTEMS = {
    "one file server, 2 GB/s": {"total_read": 2.0, "total_write": 1.0},
    "parallel file system, 40 GB/s": {},
    "unlimited": {"total_read": float("inf"), "total_write": float("inf")},
}
"""File systems by name, with what differs from the defaults of `Machine`."""

COLUMNS = (
    *("model", "nodes", "weight files", "nodes that write", "time, s", "times as fast", "spent mostly on"),
    "if nodes measured for each other, s",
)


@cache
def plan_of(model: str, max_shard_size: str) -> MergePlan:
    """The plan of a merge of two such models, by its name in `MODELS`."""
    with tempfile.TemporaryDirectory() as folder:
        return plans_of(MODELS[model], Path(folder))(max_shard_size)


def mostly(found: Predicted) -> str:
    """What takes most of the time, with its share."""
    name, seconds = max(found.limits.items(), key=lambda each: each[1])
    return f"{name}, {100 * seconds / found.seconds:.0f} %"


def table(models: Iterable[str], nodes: Sequence[int], machine: Machine, max_shard_size: str) -> str:
    """Predicted times as Markdown, each also as if nodes measured for each other."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for model in models:
        plan, first = plan_of(model, max_shard_size), None
        for n in nodes:
            on = replace(machine, nodes=n)
            as_if_on_one = shares(plan, ["one machine"] * on.ranks)
            found, helped = predict(plan, on), predict(plan, on, as_if_on_one)
            first = first or found.seconds
            cells = [
                model,
                n,
                found.n_files,
                found.busy,
                f"{found.seconds:.0f}",
                f"{first / found.seconds:.1f}",
            ]
            cells += [mostly(found), f"{helped.seconds:.0f}" if helped.n_helped else ""]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def plot(file: Path, machine: Machine, max_shard_size: str) -> None:
    """Time over nodes, for each model a panel, for each file system a line."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fusion_slerp"
    matplotlib.rcParams.update(dict.fromkeys(report.INKED, report.INK))
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(MODELS), figsize=(9, 3.4), layout="constrained", sharey=True)
    for axis, model in zip(axes, MODELS, strict=True):
        plan = plan_of(model, max_shard_size)
        dealt = {n: shares(plan, replace(machine, nodes=n).hosts) for n in PLOTTED}
        for (name, limits), marker, color in zip(SYSTEMS.items(), "so^", report.LINES, strict=True):
            on = [replace(machine, nodes=n, **limits) for n in PLOTTED]
            times = [predict(plan, each, dealt[each.nodes]).seconds for each in on]
            axis.plot(PLOTTED, times, marker=marker, markersize=4, color=color, label=name)
        axis.set(title=model, xlabel="nodes", xscale="log", yscale="log")
        axis.set_xticks([1, 8, 64, 512], ["1", "8", "64", "512"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="time of a merge, s")
    axes[0].legend(framealpha=0, fontsize=7)
    figure.savefig(file, metadata={"Date": None}, transparent=True)


def report_all(machine: Machine, max_shard_size: str) -> None:
    """Prints the tables of the page, and draws its plot."""
    print(table(MODELS, NODES, machine, max_shard_size))
    print(f"\nweight files of 1GB\n\n{table(MODELS, (64, 512), machine, '1GB')}")
    for name, limits in SYSTEMS.items():
        print(f"\n{name}\n\n{table(['72B'], NODES, replace(machine, **limits), max_shard_size)}")
    plot(PLOT, machine, max_shard_size)


def arguments() -> argparse.Namespace:
    """The command line: an option for each attribute of the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--nodes", nargs="+", type=int, default=list(NODES))
    parser.add_argument("--max-shard-size", default="5GB")
    parser.add_argument("--report", action="store_true", help="the tables and the plot of docs/cluster.md")
    for field in fields(Machine):
        if field.name != "nodes":
            name = f"--{field.name.replace('_', '-')}"
            parser.add_argument(
                name, type=type(field.default), default=field.default, help=f"{field.default}"
            )
    return parser.parse_args()


def main() -> None:
    """Prints the tables."""
    args = arguments()
    given = {field.name: getattr(args, field.name) for field in fields(Machine) if hasattr(args, field.name)}
    machine = Machine(**{**given, "nodes": 1})
    if args.report:
        report_all(machine, args.max_shard_size)
    else:
        print(table(args.models, args.nodes, machine, args.max_shard_size))


if __name__ == "__main__":
    main()
