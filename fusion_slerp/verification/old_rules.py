"""Which tensors this version can reproduce of a model that was merged by other rules; see `RULES`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.errors import CheckpointError, Problem, setting
from fusion_slerp.methods import METHODS
from fusion_slerp.output.manifest import version_in
from fusion_slerp.planning.plan import Merge, MergePlan, TensorPlan
from fusion_slerp.planning.rules import EXPERTS_APART, RULES, SUMS_IN_64_LANES, WORDS_IN_HALVES

ANY_ORDER = 2
"""From these rules on, the sums of columns and the means of rows do not depend on an order."""

SAME_SUMS = 128
"""Elements up to which sums in 64 lanes are added in the same order as in 256."""

FILLED_BY_MEANS = ("owner", "mean")
"""Values of `vocab_fill` that compute means."""


def check_rules(manifest: Mapping[str, Any]) -> None:
    """Refuses a model that was merged by rules unknown to this version.

    Raises:
        CheckpointError: The rules are newer.
    """
    rules = manifest["rules"]
    if 1 <= rules <= RULES:
        return
    version = version_in(manifest)
    fields = (("found", f"rules {rules}, of fusion_slerp {version}"), ("needed", f"rules {RULES} or older"))
    fix = f"verify with fusion_slerp {version}, or without --inputs and --recompute"
    raise Problem(CheckpointError, "the model was merged by other rules", fields, fix).error()


def check_experts(plan: MergePlan, manifest: Mapping[str, Any]) -> None:
    """Refuses a model in which the matrices of experts were merged together that now have their own angles.

    Raises:
        CheckpointError: It is such a model.
    """
    rules = manifest["rules"]
    if rules >= EXPERTS_APART or not plan.parts:
        return
    version = version_in(manifest)
    fields = (
        ("found", f"rules {rules}; this version merges by rules {RULES}"),
        ("differs in", "the angles of experts that are stored in one tensor"),
    )
    fix = f"verify with fusion_slerp {version}, or without --inputs and --recompute"
    raise Problem(CheckpointError, "the model was merged by other rules", fields, fix).error()


def check_same_bytes(plan: MergePlan, rules: int) -> None:
    """Refuses to recompute a model with tensors for which the rules differ.

    Raises:
        CheckpointError: It has such tensors.
    """
    differing = {tensor.out.name: why for tensor in plan.tensors if (why := difference(tensor, plan, rules))}
    if not differing:
        return
    name, why = next(iter(differing.items()))
    more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
    fields = (
        ("found", f"rules {rules}; this version merges by rules {RULES}"),
        ("differs in", why),
        ("tensors", f"{name}{more}"),
    )
    fix = f"recompute with the version that made it, or use {setting('inputs', True)} alone"
    raise Problem(CheckpointError, "the model was merged by other rules", fields, fix).error()


def difference(tensor: TensorPlan, plan: MergePlan, rules: int) -> str:
    """Returns what may differ in a tensor under these rules; empty if nothing does."""
    is_drawn = isinstance(tensor.work, Merge) and METHODS[plan.settings.method].is_indexed
    if is_drawn and rules < WORDS_IN_HALVES:
        return "elements that are drawn at random"
    if rules < ANY_ORDER and isinstance(tensor.work, Merge) and tensor.work.granularity == "column":
        return "the last digits of matrices that are merged by columns"
    rows = tensor.rows if plan.settings.vocab_fill in FILLED_BY_MEANS else None
    if rules < ANY_ORDER and rows is not None and (rows.filled & ~rows.zero).any():
        return "the last digits of rows that are filled with a mean"
    if rules < SUMS_IN_64_LANES and _depends_on_sums(tensor, plan):
        return "the last digits of sums over elements"
    return ""


def _depends_on_sums(tensor: TensorPlan, plan: MergePlan) -> bool:
    """Whether a tensor is measured before it is made, and is not tiny; by rows, no tensor is."""
    how, work = plan.settings.how, tensor.work
    is_tiny = tensor.out.n_elements <= SAME_SUMS and not how.needs_rows
    units = work.units if isinstance(work, Merge) and not is_tiny else {}
    return any(how.n_passes(parameters)[1] for parameters in units.values())
