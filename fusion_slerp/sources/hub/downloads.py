"""Downloads files of a commit to the Hub's cache, several at a time.

huggingface_hub does the work. Its threads would keep Ctrl-C waiting, and its own attempts to learn about a
file from a server that is silent take minutes; so the threads are ours, and the server is asked first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from fusion_slerp.sources.hub.cache import BLOBS, storage
from fusion_slerp.sources.hub.requests import check_file, endpoint, reason, timeout_s

log = logging.getLogger(__name__)

AT_A_TIME = 8
"""Files that are downloaded at a time, as the library does."""

TICK_S = 1.0
"""How often arriving data is looked for."""

WARN_AFTER_S = 30
"""Without data for this long, a warning says so."""

LIMIT_S = 1800
"""Without data for this long, the download fails; the library is quicker, unless a server asks it to wait."""


class DownloadFailure(Exception):
    """A file could not be downloaded.

    Attributes:
        file: The file's name in the repository; empty if none has got any data.
        found: Why, and by which server.
    """

    def __init__(self, file: str, found: str) -> None:
        super().__init__(f"{file}: {found}" if file else found)
        self.file, self.found = file, found


def download(repo: str, commit: str, names: Sequence[str], shows_progress: bool) -> None:
    """Downloads files of a commit to the cache.

    Args:
        repo: The model.
        commit: Its commit.
        names: The files.
        shows_progress: Whether the library may show its bars.

    Raises:
        DownloadFailure: The first file that failed. No others were begun; those under way were finished.
    """
    todo, failures, stopped = SimpleQueue[str](), list[DownloadFailure](), threading.Event()
    ended = SimpleQueue[None]()
    for name in names:
        todo.put(name)

    def work() -> None:
        with suppress(Empty):
            while not stopped.is_set():
                failure = _download_file(repo, commit, todo.get_nowait())
                if failure is not None:
                    failures.append(failure)
                    stopped.set()
        ended.put(None)

    n_threads = min(AT_A_TIME, len(names))
    try:
        with _progress_bars(shows_progress):
            for _ in range(n_threads):
                # A daemon: neither Ctrl-C nor the end of the process waits for a server.
                threading.Thread(target=work, name="fusion_slerp download", daemon=True).start()
            for _ in range(n_threads):
                _wait(ended, repo)
    finally:
        stopped.set()
    if failures:
        raise failures[0]


def _download_file(repo: str, commit: str, name: str) -> DownloadFailure | None:
    """Downloads a file; returns the failure, if it fails."""
    import huggingface_hub as hub
    from huggingface_hub import constants

    location, limit_s = "", timeout_s()
    try:
        location = check_file(hub.hf_hub_url(repo, name, revision=commit))
        limit_s = constants.HF_HUB_DOWNLOAD_TIMEOUT
        hub.hf_hub_download(repo, name, revision=commit, etag_timeout=timeout_s())
    except Exception as error:
        return _failure(name, reason(error, limit_s), location)
    return None


def _failure(name: str, found: str, location: str) -> DownloadFailure:
    """The failure, with the server: the Hub, or another one that it named for the file."""
    elsewhere = location and not location.startswith(endpoint())
    server = "/".join(location.split("/")[:3]) if elsewhere else endpoint()
    return DownloadFailure(name, found if server in found else f"{server}: {found}")


def _wait(ended: SimpleQueue[None], repo: str) -> None:
    """Waits for the end of a thread; while no data arrives, a warning, and at last a failure."""
    blobs = storage(repo) / BLOBS
    since, before, has_warned = time.monotonic(), _state_of(blobs), False
    while True:
        try:
            return ended.get(timeout=TICK_S)
        except Empty:
            now = _state_of(blobs)
        if now != before:
            since, before, has_warned = time.monotonic(), now, False
        idle_s = time.monotonic() - since
        if idle_s >= LIMIT_S:
            raise DownloadFailure("", f"{endpoint()}: no data for {idle_s:.0f} s")
        if idle_s >= WARN_AFTER_S and not has_warned:
            log.warning("%s: no data from %s for %.0f s; still waiting", repo, endpoint(), idle_s)
            has_warned = True


def _state_of(blobs: Path) -> dict[str, tuple[int, int]]:
    """Size and time of the files that are there or arriving, through this process or another."""
    states = {}
    for file in blobs.glob("*"):
        with suppress(OSError):  # renamed meanwhile
            stat = file.stat()
            states[file.name] = stat.st_size, stat.st_mtime_ns
    return states


@contextmanager
def _progress_bars(are_shown: bool) -> Iterator[None]:
    """Hides the library's bars, unless they are wanted here; `HF_HUB_DISABLE_PROGRESS_BARS` decides first."""
    from huggingface_hub import constants, utils

    decided = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or utils.are_progress_bars_disabled()
    if are_shown or decided:
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
