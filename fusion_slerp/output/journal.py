"""The journal of a merge: which files are finished, so that the same merge can resume after any interruption.

One JSON object per line. The first line states what is merged, and how. Each further one is written when its
weight file is on disk, with the file's size and digest; the last one before the merged model appears. A line
that a crash cut off counts as not written.

A journal in another format is read only for what all formats have: `journal` and `identity` in the first
line, `file` or `published` in the others. That is enough to leave finished files alone.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion_slerp.engine.report import WeightFile, from_fields
from fusion_slerp.output.lock import NOFOLLOW
from fusion_slerp.paths import utf8

FORMAT = 2

Identity = Mapping[str, Any]
"""The identity of a merge, as nested mappings of plain values; see the module `identity`."""


@dataclass(slots=True)
class Content:
    """The content of a journal.

    Attributes:
        format: The journal's format.
        identity: The identity of the merge.
        files: The finished weight files, by name.
        published: The digest of the manifest, if the merged model was complete and about to appear.
        nbytes: The size of the complete lines.
    """

    format: object
    identity: Identity
    files: dict[str, WeightFile] = field(default_factory=dict)
    published: str | None = None
    nbytes: int = 0

    @property
    def version(self) -> str:
        """The version of fusion_slerp that began the merge."""
        return str(self.identity.get("fusion_slerp", "unknown"))

    def is_of(self, identity: Identity) -> bool:
        """Whether a merge of this identity can resume from the journal's files."""
        return self.format == FORMAT and self.identity == identity


def read_journal(file: Path) -> Content | None:
    """Returns the content of a journal; None if there is none, or it is unreadable.

    A journal of another format names its files; their digests and reports are unknown.
    """
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except OSError:
        return None
    content = None
    for line in lines:
        entry = _entry(line)
        if content is None:
            if entry is None or "journal" not in entry:
                return None
            identity = entry.get("identity")
            content = Content(entry["journal"], identity if isinstance(identity, dict) else {})
        elif entry is None or not _take(entry, content):
            break
        content.nbytes += len(line)
    return content


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _take(entry: dict[str, Any], content: Content) -> bool:
    """Adds a line to the content; returns whether the line is valid."""
    try:
        if "published" in entry:
            content.published = entry["published"]
        elif content.format != FORMAT:
            if "file" in entry:
                content.files[str(entry["file"])] = WeightFile(str(entry["file"]), 0, "", ())
        else:
            reports = tuple(from_fields(each) for each in entry["tensors"])
            file = WeightFile(entry["file"], entry["nbytes"], entry["digest"], reports)
            content.files[file.name] = file
    except (KeyError, TypeError):
        return False
    return True


class Journal:
    """A journal that is being written.

    Args:
        file: The journal's path.
        content: Its content so far; None begins a new journal.

    Raises (all methods):
        OSError: The disk is full or failing.
    """

    def __init__(self, file: Path, content: Content | None) -> None:
        self._writing = threading.Lock()
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | NOFOLLOW
        self._descriptor = os.open(file, flags, 0o666)
        self._end = content.nbytes if content else 0
        os.ftruncate(self._descriptor, self._end)

    def begin(self, identity: Identity) -> None:
        """Writes the first line; it is flushed to disk with the first finished file."""
        self._append({"journal": FORMAT, "identity": identity})

    def add(self, file: WeightFile) -> None:
        """Records that a weight file is complete and flushes the record to disk; from any thread."""
        tensors = [report.fields for report in file.reports]
        self._append({"file": file.name, "nbytes": file.nbytes, "digest": file.digest, "tensors": tensors})
        os.fsync(self._descriptor)

    def publish(self, manifest_digest: str) -> None:
        """Records that the merged model is complete and about to appear."""
        self._append({"published": manifest_digest})

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)

    def _append(self, entry: dict[str, Any]) -> None:
        line = memoryview(utf8(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"))
        with self._writing:
            os.lseek(self._descriptor, self._end, os.SEEK_SET)  # a failure may have left half a line
            rest = line
            while rest.nbytes:
                rest = rest[os.write(self._descriptor, rest) :]
            self._end += line.nbytes
