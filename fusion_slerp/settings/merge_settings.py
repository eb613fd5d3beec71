"""Every option of a merge: those of all methods here, those of a single method in that method's module."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass
from typing import Any, Literal

from fusion_slerp.chunks import DirectIO
from fusion_slerp.dtypes import MERGEABLE_NAMES, canonical_name
from fusion_slerp.errors import (
    FusionSlerpError,
    Problem,
    SettingsError,
    nearest,
    raise_all,
    setting,
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
    is_number,
    one_of,
    option,
    or_null,
    switch_or,
)
from fusion_slerp.settings.mappings import CONFIG_OVERRIDES, VOCABULARY_TENSORS, plain
from fusion_slerp.settings.schedule import ScheduleOf, read_schedule
from fusion_slerp.settings.sizes import SIZE, parse_nbytes
from fusion_slerp.settings.slices import EXAMPLE as SLICES_EXAMPLE
from fusion_slerp.settings.slices import Slice, parse_slices
from fusion_slerp.settings.token_sources import EXAMPLE as TOKENS_EXAMPLE
from fusion_slerp.settings.token_sources import TokenSource, parse_token_sources

Missing = Literal["error", "copy"]
"""How a tensor is handled that some models lack."""

Overwrite = bool | Literal["any"]
"""Whether an existing output folder is replaced: not at all, if it is a model, or whatever it holds."""

ShowPbar = bool | Literal["json"]
"""How progress is shown: not at all, as a bar, or as JSON lines."""

VocabFill = Literal["owner", "mean", "gradient", "zeros", "error"]
"""How rows are made that only one model has, or none."""

_METHOD = Check(METHODS.__contains__, f"one of {', '.join(METHODS)}", tuple(METHODS))
_DTYPE = Check(MERGEABLE_NAMES.__contains__, f"one of {', '.join(MERGEABLE_NAMES)}", MERGEABLE_NAMES)
_TOKENIZER = Check(TEXT.is_fine, "a string: union, a label such as a, a folder or a hub id")
_SECONDS = Check(lambda value: is_number(value) and value >= 1, "a number of seconds, at least 1")

_TEMPLATE = Check(lambda value: isinstance(value, str) and "{" in value, "the text of a Jinja template")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """All options of a merge, checked. Names and defaults are the same everywhere; see `make_settings`.

    Attributes:
        method: How weights are combined, by name: `"slerp"` (two models), `"linear"` (any number), or another
            of the merge methods.
        parameters: The options of the method.
        slices: The merged model's layers, stacked from ranges of the source models' layers: `[{"a": [0, 16],
            "b": [0, 16], "t": 0.3}]`; None keeps all layers in place.
        dtype: `"bfloat16"`, `"float16"`, `"float32"` or `"float64"` for every floating-point tensor of
            the merged model (also `"bf16"`, `"fp16"`, `"fp32"`, `"torch.bfloat16"`, ...); None keeps model
            a's type, tensor by tensor.
        max_shard_size: Largest weight file, in bytes or as `"5GB"`, `"500MiB"`; a larger tensor gets its
            own file.
        tokenizer: Whose tokens and tokenizer files the merged model gets: those of a model by its label
            (`"a"`, `"b"`, ...), `"union"` (those of a model that has all models' tokens; if none does, a's
            with the others' tokens added), or the files of a folder or hub id.
        chat_template: The merged model's chat template, as Jinja text; None takes its tokenizer's.
        vocab_fill: How rows of the embedding and head are made that only one model has, or none: `"owner"`
            copies them from that one, and takes the mean of all other rows where no model has them;
            `"mean"`, `"gradient"` (evenly between the rows before and after) and `"zeros"` apply in both
            cases; `"error"` refuses them.
        tokens: Where the rows of single tokens come from, by token, as in mergekit's
            `tokenizer.tokens`: `{"<|im_end|>": {"source": "b", "force": True}}`. `vocab_fill` does not apply
            to these rows.
        pad_vocab_to_multiple_of: Round the merged model's vocabulary size up to a multiple of this number,
            for the kernels of some GPUs; None does not.
        vocabulary_tensors: Whether the rows of single tensors belong to tokens, by name, or by pattern with
            `*`: `{"model.hash_table.weight": "follow"}` rearranges them if the tokenizers differ, `"stay"`
            merges them in place. Needed only where their names and numbers of rows leave it open.
        config_overrides: Values for the merged model's config.json, by key; keys of inner objects are joined
            by dots: `{"text_config.max_position_embeddings": 8192}`. None as a value removes the key. They
            are written last, and nothing checks them.
        missing: How a tensor is handled that some models lack: `"error"` refuses it, `"copy"` copies it from
            the only model that has it; if several have it, it is merged, or averaged if the base lacks it.
        strict: Refuse models whose configs differ in a key that may change a weight's meaning (rope,
            norm epsilon, activation, sliding window, ...). False warns, with the values.
        follow_links: Read a model's files that are links out of its folder, and copy their targets into the
            merged model. False refuses such a folder: whoever made it could publish your files.
        hash_inputs: Compute the SHA-256 of the source models' files while they are read, note those of the
            weights in the manifest, and stop if a file in the Hub's cache is not what the Hub lists. Takes
            half a second of one core per gigabyte.
        overwrite: Replace an existing output folder: False refuses it, True replaces an earlier merge, or a
            folder that holds nothing but a model's files, and `"any"` replaces every folder.
        threads: Threads that compute, at least 1; None takes the CPUs available to this process. The
            merged model's bytes do not depend on it.
        memory_budget: Memory for buffers, in bytes or as `"200MB"`, `"1GiB"`; the process itself takes
            about 125 MB more. Measured chunks are kept in it until they are combined; those of larger
            tensors are read again, usually from the page cache. None takes little, which is fastest
            there; more avoids second reads from a slow disk.
        direct_io: Writing past the page cache: `"auto"` if the file system supports it, `"on"` or
            fail, `"off"`.
        checksum: The hash of weight files in the manifest: `"xxh3_128"` costs almost nothing and detects
            every accident; `"blake3"` (0.1 s of one core per gigabyte) and `"sha256"` (0.5 s; shown by
            hubs) also detect forgery.
        rank_timeout: If several processes merge together and one fails, is lost or gives no sign of life, all
            end within this many seconds. No effect on one process.
        show_pbar: Show the pass, bytes done, rate and time left on standard error: True as a bar, `"json"` as
            one JSON object a line, for programs.
    """

    method: str = option(DEFAULT, _METHOD, DEFAULT, panel="Merging", is_text=True)
    parameters: Any = None
    slices: Any = option(None, ANYTHING, SLICES_EXAMPLE, panel="Merging")
    dtype: str | None = option(None, or_null(_DTYPE), "bfloat16", panel="Output")
    max_shard_size: int | str = option("5GB", SIZE, "5GB", panel="Output")
    tokenizer: str = option("union", _TOKENIZER, "union", panel="Vocabulary", is_text=True)
    chat_template: str | None = option(None, or_null(_TEMPLATE), None, panel="Vocabulary", is_text=True)
    vocab_fill: VocabFill = option("owner", one_of(VocabFill), "owner", panel="Vocabulary", is_text=True)
    tokens: Mapping[str, Any] | None = option(None, ANYTHING, TOKENS_EXAMPLE, panel="Vocabulary")
    pad_vocab_to_multiple_of: int | None = option(None, or_null(COUNT), 64, panel="Vocabulary")
    vocabulary_tensors: Mapping[str, str] | None = option(
        None,
        or_null(VOCABULARY_TENSORS),
        {"model.embed_tokens.weight": "follow"},
        panel="Vocabulary",
        records_default=False,
    )
    config_overrides: Mapping[str, Any] | None = option(
        None,
        or_null(CONFIG_OVERRIDES),
        {"text_config.max_position_embeddings": 8192},
        panel="Output",
        records_default=False,
    )
    missing: Missing = option("error", one_of(Missing), "error", panel="Merging", is_text=True)
    strict: bool = option(False, BOOLEAN, False, panel="Merging", changes_child=False)
    follow_links: bool = option(False, BOOLEAN, False, panel="Safety", changes_child=False)
    hash_inputs: bool = option(False, BOOLEAN, True, panel="Safety", changes_child=False)
    overwrite: Overwrite = option(False, switch_or("any"), False, panel="Output", changes_child=False)
    threads: int | None = option(None, or_null(COUNT), 1, panel="Machine", changes_child=False)
    memory_budget: int | str | None = option(
        None,
        or_null(Check(SIZE.is_fine, "a size such as 200MB")),
        "200MB",
        panel="Machine",
        changes_child=False,
    )
    direct_io: DirectIO = option(
        "auto", one_of(DirectIO), "auto", panel="Machine", changes_child=False, is_text=True
    )
    checksum: Checksum = option(
        "xxh3_128", one_of(Checksum), "xxh3_128", panel="Safety", changes_child=False, is_text=True
    )
    rank_timeout: float = option(60.0, _SECONDS, 600.0, panel="Machine", changes_child=False)
    show_pbar: ShowPbar = option(False, switch_or("json"), False, panel="Machine", changes_child=False)

    def __post_init__(self) -> None:
        if isinstance(self.direct_io, bool):  # how YAML reads a bare on or off
            object.__setattr__(self, "direct_io", "on" if self.direct_io else "off")
        object.__setattr__(self, "dtype", canonical_name(self.dtype))
        if self.parameters is None and self.method in METHODS:
            object.__setattr__(self, "parameters", METHODS[self.method].options())
        raise_all(list(_problems(self)))
        for owner, name, _ in self._declared():
            object.__setattr__(owner, name, plain(getattr(owner, name)))

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
        """All options by name, those of the method included: the arguments of `make_settings`."""
        return {name: getattr(owner, name) for owner, name, _ in self._declared()}

    @property
    def about_the_child(self) -> dict[str, Any]:
        """The options that the merged model depends on, as records state them."""
        return {
            name: getattr(owner, name)
            for owner, name, each in self._declared()
            if declaration(each).changes_child
            and (declaration(each).records_default or getattr(owner, name) != each.default)
        }

    @property
    def about_the_method(self) -> dict[str, Any]:
        """The method's own options that differ from their defaults."""
        own = declared(type(self.parameters))
        values = {name: getattr(self.parameters, name) for name in own}
        return {name: value for name, value in values.items() if value != own[name].default}

    @property
    def schedules(self) -> dict[str, ScheduleOf]:
        """The options of the method that vary over depth and names, parsed."""
        return {
            name: read_schedule(getattr(self.parameters, name), name, each)
            for name, each in declared(type(self.parameters)).items()
            if declaration(each).is_schedule
        }

    @property
    def granularity(self) -> str:
        """The unit that is measured and combined: the tensor, or each row or column of a matrix."""
        return getattr(self.parameters, "granularity", "tensor")

    @property
    def max_shard_nbytes(self) -> int:
        """`max_shard_size` in bytes."""
        return parse_nbytes(self.max_shard_size) or 0

    @property
    def memory_nbytes(self) -> int | None:
        """`memory_budget` in bytes; None if it is not set."""
        return parse_nbytes(self.memory_budget)

    @property
    def layer_slices(self) -> tuple[Slice, ...] | None:
        """`slices`, parsed."""
        return None if self.slices is None else parse_slices(self.slices, self.how)

    @property
    def token_sources(self) -> dict[str, TokenSource]:
        """`tokens`, parsed."""
        return parse_token_sources(self.tokens or {})

    @property
    def n_threads(self) -> int:
        """`threads`, or the number of CPUs available to this process."""
        return self.threads or available_cpus()


