"""Our errors in a run of FusionBench: one message, spelled for Hydra, without tracebacks.

FusionBench logs every exception with its traceback, and Hydra prints another one, unless the exception is of
its own compact kind. With HYDRA_FULL_ERROR=1, Hydra prints the traceback. Outside of a run, errors are left
unchanged.

Of several processes, Lightning starts all but the first from within FusionBench's job, which sets
HYDRA_FULL_ERROR. There an error ends the process with its message, as an exit does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from lightning_utilities.core.rank_zero import rank_zero_only

from fusion_slerp.errors import FusionSlerpError
from fusion_slerp.fusion_bench_plugin.ranks import is_of_first

LOGGERS = ("fusion_bench.scripts.cli", "__main__")
"""FusionBench's command logs by the first; by the second where it is run as a module."""


@contextmanager
def compact_errors() -> Iterator[None]:
    """Turns our errors into what Hydra shows as a message alone."""
    try:
        yield
    except FusionSlerpError as error:
        if not HydraConfig.initialized() or isinstance(error, CompactHydraException):
            raise
        for name in LOGGERS:
            logging.getLogger(name).addFilter(_is_wanted)  # the same filter is added once
        raise _compact(error) from None


def _compact(error: FusionSlerpError) -> FusionSlerpError:
    """The error as one that `except` finds as before, and that Hydra knows."""
    kind = type(error)
    rank = getattr(rank_zero_only, "rank", 0)
    exits = (SystemExit,) if rank else ()
    both = type(kind.__name__, (kind, CompactHydraException, *exits), {"__module__": kind.__module__})
    message = f"error: {error.message('hydra')}"
    if rank and is_of_first(error):  # where it is told in full
        message = f"rank {rank} ends, because rank 0 failed: {error.message('hydra').splitlines()[0]}"
    compact = both(message)
    compact.problems, compact.state = error.problems, error.state
    if rank:
        compact.code = message  # type: ignore[attr-defined] (which the interpreter prints)
    return compact


def _is_wanted(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, FusionSlerpError) and isinstance(error, CompactHydraException))
