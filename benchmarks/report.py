"""Makes the tables and the plot of docs/benchmarks.md from the newest JSON file of each experiment.

    python benchmarks/report.py

Prints Markdown; writes docs/images/benchmarks.svg. Needs matplotlib, which FusionBench brings along.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PLOT = ROOT / "docs" / "images" / "benchmarks.svg"
OURS, FLOOR, MERGEKIT, BEFORE = "fusion_slerp", "I/O floor", "mergekit", "before"
COLUMNS = {"wall_s": 2, "cpu_s": 2, "peak_mb": 0, "engine_s": 2}
INK, LINES = "#7d8590", ("#e8710a", "#3f8cff", "#2da05a")  # readable on a white and on a dark page
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")

Result = dict[str, Any]


def newest(experiment: str, contender: str = "") -> Result:
    """The last result of an experiment, or the last in which a contender took part.

    Raises:
        FileNotFoundError: It has not run.
    """
    for file in sorted(RESULTS.glob(f"{experiment}-*.json"), reverse=True):
        result = json.loads(file.read_text()) | {"file": file.name}
        if not contender or contender in result["results"][0]["runs"]:
            return result
    raise FileNotFoundError(f"no result of {experiment}; run: python benchmarks/run.py {experiment}")


def values(result: Result, name: str, key: str) -> list[float]:
    """One attribute of all runs of one contender."""
    return [run[key] for run in result["runs"].get(name, []) if run[key] is not None]


def median(result: Result, name: str, key: str) -> float:
    """Its median."""
    return statistics.median(values(result, name, key))


def parameters(result: Result) -> float:
    """Billions of parameters of one parent, in bfloat16."""
    return result["in_nbytes"] / 4e9


def runs_table(result: Result) -> str:
    """Medians (smallest to largest) of every contender, and the wall time as a multiple of the first's."""
    lines = ["| | wall s | CPU s | peak MB | engine s | wall, ratio |", "|---|---|---|---|---|---|"]
    for name in result["runs"]:
        cells = [_cell(values(result, name, key), digits) for key, digits in COLUMNS.items()]
        first = next(iter(result["runs"]))
        ratio = median(result, name, "wall_s") / median(result, first, "wall_s")
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(lines)


