"""The options of a merge as typed keyword arguments, for editors and notebooks.

Names, types and order are those of the declarations, which the tests compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from fusion_slerp.chunks import DirectIO
from fusion_slerp.hashes import Checksum
from fusion_slerp.methods.slerp import Granularity
from fusion_slerp.settings.merge_settings import Missing, Overwrite, ShowPbar, VocabFill

Varying = float | Sequence[float] | Sequence[Mapping[str, Any]]
"""One number, a gradient over the layers, or entries by name; see `schedule`."""


class MergeOptions(TypedDict, total=False):
    """Every option of `merge`, those of all methods included."""

    method: Literal[
        "slerp",
        "linear",
        "task_arithmetic",
        "multislerp",
        "karcher",
        "model_stock",
        "warp",
        "ties",
        "breadcrumbs",
        "breadcrumbs_ties",
        "sce",
        "ram",
        "ramplus",
        "nearswap",
        "dare_linear",
        "dare_ties",
        "della",
        "della_linear",
        "passthrough",
    ]
    towards_base: float
    t: Varying
    DOT_THRESHOLD: float
    epsilon: Varying | Mapping[str, Varying]
    granularity: Granularity
    weight: Varying | Mapping[str, Varying]
    normalize: bool
    scaling_factor: float
    density: Varying | Mapping[str, Varying]
    rescale: bool
    gamma: Varying | Mapping[str, Varying]
    select_topk: float
    r: float
    alpha: float
    seed: int
    names: Mapping[str, str] | None
    scale: Varying | Mapping[str, Varying]
    slices: Sequence[Mapping[str, Any]] | None
    dtype: str | None
    max_shard_size: int | str
    tokenizer: str
    chat_template: str | None
    vocab_fill: VocabFill
    tokens: Mapping[str, Any] | None
    pad_vocab_to_multiple_of: int | None
    vocabulary_tensors: Mapping[str, str] | None
    config_overrides: Mapping[str, Any] | None
    missing: Missing
    strict: bool
    follow_links: bool
    hash_inputs: bool
    overwrite: Overwrite
    threads: int | None
    memory_budget: int | str | None
    direct_io: DirectIO
    checksum: Checksum
    rank_timeout: float
    show_pbar: ShowPbar
