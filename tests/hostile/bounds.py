"""The limit for the cost of a check in these tests: a multiple of the work of reading a plain header."""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_PARSES = 3000
"""The limit for most checks, as a number of plain headers of 5,000 tensors; one takes a few milliseconds.

Ten times the cost of the most expensive check when this was measured. The attacks that the checks prevent
take a thousand times as long, or forever.
"""
MOST_NBYTES = 200_000_000

PLAIN = json.dumps(
    {
        f"model.layers.{i}.mlp.up_proj.weight": {
            "dtype": "F32",
            "shape": [64, 64],
            "data_offsets": [i, i + 1],
        }
        for i in range(5000)
    }
)

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


def cpu_s(work: Callable[[], object], repeats: int = 3) -> float:
    """The processor's time that some work takes, at its best: a busy machine adds little to it."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def parse_s() -> float:
    """The time for parsing the plain header on this machine, now."""
    return cpu_s(lambda: json.loads(PLAIN))


def parse_file_s(file: Path) -> float:
    """The time for parsing a JSON file."""
    return cpu_s(lambda: json.loads(file.read_bytes()), 1)


@contextmanager
def bounded(
    most: float = MOST_PARSES,
    most_nbytes: int = MOST_NBYTES,
    reference_s: Callable[[], float] = parse_s,
) -> Iterator[None]:
    """Fails if what is done inside takes longer than a reference, or raises the peak of memory by more.

    Both times are the processor's and taken on the same machine in the same minute: neither a busy machine
    nor a slow one is a failure.

    Args:
        most: How many times as long as the reference it may take.
        most_nbytes: By how much the process's peak of memory may grow.
        reference_s: Measures the reference, in seconds; afterwards, so that its memory is none of the peak.
    """
    forget_peak()
    before, start = peak_nbytes(), time.process_time()
    yield
    elapsed, grown = time.process_time() - start, peak_nbytes() - before
    assert grown < most_nbytes, f"{grown / 1e6:.0f} MB"
    times = elapsed / reference_s()
    assert times < most, f"{times:.1f} times the reference"
