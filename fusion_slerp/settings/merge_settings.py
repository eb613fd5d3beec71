"""Every option of a merge, declared once: name, type, default, meaning and check."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import isfinite
from numbers import Real
from typing import Any, Literal, get_args

from fusion_slerp.chunks import DirectIO
from fusion_slerp.dtypes import MERGEABLE
from fusion_slerp.errors import (
    FusionSlerpError,
    Problem,
    SettingsError,
    nearest,
    raise_all,
    unknown_names_error,
)
from fusion_slerp.hashes import Checksum
from fusion_slerp.settings.schedule import Schedule, parse_schedule
from fusion_slerp.settings.slices import Slice, parse_slices
from fusion_slerp.settings.token_sources import TokenSource, parse_token_sources

Missing = Literal["error", "copy"]
"""What happens to a tensor that only one parent has."""

Granularity = Literal["tensor", "row", "column"]
"""What has an angle of its own."""

VocabFill = Literal["owner", "mean", "gradient", "zeros", "error"]
"""What becomes of rows that only one parent has, or none."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B)", re.IGNORECASE)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """How two parents become one child. The same names and defaults hold everywhere.

    Attributes:
        t: Where between the parents, a number in [0, 1], both ends included: 0 is parent a (the
            first), 1 is parent b. At an end the child's tensors are that parent's bytes. A list of
            numbers is a gradient from the first layer to the last; a list of entries with `filter`
            (or `glob`, or `regex`) and `value` gives tensors their own; see `schedule`.
        slices: The child's layers, stacked from ranges of the parents': `[{"a": [0, 16],
            "b": [0, 16], "t": 0.3}]`; None takes all layers in place.
        DOT_THRESHOLD: |cosine| above which a tensor is interpolated linearly, in [0, 1]. 1 means
            SLERP wherever the parents have an angle. The capitals are the host's spelling.
        granularity: What has an angle of its own: `"tensor"`, or each `"row"` or `"column"` of a
            matrix (of two dimensions, and where all rows are merged in place; others count whole).
        epsilon: Norm up to which a tensor counts as null and is interpolated linearly; at least 0.
        dtype: `"bfloat16"`, `"float16"`, `"float32"` or `"float64"` for every floating tensor of
            the child; None keeps parent a's type, tensor by tensor.
        max_shard_size: Largest weight file, bytes as a number or as `"5GB"`, `"500MiB"`; a tensor
            that is larger gets a file of its own.
        tokenizer: Whose tokens, and tokenizer files, the child gets: `"a"`, `"b"`, `"union"` (the
            parent's that has the tokens of both; if neither has, a's with b's tokens added), or
            those files from a folder or hub id.
        chat_template: The child's chat template, as Jinja text; None takes that of its tokenizer.
        vocab_fill: What becomes of the rows of embedding and head that only one parent has, or
            none: `"owner"` copies them from the one, and takes the mean of all other rows where
            there is none; `"mean"`, `"gradient"` (evenly between the rows before and after) and
            `"zeros"` do so in both cases; `"error"` refuses them.
        tokens: Where the rows of single tokens come from, by token, as mergekit's
            `tokenizer.tokens`: `{"<|im_end|>": {"source": "b", "force": True}}`. `vocab_fill` leaves
            these rows alone.
        pad_vocab_to_multiple_of: Round the child's rows up to a multiple of this number, for the
            kernels of some GPUs; None does not.
        missing: What happens to a tensor that only one parent has: `"error"`, or `"copy"` it.
        strict: Refuse parents whose configs differ in what may change a weight's meaning (rope,
            norm epsilon, activation, sliding window, ...). False warns, with both values.
        follow_links: Read files of a model that are links out of its folder, and copy what they lead
            to into the child. False refuses such a folder: those who made it could publish your files.
        overwrite: Replace an existing output folder. False refuses it.
        threads: Threads that compute, at least 1; None takes the CPUs this process may use. The
            child's bytes do not depend on it.
        memory_budget: Memory for buffers, bytes as a number or as `"200MB"`, `"1GiB"`; the process
            itself takes about 125 MB more. Measured chunks wait in it to be combined; those of
            larger tensors are read again, as a rule from the page cache. None takes little, which
            is the fastest there; more spares second reads from a slow disk.
        direct_io: Writing past the page cache: `"auto"` where the file system can, `"on"` or
            fail, `"off"`.
        checksum: The hash of weight files in the child's manifest: `"xxh3_128"` takes next to nothing
            and finds every accident; `"blake3"` (a core for a tenth of a second per gigabyte) and
            `"sha256"` (half a second; what hubs show) also tell of forgery.
        show_pbar: Show bytes done, rate and time left on standard error.
    """

    t: Any = 0.5
    slices: Any = None
    DOT_THRESHOLD: float = 0.9995
    epsilon: float = 1e-8
    granularity: Granularity = "tensor"
    dtype: str | None = None
    max_shard_size: int | str = "5GB"
    tokenizer: str = "union"
    chat_template: str | None = None
    vocab_fill: VocabFill = "owner"
    tokens: Mapping[str, Any] | None = None
    pad_vocab_to_multiple_of: int | None = None
    missing: Missing = "error"
    strict: bool = False
    follow_links: bool = False
    overwrite: bool = False
    threads: int | None = None
    memory_budget: int | str | None = None
    direct_io: DirectIO = "auto"
    checksum: Checksum = "xxh3_128"
    show_pbar: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.direct_io, bool):  # how YAML reads a bare on or off
            object.__setattr__(self, "direct_io", "on" if self.direct_io else "off")
        raise_all(_problems(self))
        for name in ("t", "slices", "tokens"):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        plain = {
            "DOT_THRESHOLD": float,
            "epsilon": float,
            "threads": int,
            "pad_vocab_to_multiple_of": int,
        }
        for name, kind in plain.items():  # numpy's numbers cannot be written to the card's YAML
            value = getattr(self, name)
            if value is not None and type(value) not in (int, float):
                object.__setattr__(self, name, kind(value))

    @property
    def max_shard_nbytes(self) -> int:
        """`max_shard_size` in bytes."""
        return parse_nbytes(self.max_shard_size) or 0

    @property
    def memory_nbytes(self) -> int | None:
        """`memory_budget` in bytes; None if it is left open."""
        return parse_nbytes(self.memory_budget)

    @property
    def schedule(self) -> Schedule:
        """`t`, read."""
        return parse_schedule(self.t)

    @property
    def layer_slices(self) -> tuple[Slice, ...] | None:
        """`slices`, read."""
        return None if self.slices is None else parse_slices(self.slices)

    @property
    def token_sources(self) -> dict[str, TokenSource]:
        """`tokens`, read."""
        return parse_token_sources(self.tokens or {})

    @property
    def n_threads(self) -> int:
        """`threads`, or the number of CPUs that this process may use."""
        return self.threads or available_cpus()


