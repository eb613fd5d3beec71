"""The command's standard streams: closed ones, names that are not UTF-8, and full disks behind them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from io import TextIOWrapper

STREAMS = {"stdin": (0, "r"), "stdout": (1, "w"), "stderr": (2, "w")}
"""Descriptors and modes."""


def open_closed_streams() -> None:
    """Gives the process the streams that it was started without, and lets standard output print every name.

    Python has None for a closed stream. The next file to be opened, such as a weight file, would get its
    descriptor, and with it what a library prints.
    """
    for name, (descriptor, mode) in STREAMS.items():
        if getattr(sys, name) is None:
            _open_nothing_at(descriptor)
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (for good)
    with suppress(AttributeError):  # replaced by something else
        cast("TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")


def _open_nothing_at(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        nothing = os.open(os.devnull, os.O_RDWR)
        if nothing != descriptor:
            os.dup2(nothing, descriptor)
            os.close(nothing)


def settle_streams() -> None:
    """Drops what a broken stream could not print: at its exit, Python would try again and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _drop(stream)


def _drop(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