def _cell(found: list[float], digits: int) -> str:
    if not found:
        return ""
    low, middle, high = min(found), statistics.median(found), max(found)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def pairs_table(results: list[Result]) -> str:
    """This checkout over another commit: medians of the ratios of runs that followed each other."""
    lines = ["| shape | pairs | CPU | wall | peak memory |", "|---|---|---|---|---|"]
    for result in results:
        cells = []
        for key in ("cpu_s", "wall_s", "peak_mb"):
            pairs = zip(values(result, OURS, key), values(result, BEFORE, key), strict=True)
            cells.append(f"{statistics.median(ours / before for ours, before in pairs):.2f}")
        n_pairs = len(values(result, OURS, "wall_s"))
        lines.append(f"| {result['shape']}, {result['page_cache']} | {n_pairs} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sizes_table(results: list[Result]) -> str:
    """Growing models: time, CPU per gigabyte, memory, and the ratios."""
    lines = [
        "| parameters | ours, wall s | CPU s per GB of input | peak MB | engine, times the floor "
        "| mergekit, wall s | wall, times ours | CPU, times ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ours = {key: median(result, OURS, key) for key in COLUMNS}
        cells = [
            f"{parameters(result):.2f} billion",
            f"{ours['wall_s']:.2f}",
            f"{ours['cpu_s'] / result['in_nbytes'] * 1e9:.2f}",
            f"{ours['peak_mb']:.0f}",
            f"{ours['engine_s'] / median(result, FLOOR, 'engine_s'):.2f}",
        ]
        if values(result, MERGEKIT, "wall_s"):
            theirs = median(result, MERGEKIT, "wall_s"), median(result, MERGEKIT, "cpu_s")
            ratios = theirs[0] / ours["wall_s"], theirs[1] / ours["cpu_s"]
            cells += [f"{theirs[0]:.1f}", f"{ratios[0]:.1f}", f"{ratios[1]:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def line(results: list[Result], key: str) -> tuple[float, float, float]:
    """Slope per gigabyte of input, intercept, and R² of the medians of ours."""
    x = np.array([result["in_nbytes"] / 1e9 for result in results])
    y = np.array([median(result, OURS, key) for result in results])
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept), float(np.corrcoef(x, y)[0, 1] ** 2)


def prediction(results: list[Result]) -> str:
    """The largest model from the smaller ones, and two models of 72 billion parameters on other disks."""
    *smaller, largest = results
    slope, intercept, _ = line(smaller, "cpu_s")
    predicted = intercept + slope * largest["in_nbytes"] / 1e9
    measured = median(largest, OURS, "cpu_s")
    slope, intercept, r2 = line(results, "cpu_s")
    in_gb, out_gb = 2 * 145.4, 145.4  # Qwen2.5-72B: 72.7 billion parameters in bfloat16
    cpu_s, disk_s = intercept + slope * in_gb, (in_gb + out_gb) / 3.0
    return "\n".join(
        [
            f"CPU seconds = {intercept:.2f} + {slope:.3f} per GB of input, R² = {r2:.5f}.",
            f"From the smaller models, {predicted:.2f} CPU s for the largest; measured: {measured:.2f}.",
            f"Two 72B models, one NVMe disk of 3 GB/s: {disk_s:.0f} s at the disk ({in_gb:.0f} GB in, "
            f"{out_gb:.0f} GB out), {cpu_s:.0f} CPU s ({cpu_s / 2:.0f} s on two cores).",
            f"An eighth of the tensors on each of 8 such machines: {disk_s / 8:.0f} s.",
        ]
    )


def plot(results: list[Result], with_mergekit: list[Result]) -> None:
    """Wall time and peak memory over model size."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fusion_slerp"
    matplotlib.rcParams.update(dict.fromkeys(INKED, INK))
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    panels = [
        ("wall_s", "wall time of the whole process, s"),
        ("peak_mb", "peak resident memory, MB"),
    ]
    for axis, (key, label) in zip(axes, panels, strict=True):
        for name, marker, color in zip((MERGEKIT, OURS, FLOOR), "so^", LINES, strict=True):
            measured = with_mergekit if name == MERGEKIT else results
            points = [(parameters(result), median(result, name, key)) for result in measured]
            axis.plot(*zip(*points, strict=True), marker=marker, color=color, label=name)
        axis.set(xlabel="parameters, billions", ylabel=label, yscale="log")
        axis.grid(alpha=0.3)
    axes[0].legend(framealpha=0)
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None}, transparent=True)


def main() -> None:
    """Prints everything and writes the plot."""
    for experiment in ("peers", "cold", "threads", "shapes", "vocabularies", "safety", "linear"):
        found = newest(experiment)
        print(f"## {experiment} ({found['file']})")
        for result in found["results"]:
            print(f"\n{result['shape']}, {result['page_cache']}\n\n{runs_table(result)}")
            print(*(f"\n{k}: {v}" for k, v in result.get("sha256", {}).items()), sep="")
    sizes, with_mergekit = newest("sizes"), newest("sizes", MERGEKIT)
    for found in (sizes, with_mergekit):
        print(f"\n## sizes ({found['file']})\n\n{sizes_table(found['results'])}")
    print(f"\n{prediction(sizes['results'])}")
    kernels = newest("kernels")
    print(f"\n## kernels ({kernels['file']})\n\n| a | b | measure GB/s | combine GB/s |\n|---|---|---|---|")
    for row in kernels["results"]:
        print(f"| {row['a']} | {row['b']} | {row['measure_gb_s']:.0f} | {row['combine_gb_s']:.0f} |")
    commits = newest("commits")
    print(f"\n## commits ({commits['file']})\n\n{pairs_table(commits['results'])}")
    plot(sizes["results"], with_mergekit["results"])


if __name__ == "__main__":
    main()
