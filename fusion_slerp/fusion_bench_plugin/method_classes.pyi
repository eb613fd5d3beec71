"""The types of the classes that method_classes.py makes.

Written by `make method-files`, from the declared options. A method's own arguments are described
in the class of its options, all others in `MergeForCausalLM`.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

from typing_extensions import Unpack

from fusion_slerp.fusion_bench_plugin.merge_for_causal_lm import MergeForCausalLM
from fusion_slerp.methods.model_stock import RowOrTensor
from fusion_slerp.methods.slerp import Granularity
from fusion_slerp.settings.merge_settings import Checksum, DirectIO, Missing, Overwrite, ShowPbar, VocabFill

class Common(TypedDict, total=False):
    """The arguments of every class."""

    slices: Any
    dtype: str | None
    max_shard_size: int | str
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

class Others(Common, total=False):
    """Those, and what every other class takes by position or keyword."""

    model_save_path: str | None
    show_pbar: ShowPbar

class SlerpForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: spherical linear interpolation (SLERP) of two models."""

    def __init__(
        self,
        t: Any,
        DOT_THRESHOLD: float = 0.9995,
        epsilon: float = 1e-08,
        model_save_path: str | None = None,
        show_pbar: ShowPbar = False,
        *,
        towards_base: float = 0.0,
        granularity: Granularity = "tensor",
        **others: Unpack[Common],
    ) -> None: ...

class LinearForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: weighted average of the weights (linear)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        weight: Any = 1.0,
        normalize: bool = True,
        **others: Unpack[Others],
    ) -> None: ...

class TaskArithmeticForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: sum of task vectors (task_arithmetic)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        weight: Any = 1.0,
        scaling_factor: float = 1.0,
        normalize: bool = False,
        **others: Unpack[Others],
    ) -> None: ...

class MultislerpForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: mean direction with the mean magnitude (multislerp)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        weight: Any = 1.0,
        normalize: bool = True,
        epsilon: float = 1e-08,
        **others: Unpack[Others],
    ) -> None: ...

class KarcherForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: mean on the sphere (Karcher mean)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        weight: Any = 1.0,
        **others: Unpack[Others],
    ) -> None: ...

class ModelStockForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: mean of the models, moved towards their base by their angles
    (model_stock).
    """

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        granularity: RowOrTensor = "tensor",
        **others: Unpack[Others],
    ) -> None: ...

class WarpForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: SLERP of task vectors, one model after the other (WARP)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        **others: Unpack[Others],
    ) -> None: ...

class TiesForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: trimmed task vectors with elected signs (TIES)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        weight: Any = 1.0,
        scaling_factor: float = 1.0,
        normalize: bool = True,
        density: Any = 1.0,
        rescale: bool = False,
        **others: Unpack[Others],
    ) -> None: ...

class BreadcrumbsForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: task vectors without their smallest and largest elements
    (breadcrumbs).
    """

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        weight: Any = 1.0,
        scaling_factor: float = 1.0,
        normalize: bool = False,
        density: Any = 1.0,
        rescale: bool = False,
        gamma: Any = 0.01,
        **others: Unpack[Others],
    ) -> None: ...

class BreadcrumbsTiesForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: task vectors' middle elements, with elected signs (breadcrumbs_ties)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        weight: Any = 1.0,
        scaling_factor: float = 1.0,
        normalize: bool = False,
        density: Any = 1.0,
        rescale: bool = False,
        gamma: Any = 0.01,
        **others: Unpack[Others],
    ) -> None: ...

class SceForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: elements that differ most, by what each model changed (SCE)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        select_topk: float = 1.0,
        **others: Unpack[Others],
    ) -> None: ...

class RamForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: changes of one model kept, changes of several averaged (RAM)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        epsilon: float = 1e-05,
        **others: Unpack[Others],
    ) -> None: ...

class RamplusForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: changes of one model raised, those of several averaged (ramplus)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        epsilon: float = 1e-05,
        r: float = 0.1,
        alpha: float = 0.2,
        **others: Unpack[Others],
    ) -> None: ...

class NearswapForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: the base, moved by at most t towards a model (nearswap)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        t: Any = 0.001,
        **others: Unpack[Others],
    ) -> None: ...

class DareLinearForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: the sum of randomly thinned task vectors (dare_linear)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        weight: Any = 1.0,
        scaling_factor: float = 1.0,
        normalize: bool = False,
        density: Any = 1.0,
        rescale: bool = True,
        seed: int = 0,
        names: Mapping[str, str] | None = None,
        **others: Unpack[Others],
    ) -> None: ...

class DareTiesForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: randomly thinned task vectors with elected signs (dare_ties)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        weight: Any = 1.0,
        scaling_factor: float = 1.0,
        normalize: bool = False,
        density: Any = 1.0,
        rescale: bool = True,
        seed: int = 0,
        names: Mapping[str, str] | None = None,
        **others: Unpack[Others],
    ) -> None: ...

class DellaForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: task vectors thinned by magnitude, with elected signs (DELLA)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        weight: Any = 1.0,
        scaling_factor: float = 1.0,
        normalize: bool = True,
        density: Any = 1.0,
        rescale: bool = True,
        seed: int = 0,
        names: Mapping[str, str] | None = None,
        epsilon: Any = 0.15,
        **others: Unpack[Others],
    ) -> None: ...

class DellaLinearForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: the sum of task vectors thinned by magnitude (della_linear)."""

    def __init__(
        self,
        *,
        towards_base: float = 0.0,
        weight: Any = 1.0,
        scaling_factor: float = 1.0,
        normalize: bool = False,
        density: Any = 1.0,
        rescale: bool = True,
        seed: int = 0,
        names: Mapping[str, str] | None = None,
        epsilon: Any = 0.15,
        **others: Unpack[Others],
    ) -> None: ...

class PassthroughForCausalLM(MergeForCausalLM):
    """Merges the models of a pool: the layers of one model, or of several stacked (passthrough)."""

    def __init__(
        self,
        *,
        scale: Any = 1.0,
        **others: Unpack[Others],
    ) -> None: ...
