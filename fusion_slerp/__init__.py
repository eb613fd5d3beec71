"""SLERP merging of two causal language models: streaming, exactly rounded, crash-safe.

Names resolve on first use, so `import fusion_slerp` costs milliseconds and the plain merge
needs neither transformers nor fusion_bench.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "merge": "fusion_slerp.merging",
    "plan_merge": "fusion_slerp.merging",
    "verify": "fusion_slerp.verifying",
    "clean": "fusion_slerp.publish.unfinished",
    "MergeResult": "fusion_slerp.merging",
    "MergeSettings": "fusion_slerp.settings",
    "Verification": "fusion_slerp.verification.findings",
    "MergePlan": "fusion_slerp.plan",
    "slerp": "fusion_slerp.tensor_slerp",
    "SlerpForCausalLM": "fusion_slerp.fusion_bench_plugin.slerp_for_causal_lm",
    "PerplexityTaskPool": "fusion_slerp.fusion_bench_plugin.perplexity_task_pool",
    "FusionSlerpError": "fusion_slerp.errors",
    "SettingsError": "fusion_slerp.errors",
    "CheckpointError": "fusion_slerp.errors",
    "MismatchError": "fusion_slerp.errors",
    "OutputError": "fusion_slerp.errors",
}

__all__ = [
    "CheckpointError",
    "FusionSlerpError",
    "MergePlan",
    "MergeResult",
    "MergeSettings",
    "MismatchError",
    "OutputError",
    "PerplexityTaskPool",
    "SettingsError",
    "SlerpForCausalLM",
    "Verification",
    "clean",
    "merge",
    "plan_merge",
    "slerp",
    "verify",
]

if TYPE_CHECKING:
    from fusion_slerp.errors import (
        CheckpointError,
        FusionSlerpError,
        MismatchError,
        OutputError,
        SettingsError,
    )
    from fusion_slerp.fusion_bench_plugin.perplexity_task_pool import PerplexityTaskPool
    from fusion_slerp.fusion_bench_plugin.slerp_for_causal_lm import SlerpForCausalLM
    from fusion_slerp.merging import MergeResult, merge, plan_merge
    from fusion_slerp.plan import MergePlan
    from fusion_slerp.publish.unfinished import clean
    from fusion_slerp.settings import MergeSettings
    from fusion_slerp.tensor_slerp import slerp
    from fusion_slerp.verification.findings import Verification
    from fusion_slerp.verifying import verify


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fusion_slerp' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
