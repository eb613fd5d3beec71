"""What the sweeps that a FusionBench configuration names have in common."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from fusion_bench.modelpool.base_pool import BaseModelPool
from omegaconf import OmegaConf
from torch import nn

from fusion_slerp.cluster.ranks import Ranks
from fusion_slerp.errors import Problem, SettingsError, setting
from fusion_slerp.fusion_bench_plugin.compact_errors import compact_errors
from fusion_slerp.fusion_bench_plugin.fabric_ranks import quiet, ranks_of, share_of
from fusion_slerp.fusion_bench_plugin.host_values import absolute, plain
from fusion_slerp.fusion_bench_plugin.last_lines import show_last, show_waiting
from fusion_slerp.fusion_bench_plugin.merge_for_causal_lm import MergeForCausalLM
from fusion_slerp.fusion_bench_plugin.merged_models import load_model
from fusion_slerp.fusion_bench_plugin.pool_judges import (
    check_metric,
    deciding,
    examination_of,
    pool_of,
    reported,
)
from fusion_slerp.fusion_bench_plugin.pool_models import PoolModel
from fusion_slerp.fusion_bench_plugin.streamed_models import (
    merge_into_model,
    merge_options,
    merge_to_folder,
)
from fusion_slerp.settings.labels import BASE
from fusion_slerp.sweeps.models import without_bars
from fusion_slerp.sweeps.points import point_text
from fusion_slerp.sweeps.preparing import PreparedSweep, prepare_sweep
from fusion_slerp.sweeps.record import SweepPoint, SweepRecord
from fusion_slerp.sweeps.results import Results
from fusion_slerp.sweeps.running import Loading, runner_of
from fusion_slerp.sweeps.sharing import evaluate_all

log = logging.getLogger(__name__)

Models = Mapping[str, PoolModel]
"""The pool's models by label."""


class SweepForCausalLM(MergeForCausalLM):
    """Merges a pool's models at many values of an option, and returns the merged model that scores best.

    Each merged model is evaluated by the program's own task pool, without its baselines; so is each of the
    pool's models, for comparison. The models are opened and measured once; each point overwrites the weights
    of one model in memory. With several processes, each evaluates a part of them, unless the task pool is
    not one of this package: then all evaluate each model together.

    Attributes:
        vary: What is varied, and its values, as for `fusion_slerp.sweep`: `{"t": "0:1:0.1"}`. Models may be
            called by their names in the pool: `weight.plays`.
        metric: The path of the score that decides, in the report of the task pool. None: `average.loss`, or
            with `LMEvalTaskPool` `average.score`, the mean of the tasks' main scores.
        mode: `min` if a lower score is better, or `max`. None: `min`, or what a score's task says.
        max_points: More points than this are refused.
        sweep_path: The folder that keeps the results, from which the same sweep resumes; None keeps none.
        model_save_path: Folder that the best merged model is streamed to; None does not.
    """

    vary: Any
    metric: str | None
    mode: str | None
    max_points: int
    sweep_path: str | None

    verb = "sweep"

    def run(  # pyright: ignore[reportIncompatibleMethodOverride] (FusionBench's returns nothing)
        self, modelpool: BaseModelPool
    ) -> nn.Module | None:
        """Evaluates many merged models, and returns the best.

        Raises:
            FusionSlerpError: As `fusion_slerp.sweep` or `search`; SettingsError if the program has no task
                pool.
        """
        show_waiting()
        with compact_errors():
            return self._best_of(modelpool)

    def _best_of(self, modelpool: BaseModelPool) -> nn.Module:
        ranks = ranks_of(self._program)
        with quiet(ranks):
            models, settings = ranks.on_all(lambda: self._read(modelpool))
            _refuse_loaded(models, self.verb)
            options = merge_options(modelpool, models, share_of(ranks, settings))
            best = self._options_of_best(models, options, pool_of(self._program, self.verb), ranks)
            gc.collect()  # the model in memory that was each point: models hold reference cycles
            return self._made(models, best, ranks)

    def _options_of_best(
        self, models: Models, options: Mapping[str, Any], pool: Any, ranks: Ranks
    ) -> dict[str, Any]:
        """Runs the sweep. Our task pools judge a model in one process; others may need all of them."""
        sweep = ranks.on_all(lambda: self._prepare(models, options, pool, ranks.is_first))
        examination = ranks.on_all(lambda: examination_of(pool, sweep))
        results = Results(sweep.record, sweep.out)
        with ExitStack() as opened, without_bars():
            ranks.on_all(lambda: opened.enter_context(results.open()))
            judge = examination or (lambda name, model: reported(pool, model))
            runner = runner_of(sweep, results, judge, loading_of(models, sweep))
            is_dealt = examination is not None
            record = evaluate_all(runner, sweep.points, _announce, ranks, is_dealt)
            best = ranks.on_first(lambda: best_point(record).values)
        if ranks.is_first:
            show_last(lambda: print(f"Sweep: {record}"))
        return sweep.options_at(best)

    def _prepare(
        self, models: Models, options: Mapping[str, Any], pool: Any, is_first: bool
    ) -> PreparedSweep:
        return prepare_sweep(
            *sources_of(models),
            vary=by_path(plain(self.vary)),
            out=absolute(self.sweep_path) if is_first else None,
            max_points=self.max_points,
            **self._arguments(models, pool),
            **options,
        )

    def _arguments(self, models: Models, pool: Any) -> dict[str, Any]:
        """The arguments that a sweep and a search pass to `prepare_sweep`."""
        task_pool = getattr(self._program, "_taskpool", None)
        return {
            "names": {model.name: label for label, model in models.items() if label != BASE},
            "needs_evaluation": False,
            "is_in_memory": True,
            "evaluation": {"taskpool": OmegaConf.to_container(task_pool) if task_pool is not None else None},
            **deciding(pool, self.metric, self.mode),
        }

    def _made(self, models: Models, options: Mapping[str, Any], ranks: Ranks) -> nn.Module:
        """The best merged model: from its folder if it is saved, else in memory alone."""
        if self.model_save_path is None:
            return ranks.on_all(lambda: merge_into_model(models, options))
        folder = merge_to_folder(models, options, str(self._save_path(ranks)), ranks).out
        return ranks.on_all(lambda: load_model(next(iter(models.values())), folder))


