"""What the sweeps that a FusionBench configuration names have in common."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fusion_bench.modelpool.base_pool import BaseModelPool
from omegaconf import OmegaConf
from torch import nn

from fusion_slerp.errors import Problem, SettingsError, setting
from fusion_slerp.evaluation.building import tokenizer_of
from fusion_slerp.evaluation.models import own_tokenizer
from fusion_slerp.evaluation.resident import ResidentModel
from fusion_slerp.fusion_bench_plugin.compact_errors import compact_errors
from fusion_slerp.fusion_bench_plugin.host_values import absolute, plain
from fusion_slerp.fusion_bench_plugin.last_lines import discarded, show_last, show_waiting
from fusion_slerp.fusion_bench_plugin.merge_for_causal_lm import MergeForCausalLM
from fusion_slerp.fusion_bench_plugin.merged_models import load_model
from fusion_slerp.fusion_bench_plugin.perplexity_task_pool import PerplexityTaskPool
from fusion_slerp.fusion_bench_plugin.pool_models import PoolModel
from fusion_slerp.fusion_bench_plugin.ranks import Ranks
from fusion_slerp.fusion_bench_plugin.streamed_models import merge_options, merge_to_folder
from fusion_slerp.settings.labels import BASE
from fusion_slerp.sweeps.models import MERGED, without_bars
from fusion_slerp.sweeps.points import point_text
from fusion_slerp.sweeps.preparing import PreparedSweep, prepare_sweep
from fusion_slerp.sweeps.record import SweepPoint, SweepRecord
from fusion_slerp.sweeps.results import Results
from fusion_slerp.sweeps.runner import Judgement, Parent, SweepRunner

log = logging.getLogger(__name__)


class SweepForCausalLM(MergeForCausalLM):
    """Merges a pool's models at many values of an option, and returns the merged model that scores best.

    Each merged model is evaluated by the program's own task pool, without its baselines; so is each of the
    pool's models, for comparison. The models are opened and measured once; each point overwrites the weights
    of one model in memory.

    Attributes:
        vary: What is varied, and its values, as for `fusion_slerp.sweep`: `{"t": "0:1:0.1"}`. Models may be
            called by their names in the pool: `weight.plays`.
        metric: The path of the score that decides, in the report of the task pool.
        mode: `min` if a lower score is better, or `max`.
        max_points: More points than this are refused.
        sweep_path: The folder that keeps the results, from which the same sweep resumes; None keeps none.
        model_save_path: Folder that the best merged model is streamed to; None does not.
    """

    vary: Any
    metric: str
    mode: str
    max_points: int
    sweep_path: str | None

    def run(  # pyright: ignore[reportIncompatibleMethodOverride] (FusionBench's returns nothing)
        self, modelpool: BaseModelPool
    ) -> nn.Module | None:
        """Evaluates every point, and returns the best merged model.

        Raises:
            FusionSlerpError: As `fusion_slerp.sweep`; SettingsError if the program has no task pool.
        """
        show_waiting()
        with compact_errors():
            return self._sweep(modelpool)

    def _sweep(self, modelpool: BaseModelPool) -> nn.Module:
        ranks = Ranks(getattr(self._program, "fabric", None))
        with ranks.quiet():
            models, settings = ranks.on_all(lambda: self._read(modelpool))
            _refuse_loaded(models)
            pool = self._task_pool()
            options = merge_options(modelpool, models, ranks.share_of(settings))
            sweep = ranks.on_all(lambda: self._prepare(models, options, ranks.is_first))
            results = Results(sweep.record, sweep.out)
            with results.open(), without_bars():
                runner = self._runner(sweep, results, models, pool)
                for parent in runner.parents:
                    ranks.on_all(partial(runner.evaluate_parent, parent))
                for values in sweep.points:
                    _announce_point(runner.record, ranks.on_all(partial(runner.evaluate, values)))
                record = runner.finish()
                best = ranks.on_first(lambda: _best(record).values)
                show_last(lambda: print(f"Sweep: {record}"))
                return self._best_model(runner, best, models, ranks)

    def _prepare(
        self, models: Mapping[str, PoolModel], options: Mapping[str, Any], is_first: bool
    ) -> PreparedSweep:
        own = {label: model for label, model in models.items() if label != BASE}
        base = models[BASE].source if BASE in models else None
        task_pool = getattr(self._program, "_taskpool", None)
        return prepare_sweep(
            [str(model.source) for model in own.values()],
            base,
            vary=dict(_flat(plain(self.vary))),
            names={model.name: label for label, model in own.items()},
            out=absolute(self.sweep_path) if is_first else None,
            needs_evaluation=False,
            is_in_memory=True,
            metric=self.metric,
            mode=self.mode,
            max_points=self.max_points,
            evaluation={"taskpool": OmegaConf.to_container(task_pool) if task_pool is not None else None},
            **options,
        )

    def _task_pool(self) -> Any:
        pool = getattr(self._program, "taskpool", None)
        if pool is None:
            fields = (("needed", "a task pool in the program, whose report has the metric"),)
            fix = "use taskpool=fusion_slerp/perplexity_demo, or another one"
            raise Problem(SettingsError, "a sweep needs a task pool", fields, fix).error()
        if not getattr(pool, "_baselines", None):
            return pool
        alone = copy.copy(pool)
        alone._baselines = {}  # the sweep evaluates the pool's models itself, once
        return alone

    def _runner(
        self,
        sweep: PreparedSweep,
        results: Results,
        models: Mapping[str, PoolModel],
        pool: Any,
    ) -> SweepRunner:
        first = next(iter(models.values()))
        base = models[BASE].source if BASE in models else None

        def resident() -> ResidentModel:
            options = sweep.options_at(sweep.points[0])
            return ResidentModel(sweep.models, base, options, first.loader, first.load_kwargs)

        return SweepRunner(
            sweep.axes,
            sweep.options,
            len(sweep.models),
            results,
            tuple(
                Parent(label, partial(load_model, model, sweep.parents[label].folder))
                for label, model in models.items()
            ),
            resident,
            lambda name, model: _judged(pool, name, model, models),
        )

    def _best_model(
        self,
        runner: SweepRunner,
        values: Mapping[str, Any],
        models: Mapping[str, PoolModel],
        ranks: Ranks,
    ) -> nn.Module:
        """The best merged model: from its folder if it is saved, else the one in memory."""
        options = runner.options_at(values)
        if self.model_save_path is None:
            return ranks.on_all(lambda: runner.resident().at(options))
        path = str(self.model_save_path)
        folder = ranks.on_first(lambda: str(merge_to_folder(models, options, path).out))
        return ranks.on_all(lambda: load_model(next(iter(models.values())), Path(folder)))


def _judged(pool: Any, name: str, model: Any, models: Mapping[str, PoolModel]) -> Judgement:
    """What a task pool reports; the losses of the perplexity pool can be compared token by token."""
    with discarded():
        if not isinstance(pool, PerplexityTaskPool):
            return Judgement(pool.evaluate(model))
        source = None if name == MERGED else models[name].source
        tokenizer = tokenizer_of(model) if source is None else own_tokenizer(source)
        found = pool.measure(model, tokenizer)
        return Judgement(found.scores, found)


def _announce_point(record: SweepRecord, point: SweepPoint) -> None:
    from fusion_slerp.sweeps.best import score_at

    name = record.metric["name"]
    score = score_at(point.scores, name)
    if score is None:
        fields = (("metric", name), ("found", ", ".join(_paths(point.scores)) or "an empty report"))
        fix = f"use {setting('metric', next(iter(_paths(point.scores)), 'average.loss'))}"
        raise Problem(SettingsError, "the task pool's report lacks the metric", fields, fix).error()
    log.info("%s: %s = %.4f", point_text(point.values), name, score)


def _paths(scores: Mapping[str, Any], before: str = "") -> list[str]:
    """The paths of the numbers in a report."""
    found = []
    for key, value in scores.items():
        if isinstance(value, Mapping):
            found += _paths(value, f"{before}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append(f"{before}{key}")
    return found


def _best(record: SweepRecord) -> SweepPoint:
    if record.best_point is None:
        fields = (("metric", record.metric["name"]), ("found", "no finite number at any point"))
        fix = "check the weights for NaN or infinity"
        raise Problem(SettingsError, "no point of the sweep is best", fields, fix).error()
    return record.best_point


def _refuse_loaded(models: Mapping[str, PoolModel]) -> None:
    loaded = [model.name for model in models.values() if model.source is None]
    if loaded:
        fields = (("found", f"{', '.join(loaded)}, built by the pool"), ("needed", "folders or Hub ids"))
        fix = f"use modelpool.models.{loaded[0]}=FOLDER"
        raise Problem(SettingsError, "a sweep reads its models from their files", fields, fix).error()


def _flat(vary: Any, before: str = "") -> list[tuple[str, Any]]:
    """The values by name: on Hydra's command line, `t.mlp` becomes a mapping within a mapping."""
    if not isinstance(vary, Mapping):
        fields = (("found", repr(vary)), ("needed", "values by name"))
        fix = f"use {setting('vary', {'t': '0:1:0.1'})}"
        raise Problem(SettingsError, "invalid vary", fields, fix).error()
    found = []
    for name, value in vary.items():
        is_deeper = isinstance(value, Mapping)
        found += _flat(value, f"{before}{name}.") if is_deeper else [(f"{before}{name}", value)]
    return found