def settings_from(options: dict[str, Any]) -> MergeSettings:
    """Builds the settings from keyword arguments.

    Raises:
        SettingsError: A name is unknown (the nearest known one is given), or a value is wrong
            (all wrong values at once).
    """
    known = [field.name for field in fields(MergeSettings)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise unknown_names_error(unknown, known, "merge")
    return MergeSettings(**options)


def available_cpus() -> int:
    """The CPUs this process may run on: its affinity where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse_nbytes(size: object) -> int | None:
    """Returns bytes from a positive int or a text like `"5GB"` (decimal) or `"5GiB"`; else None."""
    if isinstance(size, int) and not isinstance(size, bool):
        return size if size > 0 else None
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match is None:
        return None
    unit = match[2].upper().removesuffix("B")
    base = 1024 if unit.endswith("I") else 1000
    nbytes = int(float(match[1]) * base ** _UNITS[unit.removesuffix("I")])
    return nbytes if nbytes > 0 else None


def _plain(value: Any) -> Any:
    """The same of Python's own numbers, lists and mappings: numpy's cannot be written to the card's YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    is_foreign = isinstance(value, Real) and type(value) not in (int, float, bool)
    return float(value) if is_foreign else value


def _problems(settings: MergeSettings) -> list[Problem | FusionSlerpError]:
    found: list[Problem | FusionSlerpError | None] = [
        _refusal(parse_schedule, settings.t),
        _refusal(parse_token_sources, {} if settings.tokens is None else settings.tokens),
        None if settings.slices is None else _refusal(parse_slices, settings.slices),
    ]
    for name, is_fine, needed, example in _RULES:
        value = getattr(settings, name)
        if not is_fine(value):
            hint = nearest(value, _DTYPES) if name == "dtype" and isinstance(value, str) else ""
            found.append(_wrong(name, value, needed + hint, example))
    return [problem for problem in found if problem is not None]


def _refusal(parse: Callable[[Any], object], value: object) -> SettingsError | None:
    try:
        parse(value)
    except SettingsError as error:
        return error
    return None


def _is_number(value: object) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _wrong(name: str, value: object, needed: str, example: str) -> Problem:
    kind = type(value).__name__
    fields_ = (("found", f"{value!r} ({kind})"), ("needed", needed))
    return Problem(SettingsError, f"{name} is not usable", fields_, f"set {name}: {example}")


def _is_count(value: Any) -> bool:
    return value is None or (_is_number(value) and value == int(value) >= 1)


def _is_budget(value: object) -> bool:
    return value is None or parse_nbytes(value) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_template(value: object) -> bool:
    return value is None or (isinstance(value, str) and "{" in value)


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool)


def _one_of(choices: object, example: str) -> tuple[Callable[[Any], bool], str, str]:
    names = get_args(choices)
    return lambda value: value in names, f"one of {', '.join(names)}", example


_DTYPES = [dtype.name for dtype in MERGEABLE]
_COUNT = (_is_count, "a whole number, at least 1, or null", "null")
_BOOLEAN = (_is_boolean, "true or false", "false")

_RULES: tuple[tuple[str, Callable[[Any], bool], str, str], ...] = (
    ("DOT_THRESHOLD", lambda v: _is_number(v) and 0 <= v <= 1, "a number in [0, 1]", "0.9995"),
    ("epsilon", lambda v: _is_number(v) and v >= 0, "a number, at least 0", "1e-8"),
    ("granularity", *_one_of(Granularity, "tensor")),
    ("dtype", lambda v: v is None or v in _DTYPES, f"one of {', '.join(_DTYPES)}, or null", "null"),
    ("max_shard_size", lambda v: parse_nbytes(v) is not None, "a size such as 5GB", "5GB"),
    ("tokenizer", _is_text, "a text: union, a, b, a folder or a hub id", "union"),
    ("chat_template", _is_template, "the text of a Jinja template, or null", "null"),
    ("vocab_fill", *_one_of(VocabFill, "owner")),
    ("pad_vocab_to_multiple_of", *_COUNT),
    ("missing", *_one_of(Missing, "error")),
    ("strict", *_BOOLEAN),
    ("follow_links", *_BOOLEAN),
    ("overwrite", *_BOOLEAN),
    ("threads", *_COUNT),
    ("memory_budget", _is_budget, "a size such as 200MB, or null", "null"),
    ("direct_io", *_one_of(DirectIO, "auto")),
    ("checksum", *_one_of(Checksum, "xxh3_128")),
    ("show_pbar", *_BOOLEAN),
)
"""Name, check, what is needed, and an example."""
