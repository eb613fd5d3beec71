"""The task pool that measures loss and perplexity of the merged model next to its source models."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fusion_bench.mixins.serialization import auto_register_config
from fusion_bench.taskpool.base_pool import BaseTaskPool
from lightning_utilities.core.rank_zero import rank_zero_only

from fusion_slerp.cluster.evaluating import evaluate_shared, samples_shared
from fusion_slerp.errors import FusionSlerpError, Problem, raise_all
from fusion_slerp.evaluation.comparison import Comparison
from fusion_slerp.evaluation.evaluation import difference_fields
from fusion_slerp.evaluation.evaluator import Candidate, Evaluator, PreparedEvaluation
from fusion_slerp.evaluation.models import load_config, own_tokenizer, weights_dtype
from fusion_slerp.evaluation.settings import BASELINES, DIFFERENCES, MERGED, SAMPLES, SO
from fusion_slerp.evaluation.table import print_comparison
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
class PerplexityTaskPool(BaseTaskPool):
    """Loss and perplexity per token on local texts, for the merged model and for others to compare with.

    The windows are those of transformers' documentation ("Perplexity of fixed-length models"), each token
    is scored once, and the mean is exact: see `fusion_slerp.evaluation.losses`. A model reads about
    `context_length / stride` times the tokens of the texts. All models run in one type, that of most weights
    of the merged model as it was loaded: baselines are rounded or widened to it. The log-softmax is in
    float32, sums are in float64.

    Errors come from blocks of tokens, as neighbours depend on each other, and differences between the merged
    model and the baselines are taken token by token: see `fusion_slerp.evaluation.statistics`. A baseline
    with a tokenizer of its own is evaluated with that; if it cuts a text in another way, its losses per token
    do not compare, but its bits per byte do.

    Several processes share the texts and the prompts; all report the same.

    Args:
        texts: Name -> file or folder, at least one: `.txt` in UTF-8 (one document); `.jsonl` (one document
            per line, under `text`); `.parquet`, or a folder saved by `datasets` (one per row, in the column
            `text`). Documents do not see each other. Relative paths start at the working directory; `~` is
            home.
        tokenizer: Folder, hub id, mapping with `_target_`, or tokenizer. None takes the model pool's, or
            without one that in the folder that the model was loaded from.
        baselines: Name -> folder or hub id of a model to evaluate as well, or a mapping of which only
            `pretrained_model_name_or_path` is read. Each is loaded in the merged model's type, in turn, and
            freed.
        context_length: Positions that a model sees at once, at least 2 and at most what each model was
            made for. None takes the smallest such limit, but at most 1024.
        stride: Positions from one window to the next, from 1 to `context_length - 1`; less gives tokens
            more context and takes longer. None takes half of `context_length`.
        batch_size: Windows in one forward pass, at least 1. Changes the result by rounding only.
        max_tokens: Read at most this many tokens of each text, at least 2; None reads all.
        device: A torch device such as `"cuda:1"`, or `"auto"`: the accelerator that the model is on
            already, else CUDA if available, else the CPU. The merged model is put back where it was.
        prompts: Texts that each model continues, always with the likeliest token, to be read side by side.
        max_new_tokens: How many tokens a continuation may have, at least 1.
        **kwargs: FusionBench's `_recursive_`, `_usage_` and `_version_`; nothing else.

    Raises:
        SettingsError: A setting is unknown; or settings are wrong or files unusable (all at once).
    """

    texts: Mapping[str, str]
    tokenizer: Any
    context_length: int | None
    stride: int | None
    batch_size: int
    max_tokens: int | None
    device: str

    def __init__(
        self,
        texts: Mapping[str, str],
        *,
        tokenizer: Any = None,
        baselines: Mapping[str, Any] | None = None,
        context_length: int | None = None,
        stride: int | None = None,
        batch_size: int = 8,
        max_tokens: int | None = None,
        device: str = "auto",
        prompts: Sequence[str] | None = None,
        max_new_tokens: int = 64,
        **kwargs: Any,
    ) -> None:
        refuse_unknown(self, kwargs)
        super().__init__(**kwargs)
        problems: list[Problem | FusionSlerpError] = []
        try:
            self._evaluator = Evaluator(
                by_name(absolute, texts),
                context_length=context_length,
                stride=stride,
                batch_size=batch_size,
                max_tokens=max_tokens,
                device=device,
                prompts=plain(prompts),
                max_new_tokens=max_new_tokens,
            )
        except FusionSlerpError as error:
            problems.append(error)
        of_models: list[Problem] = []
        self._baselines = locate_baselines(by_name(source_of, baselines) or {}, of_models)
        check_tokenizer(source_of(plain(tokenizer)), of_models)
        with compact_errors():
            raise_all([*problems, *of_models], SO)

    def evaluate(self, model: Any) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns the scores of the model and of the baselines, and prints a table of them: in a run of
        FusionBench at its end, as the run prints the whole report first.

        Args:
            model: A transformers causal language model; evaluated first, left unchanged.

        Returns:
            By text, and for `average`, the scores of `fusion_slerp.evaluation.evaluation.Evaluation.scores`.
            With baselines, `"baselines": {name: {the same}}`, and `"differences": {baseline: {text or
            "average": {"value", "stderr", "low", "high", "n_blocks"}}}`: the merged model's loss minus the
            baseline's with its 95 % interval, where both read the same tokens. With prompts, `"samples":
            {model: [{"prompt", "text"}]}`. Plain floats, ints and strings.

        Raises:
            SettingsError: Before any model runs, all at once: a tokenizer or baseline cannot be opened, a
                text has fewer than two tokens, a model is too small for `context_length`, for a prompt or
                for its tokenizer.
            CheckpointError: A baseline lacks weights.
        """
        with compact_errors():
            return self._evaluate(model)

    def prepare(self, models: Mapping[str, Candidate]) -> PreparedEvaluation:
        """Returns the texts in the tokens of each model: for methods that evaluate many models.

        Args:
            models: By name.

        Raises:
            SettingsError: As `evaluate`.
        """
        return self._evaluator.prepare(models)

    def _evaluate(self, model: Any) -> dict[str, Any]:
        ranks = ranks_of(self._program)
        with quiet(ranks):
            prepared = ranks.on_all(lambda: self._evaluator.prepare(self._open(model)))
            dtype = weights_dtype(model)
            if self._baselines and dtype is not None:
                log.info(
                    "evaluating all models in %s, the type of the merged model",
                    str(dtype).removeprefix("torch."),
                )
            evaluations = {MERGED: evaluate_shared(prepared, MERGED, model, ranks)}
            samples = {MERGED: samples_shared(prepared, MERGED, model, ranks)}
            for name, source in self._baselines.items():
                log.info("evaluating baseline %s from %s", name, source)
                baseline = ranks.on_all(partial(load_baseline, name, source, dtype))
                evaluations[name] = evaluate_shared(prepared, name, baseline, ranks)
                samples[name] = samples_shared(prepared, name, baseline, ranks)
                del baseline
                gc.collect()  # models hold reference cycles, and the next one needs the memory
        comparison = Comparison(evaluations, MERGED)
        rank_zero_only(self._show)(lambda: print_comparison(comparison, samples))
        report: dict[str, Any] = evaluations[MERGED].scores
        if self._baselines:
            report[BASELINES] = {name: each.scores for name, each in comparison.others.items()}
            report[DIFFERENCES] = {
                name: difference_fields(each) for name, each in comparison.differences.items()
            }
        return {**report, SAMPLES: samples} if samples[MERGED] else report

    def _show(self, show: Callable[[], object]) -> None:
        if self._program is None:
            show()
        else:
            show_last(show)

    def _open(self, model: Any) -> dict[str, Candidate]:
        """Opens all configs and tokenizers; the merged model comes first."""
        problems: list[Problem] = []
        opened: dict[str, Candidate] = {}
        default = None
        for name, source in {MERGED: None, **self._baselines}.items():
            try:
                if source is None:
                    default = merged_tokenizer(model, self.tokenizer, self._program)
                    config, tokenizer = model.config, default
                else:
                    config, tokenizer = load_config(source), own_tokenizer(source) or default
            except Exception as error:  # transformers raises whatever its many loaders raise
                setting = "tokenizer" if source is None else f"baselines.{name}"
                problems.append(cannot_load(setting, self.tokenizer if source is None else source, error))
            else:
                opened[name] = Candidate(config, tokenizer)
        raise_all(problems, SO)
        return opened
