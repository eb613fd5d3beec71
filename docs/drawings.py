"""Draws pictures of docs/slerp.md, choosing-t.md and methods.md: small SVG files, the same ones each time.

    .venv-test/bin/python docs/drawings.py

Curves come from the formulas, the angles of the demo models from a merge. Only the losses over t are
copied from the tables that the evaluation prints; `LOSSES` says how to repeat them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from html import escape
from math import acos, cos, degrees, pi, radians, sin, sqrt
from pathlib import Path

import numpy as np

from fusion_slerp import make_settings, merge
from fusion_slerp.engine.in_memory import combine_tensors
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.methods.slerp import SlerpOptions
from fusion_slerp.tensor_names import layer_of, module_of

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "fusion_slerp" / "demo"
IMAGES = ROOT / "docs" / "images"

WIDTH = 400
"""Of every picture, in its own units. At 360 pixels, the smallest text (15 units) is 13.5 pixels high."""

STYLE = """\
    text { font: 15px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2933 }
    .bold { font-weight: 600 }
    .card { fill: #ffffff; stroke: #d0d7de }
    .line { fill: none; stroke-width: 2.5; stroke-linecap: round; stroke-linejoin: round }
    .a { stroke: #1565c0; fill: #1565c0 } .b { stroke: #c2410c; fill: #c2410c }
    .c { stroke: #2e7d32; fill: #2e7d32 } .ink { stroke: #3e4c59; fill: #3e4c59 }
    .soft { stroke: #8793a0; fill: #8793a0; stroke-width: 1.2; stroke-dasharray: 3 4 }
    .grid { stroke: #d8dee4; stroke-width: 1 }
    .dashed { stroke-dasharray: 5 6 } .thick { stroke-width: 6 }
    .pale { opacity: 0.25 } .hollow { fill: none; stroke-width: 1.5 }
    .line { fill: none } text.a, text.b, text.c, text.ink { stroke: none }
    text.halo { stroke: #ffffff; stroke-width: 6; stroke-linejoin: round; paint-order: stroke }
    @media (prefers-color-scheme: dark) {
      text { fill: #e4e7eb } .card { fill: #1e2129; stroke: #3e4451 } .grid { stroke: #3a404c }
      .a { stroke: #64b5f6; fill: #64b5f6 } .b { stroke: #ffa270; fill: #ffa270 }
      .c { stroke: #81c784; fill: #81c784 } .ink { stroke: #cbd2d9; fill: #cbd2d9 }
      .line { fill: none } text.halo { stroke: #1e2129 }
    }
"""
"""The card is part of the picture, so a picture in either scheme reads on a page in the other."""

LOSSES = {
    "plays": (3.665, 3.659, 3.670, 3.700, 3.750, 3.823, 3.922, 4.050, 4.208, 4.400, 4.622),
    "code": (4.703, 4.375, 4.086, 3.841, 3.644, 3.487, 3.362, 3.267, 3.196, 3.151, 3.132),
    "mean": (4.184, 4.017, 3.878, 3.771, 3.697, 3.655, 3.642, 3.658, 3.702, 3.775, 3.877),
}
"""Of the demo models merged by SLERP at t = 0, 0.1, ..., 1, as printed by
`fusion_bench --config-name llm_slerp --multirun method.t=0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1`."""

SHOWN_ANGLES = (15, 60, 90, 120)
"""Degrees. The first is about the mean of the demo models."""

Point = tuple[float, float]


def main() -> None:
    """Draws all of them."""
    slerp_arc()
    demo_angles()
    norms_along_t()
    speeds_along_t()
    nearly_parallel_and_opposite()
    demo_losses()
    ties_steps()


def slerp_arc() -> None:
    """The arc between two models, and the chord of the average below it."""
    origin, radius, theta = (200.0, 262.0), 205.0, radians(80)
    on_arc = [polar(origin, radius, pi / 2 + theta * (0.5 - t / 4)) for t in range(5)]
    a, b = on_arc[0], on_arc[-1]
    on_chord = [(a[0] + (b[0] - a[0]) * t / 4, a[1]) for t in range(5)]
    save(
        "slerp-arc",
        308,
        "The path between two models",
        "SLERP follows the arc and keeps the length. The average follows the chord and is shorter.",
        [
            *(line([origin, point], "soft") for point in on_arc[1:-1]),
            line([origin, a], "line ink"),
            line([origin, b], "line ink"),
            line(arc(origin, radius, pi / 2 + theta / 2, pi / 2 - theta / 2), "line a"),
            line([a, b], "line b"),
            *(dot(point, "a") for point in on_arc[1:-1]),
            *(dot(point, "b") for point in on_chord[1:-1]),
            dot(a, "ink", 6),
            dot(b, "ink", 6),
            text(200, 28, "SLERP: the length stays 1", "middle", "a bold"),
            text(200, a[1] + 26, f"average: {cos(theta / 2):.2f} at t = 0.5", "middle", "b bold halo"),
            text(12, a[1] + 30, "model a", kind="bold"),
            text(12, a[1] + 50, "t = 0"),
            text(388, b[1] + 30, "model b", "end", "bold"),
            text(388, b[1] + 50, "t = 1", "end"),
            line(arc(origin, 44, pi / 2 + theta / 2, pi / 2 - theta / 2), "line ink"),
            text(origin[0], origin[1] - 56, "θ", "middle", "ink bold halo"),
            text(200, 294, "θ = 80° here, 15° between the demo models", "middle"),
        ],
    )


def demo_angles() -> None:
    """The angle of every tensor of the demo models, layer by layer."""
    reports = [report for report in merged_demo() if report.angle_deg is not None]
    rows = sorted({_row(report) for report in reports})
    top, step, left, right = 70, 32, 104, 376
    scale = (right - left) / 30
    kinds = {"attention": ("a", -6), "mlp": ("b", 6), "norm": ("c", 0), "other": ("ink", 0)}
    bottom = top + step * len(rows)
    threshold = left + scale * degrees(_threshold_angle())
    parts = [text(12, 28, "Angle between plays and code, by tensor", kind="bold")]
    for tick in (0, 10, 20, 30):
        x = left + scale * tick
        parts += [line([(x, top), (x, bottom)], "grid"), text(x, bottom + 22, f"{tick}°", "middle")]
    parts += [line([(threshold, top - 8), (threshold, bottom)], "soft")]
    parts += [text(threshold - 6, top - 14, f"under {degrees(_threshold_angle()):.1f}°: linear")]
    for number, row in enumerate(rows):
        y = top + step * (number + 0.5)
        parts += [line([(left, y), (right, y)], "grid"), text(12, y + 5, row[1])]
        for report in (each for each in reports if _row(each) == row):
            kind, offset = kinds[module_of(report.name)]
            parts.append(dot((left + scale * (report.angle_deg or 0.0), y + offset), kind))
    x = 12
    for words, kind, width in (
        ("attention", "a", 112),
        ("MLP", "b", 72),
        ("norm", "c", 80),
        ("embedding", "ink", 0),
    ):
        parts += [dot((x + 6, bottom + 48), kind), text(x + 18, bottom + 53, words)]
        x += width
    title = "Angles between the demo models"
    save("demo-angles", bottom + 70, title, "A dot for each tensor, in rows by layer.", parts)


def _row(report: TensorReport) -> tuple[int, str]:
    """Where a tensor stands in the picture, and what the row is called."""
    layer = layer_of(report.name)
    if layer is not None:
        return layer[1], f"layer {layer[1]}"
    return (-1, "embedding") if "embed" in report.name else (1000, "last norm")


def merged_demo() -> tuple[TensorReport, ...]:
    """What a merge of the demo models reports."""
    with tempfile.TemporaryDirectory() as folder:
        return merge(DEMO / "plays", DEMO / "code", out=Path(folder) / "child").report


def norms_along_t() -> None:
    """How long the result is along the path, for two vectors of length 1."""
    save(
        "slerp-norms",
        330,
        "Length along the path",
        "SLERP keeps the length 1. The average is shortest at t = 0.5, the more so the larger the angle.",
        plot(
            "Length of the result, |a| = |b| = 1",
            (0.4, 0.6, 0.8, 1.0),
            average_length,
            label_at=0.5,
            nudge=16,
        ),
    )


def speeds_along_t() -> None:
    """How fast the direction turns along the path, as a multiple of its mean."""
    save(
        "slerp-speeds",
        330,
        "Speed along the path",
        "SLERP turns at a constant speed, the average slowly at the ends and fast in the middle.",
        plot("Turning speed (mean = 1), |a| = |b|", (0.5, 1.0, 1.5), average_speed, label_at=1.0, nudge=5),
    )


def average_length(t: float, theta: float) -> float:
    """Norm of (1-t)a + tb for unit vectors at the angle theta."""
    return sqrt((1 - t) ** 2 + t**2 + 2 * t * (1 - t) * cos(theta))


def average_speed(t: float, theta: float) -> float:
    """How fast (1-t)a + tb turns at t, over its mean speed theta: sin θ / (θ |r|²)."""
    return sin(theta) / (theta * average_length(t, theta) ** 2)


def plot(
    title: str, ticks: Sequence[float], value: Callable[[float, float], float], label_at: float, nudge: float
) -> list[str]:
    """Averaging at the shown angles next to SLERP, which is 1 at every angle.

    Args:
        title: Above the plot.
        ticks: On the vertical axis.
        value: Of averaging, at t and an angle in radians.
        label_at: The t at which a curve has its angle written.
        nudge: How far below the curve that is.
    """
    parts, at = axes(title, ticks, top=80)
    for angle in SHOWN_ANGLES:
        curve = [at(t / 60, value(t / 60, radians(angle))) for t in range(61)]
        x, y = at(label_at, value(label_at, radians(angle)))
        anchor, x = ("start", x + 8) if label_at == 1 else ("middle", x)
        parts += [line(curve, "line b"), text(x, y + nudge, f"{angle}°", anchor, "b")]
    return [*parts, *legend(), line([at(0, 1), at(1, 1)], "line a")]


def axes(title: str, ticks: Sequence[float], top: float) -> tuple[list[str], Callable[[float, float], Point]]:
    """A title, a grid, the numbers along both axes, and what turns t and a value into a point."""
    left, right, bottom = 48, 336, 282
    step = ticks[1] - ticks[0]
    low, high = ticks[0] - step / 4, ticks[-1] + step / 3

    def at(t: float, value: float) -> Point:
        return left + (right - left) * t, bottom - (bottom - top) * (value - low) / (high - low)

    parts = [text(12, 28, title, kind="bold")]
    for tick in ticks:
        x, y = at(0, tick)
        parts += [line([(x, y), (right, y)], "grid"), text(x - 8, y + 5, f"{tick:.1f}", "end")]
    parts += [text(at(t, 0)[0], bottom + 26, f"{t:g}", "middle") for t in (0, 0.5, 1)]
    return [*parts, text(at(0.25, 0)[0], bottom + 26, "t", "middle", "bold")], at


def legend() -> list[str]:
    """The two colours of a plot."""
    return [
        line([(14, 52), (38, 52)], "line a"),
        text(46, 57, "SLERP, any angle"),
        line([(208, 52), (232, 52)], "line b"),
        text(240, 57, "average, at angle"),
    ]


def nearly_parallel_and_opposite() -> None:
    """Where SLERP gives way to linear interpolation: at both ends of the range of angles."""
    limit = degrees(_threshold_angle())
    save(
        "slerp-limits",
        380,
        "Nearly parallel and nearly opposite vectors",
        "Nearly parallel: arc and chord coincide. Nearly opposite: no arc is shortest.",
        [*_parallel(), *_opposite(), *_range_of_angles(limit)],
    )


def demo_losses() -> None:
    """The loss of the merged demo models on each text, and the mean, along t."""
    parts, at = axes("Loss of the merged demo models", (3.0, 3.5, 4.0, 4.5), top=64)
    for (name, losses), kind in zip(LOSSES.items(), "abc", strict=True):
        curve = [at(t / 10, loss) for t, loss in enumerate(losses)]
        x, y = curve[-1]
        parts += [line(curve, f"line {kind}"), text(x + 8, y + 5, name, kind=f"{kind} bold")]
    lowest = min(LOSSES["mean"])
    x, y = at(LOSSES["mean"].index(lowest) / 10, lowest)
    parts += [dot((x, y), "c"), text(x + 34, y + 24, f"{lowest:.2f}", "middle", "c bold halo")]
    title = "Loss along t"
    save(
        "demo-losses",
        330,
        title,
        "It rises on plays and falls on code; the mean is lowest at 0.6.",
        parts,
    )


TASK_VECTORS = (
    (0.8, 0.15, -0.9, 0.1, 0.7, -0.1, 0.3, -0.6),
    (0.6, 0.75, 0.2, -0.15, -1.0, 0.25, 0.65, 0.1),
    (0.9, -0.5, -0.7, 0.2, 0.15, -0.25, 0.7, 0.6),
)
"""Of models a, b and c: their differences from the base in eight elements."""

DENSITY = 0.5


def ties_steps() -> None:
    """TIES step by step: what is trimmed, what is outvoted, and the merged task vector."""
    vectors = np.array(TASK_VECTORS)
    n_kept = int(DENSITY * vectors.shape[1])
    cuts = -np.sort(-abs(vectors))[:, n_kept - 1 : n_kept]
    kept = abs(vectors) >= cuts
    signs = np.where((vectors * kept).sum(axis=0) >= 0, 1, -1)
    agree = kept & (np.sign(vectors) == signs)
    parts = [text(12, 28, "TIES of three task vectors, density 0.5", kind="bold")]
    for row, (name, values) in enumerate(zip("abc", vectors, strict=True)):
        y = 92.0 + 88 * row
        parts += [line([(62, y), (388, y)], "grid"), text(16, y + 5, name, kind=f"{name} bold")]
        for i, value in enumerate(values):
            kind = name if agree[row, i] else f"{name} hollow" if kept[row, i] else f"{name} pale"
            parts.append(bar(_ties_x(i), y, 38 * value, kind))
    parts.append(text(16, 334, "sign", kind="bold"))
    elected = ["·" if not any(of) else "+" if s > 0 else "−" for s, of in zip(signs, kept.T, strict=True)]
    parts += [text(_ties_x(i), 334, each, "middle", "bold") for i, each in enumerate(elected)]
    y = 392.0
    parts += [line([(62, y), (388, y)], "grid"), text(12, y + 5, "result", kind="bold")]
    parts += [bar(_ties_x(i), y, 38 * value, "ink") for i, value in enumerate(merged_task_vector())]
    words = {"a": "agrees", "a hollow": "outvoted", "a pale": "trimmed"}
    for i, (kind, word) in enumerate(words.items()):
        parts += [bar(22 + 130 * i, 470, 16, kind), text(38 + 130 * i, 467, word)]
    description = "Half of each task vector is kept, signs are elected, and models that agree are averaged."
    save("ties-steps", 490, "Trim, elect, merge", description, parts)


def _ties_x(element: int) -> float:
    return 80.0 + 41 * element


def merged_task_vector() -> list[float]:
    """What the method `ties` makes of `TASK_VECTORS`."""
    models = {label: np.array(vector) for label, vector in zip("abc", TASK_VECTORS, strict=True)}
    tensors = {**models, "base": np.zeros(len(TASK_VECTORS[0]))}
    values = {"weight": dict.fromkeys(models, 1.0), "density": dict.fromkeys(models, DENSITY)}
    settings = make_settings(method="ties", density=DENSITY)
    merged, _ = combine_tensors(tensors, settings, "task vectors", values)
    return merged.tolist()


def _parallel() -> list[str]:
    origin, radius, theta = (24.0, 158.0), 150.0, radians(16)
    a, b = polar(origin, radius, theta), polar(origin, radius, 0)
    return [
        text(12, 28, "Nearly parallel", kind="bold"),
        line([origin, a], "line ink"),
        line([origin, b], "line ink"),
        line([a, b], "line b"),
        line(arc(origin, radius, theta, 0), "line a"),
        dot(a, "ink"),
        dot(b, "ink"),
        text(a[0], a[1] - 12, "a", "middle", "bold"),
        text(b[0], b[1] + 24, "b", "middle", "bold"),
        text(12, 218, "Arc and chord are"),
        text(12, 238, "nearly one line."),
    ]


def _opposite() -> list[str]:
    origin, radius, tilt = (302.0, 124.0), 68.0, radians(12)
    a, b = polar(origin, radius, pi), polar(origin, radius, tilt)
    return [
        text(212, 28, "Nearly opposite", kind="bold"),
        line(arc(origin, radius, tilt, pi), "line a"),
        line(arc(origin, radius, pi, 2 * pi + tilt), "line a dashed"),
        line([a, b], "line b"),
        dot(origin, "ink", 3),
        dot(a, "ink"),
        dot(b, "ink"),
        text(a[0] - 16, a[1] + 5, "a", "middle", "bold"),
        text(b[0] + 16, b[1] + 5, "b", "middle", "bold"),
        text(302, 90, "this way?", "middle", "a"),
        text(302, 158, "or this?", "middle", "a"),
        text(212, 218, "No arc is shortest;"),
        text(212, 238, "the chord nears 0."),
    ]


def _range_of_angles(limit: float) -> list[str]:
    left, right, y = 36, 364, 300
    return [
        line([(left, y), (right, y)], "line a"),
        line([(left, y), (left + 12, y)], "line b thick"),
        line([(right - 12, y), (right, y)], "line b thick"),
        text(200, y - 14, "SLERP", "middle", "a bold"),
        text(left - 24, y - 14, "linear", "start", "b bold"),
        text(right + 24, y - 14, "linear", "end", "b bold"),
        text(left - 24, y + 28, f"0° to {limit:.1f}°"),
        text(right + 24, y + 28, f"{180 - limit:.1f}° to 180°", "end"),
        text(200, y + 60, "angle between a and b; the ends not to scale", "middle"),
    ]


def _threshold_angle() -> float:
    """Radians below which two tensors count as nearly parallel by default."""
    return acos(SlerpOptions().DOT_THRESHOLD)


def polar(origin: Point, radius: float, angle: float) -> Point:
    """The point at an angle, counted as in mathematics; y grows downward in a picture."""
    return origin[0] + radius * cos(angle), origin[1] - radius * sin(angle)


def arc(origin: Point, radius: float, start: float, end: float) -> list[Point]:
    """Points along a circle."""
    return [polar(origin, radius, start + (end - start) * i / 60) for i in range(61)]


def line(points: Iterable[Point], kind: str) -> str:
    """A line through points."""
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def bar(x: float, y: float, height: float, kind: str) -> str:
    """A bar from a base line upwards, or downwards if its height is negative."""
    top = y - max(height, 0)
    return f'<rect class="{kind}" x="{x - 8:.1f}" y="{top:.1f}" width="16" height="{abs(height):.1f}"/>'


def dot(point: Point, kind: str, radius: float = 4.5) -> str:
    """A filled circle."""
    return f'<circle class="{kind}" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="{radius:g}"/>'


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """A line of text."""
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{of_kind}>{escape(words)}</text>'


def save(name: str, height: int, title: str, description: str, parts: Iterable[str]) -> None:
    """Writes a picture."""
    body = "\n  ".join(parts)
    file = IMAGES / f"{name}.svg"
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH * 1.3:.0f}" '
        f'height="{height * 1.3:.0f}" role="img" aria-labelledby="title desc">\n'
        f'  <title id="title">{escape(title)}</title>\n  <desc id="desc">{escape(description)}</desc>\n'
        f"  <style>\n{STYLE}  </style>\n"
        f'  <rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>\n'
        f"  {body}\n</svg>\n",
        encoding="utf-8",
    )
    print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
