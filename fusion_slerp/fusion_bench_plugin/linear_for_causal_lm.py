"""`LinearForCausalLM`: the method that a FusionBench configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fusion_bench.mixins.serialization import auto_register_config

from fusion_slerp.chunks import DirectIO
from fusion_slerp.fusion_bench_plugin.merge_for_causal_lm import MergeForCausalLM
from fusion_slerp.hashes import Checksum
from fusion_slerp.methods.linear import LINEAR
from fusion_slerp.settings.merge_settings import Missing, Overwrite, VocabFill


@auto_register_config
class LinearForCausalLM(MergeForCausalLM):
    """Merges the causal language models of a pool, any number of them, by a weighted average.

    What is not listed here is that of every method: see `MergeForCausalLM`.

    Args:
        weight: One number for all models, a gradient over the layers, or entries with `filter` and `value`;
            or a mapping from labels (a, b, c, ... in the pool's order) to these. Models that it leaves out
            weigh 1.
        normalize: Divide the weights by their sum, tensor by tensor.
    """

    __module__ = "fusion_slerp"  # where configurations name it, and where it serialises itself

    merge_method: ClassVar[str] = LINEAR.name

    weight: Any

    def __init__(
        self,
        weight: Any = 1.0,
        normalize: bool = True,
        model_save_path: str | None = None,
        show_pbar: bool = False,
        *,
        slices: Any = None,
        dtype: str | None = None,
        max_shard_size: int | str = "5GB",
        chat_template: str | None = None,
        vocab_fill: VocabFill = "owner",
        tokens: Mapping[str, Any] | None = None,
        pad_vocab_to_multiple_of: int | None = None,
        vocabulary_tensors: Mapping[str, str] | None = None,
        config_overrides: Mapping[str, Any] | None = None,
        missing: Missing = "error",
        strict: bool = False,
        follow_links: bool = False,
        hash_inputs: bool = False,
        overwrite: Overwrite = False,
        threads: int | None = None,
        memory_budget: int | str | None = None,
        direct_io: DirectIO = "auto",
        checksum: Checksum = "xxh3_128",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
