"""The command `fusion_slerp`. Everything heavy is imported by the functions that need it."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Runs the command with the arguments of the process, and exits."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop_at_once)
    # One CPU's worth of start-up work less: nothing here multiplies matrices. It must be there before numpy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "--no-color" in sys.argv:  # before anything is printed, help and errors of usage included
        os.environ["NO_COLOR"] = "1"
    if "--json-progress" in sys.argv:  # the bars of huggingface_hub would be among the lines
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from fusion_slerp.cli.streams import open_closed_streams, settle_streams

    open_closed_streams()
    from fusion_slerp.cli.app import app

    try:
        app(prog_name="fusion_slerp")
    finally:
        settle_streams()


def stop_at_once(number: int, frame: object) -> None:
    """Handles Ctrl-C where there is nothing to clean up.

    An exception would show a traceback in the middle of an import, or be lost there. What needs cleaning up
    asks for one; see `interrupts_raise`.
    """
    os._exit(128 + number)
