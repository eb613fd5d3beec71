"""Every option of a merge: those of all methods here, those of one method with it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass
from numbers import Integral, Real
from typing import Any, Literal

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
from fusion_slerp.methods import DEFAULT, METHODS, Method
from fusion_slerp.options import (
    ANYTHING,
    BOOLEAN,
    COUNT,
    TEXT,
    Check,
    Declaration,
    declaration,
    declared,
    one_of,
    option,
    or_null,
)
from fusion_slerp.settings.schedule import ScheduleOf, read_schedule
from fusion_slerp.settings.sizes import SIZE, parse_nbytes
from fusion_slerp.settings.slices import Slice, parse_slices
from fusion_slerp.settings.token_sources import TokenSource, parse_token_sources

Missing = Literal["error", "copy"]
"""What happens to a tensor that not all models have."""

VocabFill = Literal["owner", "mean", "gradient", "zeros", "error"]
"""What becomes of rows that only one model has, or none."""

_METHOD = Check(METHODS.__contains__, f"one of {', '.join(METHODS)}", tuple(METHODS))
_DTYPES = tuple(dtype.name for dtype in MERGEABLE)
_DTYPE = Check(_DTYPES.__contains__, f"one of {', '.join(_DTYPES)}", _DTYPES)
_TOKENIZER = Check(TEXT.is_fine, "a string: union, a label such as a, a folder or a hub id")
_TEMPLATE = Check(lambda value: isinstance(value, str) and "{" in value, "the text of a Jinja template")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """How models become one. The same names and defaults hold everywhere; `make_settings` makes it.

    Attributes:
        method: How weights are combined: `"slerp"` (two models), or `"linear"` (any number).
        parameters: The options of the method.
        slices: The merged model's layers, stacked from ranges of the models': `[{"a": [0, 16],
            "b": [0, 16], "t": 0.3}]`; None takes all layers in place.
        dtype: `"bfloat16"`, `"float16"`, `"float32"` or `"float64"` for every floating tensor of
            the merged model; None keeps model a's type, tensor by tensor.
        max_shard_size: Largest weight file, bytes as a number or as `"5GB"`, `"500MiB"`; a tensor
            that is larger gets a file of its own.
        tokenizer: Whose tokens, and tokenizer files, the merged model gets: those of a model by its label
            (`"a"`, `"b"`, ...), `"union"` (a model's that has the tokens of all; if none has, a's with the
            others' tokens added), or those files from a folder or hub id.
        chat_template: The merged model's chat template, as Jinja text; None takes that of its tokenizer.
        vocab_fill: What becomes of the rows of embedding and head that only one model has, or
            none: `"owner"` copies them from the one, and takes the mean of all other rows where
            there is none; `"mean"`, `"gradient"` (evenly between the rows before and after) and
            `"zeros"` do so in both cases; `"error"` refuses them.
        tokens: Where the rows of single tokens come from, by token, as mergekit's
            `tokenizer.tokens`: `{"<|im_end|>": {"source": "b", "force": True}}`. `vocab_fill` leaves
            these rows alone.
        pad_vocab_to_multiple_of: Round the merged model's rows up to a multiple of this number, for the
            kernels of some GPUs; None does not.
        missing: What happens to a tensor that not all models have: `"error"`, or `"copy"` it from the only
            one that has it (merge it where several have it).
        strict: Refuse models whose configs differ in what may change a weight's meaning (rope,
            norm epsilon, activation, sliding window, ...). False warns, with the values.
        follow_links: Read files of a model that are links out of its folder, and copy what they lead
            to into the merged model. False refuses such a folder: those who made it could publish your files.
        overwrite: Replace an existing output folder. False refuses it.
        threads: Threads that compute, at least 1; None takes the CPUs this process may use. The
            merged model's bytes do not depend on it.
        memory_budget: Memory for buffers, bytes as a number or as `"200MB"`, `"1GiB"`; the process
            itself takes about 125 MB more. Measured chunks wait in it to be combined; those of
            larger tensors are read again, as a rule from the page cache. None takes little, which
            is the fastest there; more avoids second reads from a slow disk.
        direct_io: Writing past the page cache: `"auto"` where the file system can, `"on"` or
            fail, `"off"`.
        checksum: The hash of weight files in the manifest: `"xxh3_128"` takes next to nothing
            and finds every accident; `"blake3"` (a core for a tenth of a second per gigabyte) and
            `"sha256"` (half a second; what hubs show) also reveal forgery.
        show_pbar: Show bytes done, rate and time left on standard error.
    """

    method: str = option(DEFAULT, _METHOD, DEFAULT, panel="Merging", is_text=True)
    parameters: Any = None
    slices: Any = option(None, ANYTHING, "[{a: [0, 16], b: [0, 16]}]", panel="Merging")
    dtype: str | None = option(None, or_null(_DTYPE), "null", panel="Output")
    max_shard_size: int | str = option("5GB", SIZE, "5GB", panel="Output")
    tokenizer: str = option("union", _TOKENIZER, "union", panel="Vocabulary", is_text=True)
    chat_template: str | None = option(None, or_null(_TEMPLATE), "null", panel="Vocabulary", is_text=True)
    vocab_fill: VocabFill = option("owner", one_of(VocabFill), "owner", panel="Vocabulary", is_text=True)
    tokens: Mapping[str, Any] | None = option(None, ANYTHING, "null", panel="Vocabulary")
    pad_vocab_to_multiple_of: int | None = option(None, or_null(COUNT), "null", panel="Vocabulary")
    missing: Missing = option("error", one_of(Missing), "error", panel="Merging", is_text=True)
    strict: bool = option(False, BOOLEAN, "false", panel="Merging", changes_child=False)
    follow_links: bool = option(False, BOOLEAN, "false", panel="Safety", changes_child=False)
    overwrite: bool = option(False, BOOLEAN, "false", panel="Output", changes_child=False)
    threads: int | None = option(None, or_null(COUNT), "null", panel="Machine", changes_child=False)
    memory_budget: int | str | None = option(
        None,
        or_null(Check(SIZE.is_fine, "a size such as 200MB")),
        "null",
        panel="Machine",
        changes_child=False,
    )
    direct_io: DirectIO = option(
        "auto", one_of(DirectIO), "auto", panel="Machine", changes_child=False, is_text=True
    )
    checksum: Checksum = option(
        "xxh3_128", one_of(Checksum), "xxh3_128", panel="Safety", changes_child=False, is_text=True
    )
    show_pbar: bool = option(False, BOOLEAN, "false", panel="Machine", changes_child=False)

    def __post_init__(self) -> None:
        if isinstance(self.direct_io, bool):  # how YAML reads a bare on or off
            object.__setattr__(self, "direct_io", "on" if self.direct_io else "off")
        if self.parameters is None and self.method in METHODS:
            object.__setattr__(self, "parameters", METHODS[self.method].options())
        raise_all(list(_problems(self)))
        for owner, name, _ in self._declared():  # numpy's numbers cannot be written to the card's YAML
            object.__setattr__(owner, name, _plain(getattr(owner, name)))

    def _declared(self) -> Iterator[tuple[Any, str, Field[Any]]]:
        for owner in (self, self.parameters):
            for name, each in (declared(type(owner)) if owner is not None else {}).items():
                yield owner, name, each

    @property
    def how(self) -> Method:
        """The method, from the registry."""
        return METHODS[self.method]

    @property
    def options(self) -> dict[str, Any]:
        """All options by name, those of the method included: `make_settings` turns them back."""
        return {name: getattr(owner, name) for owner, name, _ in self._declared()}

    @property
    def about_the_child(self) -> dict[str, Any]:
        """The options that decide on the merged model."""
        return {
            n: getattr(owner, n) for owner, n, each in self._declared() if declaration(each).changes_child
        }

    @property
    def schedules(self) -> dict[str, ScheduleOf]:
        """The options of the method that vary over depth and names, read."""
        found = declared(type(self.parameters))
        return {
            name: read_schedule(getattr(self.parameters, name), name, each)
            for name, each in found.items()
            if declaration(each).is_schedule
        }

    @property
    def granularity(self) -> str:
        """What is measured and combined on its own: the tensor, or each row or column of a matrix."""
        return getattr(self.parameters, "granularity", "tensor")

    @property
    def max_shard_nbytes(self) -> int:
        """`max_shard_size` in bytes."""
        return parse_nbytes(self.max_shard_size) or 0

    @property
    def memory_nbytes(self) -> int | None:
        """`memory_budget` in bytes; None if it is left open."""
        return parse_nbytes(self.memory_budget)

    @property
    def layer_slices(self) -> tuple[Slice, ...] | None:
        """`slices`, read."""
        return None if self.slices is None else parse_slices(self.slices, self.how)

    @property
    def token_sources(self) -> dict[str, TokenSource]:
        """`tokens`, read."""
        return parse_token_sources(self.tokens or {})

    @property
    def n_threads(self) -> int:
        """`threads`, or the number of CPUs that this process may use."""
        return self.threads or available_cpus()


def make_settings(**options: Any) -> MergeSettings:
    """Builds the settings from all options, those of the method included.

    Raises:
        SettingsError: A name is unknown (the nearest known one is given), or a value is wrong
            (all wrong values at once).
    """
    name = options.get("method", DEFAULT)
    method = METHODS.get(name) if isinstance(name, str) else None
    if method is None:
        raise _wrong("method", name, declaration(declared(MergeSettings)["method"])).error()
    known = declared(method.options)
    common = {key: value for key, value in options.items() if key not in known}
    unknown = [key for key in common if key not in declared(MergeSettings)]
    if unknown:
        raise _unknown(unknown, method)
    own = {key: value for key, value in options.items() if key in known}
    return MergeSettings(**common, parameters=method.options(**own))


def option_fields() -> dict[str, Field[Any]]:
    """Returns the declarations of all options of all methods, by name; the first method's where several
    have an option of one name.
    """
    found = dict(declared(MergeSettings))
    for method in METHODS.values():
        found |= {name: each for name, each in declared(method.options).items() if name not in found}
    return found


def available_cpus() -> int:
    """The CPUs this process may run on: its affinity where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _unknown(names: list[str], method: Method) -> SettingsError:
    elsewhere = {
        name: other.name for other in METHODS.values() for name in declared(other.options) if name in names
    }
    if elsewhere:
        name, other = next(iter(elsewhere.items()))
        fields = (("method", method.name), ("found", f"{name}, an option of {other}"))
        error = Problem(SettingsError, f"{method.name} has no option {name}", fields, f"set method: {other}")
        found = error.error()
        assert isinstance(found, SettingsError)
        return found
    known = [*declared(MergeSettings), *declared(method.options)]
    return unknown_names_error(names, known, "merge")


def _plain(value: Any) -> Any:
    """The same of Python's own numbers, lists and mappings: numpy's cannot be written to the card's YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Real) and type(value) not in (int, float, bool):
        return int(value) if isinstance(value, Integral) else float(value)
    return value


def _problems(settings: MergeSettings) -> Iterator[Problem | FusionSlerpError]:
    for owner, name, each in settings._declared():
        value, about = getattr(owner, name), declaration(each)
        try:
            if about.is_schedule:
                read_schedule(value, name, each)
            elif name == "tokens":
                parse_token_sources({} if value is None else value)
            elif name == "slices":
                if value is not None:
                    parse_slices(value, settings.how)
            elif not about.check.is_fine(value):
                yield _wrong(name, value, about)
        except SettingsError as error:
            yield error


def _wrong(name: str, value: object, about: Declaration) -> Problem:
    hint = nearest(value, about.check.choices) if isinstance(value, str) and about.check.choices else ""
    fields = (("found", f"{value!r} ({type(value).__name__})"), ("needed", about.check.needed + hint))
    return Problem(SettingsError, f"{name} is not usable", fields, f"set {name}: {about.example}")
