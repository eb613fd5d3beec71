"""What the methods that a FusionBench configuration names have in common."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fusion_bench.method.base_algorithm import BaseAlgorithm
from fusion_bench.modelpool.base_pool import BaseModelPool
from torch import nn

from fusion_slerp.api import MergeResult
from fusion_slerp.cluster.ranks import Ranks
from fusion_slerp.errors import OutputError
from fusion_slerp.evaluation.building import name_origin
from fusion_slerp.fusion_bench_plugin.compact_errors import compact_errors
from fusion_slerp.fusion_bench_plugin.fabric_logs import log_to_fabric
from fusion_slerp.fusion_bench_plugin.fabric_ranks import (
    leave_saving_to_rank_0,
    quiet,
    ranks_of,
    share_of,
)
from fusion_slerp.fusion_bench_plugin.host_values import plain
from fusion_slerp.fusion_bench_plugin.last_lines import show_last, show_waiting
from fusion_slerp.fusion_bench_plugin.loaded_models import merge_loaded
from fusion_slerp.fusion_bench_plugin.merged_models import load_model
from fusion_slerp.fusion_bench_plugin.pool_models import (
    PoolModel,
    pool_models,
    refuse_unknown,
    special_entries,
)
from fusion_slerp.fusion_bench_plugin.pool_names import with_labels, without_names
from fusion_slerp.fusion_bench_plugin.streamed_models import (
    merge_into_model,
    merge_options,
    merge_to_folder,
)
from fusion_slerp.methods import METHODS, Method
from fusion_slerp.options import declared
from fusion_slerp.paths import real_path
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings

log = logging.getLogger(__name__)

ELSEWHERE = ("method", "tokenizer")
"""Options of a merge that are not arguments: the class is the method, and the pool has the tokenizer."""


class MergeForCausalLM(BaseAlgorithm):
    """Merges the causal language models of a pool by one method; subclasses name it and its arguments.

    The models are a, b, c, ... in the pool's order; options may call them by these labels, or by their names
    in the pool. The pool's `_pretrained_` is the base, in methods that take one, and ignored in others.
    Checkpoints are streamed from their files and never loaded; entries of the pool that build a model are
    loaded.

    Args:
        model_save_path: Folder that the merged model is streamed to; None merges into memory. With a
            path, it is loaded back only if the program evaluates or saves it.
        show_pbar: Show the pass, bytes done, rate and time left: True as a bar, `"json"` as JSON lines.
        slices: The merged model's layers, stacked from ranges of the models'; None takes all in place.
        dtype: Type of the merged model's floating tensors; None keeps the first model's, tensor by tensor.
        max_shard_size: Largest weight file, `"5GB"` or bytes.
        chat_template: The merged model's chat template, as Jinja text; None takes that of its tokenizer.
        vocab_fill: Rows that only one model has, or none: `"owner"`, `"mean"`, `"gradient"`, `"zeros"`, or
            `"error"`.
        tokens: Where the rows of single tokens come from, by token.
        pad_vocab_to_multiple_of: Round the merged model's rows up to a multiple of it; None does not.
        vocabulary_tensors: `"follow"` if the rows of a tensor belong to tokens, or `"stay"`, by its name.
        config_overrides: Values for the merged model's config.json, by key.
        missing: `"error"`, or `"copy"` a tensor that only one checkpoint has.
        strict: Refuse checkpoints whose configs differ where a weight's meaning may change.
        follow_links: Read files that are links out of a checkpoint's folder, and copy what they lead to.
        hash_inputs: Compute the SHA-256 of the checkpoints' files while they are read, for the manifest, and
            compare those in the Hub's cache with what the Hub lists.
        overwrite: Replace an existing folder at `model_save_path`: True if it is an earlier merge, or holds
            nothing but a model's files; `"any"` whatever it holds.
        threads: Threads that compute; None uses all CPUs that this process may use.
        memory_budget: Memory for buffers, `"200MB"` or bytes; None takes little and is fast.
        direct_io: Writing past the page cache: `"auto"`, `"on"` or `"off"`.
        checksum: The hash of weight files in the manifest: `"xxh3_128"`, `"blake3"` or `"sha256"`.
        rank_timeout: If several processes merge together and one fails, is lost or gives no sign of life, all
            end within this many seconds.
        **kwargs: FusionBench's `_recursive_`, `_usage_` and `_version_`; nothing else.

    Raises:
        SettingsError: An argument is unknown or invalid.
    """

    merge_method: ClassVar[str]
    """The name of the method in the registry."""

    model_save_path: str | None

    def __init__(self, **kwargs: Any) -> None:
        refuse_unknown(self, kwargs)
        with compact_errors():  # now, what run would raise
            make_settings(method=self.merge_method, **without_names(self._options, self._how))
        super().__init__(**kwargs)

    @property
    def settings(self) -> MergeSettings:
        """The engine's settings from this method's attributes, which call models by label."""
        return self.settings_for({})

    def settings_for(self, labels: Mapping[str, str]) -> MergeSettings:
        """Returns the engine's settings from this method's attributes.

        Args:
            labels: Each model's label by its name in the pool. If there are none, models are called by label.

        Raises:
            SettingsError: An attribute is invalid, or names a model that the pool lacks.
        """
        options = with_labels(self._options, labels, self._how) if labels else self._options
        return make_settings(method=self.merge_method, **options)

    @property
    def _how(self) -> Method:
        return METHODS[self.merge_method]

    @property
    def _towards_base(self) -> Any:
        return self._options.get("towards_base", 0.0)

    @property
    def _options(self) -> dict[str, Any]:
        names = [*declared(self._how.options), *declared(MergeSettings)]
        return {name: plain(getattr(self, name)) for name in names if name not in ELSEWHERE}

    def run(  # pyright: ignore[reportIncompatibleMethodOverride] (FusionBench's returns nothing)
        self, modelpool: BaseModelPool
    ) -> nn.Module | None:
        """Merges the pool's models.

        Args:
            modelpool: A `CausalLMPool` of checkpoints, lazy or not, or any pool of torch modules of one
                class; as many as the method takes, not counting `_pretrained_`. The first in its order is
                model a.

        Returns:
            The merged model. None with a `model_save_path` inside a program that neither evaluates nor
            saves what it gets: the model is then on disk only.

        Raises:
            FusionSlerpError: One of its subclasses; see `fusion_slerp.merge`.
        """
        show_waiting()  # of the run before this one, in a sweep
        with compact_errors():
            return self._run(modelpool)

    def _run(self, modelpool: BaseModelPool) -> nn.Module | None:
        ranks = ranks_of(self._program)
        with quiet(ranks):
            models, settings = ranks.on_all(lambda: self._read(modelpool))
            self._announce(settings, models, special_entries(modelpool, self._how, self._towards_base))
            settings = share_of(ranks, settings)
            leave_saving_to_rank_0(ranks, self._program)
            if any(model.source is None for model in models.values()):
                return self._merge_loaded(modelpool, models, settings, ranks)
            options = merge_options(modelpool, models, settings)
            if self.model_save_path is None:
                return ranks.on_all(lambda: merge_into_model(models, options))
            folder = self._merge_to_folder(models, options, ranks)
            if not self._child_is_used():
                return None
            first = next(iter(models.values()))
            return ranks.on_all(lambda: load_model(first, folder))

    def _read(self, pool: BaseModelPool) -> tuple[dict[str, PoolModel], MergeSettings]:
        is_sliced = self._options["slices"] is not None
        models = pool_models(pool, self._how, is_sliced, self._towards_base)
        return models, self.settings_for({model.name: label for label, model in models.items()})

    def _announce(
        self, settings: MergeSettings, models: Mapping[str, PoolModel], notes: Sequence[str]
    ) -> None:
        values = ", ".join(f"{name} = {getattr(settings.parameters, name)}" for name in settings.schedules)
        named = ", ".join(f"{label} = {model.name}" for label, model in models.items())
        log.info("%s of %s%s", self.merge_method, named, f"; {values}" * bool(values))
        for note in notes:
            log.info("%s", note)
        for model in models.values():
            if model.remark:
                log.log(logging.INFO if model.source is None else logging.WARNING, "%s", model.remark)

    def _merge_to_folder(
        self, models: Mapping[str, PoolModel], options: Mapping[str, Any], ranks: Ranks
    ) -> Path:
        """All ranks stream the merge to `model_save_path`; returns the folder."""
        result = merge_to_folder(models, options, str(self._save_path(ranks)), ranks)
        if ranks.is_first:
            self._show(result)
        return result.out

    def _show(self, result: MergeResult) -> None:
        log_to_fabric(getattr(self._program, "fabric", None), result)
        if self._program is None:
            log.info("%s", result)
        else:
            show_last(lambda: print(f"Merged model: {result}"))
            log.info("the merged model is in %s", result.out)

    def _save_path(self, ranks: Ranks) -> str | None:
        """The path of rank 0: the name of a run's folder has the time at which a process began."""
        path = self.model_save_path
        return ranks.on_first(lambda: path and str(real_path(path, OutputError)))

    def _merge_loaded(
        self, pool: BaseModelPool, models: Mapping[str, PoolModel], settings: MergeSettings, ranks: Ranks
    ) -> nn.Module:
        """Each rank merges the models that it has loaded; rank 0 saves the result."""
        path = self._save_path(ranks)
        own = path if ranks.is_first else None
        child = ranks.on_all(lambda: merge_loaded(pool, models, settings, own))
        if path is not None:
            name_origin(child, path)
        return child

    def _child_is_used(self) -> bool:
        """Whether the program evaluates or saves what `run` returns; alone, the caller does."""
        if self._program is None:
            return True
        used_for = ("_taskpool", "merged_model_save_path")
        return any(getattr(self._program, name, None) is not None for name in used_for)
