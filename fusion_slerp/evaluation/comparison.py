"""Compares a model with others that were evaluated on the same texts, and says what is more than noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from fusion_slerp.evaluation.evaluation import (
    AVERAGE,
    Evaluation,
    difference,
    difference_in_bits,
)
from fusion_slerp.evaluation.statistics import Estimate


@dataclass(frozen=True, eq=False)
class Comparison:
    """A model and those that it is compared with.

    Attributes:
        evaluations: By name of the model.
        subject: The model that is judged.
    """

    evaluations: Mapping[str, Evaluation]
    subject: str

    @property
    def others(self) -> dict[str, Evaluation]:
        """The models that the subject is compared with."""
        return {name: each for name, each in self.evaluations.items() if name != self.subject}

    @cached_property
    def differences(self) -> dict[str, dict[str, Estimate]]:
        """By other model, then by text and for `average`: the subject's loss minus the other's."""
        subject = self.evaluations[self.subject]
        return {name: difference(subject, other) for name, other in self.others.items()}

    @cached_property
    def reads_other_tokens(self) -> frozenset[str]:
        """The models that cut a text into other tokens than the subject does."""
        return frozenset(name for name, paired in self.differences.items() if AVERAGE not in paired)

    def verdict(self) -> str:
        """Returns in a sentence how the subject's average loss compares with the best of the others.

        Models that read other tokens are compared in bits per byte, in a sentence each. A difference counts
        if its 95 % interval leaves out zero. Empty without texts.
        """
        if not self.evaluations[self.subject].texts:
            return ""
        loss = self.evaluations[self.subject].average.value
        if not math.isfinite(loss):
            return f"{self.subject}: the average loss is {loss}; check the weights for NaN or infinity"
        sentences = [f"{self.subject}: {self._on_same_tokens(loss)}"]
        sentences += [self._on_other_tokens(name) for name in self.others if name in self.reads_other_tokens]
        return "\n".join(sentences)

    def _on_same_tokens(self, loss: float) -> str:
        gaps = {
            name: paired[AVERAGE]
            for name, paired in self.differences.items()
            if AVERAGE in paired and math.isfinite(paired[AVERAGE].value)
        }
        if not gaps:
            other = "other model" if not self.reads_other_tokens else "model with these tokens"
            return f"average loss {loss:.3f}; there is no {other} to compare it with"
        rival = max(gaps, key=lambda name: gaps[name].value)
        gap = gaps[rival]
        if gap.value == 0 and gap.stderr == 0:
            return f"average loss {loss:.3f}, the same as the best baseline, {rival}"
        if not gap.differs_from_zero:
            interval = _interval(gap)
            return (
                f"average loss {loss:.3f}, not distinguishable from the best baseline, {rival} ({interval})"
            )
        side = "below" if gap.value < 0 else "above"
        start = f"lowest average loss ({loss:.3f})" if gap.value < 0 else f"average loss {loss:.3f}"
        alike = [name for name in gaps if name != rival and not gaps[name].differs_from_zero]
        more = f"; not distinguishable from {', '.join(alike)}" if alike else ""
        return f"{start}, {abs(gap.value):.3f} {side} the best baseline, {rival} ({_interval(gap)}){more}"

    def _on_other_tokens(self, name: str) -> str:
        """Bits per byte against a model with other tokens."""
        gap = difference_in_bits(self.evaluations[self.subject], self.evaluations[name])
        if not math.isfinite(gap.value):
            return f"{name} reads other tokens, and cannot be compared: its loss is not finite"
        if not gap.differs_from_zero:
            verdict = f"not distinguishable in bits per byte ({_interval(gap)}, not paired)"
        else:
            side = "less" if gap.value < 0 else "more"
            verdict = f"{self.subject} needs {abs(gap.value):.3f} bits per byte {side} "
            verdict += f"({_interval(gap)}, not paired)"
        return f"{name} reads other tokens: {verdict}"


def _interval(gap: Estimate) -> str:
    if math.isnan(gap.low):
        return "error unknown"
    return f"95 % interval {gap.low:+.3f} to {gap.high:+.3f}"
