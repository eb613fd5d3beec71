"""The merged model's weight files while they are written, and their index.

Source: the index as transformers' save_pretrained writes it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from fusion_slerp.chunks import DirectIO
from fusion_slerp.errors import OutputError, Problem, setting
from fusion_slerp.output.output_file import REFUSALS, OutputFile
from fusion_slerp.planning.layout import Shard, Slot


def index_json(slots: Sequence[Slot], shards: Sequence[Shard]) -> str:
    """The text of `model.safetensors.index.json` for a sharded output."""
    weight_map = {slot.name: shards[slot.shard].file_name for slot in slots}
    metadata = {"total_size": sum(shard.data_nbytes for shard in shards)}
    content = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


class ShardWriter:
    """Writes files to a folder: reserves their space at once, then takes data in any order from any thread.

    Only files that are being written are open. Use as a context manager; leaving it closes them.

    Args:
        folder: The destination.
        shards: The files.
        direct_io: Whether whole pages are written past the page cache.
        done: Indexes of files that are finished already, and left alone.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Shard],
        direct_io: DirectIO = "auto",
        done: Collection[int] = (),
    ) -> None:
        self._folder = folder
        self._shards = shards
        self._direct_io: DirectIO = direct_io
        self._done = done
        self._files: dict[int, OutputFile] = {}

    def __enter__(self) -> ShardWriter:
        for i, shard in enumerate(self._shards):
            if i not in self._done:
                try:
                    file = OutputFile(self._folder / shard.file_name, shard.nbytes, self._direct_io)
                    self._files[i] = file
                    file.write(memoryview(shard.header), 0)
                    file.close()
                except OSError as error:
                    self._close()
                    raise self._problem(error, i).error() from error
        return self

    def write(self, shard: int, offset: int, data: memoryview) -> None:
        """Writes bytes at an offset of a file's data section.

        Raises:
            OutputError: The disk is full or failing.
        """
        try:
            self._files[shard].write(data, len(self._shards[shard].header) + offset)
        except OSError as error:
            raise self._problem(error, shard).error() from error

    def finish(self, shard: int) -> None:
        """Flushes a complete file to disk, and closes it.

        Raises:
            OutputError: The disk is full or failing.
        """
        try:
            self._files[shard].sync()
            self._files[shard].close()
        except OSError as error:
            raise self._problem(error, shard).error() from error

    def __exit__(self, *exception: object) -> None:
        self._close()

    def _close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def _problem(self, error: OSError, shard: int) -> Problem:
        needed = sum(shard.nbytes for shard in self._shards)
        fields = (
            ("file", self._folder / self._shards[shard].file_name),
            ("found", error.strerror),
            ("needed", f"{needed} bytes in all; {shutil.disk_usage(self._folder).free} are free now"),
        )
        fix = "free space or choose another output folder"
        if self._direct_io == "on" and error.errno in REFUSALS:
            fix = f"use {setting('direct_io', 'auto')}, which writes through the page cache where it must"
        return Problem(OutputError, "cannot write the merged model's weights", fields, fix)
