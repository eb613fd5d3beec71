"""The command `fusion_slerp`. Everything heavy is imported by the functions that need it."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command with the arguments of the process, and exits."""
    # One CPU's worth of start-up work less: nothing here multiplies matrices. It must be there before numpy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "--no-color" in sys.argv:  # before anything is printed, help and errors of usage included
        os.environ["NO_COLOR"] = "1"
    from fusion_slerp.cli.app import app

    app(prog_name="fusion_slerp")
