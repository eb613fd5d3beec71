"""Several Fabric processes run the same method: who merges, and how the others learn the outcome.

All of them meet in a process group of their own, on CPUs and without the limit of minutes that the group for
training has: a merge may take hours. Waiting takes no processor time, and heeds Ctrl-C.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from fusion_slerp.errors import FusionSlerpError, OutputError, Problem
from fusion_slerp.settings.merge_settings import MergeSettings

PATIENCE = timedelta(days=10_000)
"""How long a process waits for one that lives. One that dies closes its connections, which ends the wait."""

LOOK_EVERY_S = 0.05

OF_FIRST = "_is_of_rank_0"
"""The mark of an error that rank 0 has raised as well."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a piece of work.

    Attributes:
        value: Its result.
        error: The error that it ended with; None if it did not.
    """

    value: Any = None
    error: BaseException | None = None

    def get(self) -> Any:
        """Returns the result, or raises the error."""
        if self.error is not None:
            raise self.error
        return self.value


class Ranks:
    """The processes of a program that run the same method. Rank 0 alone writes, logs and shows progress."""

    def __init__(self, fabric: Any = None) -> None:
        several = getattr(fabric, "world_size", 1) > 1 and distributed.is_initialized()
        self.count: int = fabric.world_size if several else 1
        self.is_first: bool = not several or fabric.global_rank == 0

    def on_first(self, work: Callable[[], T]) -> T:
        """Runs work on rank 0 alone and returns its result on every rank; plain data only.

        Raises:
            BaseException: What the work raises, on rank 0; the others raise the same FusionSlerpError, or one
                that names the error.
        """
        if self.count == 1:
            return work()
        with _group() as group:
            own = _outcome(work) if self.is_first else Outcome()
            return self._shared(own, group).get()

    def on_all(self, work: Callable[[], T]) -> T:
        """Runs work on every rank and returns its own result; if it fails on rank 0, all ranks fail.

        Raises:
            BaseException: As `on_first`; else what the work raises on the rank itself.
        """
        if self.count == 1:
            return work()
        with _group() as group:
            own = _outcome(work)
            of_first = self._shared(Outcome(error=own.error), group)
        of_first.get()
        return own.get()

    def _shared(self, own: Outcome, group: Any) -> Outcome:
        """Rank 0's outcome, on every rank."""
        carrier = [_portable(own)]  # on other ranks, to be replaced
        try:
            is_there = torch.zeros(1)
            arrival: Any = distributed.broadcast(is_there, 0, group=group, async_op=True)
            while not arrival.is_completed():  # `wait` would not heed Ctrl-C
                time.sleep(LOOK_EVERY_S)
            arrival.wait()
            distributed.broadcast_object_list(carrier, 0, group=group)
        except RuntimeError as error:  # a connection was closed
            return own if self.is_first else Outcome(error=_lost(error).error())
        return own if self.is_first else _marked(carrier[0])

    def share_of(self, settings: MergeSettings) -> MergeSettings:
        """The settings of a rank that merges at the same time as the others: its part of the processors."""
        if self.count == 1:
            return settings
        threads = settings.threads or max(1, settings.n_threads // self.count)
        return replace(settings, threads=threads, show_pbar=settings.show_pbar and self.is_first)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Keeps ranks other than 0 from logging what rank 0 logs as well."""
        logger = logging.getLogger("fusion_slerp")
        level = logger.level
        if not self.is_first:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _group() -> Iterator[Any]:
    """A process group of all ranks, made before the work, so that a rank that dies is noticed."""
    group: Any = distributed.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield group
    finally:
        distributed.destroy_process_group(group)


def _outcome(work: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(work())
    except BaseException as error:  # also an interruption: the others wait
        return Outcome(error=error)


def _portable(outcome: Outcome) -> Outcome:
    """The outcome for other processes, which may not know every exception."""
    error = outcome.error
    if error is None:
        return outcome
    if isinstance(error, FusionSlerpError):
        with suppress(Exception):  # a field that cannot be sent
            pickle.dumps(error)
            return outcome
    fields = (("found", f"{type(error).__name__}: {error}"),)
    fix = "see the messages of rank 0"
    return Outcome(error=Problem(OutputError, "the merge failed on rank 0", fields, fix).error())


def _marked(of_first: Outcome) -> Outcome:
    if of_first.error is not None:
        setattr(of_first.error, OF_FIRST, True)
    return of_first


def is_of_first(error: BaseException) -> bool:
    """Whether an error is that of rank 0, raised again on another rank."""
    return getattr(error, OF_FIRST, False)


def _lost(error: RuntimeError) -> Problem:
    fields = (("found", str(error).splitlines()[0]),)
    fix = "see the messages of rank 0; if it ran out of memory, use fabric.devices=1"
    return Problem(OutputError, "rank 0 ended before the merge was finished", fields, fix)
