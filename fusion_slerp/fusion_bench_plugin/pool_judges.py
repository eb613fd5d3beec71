"""How the program's own task pool judges the many models of a sweep or search."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from fusion_slerp.errors import Problem, SettingsError, setting
from fusion_slerp.fusion_bench_plugin.host_values import load_tokenizer
from fusion_slerp.fusion_bench_plugin.last_lines import discarded
from fusion_slerp.fusion_bench_plugin.lm_eval_task_pool import LMEvalTaskPool
from fusion_slerp.fusion_bench_plugin.perplexity_task_pool import PerplexityTaskPool
from fusion_slerp.sweeps.best import HIGHER
from fusion_slerp.sweeps.examination import Examination, better
from fusion_slerp.sweeps.judgement import Judgement
from fusion_slerp.sweeps.models import candidates
from fusion_slerp.sweeps.preparing import PreparedSweep
from fusion_slerp.sweeps.scores import AVERAGE_LOSS, AVERAGE_SCORE, score_at
from fusion_slerp.sweeps.tasks import higher_is_better


def pool_of(program: Any, verb: str) -> Any:
    """Returns the program's task pool without its baselines: the pool's models are evaluated once anyway.

    Args:
        program: The program of FusionBench; None without.
        verb: `sweep` or `search`, for the message.

    Raises:
        SettingsError: There is none.
    """
    pool = getattr(program, "taskpool", None)
    if pool is None:
        fields = (("needed", "a task pool in the program, whose report has the metric"),)
        fix = "use taskpool=fusion_slerp/perplexity_demo, or another one"
        raise Problem(SettingsError, f"a {verb} needs a task pool", fields, fix).error()
    if not getattr(pool, "_baselines", None):
        return pool
    alone = copy.copy(pool)
    alone._baselines = {}
    return alone


def deciding(pool: Any, metric: str | None, mode: str | None) -> dict[str, str]:
    """Returns the arguments `metric` and `mode` of a sweep: as given, or those that suit the task pool."""
    is_of_tasks = isinstance(pool, LMEvalTaskPool)
    path = metric or (AVERAGE_SCORE if is_of_tasks else AVERAGE_LOSS)
    is_higher = higher_is_better(pool.tasks_open, path) if is_of_tasks else None
    return {"metric": path, "mode": mode or ("max" if better(path, None, is_higher) == HIGHER else "min")}


def examination_of(pool: Any, sweep: PreparedSweep) -> Examination | None:
    """Returns the texts or tasks of one of our task pools, opened for every model; None for another pool."""
    if not isinstance(pool, (PerplexityTaskPool, LMEvalTaskPool)):
        return None
    tokenizer = None if pool.tokenizer is None else load_tokenizer(pool.tokenizer)
    models = candidates(sweep.parents, sweep.plan, tokenizer)
    if isinstance(pool, PerplexityTaskPool):
        return Examination(pool.prepare(models))
    return Examination(None, pool.prepare({name: each.tokenizer for name, each in models.items()}))


def reported(pool: Any, model: Any) -> Judgement:
    """Returns what any task pool reports of a model, and keeps away its table."""
    with discarded():
        return Judgement(pool.evaluate(model))


def check_metric(scores: Mapping[str, Any], metric: str) -> float:
    """Returns the score that decides.

    Raises:
        SettingsError: The task pool's report lacks it.
    """
    score = score_at(scores, metric)
    if score is None:
        fields = (("metric", metric), ("found", ", ".join(_paths(scores)) or "an empty report"))
        fix = f"use {setting('metric', next(iter(_paths(scores)), AVERAGE_LOSS))}"
        raise Problem(SettingsError, "the task pool's report lacks the metric", fields, fix).error()
    return score


def _paths(scores: Mapping[str, Any], before: str = "") -> list[str]:
    """The paths of the numbers in a report."""
    found = []
    for key, value in scores.items():
        if isinstance(value, Mapping):
            found += _paths(value, f"{before}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append(f"{before}{key}")
    return found
