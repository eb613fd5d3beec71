"""What the searches that a FusionBench configuration names have in common."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fusion_slerp.cluster.ranks import Ranks
from fusion_slerp.errors import Problem, SettingsError
from fusion_slerp.fusion_bench_plugin.host_values import absolute, plain
from fusion_slerp.fusion_bench_plugin.last_lines import show_last
from fusion_slerp.fusion_bench_plugin.pool_judges import check_metric, examination_of
from fusion_slerp.fusion_bench_plugin.sweep_for_causal_lm import (
    Models,
    SweepForCausalLM,
    best_point,
    by_path,
    loading_of,
    sources_of,
)
from fusion_slerp.searches.preparing import Chosen, prepare_search
from fusion_slerp.searches.record import SearchRecord
from fusion_slerp.searches.running import run_search
from fusion_slerp.sweeps.examination import Examination
from fusion_slerp.sweeps.points import point_text
from fusion_slerp.sweeps.preparing import PreparedSweep

log = logging.getLogger(__name__)


class SearchForCausalLM(SweepForCausalLM):
    """Searches for the values of options at which the merge of a pool's models scores best, and returns it.

    Each trial is evaluated on the texts or tasks of the program's own task pool, a `PerplexityTaskPool` or an
    `LMEvalTaskPool`; so is each of the pool's models. With several processes, the first one searches, and all
    merge the best. Needs the extra `search`.

    Attributes:
        vary: What is chosen, and from what, as for `fusion_slerp.search`: `{"t": "0:1"}`. Models may be
            called by their names in the pool: `weight.plays`.
        metric: The path of the score that decides, in the report of the task pool. None: `average.loss`, or
            with `LMEvalTaskPool` `average.score`, the mean of the tasks' main scores.
        mode: `min` if a lower score is better, or `max`. None: `min`, or what a score's task says.
        trials: End after this many trials in all; 30 if no other budget is given.
        evaluations: Begin no trial after trials at the cost of this many evaluations.
        minutes: Begin no trial after this many minutes of trials.
        sampler: How points are chosen: `tpe`, `gp`, `cmaes`, `random` or `grid`.
        sampler_seed: Decides all that is random in the choice.
        prune: A trial stops when its loss is worse than the best by more than this many standard errors of
            the difference; None evaluates all in full.
        search_path: The folder that keeps the results, from which the same search resumes; None keeps none.
        model_save_path: Folder that the best merged model is streamed to; None does not.
    """

    trials: int | None
    evaluations: float | None
    minutes: float | None
    sampler: str
    sampler_seed: int
    prune: float | None
    search_path: str | None

    verb = "search"

    def _options_of_best(
        self, models: Models, options: Mapping[str, Any], pool: Any, ranks: Ranks
    ) -> dict[str, Any]:
        return ranks.on_first(lambda: self._search(models, options, pool))

    def _search(self, models: Models, options: Mapping[str, Any], pool: Any) -> dict[str, Any]:
        search = prepare_search(
            *sources_of(models),
            vary=by_path(plain(self.vary)),
            examiner=lambda sweep: _examination(pool, sweep),
            out=absolute(self.search_path),
            chosen=Chosen(
                self.trials, self.evaluations, self.minutes, self.sampler, self.sampler_seed, self.prune
            ),
            **self._arguments(models, pool),
            **options,
        )
        record = run_search(search, loading=loading_of(models, search.sweep), on_result=_announce)
        show_last(lambda: print(f"Search: {record}"))
        return search.sweep.options_at(best_point(record.sweep).values)


def _examination(pool: Any, sweep: PreparedSweep) -> Examination:
    found = examination_of(pool, sweep)
    if found is None:
        fields = (("found", type(pool).__name__), ("needed", "PerplexityTaskPool or LMEvalTaskPool"))
        fix = "use taskpool=fusion_slerp/perplexity_demo, or a sweep, which takes any task pool"
        raise Problem(SettingsError, "a search cannot use this task pool", fields, fix).error()
    return found


def _announce(record: SearchRecord, label: str | None) -> None:
    metric = record.sweep.metric["name"]
    if label is not None:
        log.info("%s: %s = %.4f", label, metric, check_metric(record.sweep.parents[label], metric))
        return
    trial = record.trials[-1]
    score = "not finite" if trial.loss is None else f"{trial.loss:.4f}"
    stopped = f", stopped at {trial.share:.0%}" if trial.difference else ""
    log.info("trial %d: %s: %s%s", len(record.trials) - 1, point_text(trial.values), score, stopped)
