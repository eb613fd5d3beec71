"""The formats of weight files, and which of several in one folder are read.

Source: the order in which transformers looks for them (modeling_utils.py,
_get_resolved_checkpoint_files): the file that config.json names, safetensors before torch, a single file
before an index. We differ where an index is left over from files that are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from fusion_slerp.sources.header import TensorEntry, read_header
from fusion_slerp.sources.json_files import INDEX, read_json

MAX_SHARDS = 10_000
"""No known model has more weight files."""

NAMED = "transformers_weights"
"""The key of config.json that names the weights, in place of their usual names."""

INDEX_ENDING = ".index.json"


@dataclass(frozen=True, slots=True)
class Format:
    """A format of weights.

    Attributes:
        single: The name of a file with all weights.
        index: The name of an index from tensors to files.
        read: Finds the tensors of one file.
    """

    single: str
    index: str
    read: Callable[[Path], list[TensorEntry]]


def _read_archive(file: Path) -> list[TensorEntry]:
    from fusion_slerp.sources.torch_archive import read_archive  # rarely needed, and slow to import

    return read_archive(file)


SAFETENSORS = Format("model.safetensors", "model.safetensors.index.json", read_header)
TORCH = Format("pytorch_model.bin", "pytorch_model.bin.index.json", _read_archive)
FORMATS = (SAFETENSORS, TORCH)
"""In order of preference."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The weights to read.

    Attributes:
        format: Their format.
        start: The name of the single file or of the index.
        files: The names of the weight files; empty if the index does not list them.
        stale: Preferred indexes that were passed over because none of their files exists.
    """

    format: Format
    start: str
    files: tuple[str, ...]
    stale: tuple[str, ...]

    @property
    def is_sharded(self) -> bool:
        """Whether they have an index."""
        return self.start.endswith(INDEX_ENDING)


def choose(
    exists: Callable[[str], bool],
    files_in: Callable[[str], tuple[str, ...]],
    named: str | None = None,
) -> Choice | None:
    """Returns the weights to read; None if there are none.

    An index none of whose files exists is passed over if there are complete weights after it.

    Args:
        exists: Whether there is a file of that name.
        files_in: The files that an index of that name lists; called only if needed.
        named: The file or index that config.json names; see `named_weights`.
    """
    if named is not None:
        files_named = files_in(named) if named.endswith(INDEX_ENDING) else (named,)
        return Choice(SAFETENSORS, named, files_named, ())
    starts = [(kind, name) for kind in FORMATS for name in (kind.single, kind.index) if exists(name)]

    def files(kind: Format, name: str) -> tuple[str, ...]:
        return (name,) if name == kind.single else files_in(name)

    def is_complete(kind: Format, name: str) -> bool:
        return bool(files(kind, name)) and all(map(exists, files(kind, name)))

    stale: list[str] = []
    for i, (kind, name) in enumerate(starts):
        needed = files(kind, name)
        is_stale = bool(needed) and not any(map(exists, needed))
        if is_stale and any(is_complete(*other) for other in starts[i + 1 :]):
            stale.append(name)
        else:
            return Choice(kind, name, needed, tuple(stale))
    return None


def named_weights(config: Mapping[str, Any]) -> str | None:
    """Returns the file or index that a config names for the weights; None if it names none that is read.

    Transformers takes names within folders as well, which are refused here: nothing else is read from them.
    """
    name = config.get(NAMED)
    endings = (".safetensors", f".safetensors{INDEX_ENDING}")
    return name if isinstance(name, str) and name.endswith(endings) and is_plain_name(name) else None


def is_plain_name(name: str) -> bool:
    """Whether it names a file in the folder itself."""
    return PurePath(name).name == name and name not in {"", ".", ".."} and "\\" not in name


def read_index(file: Path) -> Any:
    """The content of an index; None if it cannot be read, which opening the checkpoint will report."""
    try:
        return read_json(file, INDEX, strict=True)
    except (OSError, ValueError):
        return None


def files_listed(index: Any) -> tuple[str, ...]:
    """The weight files that the content of an index lists; empty if it is not an index."""
    try:
        files = tuple(dict.fromkeys(index["weight_map"].values()))
    except (LookupError, TypeError, AttributeError):
        return ()
    is_usable = len(files) <= MAX_SHARDS and all(isinstance(name, str) for name in files)
    return files if is_usable else ()
