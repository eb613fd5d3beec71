"""Reads the files of a merged model again, each byte once, and compares them with the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

from fusion_slerp.hashes import BLOCK_NBYTES, TENSOR_HASH, Hasher, file_hasher, tensor_hasher
from fusion_slerp.output.manifest import checksum_of
from fusion_slerp.output.replaceable import EVALUATION
from fusion_slerp.output.unfinished import MANIFEST
from fusion_slerp.verification.findings import Deviation
from fusion_slerp.waiting import pool, results

READERS = 2
"""Files that are read at a time: enough to keep a disk busy."""

VERIFYING = "verifying"
"""This pass, as progress names it."""

OnBytes = Callable[[int, str, str], object]
Tensors = Mapping[str, Mapping[str, Any]]
"""Rows of the manifest's tensors."""


def check_files(folder: Path, manifest: Mapping[str, Any], on_bytes: OnBytes) -> Iterator[Deviation]:
    """Yields the deviations: files that are missing, unexpected or altered, and their altered tensors.

    Args:
        folder: The merged model's folder.
        manifest: As `read_manifest` returns it.
        on_bytes: Called with the number of bytes just read, `VERIFYING` and the file, from any thread.
    """
    by_file: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in manifest["files"]}
    for name, row in manifest["tensors"].items():
        by_file[row["file"]][name] = row
    with pool(READERS, "fusion_slerp verifier") as threads:

        def check(name: str) -> list[Deviation]:
            return list(_File(folder, name, manifest["files"][name], by_file[name], on_bytes).check())

        for deviations in results(threads, check, manifest["files"]):
            yield from deviations
    yield from _unlisted(folder, manifest["files"])


def _unlisted(folder: Path, listed: Mapping[str, Any]) -> Iterator[Deviation]:
    """Files that the merge did not write; hidden ones, such as git's, are ignored."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not is_hidden and not path.is_dir() and name not in listed and name not in (MANIFEST, EVALUATION):
            yield Deviation(name, None, "not in the manifest")


@dataclass(frozen=True, slots=True)
class _File:
    """A file, and the manifest's rows for it and its tensors."""

    folder: Path
    name: str
    row: Mapping[str, Any]
    tensors: Tensors
    on_bytes: OnBytes

    def check(self) -> Iterator[Deviation]:
        path = self.folder / self.name
        try:
            if not path.is_file():
                state = "missing" if not path.exists() else "not a file"
                yield Deviation(self.name, None, state)
                return
            nbytes = path.stat().st_size
            with path.open("rb", buffering=0) as stream:
                yield from self._compare(nbytes, stream)
        except OSError as error:
            yield Deviation(self.name, None, f"cannot be read: {error.strerror}")

    def _compare(self, nbytes: int, stream: RawIOBase) -> Iterator[Deviation]:
        whole, tensors = self._digests(stream)
        wrong = [name for name, row in self.tensors.items() if tensors.get(name) != row[TENSOR_HASH]]
        yield from (Deviation(self.name, name, "not the bytes that were written") for name in wrong)
        if nbytes != self.row["nbytes"]:
            yield Deviation(self.name, None, f"{nbytes} bytes instead of {self.row['nbytes']}")
        elif whole != self.row[checksum_of(self.row)] and not wrong:
            what = "its header is" if self.tensors else "its content is"
            yield Deviation(self.name, None, f"{what} not what was written")

    def _digests(self, stream: RawIOBase) -> tuple[str, dict[str, str]]:
        """The digests of the file and of its tensors, in one pass."""
        buffer = memoryview(bytearray(BLOCK_NBYTES))
        whole, digests = file_hasher(checksum_of(self.row)), {}
        position = 0
        for name, row in sorted(
            self.tensors.items(), key=lambda item: (item[1]["offset"], item[1]["nbytes"])
        ):
            position += self._take(stream, row["offset"] - position, [whole], buffer)
            hasher = tensor_hasher()
            taken = self._take(stream, row["nbytes"], [whole, hasher], buffer)
            position += taken
            if position == row["offset"] + row["nbytes"]:
                digests[name] = hasher.hexdigest()
        while self._take(stream, BLOCK_NBYTES, [whole], buffer):
            pass
        return whole.hexdigest(), digests

    def _take(self, stream: RawIOBase, nbytes: int, hashers: list[Hasher], buffer: memoryview) -> int:
        """Reads up to `nbytes` bytes into the hashers; returns how many there were."""
        left = nbytes
        while left > 0 and (n := stream.readinto(buffer[:left])):
            for hasher in hashers:
                hasher.update(buffer[:n])
            self.on_bytes(n, VERIFYING, self.name)
            left -= n
        return max(0, nbytes - left)
