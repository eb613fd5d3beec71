"""The task pool that runs tasks of lm-evaluation-harness on the merged model and on its source models."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fusion_bench.mixins.serialization import auto_register_config
from fusion_bench.taskpool.base_pool import BaseTaskPool
from lightning_utilities.core.rank_zero import rank_zero_only

from fusion_slerp.cluster.evaluating import each_once
from fusion_slerp.cluster.ranks import Ranks
from fusion_slerp.errors import Problem, raise_all
from fusion_slerp.evaluation.harness import PreparedTasks, evaluate_tasks
from fusion_slerp.evaluation.harness_documents import HarnessEvaluation, paired_differences
from fusion_slerp.evaluation.harness_table import print_scores
from fusion_slerp.evaluation.harness_tasks import OpenTasks, check_run, check_tasks, open_tasks
from fusion_slerp.evaluation.models import own_tokenizer, weights_dtype
from fusion_slerp.evaluation.settings import BASELINES, DIFFERENCES, MERGED, SO
from fusion_slerp.fusion_bench_plugin.compact_errors import compact_errors
from fusion_slerp.fusion_bench_plugin.evaluated_models import (
    cannot_load,
    check_tokenizer,
    load_baseline,
    locate_baselines,
)
from fusion_slerp.fusion_bench_plugin.evaluated_tokenizer import merged_tokenizer
from fusion_slerp.fusion_bench_plugin.fabric_ranks import quiet, ranks_of
from fusion_slerp.fusion_bench_plugin.host_values import absolute, by_name, plain, source_of
from fusion_slerp.fusion_bench_plugin.last_lines import show_last
from fusion_slerp.fusion_bench_plugin.pool_models import refuse_unknown

log = logging.getLogger(__name__)


@auto_register_config
class LMEvalTaskPool(BaseTaskPool):
    """Scores on tasks of lm-evaluation-harness, for the merged model and for others to compare with.

    With the same batch size, the scores equal those of the harness's own command, `lm_eval`, on the saved
    models. All models run in one type, that of most weights of the merged model as it was loaded. Each
    baseline is compared with the merged model document by document: the standard error of that difference
    is usually smaller than those of the two scores.

    Several processes share the models: each model is evaluated by one of them, as the harness forms its
    batches from all of a task's requests. All report the same.

    Needs the extra `lm-eval`: `pip install 'fusion-slerp[lm-eval]'`.

    Args:
        tasks: Names of tasks, groups or tags, patterns such as `mmlu_*`, or paths of YAML files: a list, or
            one string with commas between them. `fusion_slerp_demo` ships. Their data is opened when the
            task pool is made, before the merge.
        include_path: A folder with tasks of your own. Python functions that their YAML files name are run.
        num_fewshot: Examples before each question, at least 0. None leaves that to the tasks; those that set
            it to 0 keep it.
        limit: Only the first documents of each task: how many, or a share if below 1. None takes all.
        batch_size: Requests in one forward pass, at least 1. Changes scores by rounding only.
        device: A torch device such as `"cuda:1"`, or `"auto"`: the accelerator that the model is on
            already, else CUDA if available, else the CPU. The merged model is put back where it was.
        baselines: Name -> folder or hub id of a model to evaluate as well, or a mapping of which only
            `pretrained_model_name_or_path` is read. Each is loaded in the merged model's type, in turn, and
            freed.
        tokenizer: Folder, hub id, mapping with `_target_`, or tokenizer. None takes the model pool's, or
            without one that in the folder that the model was loaded from. A baseline with a tokenizer of its
            own is evaluated with that.
        **kwargs: FusionBench's `_recursive_`, `_usage_` and `_version_`; nothing else.

    Raises:
        SettingsError: A setting is unknown; or settings are wrong or tasks cannot be opened (all at once).
    """

    tokenizer: Any
    limit: float | None
    num_fewshot: int | None
    batch_size: int
    device: str

    def __init__(
        self,
        tasks: str | Sequence[str],
        *,
        include_path: str | None = None,
        num_fewshot: int | None = None,
        limit: float | None = None,
        batch_size: int = 1,
        device: str = "auto",
        baselines: Mapping[str, Any] | None = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        refuse_unknown(self, kwargs)
        super().__init__(**kwargs)
        names, folder = plain(tasks), absolute(include_path)
        problems: list[Problem] = []
        check_tasks(names, folder, problems)
        check_run(limit, num_fewshot, batch_size, device, problems)
        self._baselines = locate_baselines(by_name(source_of, baselines) or {}, problems)
        check_tokenizer(source_of(plain(tokenizer)), problems)
        with compact_errors():
            raise_all(problems, SO)
            self._tasks = open_tasks(names, folder)

    def evaluate(self, model: Any) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns the scores of the model and of the baselines, and prints a table of them: in a run of
        FusionBench at its end, as the run prints the whole report first.

        Args:
            model: A transformers causal language model; evaluated first, left unchanged.

        Returns:
            Plain JSON: the scores as `fusion_slerp.evaluation.harness.run_tasks` returns them, and with
            baselines `"baselines": {name: {the same}}` and `"differences": {name: ...}`, merged minus
            baseline, as `fusion_slerp.evaluation.harness_documents.paired_differences` returns them.

        Raises:
            SettingsError: Before any model runs, all at once: a tokenizer cannot be opened.
            CheckpointError: A baseline lacks weights.
        """
        with compact_errors():
            return self._evaluate(model)

    @property
    def tasks_open(self) -> OpenTasks:
        """The tasks with their data."""
        return self._tasks

    def prepare(self, tokenizers: Mapping[str, Any]) -> PreparedTasks:
        """Returns the tasks, ready to run on the models of these tokenizers: for methods that evaluate many.

        Args:
            tokenizers: By name of the model.
        """
        return PreparedTasks(
            self._tasks, tokenizers, self.limit, self.batch_size, self.device, self.num_fewshot
        )

    def _evaluate(self, model: Any) -> dict[str, Any]:
        ranks = ranks_of(self._program)
        with quiet(ranks):
            tokenizers = ranks.on_all(lambda: self._open_tokenizers(model))
            names = [MERGED, *self._baselines]

            def scored(name: str) -> HarnessEvaluation:
                of = model if name == MERGED else self._loaded(name, weights_dtype(model))
                return self._run(of, tokenizers[name], ranks)

            results = dict(zip(names, each_once(names, scored, ranks), strict=True))
        rank_zero_only(self._show)(lambda: print_scores(results, MERGED))
        merged = results[MERGED]
        others = {name: result for name, result in results.items() if name != MERGED}
        if not others:
            return merged.scores
        return {
            **merged.scores,
            BASELINES: {name: other.scores for name, other in others.items()},
            DIFFERENCES: {name: paired_differences(merged, other) for name, other in others.items()},
        }

    def _loaded(self, name: str, dtype: Any) -> Any:
        gc.collect()  # models hold reference cycles, and this one needs the memory of the one before
        source = self._baselines[name]
        log.info("evaluating baseline %s from %s", name, source)
        return load_baseline(name, source, dtype)

    def _show(self, show: Callable[[], object]) -> None:
        if self._program is None:
            show()
        else:
            show_last(show)

    def _open_tokenizers(self, model: Any) -> dict[str, Any]:
        problems: list[Problem] = []
        tokenizers: dict[str, Any] = {}
        try:
            tokenizers[MERGED] = merged_tokenizer(model, self.tokenizer, self._program)
        except Exception as error:  # transformers raises whatever its many loaders raise
            problems.append(cannot_load("tokenizer", self.tokenizer, error))
        for name, source in self._baselines.items():
            try:
                tokenizers[name] = own_tokenizer(source) or tokenizers.get(MERGED)
            except Exception as error:
                problems.append(cannot_load(f"baselines.{name}", source, error))
        raise_all(problems, SO)
        return tokenizers

    def _run(self, model: Any, tokenizer: Any, ranks: Ranks) -> HarnessEvaluation:
        return evaluate_tasks(
            model,
            tokenizer,
            self._tasks,
            self.limit,
            self.num_fewshot,
            self.batch_size,
            self.device,
            show_pbar=ranks.is_first and sys.stderr.isatty(),
        )
