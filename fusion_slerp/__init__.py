"""Merging of causal language models by their weights: streaming, exactly rounded, crash-safe.

Names resolve on first use, so `import fusion_slerp` costs milliseconds and the plain merge
needs neither transformers nor fusion_bench.
"""

from fusion_slerp._version import __version__ as __version__

TYPE_CHECKING = False
"""As in typing, whose import takes longer than the rest here, and Ctrl-C shows a traceback meanwhile."""

__all__ = [
    "BreadcrumbsForCausalLM",
    "BreadcrumbsTiesForCausalLM",
    "CheckpointError",
    "DareLinearForCausalLM",
    "DareTiesForCausalLM",
    "DellaForCausalLM",
    "DellaLinearForCausalLM",
    "EvaluatedModels",
    "FusionSlerpError",
    "KarcherForCausalLM",
    "LMEvalTaskPool",
    "LinearForCausalLM",
    "MergePlan",
    "MergeResult",
    "MergeSettings",
    "MismatchError",
    "ModelStockForCausalLM",
    "MultislerpForCausalLM",
    "NearswapForCausalLM",
    "OutputError",
    "PassthroughForCausalLM",
    "PerplexityTaskPool",
    "RamForCausalLM",
    "RamplusForCausalLM",
    "SceForCausalLM",
    "SearchRecord",
    "SettingsError",
    "SlerpForCausalLM",
    "SweepRecord",
    "TaskArithmeticForCausalLM",
    "TiesForCausalLM",
    "Verification",
    "WarpForCausalLM",
    "clean",
    "evaluate",
    "make_settings",
    "merge",
    "merge_together",
    "plan_merge",
    "report",
    "search",
    "slerp",
    "sweep",
    "verify",
]

_HOMES = {
    "merge": "fusion_slerp.api",
    "plan_merge": "fusion_slerp.api",
    "merge_together": "fusion_slerp.cluster.merging",
    "verify": "fusion_slerp.verification.verify",
    "evaluate": "fusion_slerp.evaluation.comparing",
    "EvaluatedModels": "fusion_slerp.evaluation.comparing",
    "clean": "fusion_slerp.output.unfinished",
    "MergeResult": "fusion_slerp.api",
    "MergeSettings": "fusion_slerp.settings.merge_settings",
    "make_settings": "fusion_slerp.settings.merge_settings",
    "Verification": "fusion_slerp.verification.findings",
    "MergePlan": "fusion_slerp.planning.plan",
    "slerp": "fusion_slerp.engine.in_memory",
    "search": "fusion_slerp.searches.running",
    "SearchRecord": "fusion_slerp.searches.record",
    "sweep": "fusion_slerp.sweeps.running",
    "report": "fusion_slerp.reports.writing",
    "SweepRecord": "fusion_slerp.sweeps.record",
    "LMEvalTaskPool": "fusion_slerp.fusion_bench_plugin.lm_eval_task_pool",
    "PerplexityTaskPool": "fusion_slerp.fusion_bench_plugin.perplexity_task_pool",
    "FusionSlerpError": "fusion_slerp.errors",
    "SettingsError": "fusion_slerp.errors",
    "CheckpointError": "fusion_slerp.errors",
    "MismatchError": "fusion_slerp.errors",
    "OutputError": "fusion_slerp.errors",
} | dict.fromkeys(
    [name for name in __all__ if name.endswith("ForCausalLM")],  # one for each method
    "fusion_slerp.fusion_bench_plugin.method_classes",
)
_SWEEPS = "fusion_slerp.fusion_bench_plugin.sweep_methods"
"""The classes of sweeps and searches: named like those of merges, with `Sweep` or `Search` before `For`."""

if TYPE_CHECKING:
    from fusion_slerp.api import MergeResult, merge, plan_merge
    from fusion_slerp.cluster.merging import merge_together
    from fusion_slerp.engine.in_memory import slerp
    from fusion_slerp.errors import (
        CheckpointError,
        FusionSlerpError,
        MismatchError,
        OutputError,
        SettingsError,
    )
    from fusion_slerp.evaluation.comparing import EvaluatedModels, evaluate
    from fusion_slerp.fusion_bench_plugin.lm_eval_task_pool import LMEvalTaskPool
    from fusion_slerp.fusion_bench_plugin.method_classes import (
        BreadcrumbsForCausalLM,
        BreadcrumbsTiesForCausalLM,
        DareLinearForCausalLM,
        DareTiesForCausalLM,
        DellaForCausalLM,
        DellaLinearForCausalLM,
        KarcherForCausalLM,
        LinearForCausalLM,
        ModelStockForCausalLM,
        MultislerpForCausalLM,
        NearswapForCausalLM,
        PassthroughForCausalLM,
        RamForCausalLM,
        RamplusForCausalLM,
        SceForCausalLM,
        SlerpForCausalLM,
        TaskArithmeticForCausalLM,
        TiesForCausalLM,
        WarpForCausalLM,
    )
    from fusion_slerp.fusion_bench_plugin.perplexity_task_pool import PerplexityTaskPool
    from fusion_slerp.output.unfinished import clean
    from fusion_slerp.planning.plan import MergePlan
    from fusion_slerp.reports.writing import report
    from fusion_slerp.searches.record import SearchRecord
    from fusion_slerp.searches.running import search
    from fusion_slerp.settings.merge_settings import MergeSettings, make_settings
    from fusion_slerp.sweeps.record import SweepRecord
    from fusion_slerp.sweeps.running import sweep
    from fusion_slerp.verification.findings import Verification
    from fusion_slerp.verification.verify import verify


def __getattr__(name: str):
    from importlib import import_module

    if name.endswith(("SweepForCausalLM", "SearchForCausalLM")):
        return getattr(import_module(_SWEEPS), name)
    if name not in _HOMES:
        raise AttributeError(f"module 'fusion_slerp' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
