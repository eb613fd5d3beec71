"""What is finished of a merge, on the disk: so that the same merge can resume after any interruption.

One JSON object a line. The first says what is merged, and how. Each further one is written after its
weight file has come to the disk, with the file's size and digest; the last one before the merged model
appears. A line that was cut off by a crash counts as not written.

Of a journal in another format we read only what every format has: `journal` and `identity` in the first line,
`file` or `published` in the others. That is enough to leave finished files alone.
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

FORMAT = 2

Identity = Mapping[str, Any]
"""What two runs must have in common to be one merge: nested mappings of plain values; see `identity`."""


@dataclass(slots=True)
class Content:
    """What a journal says.

    Attributes:
        format: The journal's.
        identity: Of the merge.
        files: The finished weight files, by name.
        published: The digest of the manifest, if all was finished and about to appear.
        nbytes: Of the lines that are whole.
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
        """Whether a merge can resume from the files it names."""
        return self.format == FORMAT and self.identity == identity


def read_journal(file: Path) -> Content | None:
    """Returns what a journal says; None if there is none, or nothing can be read of it.

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
    """Adds a line to what is known; returns whether it could."""
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
        file: Where.
        content: What it says already; None begins a new one.

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
        """Writes the first line; the first finished file brings it to the disk."""
        self._append({"journal": FORMAT, "identity": identity})

    def add(self, file: WeightFile) -> None:
        """Writes that a weight file is complete, and brings that to the disk; from any thread."""
        tensors = [report.fields for report in file.reports]
        self._append({"file": file.name, "nbytes": file.nbytes, "digest": file.digest, "tensors": tensors})
        os.fsync(self._descriptor)

    def publish(self, manifest_digest: str) -> None:
        """Writes that the merged model is complete and about to appear."""
        self._append({"published": manifest_digest})

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)

    def _append(self, entry: dict[str, Any]) -> None:
        line = memoryview((json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n").encode())
        with self._writing:
            os.lseek(self._descriptor, self._end, os.SEEK_SET)  # a failure may have left half a line
            rest = line
            while rest.nbytes:
                rest = rest[os.write(self._descriptor, rest) :]
            self._end += line.nbytes
