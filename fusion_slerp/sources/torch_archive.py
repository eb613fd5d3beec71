"""Finds the tensors of a file that torch.save wrote; no tensor data is read, and no code from it runs.

The file is a zip archive: a pickle that describes the tensors, and a record for each storage. Torch
reads a skeleton in place of the file: the same pickle, and empty records of the same names. From that, its
`weights_only` unpickler makes tensors without data, each with the offset of its record.

Source: https://docs.pytorch.org/docs/stable/notes/serialization.html (the records), and `torch.load`
for the storage's attribute `_checkpoint_offset` (since torch 2.7). We differ in the skeleton: given
the file itself, torch computes the offsets from the order and sizes in the pickle, which is wrong for
a repacked archive.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any, BinaryIO

from fusion_slerp.dtypes import BY_NAME
from fusion_slerp.errors import SHOWN_NAME, CheckpointError, Problem, listed, printable, quoted
from fusion_slerp.sources.conversions import LFS_POINTER, pointer, python
from fusion_slerp.sources.header import MAX_DIMENSIONS, REDOWNLOAD, TensorEntry, is_unicode
from fusion_slerp.sources.pickle_check import PickleCallsError, PickleLimitError, check_pickle
from fusion_slerp.sources.regular_files import open_regular
from fusion_slerp.sources.zip_records import (
    SIGNATURE,
    ArchiveError,
    CompressedError,
    Record,
    find_records,
)

if TYPE_CHECKING:
    import torch

LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""The start of files written by torch before 1.6: its magic number, pickled."""

MAX_PICKLE_NBYTES = 10_000_000
"""For 20,000 tensors, the most that `pickle_check` accepts, torch writes 2 to 4 MB."""

MAX_REPEATED_NBYTES = 1 << 26
"""An expanded tensor takes its full size in the merged model, but no more than this."""

NAMED_NBYTES = 2_000_000
"""Names are not looked for in a larger skeleton: torch would take more than a second for its steps."""

RESERVED = "__metadata__"
"""The one name that a safetensors file, and so the merged model, cannot give to a tensor."""

LOADED = "torch.load(f, map_location='cpu', weights_only=True)"
DEQUANTISED = "v.dequantize() if v.is_quantized else v"
SAVE_AGAIN = "in the code that made it, save the weights alone: torch.save(model.state_dict(), FILE)"

Storages = Mapping[int, Record]
"""The records of the storages, by the offsets of their stand-ins in the skeleton."""


class _Refused(Exception):
    """A headline, what was found, and the fix; becomes a `Problem` that names the file."""


class _Content(str):
    """Python code for the content of a readable file, made from that of the file `f`; becomes a command."""


def read_archive(file: Path) -> list[TensorEntry]:
    """Returns the tensors of one file in the order of their data.

    Tensors may share bytes, and need not be contiguous. The cost: torch is imported.

    Raises:
        CheckpointError: The file is missing, unreadable, damaged or of another format; or it holds
            anything other than plain tensors by name.
    """
    try:
        with open_regular(file) as stream:
            _check_format(stream, file)
            pickled, records = _parts(stream)
        content, storages = _load(pickled, records)
        entries = [_entry(file, name, value, storages) for name, value in _named(content).items()]
    except _Refused as refused:
        headline, found, fix = refused.args
        fix = _command(fix, file) if isinstance(fix, _Content) else fix
        raise Problem(CheckpointError, headline, (("file", file), ("found", found)), fix).error() from None
    except OSError as error:
        fields = (("file", file), ("found", error.strerror))
        raise Problem(CheckpointError, "cannot read a weight file", fields, REDOWNLOAD).error() from error
    return sorted(entries, key=lambda entry: (entry.offset, entry.nbytes))


def _command(content: str, file: Path) -> str:
    new = f"{file.name}.converted"
    code = f"import torch; f = {file.as_posix()!r}; torch.save({content}, f + '.converted')"
    return f"{python(code)}; then rename {new} to {file.name}"


def _check_format(stream: BinaryIO, file: Path) -> None:
    start = stream.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise pointer(file).error()
    if start.startswith(LEGACY_START[:-1]):  # without the end of the pickle
        raise _Refused(
            "a torch file of an old format", "not a zip archive: written before torch 1.6", _Content(LOADED)
        )
    if not start.startswith(SIGNATURE):
        found = f"not a zip archive: it begins with {start[:8]!r}" if start else "0 bytes"
        raise _Refused("not a file of torch.save", found, REDOWNLOAD)


