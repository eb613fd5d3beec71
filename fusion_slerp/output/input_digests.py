"""SHA-256 of the source models' files, computed while the merge reads them.

A file in the Hub's cache has the name of its content: its SHA-256, or for a small file the SHA-1 by which git
knows it. The name says what the Hub lists, not what the disk holds. So both are compared, and a file that was
damaged on the way or on the disk is noticed before anything is published.

The cost: one more sequential read of every file, as a rule from the page cache, and half a second of one core
per gigabyte, on a thread of its own.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusion_slerp.errors import CheckpointError, Problem, raise_all
from fusion_slerp.hashes import BLOCK_NBYTES
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.regular_files import open_regular, reading_models
from fusion_slerp.waiting import pool, result_of

Files = Mapping[str, Mapping[str, Path]]
"""Files that are read, by the model's label and by their own names."""

Digests = Mapping[str, Mapping[str, str]]
"""SHA-256 of files, likewise."""

Rows = Mapping[str, Mapping[str, Any]]
"""What the manifest says of source models, by label."""


class _Stopped(Exception):
    """The merge has ended before all files were read."""


def input_files(parents: Mapping[str, Checkpoint], rows: Rows) -> Files:
    """Returns the files of the source models that the manifest lists: weights, configs and tokenizers."""
    return {
        label: {name: parent.folder / name for kind in ("files", "beside") for name in rows[label][kind]}
        for label, parent in parents.items()
    }


def weight_files(parents: Mapping[str, Checkpoint]) -> Files:
    """Returns the weight files of the source models."""
    return {label: {file.name: file for file in parent.files} for label, parent in parents.items()}


@contextmanager
def hashed(files: Files, is_wanted: bool) -> Iterator[Callable[[], Digests]]:
    """Computes digests on a thread of its own, which ends with the context.

    Args:
        files: The files.
        is_wanted: Whether to compute any; if not, there are none.

    Yields:
        A function that waits for the digests. It raises a CheckpointError if a file in the Hub's cache is not
        what its name says, or cannot be read.
    """
    if not is_wanted:
        yield dict
        return
    stop = threading.Event()
    with pool(1, "fusion_slerp hasher") as thread:
        running = thread.submit(digests_of, files, stop)
        try:
            yield lambda: result_of(running)
        finally:
            stop.set()


def digests_of(files: Files, stop: threading.Event | None = None) -> Digests:
    """Returns the SHA-256 of files; reads each once.

    Raises:
        CheckpointError: Files in the Hub's cache are not what their names say, or a file cannot be read.
    """
    known: dict[Path, str] = {}
    problems: list[Problem] = []
    with reading_models():
        for file in dict.fromkeys(file for own in files.values() for file in own.values()):
            known[file], problem = _hash(file, stop or threading.Event())
            problems += [problem] if problem else []
    raise_all(problems)
    return {label: {name: known[file] for name, file in own.items()} for label, own in files.items()}


def with_digests(rows: Rows, digests: Digests) -> Rows:
    """Returns what the manifest says of the source models, with the digests of their weight files."""

    def row(label: str) -> Mapping[str, Any]:
        own, files = digests[label], rows[label]["files"]
        return {**rows[label], "files": {name: {**each, "sha256": own[name]} for name, each in files.items()}}

    return {label: row(label) if label in digests else rows[label] for label in rows}


def _hash(file: Path, stop: threading.Event) -> tuple[str, Problem | None]:
    """The SHA-256 of a file; and the problem, if it is not what the Hub lists."""
    from fusion_slerp.sources.hub.cache import content_name  # rarely needed

    name = content_name(file)
    with open_regular(file) as stream:
        of_git = f"blob {os.fstat(stream.fileno()).st_size}\0".encode()
        hashers = [hashlib.sha256()]
        if name and len(name) == 40:  # some mirrors take the plain SHA-1
            hashers += [hashlib.sha1(of_git), hashlib.sha1()]
        while block := stream.read(BLOCK_NBYTES):
            if stop.is_set():
                raise _Stopped
            for hasher in hashers:
                hasher.update(block)
    sha256, *shorter = (hasher.hexdigest() for hasher in hashers)
    if name is None or name in (sha256, *shorter):
        return sha256, None
    return sha256, _damaged(file, shorter[0] if shorter else sha256, name)


def _damaged(file: Path, found: str, listed: str) -> Problem:
    kind = "SHA-256" if len(listed) == 64 else "SHA-1 of git"
    fields = (("file", file), ("found", f"{kind} {found}"), ("listed", f"{listed}, by the Hub"))
    fix = f"remove the file, and run this again to download it: rm {shlex.quote(os.path.realpath(file))}"
    return Problem(CheckpointError, "a file in the Hub's cache is damaged", fields, fix)
