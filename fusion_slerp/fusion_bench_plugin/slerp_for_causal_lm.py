"""`SlerpForCausalLM`: the method that a FusionBench configuration names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from fusion_bench.method.base_algorithm import BaseAlgorithm
from fusion_bench.mixins.serialization import auto_register_config
from fusion_bench.modelpool.base_pool import BaseModelPool
from omegaconf import OmegaConf
from torch import nn

from fusion_slerp.api import merge, plan_merge, run_in_memory
from fusion_slerp.chunks import DirectIO
from fusion_slerp.errors import unknown_names_error
from fusion_slerp.fusion_bench_plugin.loaded_models import (
    load_model,
    merge_loaded,
    model_from_state_dict,
)
from fusion_slerp.fusion_bench_plugin.pool_models import HOST_ARGUMENTS, tokenizer_source, two_models
from fusion_slerp.hashes import Checksum
from fusion_slerp.settings.merge_settings import Granularity, MergeSettings, Missing, VocabFill

log = logging.getLogger(__name__)


@auto_register_config
class SlerpForCausalLM(BaseAlgorithm):
    """Merges the two causal language models of a pool by spherical linear interpolation.

    The first model in the pool's order is t = 0, the second t = 1. Checkpoints are streamed from
    their files and never loaded; entries of the pool that build a model are loaded.

    Args:
        t: Where between the models: a number in [0, 1], both ends included; a list of numbers for a
            gradient over the layers; or a list of entries with `filter` and `value`.
        DOT_THRESHOLD: |cosine| above which a tensor is interpolated linearly, in [0, 1].
        epsilon: Norm up to which a tensor counts as null and is interpolated linearly.
        model_save_path: Folder that the child is streamed to; None merges into memory. With a
            path, the child is loaded back only if the program evaluates or saves it.
        show_pbar: Show bytes done, rate and time left.
        granularity: What has an angle of its own: `"tensor"`, or each `"row"` or `"column"` of a matrix.
        slices: The child's layers, stacked from ranges of the models'; None takes all in place.
        dtype: Type of the child's floating tensors; None keeps the first model's, tensor by tensor.
        max_shard_size: Largest weight file, `"5GB"` or bytes.
        chat_template: The child's chat template, as Jinja text; None takes that of its tokenizer.
        vocab_fill: Rows that only one model has, or none: `"owner"`, `"mean"`, `"gradient"`, `"zeros"`, or
            `"error"`.
        tokens: Where the rows of single tokens come from, by token.
        pad_vocab_to_multiple_of: Round the child's rows up to a multiple of it; None does not.
        missing: `"error"`, or `"copy"` a tensor that only one checkpoint has.
        strict: Refuse checkpoints whose configs differ where a weight's meaning may change.
        follow_links: Read files that are links out of a checkpoint's folder, and copy what they lead to.
        overwrite: Replace an existing folder at `model_save_path`.
        threads: Threads that compute; None takes the CPUs that this process may use.
        memory_budget: Memory for buffers, `"200MB"` or bytes; None takes little and is fast.
        direct_io: Writing past the page cache: `"auto"`, `"on"` or `"off"`.
        checksum: The hash of weight files in the child's manifest: `"xxh3_128"`, `"blake3"` or `"sha256"`.

    Raises:
        SettingsError: An argument is unknown or has no usable value.
    """

    __module__ = "fusion_slerp"  # where configurations name it, and where it serialises itself

    t: Any
    model_save_path: str | None

    def __init__(
        self,
        t: Any,
        DOT_THRESHOLD: float = 0.9995,
        epsilon: float = 1e-8,
        model_save_path: str | None = None,
        show_pbar: bool = False,
        *,
        granularity: Granularity = "tensor",
        slices: Any = None,
        dtype: str | None = None,
        max_shard_size: int | str = "5GB",
        chat_template: str | None = None,
        vocab_fill: VocabFill = "owner",
        tokens: Mapping[str, Any] | None = None,
        pad_vocab_to_multiple_of: int | None = None,
        missing: Missing = "error",
        strict: bool = False,
        follow_links: bool = False,
        overwrite: bool = False,
        threads: int | None = None,
        memory_budget: int | str | None = None,
        direct_io: DirectIO = "auto",
        checksum: Checksum = "xxh3_128",
        **kwargs: Any,
    ) -> None:
        unknown = kwargs.keys() - HOST_ARGUMENTS
        if unknown:
            known = set(self._config_mapping.values()) - HOST_ARGUMENTS
            raise unknown_names_error(sorted(unknown), known, "SlerpForCausalLM")
        self.settings  # noqa: B018 (raises now what run would raise)
        super().__init__(**kwargs)

    @property
    def settings(self) -> MergeSettings:
        """The engine's settings from this method's attributes."""
        names = [field.name for field in fields(MergeSettings) if field.name != "tokenizer"]
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        for name in ("t", "slices", "tokens"):
            if OmegaConf.is_config(values[name]):
                values[name] = OmegaConf.to_container(values[name], resolve=True)
        return MergeSettings(**values)

    def run(  # pyright: ignore[reportIncompatibleMethodOverride] (the host's returns nothing)
        self, modelpool: BaseModelPool
    ) -> nn.Module | None:
        """Merges the pool's two models.

        Args:
            modelpool: A `CausalLMPool` of two checkpoints, lazy or not, or any pool of two torch
                modules of one class. The first in its order is t = 0.

        Returns:
            The child. None with a `model_save_path` inside a program that neither evaluates nor
            saves what it gets: the child is then on disk only.

        Raises:
            FusionSlerpError: One of its subclasses; see `fusion_slerp.merge`.
        """
        a, b = two_models(modelpool)
        log.info("%s is t = 0, %s is t = 1; t = %s", a.name, b.name, self.t)
        if a.source is None or b.source is None:
            return merge_loaded(modelpool, (a, b), self.settings, self.model_save_path)
        tokenizer = tokenizer_source(modelpool)
        if tokenizer in (a.source, b.source):
            tokenizer = "b" if tokenizer == b.source != a.source else "a"
        settings = replace(self.settings, tokenizer=tokenizer or "union")
        options = {field.name: getattr(settings, field.name) for field in fields(settings)}
        if self.model_save_path is None:
            plan = plan_merge(a.source, b.source, **options)
            state_dict, _ = run_in_memory(plan)
            return model_from_state_dict(a, plan, state_dict)
        result = merge(a.source, b.source, out=self.model_save_path, **options)
        log.info("%s", result)
        return load_model(a, result.out) if self._child_is_used() else None

    def _child_is_used(self) -> bool:
        """Whether the program evaluates or saves what `run` returns; alone, the caller does."""
        if self._program is None:
            return True
        used_for = ("_taskpool", "merged_model_save_path")
        return any(getattr(self._program, name, None) is not None for name in used_for)