def _parts(stream: BinaryIO) -> tuple[bytes, dict[str, Record]]:
    """The pickle, and the records of the storages by their keys in it."""
    try:
        records = find_records(stream)
    except CompressedError as error:
        raise _Refused("a compressed torch file", error, _Content(LOADED)) from None
    except ArchiveError as error:
        raise _Refused("damaged torch file", error, REDOWNLOAD) from None
    roots = [name.partition("/")[0] for name in records if name.partition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        found = f"a zip archive with {len(roots)} records named .../data.pkl instead of one"
        raise _Refused("not a file of torch.save", found, REDOWNLOAD)
    root = roots[0]
    byteorder = _read(stream, records[f"{root}/byteorder"]) if f"{root}/byteorder" in records else b"little"
    if byteorder != b"little":
        found = f"byteorder {byteorder[:8]!r}"
        raise _Refused("a torch file of another byte order", found, _Content(LOADED))
    data = f"{root}/data/"
    storages = {name.removeprefix(data): record for name, record in records.items() if name.startswith(data)}
    return _read(stream, records[f"{root}/data.pkl"]), storages


def _read(stream: BinaryIO, record: Record) -> bytes:
    if record.nbytes > MAX_PICKLE_NBYTES:
        found = f"{quoted(record.name)} has {record.nbytes} bytes; {MAX_PICKLE_NBYTES} is the limit"
        raise _Refused("damaged torch file", found, REDOWNLOAD)
    stream.seek(record.offset)
    return stream.read(record.nbytes)


def _load(pickled: bytes, records: Mapping[str, Record]) -> tuple[Any, Storages]:
    """The content, with meta tensors, and the records by the offsets that these tensors' storages have."""
    skeleton, data = io.BytesIO(), "skeleton/data/"
    with zipfile.ZipFile(skeleton, "w") as archive:
        archive.writestr("skeleton/data.pkl", pickled)
        archive.writestr("skeleton/version", "3")
        for key in records:
            archive.writestr(data + key, b"")
    stand_ins = [record for record in find_records(skeleton).values() if record.name.startswith(data)]
    storages = {record.offset: records[record.name.removeprefix(data)] for record in stand_ins}
    try:
        check_pickle(pickled)
    except PickleCallsError as error:
        raise _more_than_weights(_unsafe_names(skeleton) or [str(error)]) from None
    except PickleLimitError as error:
        headline, found = "a torch file with more than weights", f"a pickle with {error}"
        raise _Refused(headline, found, f"{REDOWNLOAD}; or {SAVE_AGAIN}") from None
    return _unpickle(skeleton), storages


def _unpickle(skeleton: io.BytesIO) -> Any:
    import torch

    skeleton.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, which torch then reads or refuses
            return torch.load(skeleton, map_location="meta", weights_only=True, mmap=False)
    except NotImplementedError:  # these tensors have no form without data
        raise _not_plain("a quantised or nested tensor", DEQUANTISED) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise _not_loaded(skeleton, error) from None


def _not_loaded(skeleton: io.BytesIO, error: Exception) -> _Refused:
    if names := _unsafe_names(skeleton):
        return _more_than_weights(names)
    message = str(error).rpartition("\n\nCheck the documentation")[0] or str(error)  # without torch's advice
    reason = printable(message.splitlines()[-1]) if message else type(error).__name__
    found = f"the pickle cannot be read: {reason}"
    return _Refused("damaged torch file", found, f"{REDOWNLOAD}; or {SAVE_AGAIN}")


def _unsafe_names(skeleton: io.BytesIO) -> list[str]:
    """The functions that torch would have to call and refuses to; none for a pickle that takes it long."""
    import torch

    if skeleton.seek(0, io.SEEK_END) > NAMED_NBYTES:
        return []
    skeleton.seek(0)
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(skeleton)  # pyright: ignore[reportArgumentType]
    except Exception:  # whatever stopped torch may stop this as well
        return []
    return sorted(names)


def _more_than_weights(names: list[str]) -> _Refused:
    found = f"a pickle that calls {listed(names, 3)}; it was not executed"
    return _Refused("a torch file with more than weights", found, SAVE_AGAIN)


def _not_plain(found: str, plain: str) -> _Refused:
    """A tensor to be replaced by the result of an expression in `v`."""
    fix = _Content(f"{{k: {plain} for k, v in {LOADED}.items()}}")
    return _Refused("a tensor that is not a plain array of numbers", found, fix)


def _named(content: object) -> Mapping[str, torch.Tensor]:
    """The content, if it holds nothing but tensors by name."""
    import torch

    headline = "not a map from names to tensors"
    if not isinstance(content, dict):
        raise _Refused(headline, f"a {type(content).__name__}", SAVE_AGAIN)
    for name, value in content.items():
        if not isinstance(name, str) or not is_unicode(name) or name == RESERVED:
            raise _Refused(headline, f"{shortened(name)}, which cannot be the name of a tensor", SAVE_AGAIN)
        if isinstance(value, dict):
            # A command to paste holds nothing else from the file.
            safe = name.isidentifier() and len(name) <= SHOWN_NAME
            fix = _Content(f"{LOADED}[{name!r}]") if safe else SAVE_AGAIN
            raise _Refused(headline, f"{quoted(name)} is a dict of its own", fix)
        if not isinstance(value, torch.Tensor):
            tensors = f"{{k: v for k, v in {LOADED}.items() if torch.is_tensor(v)}}"
            found = f"{quoted(name)} is of type {type(value).__name__}, which the command below leaves out"
            raise _Refused(headline, found, _Content(tensors))
    return content


def _entry(file: Path, name: str, tensor: torch.Tensor, storages: Storages) -> TensorEntry:
    _check_plain(name, tensor)
    dtype = BY_NAME.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None:
        fix = "merge a bfloat16, float16, float32 or float64 model"
        raise _Refused("a tensor of an unsupported type", f"{quoted(name)} is {tensor.dtype}", fix)
    record = _storage_of(name, tensor, storages)
    shape, itemsize = tuple(tensor.shape), dtype.itemsize
    first = int(tensor.storage_offset()) if prod(shape) else 0
    reach = sum((n - 1) * step for n, step in zip(shape, tensor.stride(), strict=True))
    if prod(shape) and (first + reach + 1) * itemsize > record.nbytes:
        found = f"tensor {quoted(name)} reaches beyond its storage of {record.nbytes} bytes"
        raise _Refused("damaged torch file", found, REDOWNLOAD)
    if prod(shape) * itemsize > max(record.nbytes, MAX_REPEATED_NBYTES):
        found = f"{quoted(name)} repeats {record.nbytes} bytes up to {prod(shape) * itemsize}"
        raise _not_plain(found, "v.clone()")
    strides = None if tensor.is_contiguous() else tuple(tensor.stride())
    offset = record.offset + first * itemsize
    return TensorEntry(name, dtype, shape, file, offset, prod(shape) * itemsize, strides)


def _check_plain(name: str, tensor: torch.Tensor) -> None:
    import torch

    if tensor.layout != torch.strided:
        raise _not_plain(f"{quoted(name)} is {str(tensor.layout).removeprefix('torch.')}", "v.to_dense()")
    if tensor.is_quantized:
        raise _not_plain(f"{quoted(name)} is quantised", DEQUANTISED)
    if tensor.is_conj() or tensor.is_neg():
        raise _not_plain(f"{quoted(name)} is a view with other signs", "v.resolve_conj().resolve_neg()")
    if tensor.dim() > MAX_DIMENSIONS:
        raise _Refused("damaged torch file", f"{quoted(name)} has {tensor.dim()} dimensions", REDOWNLOAD)
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        found = f"{quoted(name)}: {type(tensor)}"
        raise _Refused("a tensor that is not a plain array of numbers", found, SAVE_AGAIN)


def _storage_of(name: str, tensor: torch.Tensor, storages: Storages) -> Record:
    storage = tensor.untyped_storage()
    record = storages.get(getattr(storage, "_checkpoint_offset", -1))
    if record is None:
        fix = "save the model from a device that holds its weights; torch must be 2.7 or later to read it"
        raise _Refused("a tensor without data", f"{quoted(name)} has no storage in the file", fix)
    if storage.nbytes() != record.nbytes:
        found = f"tensor {quoted(name)} needs a storage of {storage.nbytes()} bytes, has {record.nbytes}"
        raise _Refused("damaged torch file", found, REDOWNLOAD)
    return record
