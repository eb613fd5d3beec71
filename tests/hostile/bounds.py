"""What a check may cost, as the tests here hold it to."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_S = 1.0
MOST_NBYTES = 200_000_000

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_nbytes() -> int:
    """The largest resident memory that this process has had, since `forget_peak` where the system can."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Makes the resident memory of this moment the largest; else earlier peaks hide lower ones."""
    if _RESET.exists():
        _RESET.write_text("5")


@contextmanager
def bounded(most_s: float = MOST_S, most_nbytes: int = MOST_NBYTES) -> Iterator[None]:
    """Fails if what is done inside takes longer, or raises the process's peak of memory by more.

    The time is that of the processor: a busy machine is no failure.
    """
    forget_peak()
    before, start = peak_nbytes(), time.process_time()
    yield
    elapsed, grown = time.process_time() - start, peak_nbytes() - before
    assert elapsed < most_s, f"{elapsed:.2f} s"
    assert grown < most_nbytes, f"{grown / 1e6:.0f} MB"
