"""`SlerpForCausalLM`: the method that a FusionBench configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fusion_bench.mixins.serialization import auto_register_config

from fusion_slerp.chunks import DirectIO
from fusion_slerp.fusion_bench_plugin.merge_for_causal_lm import MergeForCausalLM
from fusion_slerp.hashes import Checksum
from fusion_slerp.methods.slerp import SLERP, Granularity
from fusion_slerp.settings.merge_settings import Missing, Overwrite, VocabFill


@auto_register_config
class SlerpForCausalLM(MergeForCausalLM):
    """Merges the two causal language models of a pool by spherical linear interpolation.

    The first model in the pool's order is t = 0, the second t = 1. What is not listed here is that of every
    method: see `MergeForCausalLM`.

    Args:
        t: Where between the models: a number in [0, 1], both ends included; a list of numbers for a
            gradient over the layers; or a list of entries with `filter` and `value`.
        DOT_THRESHOLD: |cosine| above which a tensor is interpolated linearly, in [0, 1].
        epsilon: Norm up to which a tensor counts as zero and is interpolated linearly.
        granularity: What has an angle of its own: `"tensor"`, or each `"row"` or `"column"` of a matrix.
    """

    __module__ = "fusion_slerp"  # where configurations name it, and where it serialises itself

    merge_method: ClassVar[str] = SLERP.name

    t: Any

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
