"""Makes what reports are written about: merged models without weights, evaluations, and records of sweeps."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusion_slerp.engine.report import TensorReport
from fusion_slerp.output.manifest import manifest_text
from fusion_slerp.output.merge_report import REPORT, report_text
from fusion_slerp.output.unfinished import MANIFEST
from fusion_slerp.searches import record as search
from fusion_slerp.searches.record import COMPLETE, FAILED, PRUNED, Trial
from fusion_slerp.settings.merge_settings import make_settings
from fusion_slerp.sweeps.record import SweepPoint, SweepRecord
from tests.models import write_json

HOSTILE = "</script><img src=x onerror=alert(1)>'\"&\u202e"
"""A name that would run code where it is not escaped."""

WIDTHS = {
    "self_attn.q_proj": 8192 * 8192,
    "self_attn.k_proj": 8192 * 1024,
    "self_attn.v_proj": 8192 * 1024,
    "self_attn.o_proj": 8192 * 8192,
    "mlp.gate_proj": 8192 * 29568,
    "mlp.up_proj": 8192 * 29568,
    "mlp.down_proj": 8192 * 29568,
    "input_layernorm": 8192,
    "post_attention_layernorm": 8192,
}
"""Elements of the tensors of one layer of a model of 72 billion parameters."""


def layer_reports(n_layers: int, n_experts: int = 0, with_angles: bool = True) -> Iterator[TensorReport]:
    """Reports of a merge of two large models, as plausible as numbers from a generator can be."""
    generator = random.Random(1)
    yield _report("model.embed_tokens.weight", 152064 * 8192, 21.0, with_angles)
    for layer in range(n_layers):
        depth = layer / max(n_layers - 1, 1)
        for kind, n in WIDTHS.items():
            angle = 1.2 + 3 * depth * (1 - depth) + 2.5 * math.exp(-9 * depth) + generator.uniform(-0.3, 0.3)
            angle *= 0.2 if "norm" in kind else 1.25 if kind.endswith(("v_proj", "o_proj")) else 1.0
            yield _report(f"model.layers.{layer}.{kind}.weight", n, angle, with_angles)
        for expert in range(n_experts):
            for kind in ("gate_proj", "up_proj", "down_proj"):
                name = f"model.layers.{layer}.mlp.experts.{expert}.{kind}.weight"
                yield _report(name, 4096 * 1536, 3 + generator.random(), with_angles)
    yield _report("model.norm.weight", 8192, 0.4, with_angles)
    yield _report("lm_head.weight", 152064 * 8192, 6.0, with_angles)


def _report(name: str, n: int, angle: float, with_angles: bool) -> TensorReport:
    norm = math.sqrt(n) / 40
    measures: dict[str, Any] = (
        {"angle_deg": angle, "norms": {"a": norm, "b": norm * 1.01}} if with_angles else {}
    )
    rule = "lerp: nearly parallel" if angle < 1.81 else "slerp"
    return TensorReport(name, rule, n, {"t": 0.4}, **measures)


def write_child(folder: Path, reports: Sequence[TensorReport], **options: Any) -> Path:
    """Writes the manifest and the report of a merge, and no weights."""
    folder.mkdir(parents=True)
    tensors = {
        report.name: {"file": "model.safetensors", "offset": 0, "nbytes": 0, "xxh3_128": "0" * 32}
        for report in reports
    }
    file = {"nbytes": 0, "xxh3_128": "0" * 32}
    parents = {
        "a": {
            "model": "owner/Instruct-72B",
            "revision": "0123456789abcdef" * 2 + "01234567",
            "files": {},
            "beside": {},
        },
        "b": {"model": "Reasoning-72B", "files": {}, "beside": {}},
    }
    text = manifest_text(parents, make_settings(t=0.4, **options), {"model.safetensors": file}, tensors)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    (folder / REPORT).write_text(report_text(reports), encoding="utf-8")
    return folder


def scores(loss: float, other: float) -> dict[str, Any]:
    """Scores of two texts and their average."""
    texts = {"plays": loss, "code": other}
    return {
        **{
            text: {
                "loss": value,
                "perplexity": math.exp(value),
                "loss_stderr": 0.031 + value / 300,
                "tokens": 20111,
                "tokens_per_s": 5210.4,
            }
            for text, value in texts.items()
        },
        "average": {
            "loss": (loss + other) / 2,
            "perplexity": math.exp((loss + other) / 2),
            "loss_stderr": 0.027,
        },
    }


PLAYS = (3.666, 3.662, 3.674, 3.704, 3.749, 3.815, 3.906, 4.026, 4.178, 4.363, 4.579)
CODE = (4.761, 4.411, 4.110, 3.858, 3.653, 3.492, 3.368, 3.273, 3.206, 3.165, 3.151)


def difference(value: float, stderr: float) -> dict[str, float]:
    """A paired difference with its 95 % interval."""
    return {"value": value, "stderr": stderr, "low": value - 1.96 * stderr, "high": value + 1.96 * stderr}


def sweep_record(prompt: str = "def main(", answer: str = "self):\n    return None") -> SweepRecord:
    """A sweep of t over two models, with the losses of the demo models."""
    points = []
    means = [(one + other) / 2 for one, other in zip(PLAYS, CODE, strict=True)]
    for i, (one, other) in enumerate(zip(PLAYS, CODE, strict=True)):
        texts = {"plays": one, "code": other, "average": means[i]}
        ends = {
            "a": (PLAYS[0], CODE[0], means[0]),
            "b": (PLAYS[-1], CODE[-1], means[-1]),
            "best": (PLAYS[6], CODE[6], means[6]),
        }
        differences = {
            label: {
                text: difference(value - end, 0.004 + 0.01 * abs(value - end))
                for (text, value), end in zip(texts.items(), ends[label], strict=True)
            }
            for label in ends
            if not (label == "best" and i == 6)
        }
        points.append(
            SweepPoint(
                {"t": i / 10},
                scores(one, other),
                differences,
                {"merge": 0.31, "evaluate": 4.2},
                ({"prompt": prompt, "text": answer},),
            )
        )
    return SweepRecord(
        method="slerp",
        models={"a": {"source": "models/plays"}, "b": {"source": "models/code"}},
        settings={},
        vary={"t": tuple(i / 10 for i in range(11))},
        metric={"name": "average.loss", "better": "lower"},
        parents={"a": scores(PLAYS[0], CODE[0]), "b": scores(PLAYS[-1], CODE[-1])},
        points=tuple(points),
        best=6,
    )


def by_task(record: SweepRecord) -> SweepRecord:
    """The record of a sweep that was judged by the score of a task as well as losses."""

    def with_task(of: dict[str, Any], value: float) -> dict[str, Any]:
        metric = {"value": value, "stderr": 0.02, "higher_is_better": True}
        return {**of, "tasks": {"quiz": {"metrics": {"acc": metric}}}}

    points = [
        replace(
            point,
            scores=with_task(dict(point.scores), 0.5 + i / 100),
            differences={"best": {"quiz.acc": difference((i - 10) / 100, 0.005)}} if i < 10 else {},
        )
        for i, point in enumerate(record.points)
    ]
    parents = {label: with_task(dict(each), 0.5) for label, each in record.parents.items()}
    metric = {"name": "quiz.acc", "better": "higher"}
    return replace(record, metric=metric, points=tuple(points), parents=parents, best=10)


def write_sweep(folder: Path, record: SweepRecord) -> Path:
    """Writes a record as a sweep does."""
    from fusion_slerp.sweeps.record import FILE, as_fields

    folder.mkdir(parents=True)
    (folder / FILE).write_text(json.dumps(as_fields(record)), encoding="utf-8")
    return folder


def write_evaluation(file: Path, labels: Sequence[str] = ("a", "b", "child")) -> Path:
    """Writes the scores, differences and samples of a merged model and its parents."""
    losses = dict(zip(("a", "b", "child"), ((3.666, 4.761), (4.579, 3.151), (3.906, 3.368)), strict=True))
    models = {}
    for label in labels:
        text = f"{label} was here,\n  and said so."
        models[label] = {
            "scores": scores(*losses[label]),
            "samples": [{"prompt": "Once upon a time", "text": text}],
        }
    of_child = {
        label: {text: difference(value, 0.006) for text, value in zip(("plays", "code"), values, strict=True)}
        for label, values in {"a": (0.24, -1.39), "b": (-0.67, 0.008)}.items()
    }
    write_json(file, {"format": 1, "models": models, "differences": {"child": of_child}})
    return file


def grid_record() -> SweepRecord:
    """A sweep of two options, whose best point is in the middle."""
    sizes = (0.0, 0.25, 0.5, 0.75, 1.0)
    grid = [(p, q) for p in sizes for q in sizes]
    losses = [3.6 + (p - 0.5) ** 2 + 0.5 * (q - 0.25) ** 2 for p, q in grid]
    points = [
        SweepPoint({"t.self_attn": p, "t.mlp": q}, scores(loss, loss))
        for (p, q), loss in zip(grid, losses, strict=True)
    ]
    vary = {"t.self_attn": sizes, "t.mlp": sizes}
    return replace(sweep_record(), vary=vary, points=tuple(points), best=losses.index(min(losses)))


def search_trials() -> tuple[Trial, ...]:
    """The points of `sweep_record` in another order, two trials that were stopped, and one that failed."""
    losses = [(one + other) / 2 for one, other in zip(PLAYS, CODE, strict=True)]
    full = [Trial({"t": i / 10}, COMPLETE, losses[i]) for i in (5, 6, 0, 10, *range(1, 5), *range(7, 10))]
    stopped = [
        Trial({"t": 0.03}, PRUNED, 9.0, 0.125, 1, difference(0.5, 0.05), 0.2),
        Trial({"t": 0.97}, PRUNED, 9.0, 0.25, 2, difference(0.25, 0.02), 0.2),
    ]
    return (full[0], *stopped, *full[1:], Trial({"t": 0.55}, FAILED, None))


def write_search(folder: Path, record: SweepRecord, trials: Sequence[Trial]) -> Path:
    """Writes the records of a search as a search does."""
    write_sweep(folder, record)
    write_json(folder / search.FILE, search.as_fields(search.SearchRecord(record, tuple(trials))))
    return folder
