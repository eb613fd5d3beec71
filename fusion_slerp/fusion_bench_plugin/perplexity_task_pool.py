"""The task pool that measures loss and perplexity of the merged model next to its source models."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from fusion_bench.mixins.serialization import auto_register_config
from fusion_bench.taskpool.base_pool import BaseTaskPool
from lightning_utilities.core.rank_zero import rank_zero_only
from transformers import AutoTokenizer

from fusion_slerp.errors import Problem, raise_all, unknown_names_error
from fusion_slerp.evaluation import losses as perplexity
from fusion_slerp.evaluation.models import (
    load_baseline,
    load_config,
    own_tokenizer,
    weights_dtype,
)
from fusion_slerp.evaluation.settings import (
    MERGED,
    Subject,
    cannot_load,
    check_ids,
    check_number,
    check_stride,
    check_tokenizer,
    is_usable,
    locate_baselines,
    read_texts,
    wrong,
)
from fusion_slerp.evaluation.table import print_comparison
from fusion_slerp.fusion_bench_plugin.compact_errors import compact_errors
from fusion_slerp.fusion_bench_plugin.host_values import (
    absolute,
    by_name,
    load_tokenizer,
    plain,
    source_of,
)
from fusion_slerp.fusion_bench_plugin.last_lines import show_last
from fusion_slerp.fusion_bench_plugin.merged_models import tokenizer_of
from fusion_slerp.fusion_bench_plugin.pool_models import HOST_ARGUMENTS

log = logging.getLogger(__name__)


@auto_register_config
class PerplexityTaskPool(BaseTaskPool):
    """Loss and perplexity per token on local texts, for the merged model and for others to compare with.

    The windows are those of transformers' documentation ("Perplexity of fixed-length models"), each token
    is scored once, and the mean is exact: see `fusion_slerp.evaluation.losses`. A model reads about
    `context_length / stride` times the tokens of the texts. All models run in one type, that of most weights
    of the merged model as it was loaded: baselines are rounded or widened to it. The log-softmax is in
    float32, sums are in float64.

    Losses per token compare only where the tokens are the same. A baseline with a tokenizer of its own is
    evaluated with that; if it cuts a text in another way, the table marks the baseline and leaves it out
    of the comparison.

    Args:
        texts: Name -> file, at least one: `.txt` (one document) or `.jsonl` (one document per line, under
            `text`), in UTF-8. Documents do not see each other. Relative paths start at the working
            directory; `~` is home.
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
        **kwargs: Any,
    ) -> None:
        unknown = [name for name in kwargs if name not in HOST_ARGUMENTS]
        if unknown:
            known = [name for name in self._config_mapping.values() if name not in HOST_ARGUMENTS]
            with compact_errors():
                raise unknown_names_error(unknown, known, type(self).__name__)
        super().__init__(**kwargs)
        problems: list[Problem] = []
        self._documents = read_texts(by_name(absolute, texts), problems)
        self._baselines = locate_baselines(by_name(source_of, baselines) or {}, problems)
        check_tokenizer(source_of(plain(tokenizer)), problems)
        check_number("context_length", context_length, 2, None, problems)
        check_number("stride", stride, 1, None, problems)
        check_number("batch_size", batch_size, 1, 8, problems)
        check_number("max_tokens", max_tokens, 2, None, problems)
        if not is_usable(device):
            problems.append(wrong("device", repr(device), "auto, or a device that this machine has", "auto"))
        if not problems and stride is not None and context_length is not None:
            check_stride(stride, context_length, problems)
        with compact_errors():
            raise_all(problems)

    def evaluate(self, model: Any) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns the scores of the model and of the baselines, and prints a table of them: in a run of
        FusionBench at its end, as the run prints the whole report first.

        Args:
            model: A transformers causal language model; evaluated first, left unchanged.

        Returns:
            `{text: {"loss", "perplexity", "loss_stderr", "tokens"}, ..., "average": {"loss",
            "perplexity"}}`, and with baselines `"baselines": {name: {the same}}`. Plain floats and ints;
            their meaning is in `fusion_slerp.evaluation.losses.TextScore`. `average` is the mean loss
            over the texts and its exponential.

        Raises:
            SettingsError: Before any model runs, all at once: a tokenizer or baseline cannot be opened, a
                text has fewer than two tokens, a model is too small for `context_length` or its tokenizer.
            CheckpointError: A baseline lacks weights.
        """
        with compact_errors():
            return self._evaluate(model)

    def _evaluate(self, model: Any) -> dict[str, Any]:
        subjects = self._open(model)
        context_length, stride = self._check(subjects)
        dtype = weights_dtype(model)
        if self._baselines and dtype is not None:
            _inform(
                "evaluating all models in %s, the type of the merged model", str(dtype).removeprefix("torch.")
            )
        scores = {MERGED: self._score(model, subjects[MERGED], context_length, stride)}
        for name, source in self._baselines.items():
            _inform("evaluating baseline %s from %s", name, source)
            baseline = load_baseline(name, source, dtype)
            scores[name] = self._score(baseline, subjects[name], context_length, stride)
            del baseline
            gc.collect()  # models hold reference cycles, and the next one needs the memory
        tokens = subjects[MERGED].tokens
        others = {name for name in subjects if subjects[name].tokens != tokens}
        shown = dict(scores)
        rank_zero_only(self._show)(lambda: print_comparison(shown, others))
        report = scores.pop(MERGED)
        return {**report, "baselines": scores} if scores else report

    def _show(self, show: Callable[[], object]) -> None:
        if self._program is None:
            show()
        else:
            show_last(show)

    def _open(self, model: Any) -> dict[str, Subject]:
        """Opens all configs and tokenizers and cuts the texts into tokens; the merged model comes first."""
        problems: list[Problem] = []
        subjects: dict[str, Subject] = {}
        default = None
        for name, source in {MERGED: None, **self._baselines}.items():
            try:
                if source is None:
                    config, tokenizer = model.config, self._merged_tokenizer(model)
                    default = tokenizer
                else:
                    config, tokenizer = load_config(source), own_tokenizer(source) or default
            except Exception as error:  # transformers raises whatever its many loaders raise
                setting = "tokenizer" if source is None else f"baselines.{name}"
                problems.append(cannot_load(setting, self.tokenizer if source is None else source, error))
            else:
                if tokenizer is not None:
                    subjects[name] = self._subject(config, tokenizer)
        raise_all(problems, so="nothing was evaluated")
        return subjects

    def _merged_tokenizer(self, model: Any) -> Any:
        """The tokenizer that is set, else the model pool's, else the one next to the model."""
        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer)
        pool = getattr(self._program, "modelpool", None)
        if pool is not None and getattr(pool, "tokenizer", None) is not None:
            named = isinstance(pool.tokenizer, str)  # FusionBench would not take an `id@revision`
            return load_tokenizer(pool.tokenizer) if named else pool.load_tokenizer()
        if (tokenizer := tokenizer_of(model)) is not None:
            return tokenizer
        folder = getattr(model.config, "_name_or_path", None)
        if folder and os.path.isdir(folder):
            return AutoTokenizer.from_pretrained(folder)
        raise LookupError("the model pool has no tokenizer, and the model was not loaded from a folder")

    def _subject(self, config: Any, tokenizer: Any) -> Subject:
        ids = {
            text: perplexity.encode(tokenizer, documents, self.max_tokens)
            for text, documents in self._documents.items()
        }
        tokens = {
            text: [tokenizer.convert_ids_to_tokens(row.tolist()) for row in rows]
            for text, rows in ids.items()
        }
        return Subject(config.get_text_config(), ids, tokens)

    def _check(self, subjects: Mapping[str, Subject]) -> tuple[int, int]:
        """Returns context length and stride in tokens, after checking that texts and models allow them."""
        found = {name: perplexity.position_limit(subject.config) for name, subject in subjects.items()}
        limits = {name: limit for name, limit in found.items() if limit is not None}
        context_length = self.context_length or min([perplexity.DEFAULT_CONTEXT_LENGTH, *limits.values()])
        stride = self.stride or context_length // 2
        problems: list[Problem] = []
        for name, limit in limits.items():
            if limit < context_length:
                needed = f"at most {limit}, the positions of {name}"
                problems.append(wrong("context_length", context_length, needed, limit))
        check_stride(stride, context_length, problems)
        for name, subject in subjects.items():
            check_ids(name, subject, problems)
        raise_all(problems, so="nothing was evaluated")
        return context_length, stride

    def _score(self, model: Any, subject: Subject, context_length: int, stride: int) -> dict[str, Any]:
        scores = {}
        with perplexity.ready(model, self.device):
            for text, ids in subject.ids.items():
                losses = perplexity.token_losses(
                    model, ids, context_length=context_length, stride=stride, batch_size=self.batch_size
                )
                scores[text] = asdict(perplexity.summary(losses))
        return {**scores, "average": perplexity.average(scores)}


@rank_zero_only
def _inform(message: str, *values: object) -> None:
    log.info(message, *values)
