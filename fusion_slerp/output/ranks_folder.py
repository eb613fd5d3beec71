"""The folder `ranks` in a partial folder: where the processes of a shared merge show that they write there.

    meeting     a word from rank 0 that the others know: so they see the same folder, and the same merge
    N.lock      held by rank N while it writes

A process that was stopped for a while, and believed dead, still holds its lock. Nobody else resumes the merge
until it has ended, as its writes would meet theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fusion_slerp.errors import OutputError, Problem
from fusion_slerp.output.lock import FolderLock, LockedError
from fusion_slerp.output.partial_folder import FILES, RANKS, staging_folder
from fusion_slerp.output.unfinished import locked

MEETING = "meeting"


def invite(target: Path, word: str) -> None:
    """Writes the word by which other ranks recognise the partial folder of a target.

    Raises:
        OSError: The disk is full or failing.
    """
    folder = staging_folder(target) / RANKS
    folder.mkdir(exist_ok=True)
    (folder / MEETING).write_text(word, encoding="utf-8")


@contextmanager
def joined(target: Path, word: str, rank: int, wait: Callable[[Callable[[], bool]], bool]) -> Iterator[Path]:
    """Enters the partial folder that rank 0 has made, under a lock of this rank's own.

    Args:
        target: The merged model's folder, an absolute real path.
        word: The word that rank 0 wrote.
        rank: Of this process, at least 1.
        wait: Waits until a condition holds; returns whether it does, after some time. What another machine
            writes may take seconds to appear.

    Yields:
        The folder of the merged model's files.

    Raises:
        OutputError: The folder is not the one of rank 0, or another process holds this rank's lock.
        OSError: The lock cannot be created.
    """
    folder = staging_folder(target)
    if not wait(lambda: _word(folder) == word):
        raise _not_shared(target, _word(folder)).error()
    lock = FolderLock(folder / RANKS / f"{rank}.lock")
    try:
        lock.acquire()
    except LockedError as error:
        raise locked(target, str(error)).error() from None
    try:
        yield folder / FILES
    finally:
        lock.release()


def _word(folder: Path) -> str | None:
    try:
        return (folder / RANKS / MEETING).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _not_shared(target: Path, found: str | None) -> Problem:
    what = "no such folder" if found is None else "the folder of another merge"
    fields = (("folder", staging_folder(target)), ("found", what))
    fix = "choose an output folder on a file system that all machines of the job share"
    return Problem(OutputError, "this machine does not see the folder that rank 0 writes to", fields, fix)