def sources_of(models: Models) -> tuple[list[str], str | None]:
    """Returns the folders or Hub ids of the pool's models, and that of the base; None without."""
    own = [str(model.source) for label, model in models.items() if label != BASE]
    return own, models[BASE].source if BASE in models else None


def loading_of(models: Models, sweep: PreparedSweep) -> Loading:
    """Returns how the pool would load its models and the merged one."""
    first = next(iter(models.values()))
    return Loading(
        lambda label: load_model(models[label], sweep.parents[label].folder), first.loader, first.load_kwargs
    )


def best_point(record: SweepRecord) -> SweepPoint:
    """Returns the best point.

    Raises:
        SettingsError: No point has a finite score.
    """
    if record.best_point is None:
        fields = (("metric", record.metric["name"]), ("found", "no finite number at any point"))
        fix = "check the weights for NaN or infinity"
        raise Problem(SettingsError, "no point of the sweep is best", fields, fix).error()
    return record.best_point


def by_path(vary: Any, before: str = "") -> dict[str, Any]:
    """Returns the values by name: on Hydra's command line, `t.mlp` becomes a mapping within a mapping.

    Raises:
        SettingsError: It is no mapping.
    """
    if not isinstance(vary, Mapping):
        fields = (("found", repr(vary)), ("needed", "values by name"))
        fix = f"use {setting('vary', {'t': '0:1:0.1'})}"
        raise Problem(SettingsError, "invalid vary", fields, fix).error()
    found: dict[str, Any] = {}
    for name, value in vary.items():
        path = f"{before}{name}"
        found |= by_path(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return found


def _announce(record: SweepRecord, name: str) -> None:
    metric = record.metric["name"]
    for point in record.points:
        if point.name == name:
            text = point_text(point.values)
            log.info("%s: %s = %.4f", text, metric, check_metric(point.scores, metric))


def _refuse_loaded(models: Models, verb: str) -> None:
    loaded = [model.name for model in models.values() if model.source is None]
    if loaded:
        fields = (("found", f"{', '.join(loaded)}, built by the pool"), ("needed", "folders or Hub ids"))
        fix = f"use modelpool.models.{loaded[0]}=FOLDER"
        raise Problem(SettingsError, f"a {verb} reads its models from their files", fields, fix).error()
