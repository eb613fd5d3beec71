"""What other ranks have done of a shared merge, on its way to rank 0: finished files and bytes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from fusion_slerp.cluster.messages import LostError
from fusion_slerp.cluster.together import Together
from fusion_slerp.engine.progress import Progress
from fusion_slerp.engine.report import WeightFile

COLLECT_EVERY_S = 0.1
"""Between two looks of rank 0 at what the others have finished."""


class Sent:
    """Sends the finished files of a rank to rank 0."""

    def __init__(self, together: Together) -> None:
        self._together, self._count = together, 0
        self._sending = threading.Lock()

    def __call__(self, file: WeightFile) -> None:
        with self._sending:
            self._together.put(f"file {self._together.ranks.rank} {self._count}", file)
            self._count += 1


class _Collector:
    """On rank 0, receives what the others have done: finished files and bytes.

    Args:
        together: The work.
        record: Records a finished file.
        shown: The progress of all.
    """

    def __init__(self, together: Together, record: Callable[[WeightFile], object], shown: Progress) -> None:
        self._together, self._record, self._shown = together, record, shown
        self._ranks = range(1, together.ranks.count)
        self._n_files = Counter[int]()
        self._amounts = {rank: Counter[str]() for rank in self._ranks}
        self._read: dict[int, int] = {}
        self._collecting = threading.Lock()

    def collect(self) -> None:
        """Takes what has come."""
        with self._collecting:
            for rank in self._ranks:
                while (file := self._together.peek(f"file {rank} {self._n_files[rank]}")) is not None:
                    self._record(file)
                    self._n_files[rank] += 1
                if rank not in self._read and (nbytes := self._together.peek(f"read {rank}")) is not None:
                    self._read[rank] = nbytes
            for rank, state in self._together.shown.items():
                self._show(rank, state)

    def nbytes_read(self) -> int | None:
        """The bytes that all others have read; None before they have said it."""
        return sum(self._read.values()) if len(self._read) == len(self._ranks) else None

    def _show(self, rank: int, state: tuple[Mapping[str, int], str] | None) -> None:
        if state is None:
            return
        amounts, subject = state
        for doing, nbytes in amounts.items():
            more = nbytes - self._amounts[rank][doing]
            if more:
                self._amounts[rank][doing] = nbytes
                self._shown(more, doing, subject)


@contextmanager
def collecting(
    together: Together, record: Callable[[WeightFile], object], shown: Progress
) -> Iterator[Callable[[], int | None]]:
    """Receives from the others while the code inside runs, and once more afterwards, also after a failure."""
    collector, stop = _Collector(together, record, shown), threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.wait(COLLECT_EVERY_S):
                collector.collect()
        except LostError:
            pass  # the work has failed, which others find
        except BaseException as error:
            failed.append(error)
            together.report(error)

    thread = threading.Thread(target=run, name="fusion_slerp collector", daemon=True)
    thread.start()
    try:
        yield collector.nbytes_read
    except BaseException as error:
        raised = together.fail(failed[0] if failed else error)
        with suppress(Exception):
            collector.collect()  # what the others have finished before they stopped
        if raised is error:
            raise
        raise raised from raised.__cause__
    finally:
        stop.set()
        thread.join()
