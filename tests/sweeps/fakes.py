"""A sweep without models: an evaluation is made of random losses that depend on the values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusion_slerp.evaluation.evaluation import Evaluation, TextEvaluation
from fusion_slerp.sweeps.axes import Axis
from fusion_slerp.sweeps.judgement import Details, Judgement
from fusion_slerp.sweeps.points import grid
from fusion_slerp.sweeps.record import SweepRecord
from fusion_slerp.sweeps.results import Results
from fusion_slerp.sweeps.runner import Parent, SweepRunner

N_TOKENS = 4000
NOISE = np.random.default_rng(7).standard_normal(N_TOKENS)
T = Axis("t", (0.0, 0.25, 0.5, 0.75, 1.0), "t")


def evaluation(loss: float, seed: int = 0, spread: float = 0.3, digest: str = "same") -> Evaluation:
    """Losses with a mean of about `loss`: what all models share, and a little of their own."""
    own = np.random.default_rng(seed).standard_normal(N_TOKENS)
    losses = loss + NOISE + spread * (own - own.mean())
    return Evaluation({"text": TextEvaluation((losses,), digest, n_bytes=3 * N_TOKENS, seconds=1.0)})


class Models:
    """In place of a resident model: the model is its options; counts what is evaluated."""

    def __init__(self) -> None:
        self.evaluated: list[str] = []

    def at(self, options: Mapping[str, Any]) -> Any:
        return dict(options)

    def judge(self, name: str, model: Any) -> Judgement:
        t = model["t"]
        self.evaluated.append(f"{name} {t}")
        found = evaluation(3 + (t - 0.55) ** 2, seed=int(100 * t))
        return Judgement(found.scores, Details(found))


def record_of(axes: Sequence[Axis] = (T,), identity: Mapping[str, Any] | None = None) -> SweepRecord:
    """A record before the first result."""
    return SweepRecord(
        method="slerp",
        models={"a": {"source": "plays"}, "b": {"source": "code"}},
        settings={},
        vary={axis.name: axis.values for axis in axes},
        metric={"name": "average.loss", "better": "lower"},
        identity={"settings": {}} if identity is None else identity,
    )


def runner_of(results: Results, models: Models, axes: Sequence[Axis] = (T,)) -> SweepRunner:
    parents = [Parent("a", lambda: {"t": 0.0}), Parent("b", lambda: {"t": 1.0})]
    return SweepRunner(axes, {}, 2, results, parents, lambda: models, models.judge)  # type: ignore[arg-type]


def run(folder: Path | None, models: Models, axes: Sequence[Axis] = (T,)) -> SweepRecord:
    """Runs the whole sweep, as `run_sweep` does."""
    results = Results(record_of(axes), folder)
    with results.open():
        runner = runner_of(results, models, axes)
        for parent in runner.parents:
            runner.evaluate_parent(parent)
        for values in grid(axes):
            runner.evaluate(values)
        return runner.finish()
