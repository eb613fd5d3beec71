"""Reads the documents of a text: a .txt, .jsonl or .parquet file, or a folder saved by `datasets`.

Documents are yielded one by one, so a file may be larger than the memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

COLUMN = "text"
"""The field of a record, or the column of a table, that holds a document."""

KINDS = "a .txt, .jsonl or .parquet file, or a folder saved by `datasets`"

ROWS_PER_READ = 1024


class TextError(ValueError):
    """A text cannot be read; the message says why, without the path.

    Attributes:
        fix: A remedy to paste, if the file is not at fault.
    """

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Text:
    """The documents in a file or folder.

    Attributes:
        path: A `.txt` in UTF-8 is one document. A `.jsonl` has one per line, under `text`. A `.parquet` file
            and a folder of `datasets` (by `save_to_disk`) have one per row, in the column `text`.
    """

    path: Path

    def documents(self) -> Iterator[str]:
        """Yields the documents, reading as it goes.

        A byte order mark is skipped and line ends are kept; so are empty documents, but not blank lines of
        a `.jsonl`.

        Raises:
            TextError: The path is missing or of another kind, or its content is not as described (the first
                offending line or row is named).
        """
        try:
            yield from _reader(self.path)(self.path)
        except OSError as error:
            raise TextError(error.strerror or str(error)) from error

    def check(self, in_full: bool) -> None:
        """Reads the first document that is not blank, or all documents.

        Raises:
            TextError: As `documents`; or there is no text at all.
        """
        documents = self.documents()
        if not any(document.strip() for document in documents):
            raise TextError("it contains no text")
        for _ in documents if in_full else ():
            pass

    def head(self, stops: Sequence[int]) -> Iterator[str]:
        """Yields as many documents as there are `stops`, each up to its number of characters."""
        for document, stop in zip(islice(self.documents(), len(stops)), stops, strict=True):
            yield document[:stop]


def _reader(path: Path) -> Any:
    readers = {".txt": _plain, ".jsonl": _json_lines, ".parquet": _parquet}
    if path.suffix in readers:
        return readers[path.suffix]
    if path.is_dir():
        return _saved_dataset
    raise TextError(f"the name ends in {path.suffix!r}; it must be {KINDS}")


def _plain(path: Path) -> Iterator[str]:
    try:
        yield path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"not UTF-8 at byte {error.start}: {error.reason}") from error


def _json_lines(path: Path) -> Iterator[str]:
    position = 0
    with path.open("rb") as stream:  # lines of bytes: a JSON string may contain U+2028 and similar characters
        for number, line in enumerate(stream, start=1):
            yield from _record(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, number, position)
            position += len(line)


def _record(line: bytes, number: int, position: int) -> Iterator[str]:
    if not line.strip():
        return
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise TextError(f"not UTF-8 at byte {position + error.start}: {error.reason}") from error
    except ValueError as error:
        raise TextError(f"line {number} is not JSON: {error}") from error
    if not (isinstance(record, dict) and isinstance(record.get(COLUMN), str)):
        raise TextError(f"line {number} has no field `{COLUMN}` with a string")
    yield record[COLUMN]


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise TextError("reading it needs pyarrow, which is not installed", "pip install pyarrow") from error
    return pyarrow


def _parquet(path: Path) -> Iterator[str]:
    arrow = _arrow()
    try:
        with path.open("rb") as stream:
            file = arrow.parquet.ParquetFile(stream)
            _check_column(file.schema_arrow, arrow)
            yield from _strings(file.iter_batches(batch_size=ROWS_PER_READ, columns=[COLUMN]))
    except arrow.ArrowException as error:
        raise TextError(f"not readable as Parquet: {_first_line(error)}") from error


def _saved_dataset(path: Path) -> Iterator[str]:
    """The documents of a folder that `save_to_disk` wrote: its state names files in Arrow's stream format."""
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8")).get("splits", [])
        raise TextError(
            f"it holds the splits {', '.join(splits)}; name the folder of one, such as {path.name}/"
            f"{splits[0] if splits else 'test'}"
        )
    if not (path / "state.json").is_file():
        raise TextError(f"a folder without state.json, which `datasets` writes; it must be {KINDS}")
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        names = [each["filename"] for each in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise TextError("its state.json does not list the files of a saved dataset") from error
    for name in names:
        yield from _arrow_stream(path / name)


def _arrow_stream(path: Path) -> Iterator[str]:
    arrow = _arrow()
    try:
        with path.open("rb") as stream, arrow.ipc.open_stream(stream) as batches:
            _check_column(batches.schema, arrow)
            yield from _strings(batches)
    except arrow.ArrowException as error:
        raise TextError(f"{path.name} is not readable as Arrow: {_first_line(error)}") from error


def _check_column(schema: Any, arrow: Any) -> None:
    if COLUMN not in schema.names:
        raise TextError(f"no column `{COLUMN}`; its columns: {', '.join(schema.names)}")
    kind = schema.field(COLUMN).type
    if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
        raise TextError(f"its column `{COLUMN}` holds {kind}, not strings")


def _strings(batches: Any) -> Iterator[str]:
    row = 0
    for batch in batches:
        for value in batch.column(batch.schema.get_field_index(COLUMN)):
            row += 1
            if not value.is_valid:
                raise TextError(f"row {row} has no `{COLUMN}`")
            yield value.as_py()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
