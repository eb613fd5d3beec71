"""Processes that merge together, as torchrun would start them, but with nobody who ends all if one ends."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.processes import HANG_S, wait_for_end


@dataclass(frozen=True)
class Job:
    """What all processes of a job do.

    Attributes:
        models: What is merged.
        out: The merged model's folder.
        options: The base, and the options.
        full_for: The rank whose disk becomes full; None for none.
        full_after: Writes of that rank before that.
    """

    models: Sequence[Path]
    out: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    full_for: int | None = None
    full_after: int = 0


class Ranks:
    """Started processes.

    Args:
        processes: The context.
        job: What they do.
        count: How many.
    """

    def __init__(self, processes: Any, job: Job, count: int) -> None:
        self.answers = processes.Queue()
        port = free_port()
        self.all = [
            processes.Process(target=run_rank, args=(job, rank, count, port, self.answers), daemon=True)
            for rank in range(count)
        ]
        for process in self.all:
            process.start()

    @property
    def has_ended(self) -> bool:
        """Whether one has ended."""
        return any(process.exitcode is not None for process in self.all)

    def wait_until_writing(self, out: Path) -> bool:
        """Waits until all ranks write; returns False if the merge ends before that is seen."""
        folder = out.with_name(f".{out.name}.partial") / "ranks"
        until = time.monotonic() + HANG_S
        while not all((folder / f"{rank}.lock").exists() for rank in range(1, len(self.all))):
            assert time.monotonic() < until, "the merge does not begin"
            if self.has_ended:
                return False
            time.sleep(0.001)
        return True

    def signal(self, rank: int, number: int) -> None:
        """Sends a signal to a process."""
        os.kill(self.all[rank].pid, number)

    def join(self, but: Sequence[int] = ()) -> None:
        """Waits until all have ended, but for some."""
        for rank, process in enumerate(self.all):
            if rank not in but:
                wait_for_end(process, f"rank {rank}")

    def outcomes(self) -> Mapping[int, str]:
        """The message with which each process failed, empty if it did not; of those that said so."""
        found: dict[int, str] = {}
        while not self.answers.empty():
            rank, message = self.answers.get()
            found[rank] = message
        return found

    def end(self) -> None:
        """Ends what is left."""
        for process in self.all:
            process.kill()
            process.join()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_rank(job: Job, rank: int, count: int, port: int, answers: Any) -> None:
    """One process."""
    import torch.distributed as distributed

    from fusion_slerp.api import prepare_merge
    from fusion_slerp.cluster.merging import run_shared_merge
    from fusion_slerp.cluster.messages import Messages
    from fusion_slerp.cluster.ranks import TIMEOUT_S, Ranks

    if job.full_for == rank:
        fill_the_disk(job.full_after)
    timeout_s = job.options.get("rank_timeout", TIMEOUT_S)
    try:
        store = distributed.TCPStore("127.0.0.1", port, count, rank == 0, wait_for_workers=False)
        ranks = Ranks(Messages(store), rank, count)
        prepared = ranks.on_all(lambda: prepare_merge(job.models, job.out, **job.options), timeout_s)
        run_shared_merge(prepared, ranks)
        answers.put((rank, ""))
    except Exception as error:
        answers.put((rank, str(error)))


def fill_the_disk(after: int) -> None:
    """Lets all writes fail but the first ones."""
    from fusion_slerp.output import output_file

    real, left = output_file.OutputFile.write, [after]

    def write(self: Any, *args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, *args)

    output_file.OutputFile.write = write
