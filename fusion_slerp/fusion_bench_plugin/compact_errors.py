"""Our errors in a run of FusionBench: one message, spelled for Hydra, without tracebacks.

FusionBench logs every exception with its traceback, and Hydra prints another one, unless the exception is of
its own compact kind. With HYDRA_FULL_ERROR=1, Hydra prints the traceback. Outside of a run, errors are left
unchanged.

Of several processes, Lightning starts all but the first from within FusionBench's job, which sets
HYDRA_FULL_ERROR. There an error ends the process with its message, as an exit does; or without one, if the
first process has shown the same error. Lightning kills all processes as soon as one of the others has ended
with an error, so these wait for the end of the first.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from lightning_utilities.core.rank_zero import rank_zero_only

from fusion_slerp.cluster.failures import is_shown_by_rank_0
from fusion_slerp.errors import FusionSlerpError

LOGGERS = ("fusion_bench.scripts.cli", "__main__")
"""FusionBench's command logs by the first; by the second where it is run as a module."""

FIRST_ENDS_S = 10.0
"""In which the first process usually ends after an error."""

LOOK_EVERY_S = 0.05

PARENT = os.getppid()
"""Which started this process; if it has ended, the system gives another number."""


class _SilentExit(SystemExit):
    """Ends a process whose error another one has shown."""


_is_inside = ContextVar("_is_inside", default=False)


@contextmanager
def compact_errors() -> Iterator[None]:
    """Turns our errors into what Hydra shows as a message alone; within itself, it leaves them unchanged."""
    if _is_inside.get():
        yield
        return
    token = _is_inside.set(True)
    try:
        yield
    except FusionSlerpError as error:
        if not HydraConfig.initialized() or isinstance(error, CompactHydraException):
            raise
        for name in LOGGERS:
            logging.getLogger(name).addFilter(_is_wanted)  # the same filter is added once
        if getattr(rank_zero_only, "rank", 0) and (_first_has_ended() or is_shown_by_rank_0(error)):
            raise _SilentExit(1) from None  # of an exception, Hydra would print a line
        raise _compact(error) from None
    finally:
        _is_inside.reset(token)


def _compact(error: FusionSlerpError) -> FusionSlerpError:
    """The error as one that `except` finds as before, and that Hydra knows."""
    kind = type(error)
    is_first = not getattr(rank_zero_only, "rank", 0)
    exits = () if is_first else (SystemExit,)
    both = type(kind.__name__, (kind, CompactHydraException, *exits), {"__module__": kind.__module__})
    message = f"error: {error.message('hydra')}"
    compact = both(message)
    compact.problems, compact.state = error.problems, error.state
    if not is_first:
        compact.code = message  # type: ignore[attr-defined] (which the interpreter prints)
    return compact


def _first_has_ended() -> bool:
    """Waits for the first process, if Lightning has started this one from it, but not for long."""
    if os.environ.get("LOCAL_RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" in os.environ:
        return False
    until = time.monotonic() + FIRST_ENDS_S
    while os.getppid() == PARENT and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)
    return os.getppid() != PARENT


def _is_wanted(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    is_compact = isinstance(error, FusionSlerpError) and isinstance(error, CompactHydraException)
    return not (is_compact or isinstance(error, _SilentExit))
