"""Stops a trial as soon as it is clear that it is worse than the best one so far.

After every part but the last, the trial's losses are compared with those of the best trial on the tokens that
both have seen, pair by pair. The trial stops if it is worse by more than a number of standard errors. Such a
difference has a much smaller error than either loss, because all models stumble over the same passages; so
few parts are enough for most trials.

A standard error from few windows is uncertain; it is made larger as Student's t asks for. The rule is applied
after each part, so it errs more often than a single test: with the usual 3 standard errors, about one of 100
trials that are exactly as good as the best one stops early.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from fusion_slerp.evaluation.evaluation import AVERAGE, Evaluation, difference
from fusion_slerp.evaluation.statistics import Estimate, student_quantile
from fusion_slerp.searches.parts import Seen, Windows, evaluate_parts
from fusion_slerp.sweeps.best import LOWER
from fusion_slerp.sweeps.examination import Examination
from fusion_slerp.sweeps.judgement import Judgement
from fusion_slerp.sweeps.models import MERGED
from fusion_slerp.sweeps.scores import text_of

if TYPE_CHECKING:
    from torch import nn

STANDARD_ERRORS = 3.0
"""How many standard errors worse than the best a trial is when it stops."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When a trial stops.

    Attributes:
        text: The text whose loss decides, or `average`.
        standard_errors: How many standard errors worse it is then.
    """

    text: str
    standard_errors: float

    def difference(self, seen: Seen, best: Evaluation) -> Estimate | None:
        """Returns how much higher the loss is than the best one's on what both have seen."""
        of, from_ = seen.of(seen.evaluation), seen.of(best)
        if self.text != AVERAGE:
            of, from_ = (
                Evaluation({k: v for k, v in e.texts.items() if k == self.text}) for e in (of, from_)
            )
        return difference(of, from_).get(self.text)

    def stops(self, found: Estimate | None) -> bool:
        """Whether a trial with this difference stops; not if its error is unknown."""
        if found is None:
            return False
        wider = student_quantile(found.freedom) / student_quantile(inf)
        return found.value > self.standard_errors * found.stderr * wider


def rule_of(metric: Mapping[str, str], standard_errors: float | None) -> Rule | None:
    """Returns the rule for a metric; None for one that is no loss, and for no standard errors."""
    text = text_of(metric)
    if standard_errors is None or text is None or metric["better"] != LOWER:
        return None
    return Rule(text, standard_errors)


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a trial stopped.

    Attributes:
        n_parts: How many parts it has seen.
        share: Its cost, as a fraction of an evaluation.
        loss: Its loss on these parts, in nats per token.
        difference: How much higher that is than the best trial's, there.
    """

    n_parts: int
    share: float
    loss: float
    difference: Estimate


class Pruned(Exception):
    """A trial was stopped."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(f"worse by {stop.difference.value:.3f} ± {stop.difference.stderr:.3f}")
        self.stop = stop


@dataclass(slots=True)
class Judge:
    """Evaluates parents in full, and trials until they are worse than the best one.

    Tasks are run on the trials that did not stop: documents of the harness cannot be read in parts.

    Attributes:
        examination: What models are evaluated on.
        parts: The parts of the texts; empty without texts.
        rule: When a trial stops; None never.
        best: The losses of the best trial so far; None before there is one.
    """

    examination: Examination
    parts: Sequence[Mapping[str, Windows]]
    rule: Rule | None
    best: Evaluation | None = field(default=None)

    def __call__(self, name: str, model: nn.Module) -> Judgement:
        """Returns the result of a model.

        Raises:
            Pruned: A trial is worse than the best one.
        """
        texts = self.examination.texts
        if name != MERGED or self.rule is None or texts is None:
            return self.examination(name, model)
        seen = None
        for seen in evaluate_parts(texts, name, model, self.parts):
            self._check(seen)
        assert seen is not None, "every text has a window"
        return self.examination.completed(name, model, seen.evaluation)

    def _check(self, seen: Seen) -> None:
        if self.rule is None or self.best is None or seen.is_whole:
            return
        found = self.rule.difference(seen, self.best)
        if found is not None and self.rule.stops(found):
            of = seen.of(seen.evaluation)
            loss = of.average.value if self.rule.text == AVERAGE else of.texts[self.rule.text].loss
            raise Pruned(Stop(seen.n_parts, seen.share, loss, found))
