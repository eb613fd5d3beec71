"""Requests to the Hub that download nothing. Each of them ends, whatever the server does."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import sleep
from typing import Any, TypeVar

T = TypeVar("T")

PAUSE_S = 10
"""A Hub that did not answer is not asked again for this long, so that several models wait for it once."""

WAITS_S = (1.0, 2.0)
"""Before the second attempt, and before the third and last."""

LONGEST_WAIT_S = 10.0
"""A server that asks for a longer wait is not waited for."""

PATIENCE = 3
"""An answer takes at most that many times the library's time-out: it counts each step, and not the whole."""

REFUSED = (401, 403, 404)
"""How the Hub answers where a model does not exist, or not for everyone."""

BUSY = (408, 429, 500, 502, 503, 504)
"""How a server answers that may do better a moment later."""

_silent: dict[str, tuple[float, Exception]] = {}
"""Endpoints that did not answer: when, by the monotonic clock, and the error."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit.

    Attributes:
        commit: The commit.
        files: The size of every file in bytes, by name; None where the Hub does not state it.
        blobs: The SHA-256 of every large file, by name: its name in the cache.
    """

    commit: str
    files: dict[str, int | None]
    blobs: dict[str, str]


def endpoint() -> str:
    """Returns the address of the Hub: `HF_ENDPOINT`."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def timeout_s() -> int:
    """Returns how long one step of an answer may take: `HF_HUB_ETAG_TIMEOUT`, 10 seconds unless it is set."""
    from huggingface_hub import constants

    return constants.HF_HUB_ETAG_TIMEOUT


def is_offline(error: Exception) -> bool:
    """Whether nothing was asked, because `HF_HUB_OFFLINE` forbids it."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled)


def status_of(error: Exception) -> int:
    """Returns the HTTP status of an answer that is an error; 0 if there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", 0) or 0


def reason(error: Exception, limit_s: float | None = None) -> str:
    """Returns why a request failed, in one line.

    Args:
        error: The library's.
        limit_s: The time-out that applied; None is that of questions.
    """
    cause = error.__cause__
    if isinstance(cause, Exception) and type(error).__name__ == "LocalEntryNotFoundError":
        return reason(cause, limit_s)
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    limit_s = timeout_s() if limit_s is None else limit_s
    return f"no answer within {limit_s:g} s ({text})" if is_timeout(error) else text


def is_timeout(error: Exception) -> bool:
    """Whether there was no answer in time."""
    # The HTTP library below the Hub's has been replaced twice; all of them name the class like this.
    return isinstance(error, TimeoutError) or "Timeout" in type(error).__name__


def list_files(repo: str, revision: str) -> Listing:
    """Returns the files of a repository, and the commit that a revision stands for now.

    Raises:
        Exception: The Hub refuses, fails or does not answer, or `HF_HUB_OFFLINE` is set.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants

    when, error = _silent.get(constants.ENDPOINT, (0.0, None))
    if error is not None and time.monotonic() - when < PAUSE_S:
        raise error

    def ask() -> Any:
        return hub.HfApi().model_info(repo, revision=revision, timeout=timeout_s(), files_metadata=True)

    try:
        info = answer(ask, lambda error: status_of(error) in BUSY)
    except Exception as failure:
        if not (status_of(failure) or is_offline(failure) or isinstance(failure, ValueError)):  # no answer
            _silent[constants.ENDPOINT] = time.monotonic(), failure
        raise
    return _listing(info)


def _listing(info: Any) -> Listing:
    if not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
        raise ValueError("the answer names no commit: this is no Hub")
    files = {file.rfilename: file.size for file in info.siblings or ()}
    hashes = {file.rfilename: getattr(file.lfs, "sha256", None) for file in info.siblings or ()}
    return Listing(info.sha, files, {name: each for name, each in hashes.items() if each})


def check_file(url: str) -> str:
    """Returns the address from which a file of the Hub is downloaded.

    The library would ask as well, but a server that does not answer it asks for minutes.

    Raises:
        Exception: The server refuses, fails or does not answer.
    """
    import huggingface_hub as hub

    def ask() -> Any:
        return hub.get_hf_file_metadata(url, timeout=timeout_s())

    return answer(ask, _is_transient).location


def _is_transient(error: Exception) -> bool:
    status = status_of(error)
    return status in BUSY if status else not (is_timeout(error) or isinstance(error, ValueError))


def answer(ask: Callable[[], T], is_transient: Callable[[Exception], bool]) -> T:
    """Returns the answer to a question that is asked up to three times.

    Args:
        ask: Asks once.
        is_transient: Whether the next attempt may succeed after this error.

    Raises:
        Exception: As `ask`; TimeoutError if it does not end.
    """
    for pause_s in WAITS_S:
        try:
            return ended(ask, PATIENCE * timeout_s())
        except Exception as error:
            wait_s = max(pause_s, _asked_wait_s(error))
            if wait_s > LONGEST_WAIT_S or not is_transient(error):
                raise
            sleep(wait_s)
    return ended(ask, PATIENCE * timeout_s())


def _asked_wait_s(error: Exception) -> float:
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return float(headers.get("Retry-After", 0))
    except ValueError:  # a date
        return 0.0


def ended(call: Callable[[], T], limit_s: float) -> T:
    """Returns what a call returns, unless it takes too long: then it is left alone.

    Its thread does not keep the process from ending, and Ctrl-C does not wait for it.

    Raises:
        TimeoutError: It has not ended within the limit.
        Exception: As the call.
    """
    results: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def run() -> None:
        try:
            results.put((True, call()))
        except Exception as error:
            results.put((False, error))

    threading.Thread(target=run, name="fusion_slerp hub", daemon=True).start()
    try:
        is_fine, result = results.get(timeout=limit_s)
    except Empty:
        raise TimeoutError(f"given up after {limit_s:g} s") from None
    if not is_fine:
        raise result
    return result


@contextmanager
def quiet() -> Iterator[None]:
    """Hides the library's warnings ("Retrying in 8s"), unless the user has asked it for more of them."""
    import huggingface_hub as hub

    verbosity = hub.logging.get_verbosity()
    if verbosity == logging.WARNING:
        hub.logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub.logging.set_verbosity(verbosity)
