"""Evaluates the models of a sweep with all processes of a job: each makes and judges its part of them.

Rank 0 alone keeps results: its own, and those that the others send. It takes these between two forward passes
of its own model, so that whenever the processes die, what was finished a moment before is kept. A sweep
resumes with any number of processes. A process alone is the case of one rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from fusion_slerp.cluster.ranks import ALONE, Ranks
from fusion_slerp.cluster.together import Together
from fusion_slerp.errors import MismatchError, Problem, listed
from fusion_slerp.sweeps.identity import changed
from fusion_slerp.sweeps.judgement import Judgement
from fusion_slerp.sweeps.points import Values, point_name
from fusion_slerp.sweeps.record import SweepRecord
from fusion_slerp.sweeps.runner import Measured, Subject, SweepRunner

if TYPE_CHECKING:
    from torch import nn

OnResult = Callable[[SweepRecord, str], object]
"""Called with the record and the name of a parent (its label) or point that was evaluated: once for each, in
the order of the sweep, those that were known as well.
"""

LOOK_EVERY_S = 0.1
"""Between two looks at what the other processes have sent."""

OF_MACHINE = "places"
"""The part of a sweep's identity that may differ between machines: where the models are, and since when."""


def evaluate_all(
    runner: SweepRunner,
    points: Sequence[Values],
    on_result: OnResult = lambda record, name: None,
    ranks: Ranks = ALONE,
    is_dealt: bool = True,
) -> SweepRecord:
    """Evaluates what is missing, parents first; each process calls it.

    Args:
        runner: What evaluates them. The results of rank 0 are those that are kept.
        points: The values of each point.
        on_result: Called on rank 0.
        ranks: The processes.
        is_dealt: Whether each model is judged by one process; if not, all judge each model at the same time,
            as task pools may that use several processes themselves.

    Returns:
        The record, in which every point is compared with the best one; the same on every rank.

    Raises:
        FusionSlerpError: A merge or an evaluation failed, here or elsewhere; earlier results are kept.
        MismatchError: The processes have different sweeps.
    """
    keeper = _Keeper(runner, runner.subjects(points), on_result)
    if ranks.count == 1:
        keeper.announce()
        for subject in keeper.missing():
            keeper.keep(subject, runner.measure(subject))
        return runner.finish()
    with ranks.work() as together:
        if ranks.is_first:
            _lead(keeper, together, is_dealt)
            together.put("record", record := runner.finish())
            return record
        _follow(runner, together, is_dealt)
        return together.wait_for("record")


class _Keeper:
    """On rank 0, keeps results in any order, and announces them in that of the sweep.

    Args:
        runner: What keeps them.
        subjects: The parents and points, in the order of the sweep.
        on_result: Called once for each.
    """

    def __init__(self, runner: SweepRunner, subjects: Sequence[Subject], on_result: OnResult) -> None:
        self.runner, self._waiting, self._on_result = runner, list(subjects), on_result

    def missing(self) -> list[Subject]:
        return [subject for subject in self._waiting if not self.runner.is_known(subject)]

    def keep(self, subject: Subject, measured: Measured) -> None:
        self.runner.keep(subject, measured)
        self.announce()

    def announce(self) -> None:
        while self._waiting and self.runner.is_known(self._waiting[0]):
            subject = self._waiting.pop(0)
            name = subject if isinstance(subject, str) else point_name(subject)
            self._on_result(self.runner.record, name)


class _Collector:
    """On rank 0, keeps what the other ranks send: each in the order in which it was dealt.

    Args:
        keeper: Keeps it.
        together: The work.
        dealt: The parents and points that each of the other ranks judges.
    """

    def __init__(self, keeper: _Keeper, together: Together, dealt: Mapping[int, Sequence[Subject]]) -> None:
        self._keeper, self._together = keeper, together
        self._dealt = {rank: list(subjects) for rank, subjects in dealt.items()}

    def collect(self) -> None:
        for rank, subjects in self._dealt.items():
            while subjects and (measured := self._together.take_if_there(_message(rank, subjects))):
                self._keeper.keep(subjects.pop(0), measured)

    def is_complete(self) -> bool:
        self.collect()
        return not any(self._dealt.values())


def _message(rank: int, left: Sequence[Subject]) -> str:
    """The name under which a rank leaves the next result, by the number of those that are left."""
    return f"measured {rank} {len(left)}"


def _lead(keeper: _Keeper, together: Together, is_dealt: bool) -> None:
    """The part of rank 0."""
    runner, count = keeper.runner, together.ranks.count
    keeper.announce()
    missing = keeper.missing()
    together.put("begin", (_facts(runner.record), missing))
    own = missing[::count] if is_dealt else missing
    others = {rank: missing[rank::count] for rank in range(1, count)} if is_dealt else {}
    collector = _Collector(keeper, together, others)
    try:
        with together.reporting():
            with _looking(runner, together, collector.collect):
                for subject in own:
                    keeper.keep(subject, runner.measure(subject))
            together.wait_until(collector.is_complete)
    except BaseException:
        with suppress(Exception):
            collector.collect()  # what the others have finished before they stopped
        raise


def _follow(runner: SweepRunner, together: Together, is_dealt: bool) -> None:
    """The part of the other ranks."""
    facts, missing = together.wait_for("begin")
    _compare(facts, _facts(runner.record), together)
    rank, count = together.ranks.rank, together.ranks.count
    left = missing[rank::count] if is_dealt else missing
    with _looking(runner, together):
        while left:
            measured = runner.measure(left[0])
            if is_dealt:
                together.put(_message(rank, left), measured)
            left = left[1:]


@contextmanager
def _looking(
    runner: SweepRunner, together: Together, collect: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """While models are judged, looks for a failure elsewhere, and collects, before each forward pass."""
    judge, last = runner.judge, time.monotonic()

    def look(*_: Any) -> None:
        nonlocal last
        together.check()
        if time.monotonic() - last > LOOK_EVERY_S:
            collect()
            last = time.monotonic()

    def judged(name: str, model: nn.Module) -> Judgement:
        look()
        hook = model.register_forward_pre_hook(look)
        try:
            return judge(name, model)
        finally:
            hook.remove()

    runner.judge = judged
    try:
        yield
    finally:
        runner.judge = judge


def _facts(record: SweepRecord) -> dict[str, Any]:
    """The part of a sweep that all processes must share."""
    return {name: value for name, value in record.identity.items() if name != OF_MACHINE}


def _compare(first: Mapping[str, Any], own: Mapping[str, Any], together: Together) -> None:
    """Returns if this process has the sweep of rank 0."""
    others = list(changed(first, own))
    if others:
        ranks = together.ranks
        fields = (("rank", f"{ranks.rank}, on {ranks.host}"), ("differs in", listed(others, 5)))
        fix = "give all processes the same settings, texts, and files of the models"
        raise Problem(MismatchError, "the processes are about to run different sweeps", fields, fix).error()
