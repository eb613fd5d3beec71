"""Finds the records of a zip archive in its file, for a reader that reads their bytes itself.

Source: the zip format, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7
(the header before each record) and 4.4. Python's zipfile reads the directory at the end.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import BinaryIO

from fusion_slerp.errors import quoted

SIGNATURE = b"PK\x03\x04"
HEADER_NBYTES = 30
ENCRYPTED = 1


MAX_DIRECTORY_NBYTES = 6_000_000
"""Enough for about 90,000 records: torch writes about 65 bytes for each."""


class ArchiveError(Exception):
    """Describes the damage of the archive."""


class CompressedError(ArchiveError):
    """A record is not stored as plain bytes."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record stored as plain bytes: its name, and the offset and number of its bytes in the file."""

    name: str
    offset: int
    nbytes: int


def find_records(stream: BinaryIO) -> dict[str, Record]:
    """Returns the records by name, in the order of their offsets; reads only the headers.

    Raises:
        CompressedError: A record is compressed or encrypted.
        ArchiveError: The file is truncated, or its directory and its headers contradict each other.
    """
    try:
        archive = zipfile.ZipFile(_Bounded(stream))  # type: ignore[arg-type]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        raise ArchiveError(f"truncated or damaged: {error}") from None
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    ends = [*(info.header_offset for info in infos[1:]), archive.start_dir]
    records: dict[str, Record] = {}
    for info, end in zip(infos, ends, strict=True):
        if info.filename in records:
            raise ArchiveError(f"two records {quoted(info.filename)}")
        records[info.filename] = _record(stream, info, end)
    return records


class _Bounded:
    """The methods of a file that zipfile needs, for bounded reads: it trusts the directory's length."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, nbytes: int = -1) -> bytes:
        if nbytes > MAX_DIRECTORY_NBYTES:
            raise ArchiveError(f"a directory of {nbytes} bytes; {MAX_DIRECTORY_NBYTES} is the limit")
        return self._stream.read(MAX_DIRECTORY_NBYTES if nbytes < 0 else nbytes)


def _record(stream: BinaryIO, info: zipfile.ZipInfo, end: int) -> Record:
    """The record, which must end before the next one begins."""
    named = f"the record {quoted(info.filename)}"
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ENCRYPTED:
        raise CompressedError(f"{named} is compressed or encrypted")
    offset = info.header_offset + HEADER_NBYTES
    if info.header_offset < 0 or offset > end:
        raise ArchiveError(f"not enough bytes for {named} at byte {info.header_offset}")
    stream.seek(info.header_offset)
    header = stream.read(HEADER_NBYTES)
    if not header.startswith(SIGNATURE):
        raise ArchiveError(f"no header before {named} at byte {info.header_offset}")
    offset += sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28))  # its name, extra fields
    if info.compress_size != info.file_size or offset + info.file_size > end:
        raise ArchiveError(f"{named} overlaps what follows it")
    return Record(info.filename, offset, info.file_size)
