"""Processes that are started in milliseconds, and whose end is waited for, but not forever."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
from typing import Any

HANG_S = 300
"""No process takes that long; one that does hangs."""

PRELOADED = [
    "fusion_slerp.api",
    "fusion_slerp.cluster.merging",
    "tests.processes",
    "tests.safety.trials",
    "torch.distributed",
]
"""Of all tests: the process that the others are forked from is started once."""


def context() -> Any:
    """Starts processes with everything imported."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    return made


def wait_for_end(process: Any, who: str = "the process") -> None:
    """Waits for the end of a process; one that hangs prints where, and is an error."""
    process.join(HANG_S)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGABRT)
        process.join()
        raise AssertionError(f"{who} hangs")


if multiprocessing.parent_process() is not None:
    faulthandler.enable()
