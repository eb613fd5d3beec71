"""What ends the work of all processes, as they report it to each other."""

from __future__ import annotations

import copy
import errno
import os
import pickle
from contextlib import suppress
from dataclasses import dataclass, replace

from fusion_slerp.errors import FusionSlerpError, OutputError, Problem, setting

SHOWN_BY_RANK_0 = "_is_shown_by_rank_0"
"""The mark of an error that rank 0 raises as well."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the work of all processes ends.

    Attributes:
        rank: The process that failed, or that is missing.
        host: Its machine.
        text: What happened, in a line.
        error: The error, if it is one of ours.
        os_errno: The number of the system's error that caused it; None if none did.
        is_silent: Whether the process gave no sign of life.
    """

    rank: int
    host: str
    text: str
    error: FusionSlerpError | None = None
    os_errno: int | None = None
    is_silent: bool = False

    @property
    def who(self) -> str:
        """The process, as messages name it."""
        return f"{self.rank}, on {self.host}"


def failure_of(error: BaseException, rank: int, host: str) -> Failure:
    """Returns an error of this process as it is reported to the others."""
    cause = error if isinstance(error, OSError) else error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    ours = error if isinstance(error, FusionSlerpError) and _can_be_sent(error) else None
    text = str(error).splitlines()[0] if str(error) else ""
    return Failure(rank, host, f"{type(error).__name__}: {text}".removesuffix(": "), ours, number)


def silence(rank: int, host: str, seconds: float) -> Failure:
    """Returns the failure of a process that gives no sign of life."""
    return Failure(rank, host, f"no sign of life for {seconds:.0f} s", is_silent=True)


def error_of(failure: Failure, is_shown_by_rank_0: bool = False) -> FusionSlerpError:
    """Returns the error with which the other processes end.

    It names the process that failed. Like an error of the system, it leaves what is finished to be resumed,
    unless the failure is in the input.
    """
    error = failure.error
    rank = ("rank", failure.who)
    if error is None:
        number = failure.os_errno or errno.ECONNABORTED
        error = _lost(failure, rank).error() if failure.is_silent else _failed(failure, rank).error()
        error.__cause__ = OSError(number, os.strerror(number))
    else:
        error = _with_rank(error, rank)
        if failure.os_errno is not None:
            error.__cause__ = OSError(failure.os_errno, os.strerror(failure.os_errno))
    if is_shown_by_rank_0:
        setattr(error, SHOWN_BY_RANK_0, True)
    return error


def is_shown_by_rank_0(error: BaseException) -> bool:
    """Whether rank 0 raises the same error, so that other ranks need not show it."""
    return getattr(error, SHOWN_BY_RANK_0, False)


def _with_rank(error: FusionSlerpError, rank: tuple[str, str]) -> FusionSlerpError:
    problems = [p for p in error.problems if isinstance(p, Problem)]
    if len(problems) != len(error.problems) or len(problems) != 1:
        return copy.copy(error)
    (problem,) = problems
    return replace(problem, fields=(*problem.fields, rank)).error()


def _lost(failure: Failure, rank: tuple[str, str]) -> Problem:
    fields = (rank, ("found", failure.text))
    fix = f"look at what that process printed last; if it is only slow, use {setting('rank_timeout', 600)}"
    return Problem(OutputError, "a process of the job is lost", fields, fix)


def _failed(failure: Failure, rank: tuple[str, str]) -> Problem:
    fix = "look at the messages of that process"
    return Problem(OutputError, "a process of the job failed", (rank, ("found", failure.text)), fix)


def _can_be_sent(error: FusionSlerpError) -> bool:
    with suppress(Exception):  # a field that cannot be sent
        pickle.loads(pickle.dumps(error))
        return True
    return False
