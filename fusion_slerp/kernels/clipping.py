"""Kernel that moves a base towards a model by at most a given distance per element."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from fusion_slerp.kernels.building import storing
from fusion_slerp.kernels.elements import F64, Builder, Value
from fusion_slerp.kernels.loops import exact_sum


def clipped(dtypes: Sequence[str]) -> ir.Module:
    """Stores base + share * clip(model - base, -limit, limit), rounded once.

    Arrays: model, base, words of the result. Factors: limit, share, 1 - share. Inside the limit the sum is
    share * model + (1 - share) * base, so that nothing of the model's own digits is lost. A model's element
    that is infinite or NaN makes the result NaN.
    """

    def value(b: Builder, values: Sequence[Value], factors: Sequence[Value]) -> Value:
        (model, base), (limit, share, rest) = values, factors
        difference = b.fsub(model, base)
        is_up = b.fcmp_ordered(">", difference, F64(0.0))
        signed = b.select(is_up, limit, b.fneg(limit))
        is_inside = b.and_(
            b.fcmp_ordered("<=", difference, limit), b.fcmp_ordered(">=", difference, b.fneg(limit))
        )
        coefficients = [
            b.select(is_inside, inside, outside)
            for inside, outside in ((share, F64(0.0)), (rest, F64(1.0)), (F64(0.0), share))
        ]
        types = [*dtypes[:2], "float64", dtypes[2]]
        return exact_sum(b, [model, base, signed], coefficients, dtypes=types)

    return storing("clipped", dtypes, n_factors=3, value=value)