def make_settings(**options: Any) -> MergeSettings:
    """Builds the settings from all options, those of the method included.

    Raises:
        SettingsError: A name is unknown (the nearest known one is suggested), or a value is wrong
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
    """Returns the declarations of all options of all methods, by name; if several methods share a name, the
    first one's.
    """
    options = dict(declared(MergeSettings))
    for method in METHODS.values():
        options |= {name: each for name, each in declared(method.options).items() if name not in options}
    return options


def fields_by_method() -> dict[str, dict[str, Field[Any]]]:
    """Returns the declarations of the options of single methods: by name of the option, then of the method.

    An option may have another meaning, default or form in another method.
    """
    options: dict[str, dict[str, Field[Any]]] = {}
    for method in METHODS.values():
        for name, each in declared(method.options).items():
            options.setdefault(name, {})[method.name] = each
    return options


def available_cpus() -> int:
    """Returns the number of CPUs available to this process: its affinity, if the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _unknown(names: list[str], method: Method) -> SettingsError:
    elsewhere = {name: [*of] for name, of in fields_by_method().items() if name in names}
    if elsewhere:
        name, owners = next(iter(elsewhere.items()))
        fields = (("method", method.name), ("found", f"{name}, an option of {', '.join(owners)}"))
        fix = f"use {setting('method', owners[0])}, or leave out {name}"
        error = Problem(SettingsError, f"{method.name} has no option {name}", fields, fix).error()
        assert isinstance(error, SettingsError)
        return error
    known = [*declared(MergeSettings), *declared(method.options)]
    return unknown_names_error(names, known, "merge")


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
    fix = f"leave out {name}" if about.example is None else f"use {setting(name, about.example)}"
    return Problem(SettingsError, f"invalid {name}", fields, fix)
