"""The options of the command, made from the fields of `MergeSettings` and from their docstring."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any

import typer

from fusion_slerp.errors import Problem, SettingsError, raise_all
from fusion_slerp.settings.merge_settings import MergeSettings

RAW = ("str", "Granularity", "VocabFill", "Missing", "DirectIO", "Checksum")
"""Types of fields whose text is taken as it is: in YAML `on` is true, and `~` nothing."""

TEXTS = ("chat_template",)
"""Fields whose text may look like YAML and is not."""

PANELS = {
    "Merging": ("t", "slices", "DOT_THRESHOLD", "epsilon", "granularity", "missing", "strict"),
    "Vocabulary": ("tokenizer", "chat_template", "vocab_fill", "tokens", "pad_vocab_to_multiple_of"),
    "Output": ("dtype", "max_shard_size", "overwrite"),
    "Machine": ("threads", "memory_budget", "direct_io", "show_pbar"),
    "Safety": ("checksum", "follow_links"),
}
"""How the help groups them; a field that is not named here is listed under `Other`."""

Command = Callable[..., Any]


def with_settings(command: Command) -> Command:
    """Gives a command an option for every field of `MergeSettings`.

    Args:
        command: Its parameter `options` gets what the user gave, by field; it is no option itself.
    """
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
    added = [_parameter(field) for field in fields(MergeSettings)]

    @functools.wraps(command)
    def run(**values: Any) -> Any:
        given = {p.name: values.pop(p.name) for p in added}
        options = {name: value for name, value in given.items() if value is not None}
        return command(**values, options=options)

    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *added)]
    run.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in named}
    return run


def parse_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that the texts on the command line stand for.

    Raises:
        SettingsError: Some are no YAML; all of them at once.
    """
    kinds = {field.name: field.type for field in fields(MergeSettings)}
    values, problems = {}, []
    for name, text in given.items():
        try:
            is_yaml = isinstance(text, str) and kinds[name] not in RAW and name not in TEXTS
            values[name] = read_value(text, name) if is_yaml else text
        except SettingsError as error:
            problems.append(error)
    raise_all(problems)
    return values


def read_value(text: str, name: str) -> Any:
    """Returns what a YAML text stands for; numbers such as `1e-8`, which YAML 1.1 takes for text, too.

    Raises:
        SettingsError: It is no YAML.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        fields_ = (("found", text), ("because", getattr(error, "problem", None) or error))
        fix = "write it as YAML, such as [0, 0.5, 1] or {a: 1}; in a shell, between single quotes"
        raise Problem(SettingsError, f"{name} is not readable as YAML", fields_, fix).error() from None
    if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+e[-+]?\d+", value, re.IGNORECASE):
        return float(value)
    return value


def flag(name: str) -> str:
    """Returns the option of a field, as it is typed."""
    return "-t" if name == "t" else "--" + name.lower().replace("_", "-")


def normalized(name: str) -> str:
    """Options may also be typed as the fields are spelled: `--DOT_THRESHOLD`, `--max_shard_size`."""
    return name.lower().replace("_", "-")


def _parameter(field: Field[Any]) -> inspect.Parameter:
    is_switch = field.type == "bool"
    name = flag(field.name)
    names = [f"{name}/--no-{name[2:]}"] if is_switch else ["-t", "--t"] if name == "-t" else [name]
    option = typer.Option(
        *names,
        help=_escaped(f"{help_texts()[field.name]} Default: {_shown(field)}."),
        metavar=None if is_switch else "YAML" if field.type not in RAW else "TEXT",
        rich_help_panel=next((panel for panel, names in PANELS.items() if field.name in names), "Other"),
        show_default=False,
    )
    kind = bool if is_switch else str
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown(field: Field[Any]) -> str:
    if field.name == "show_pbar":
        return "in a terminal"
    default = None if field.default is MISSING else field.default
    words = {None: "none", True: "yes", False: "no"}
    return words[default] if default is None or isinstance(default, bool) else str(default)


@functools.cache
def help_texts() -> dict[str, str]:
    """Returns what the docstring of `MergeSettings` says of each field, in one line."""
    text = inspect.cleandoc(MergeSettings.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    known = {field.name: "" for field in fields(MergeSettings)}
    return known | {name: " ".join(body.split()).removesuffix(".") + "." for name, body in entries}


def _escaped(text: str) -> str:
    """The same for rich: brackets are no markup, and what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"[bold]\1[/bold]", text.replace("[", r"\["))
