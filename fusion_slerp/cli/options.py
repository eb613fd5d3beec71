"""The command's options, generated from the declared options of all methods."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fusion_slerp.errors import Problem, SettingsError, raise_all, setting
from fusion_slerp.methods import METHODS
from fusion_slerp.options import Declaration, declaration, declared, meanings
from fusion_slerp.settings.merge_settings import MergeSettings, fields_by_method, option_fields

Command = Callable[..., Any]

MODEL_HELP = "a folder, or a Hub id, optionally with @revision"

NAMED = "as"
"""Ends the hidden option that takes the name of a switch: `--overwrite=any` becomes `--overwrite-as=any`."""


class SettingsCommand(TyperCommand):
    """A command with the options of a merge: a switch that accepts names as well takes them after `=`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Returns the arguments that are no options, as click does."""
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [*map(_with_hidden_option, args[:end]), *args[end:]])


def _with_hidden_option(argument: str) -> str:
    option, equals, value = argument.partition("=")
    is_named = equals and normalized(option) in {long_flag(name) for name in _named_switches()}
    return f"{normalized(option)}-{NAMED}={value}" if is_named else argument


def _named_switches() -> list[str]:
    """The switches that accept names as well."""
    checks = {name: declaration(each).check for name, each in option_fields().items()}
    return [name for name, check in checks.items() if check.is_switch and check.choices]


def with_settings(command: Command) -> Command:
    """Gives a command every option of a merge, including those of all methods.

    Args:
        command: Its parameter `options`, which is not an option itself, gets what the user typed, by name.
    """
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
    switches = _named_switches()
    added = [_parameter(name) for name in _in_order(option_fields())]
    added += [_hidden_parameter(name) for name in switches]

    @functools.wraps(command)
    def run(**values: Any) -> Any:
        given = {p.name: values.pop(p.name) for p in added}
        for name in switches:
            named = given.pop(f"{name}_{NAMED}")
            if named is not None and given[name] is not False:  # the safe one of two that contradict
                given[name] = named
        options = {name: value for name, value in given.items() if value not in (None, [])}
        return command(**values, options=options)

    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *added)]
    run.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in named}
    return run


def _in_order(names: Iterable[str]) -> list[str]:
    """Sorts the method first, then the options of single methods, then those of all."""
    return sorted(names, key=lambda name: (name != "method", name in declared(MergeSettings)))


def parse_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of typed options.

    Args:
        given: By name of the option: a string, a list of strings if the option may be repeated, or the
            boolean of a switch.

    Raises:
        SettingsError: Some are not YAML, or contradict each other; all of them at once.
    """
    known = option_fields()
    values, problems = {}, []
    for name, typed in given.items():
        try:
            values[name] = _value(typed, name, known[name])
        except SettingsError as error:
            problems.append(error)
    raise_all(problems)
    return values


def _value(typed: Any, name: str, each: Field[Any]) -> Any:
    if isinstance(typed, list):
        return read_per_model(typed, name)
    if isinstance(typed, bool) or declaration(each).is_text:
        return typed
    return read_value(typed, name)


def read_per_model(typed: Sequence[str], name: str) -> Any:
    """Returns the value of an option that may differ between models.

    Args:
        typed: One string of YAML for all models, or any number of `label=YAML`.
        name: The option's name, for messages.

    Raises:
        SettingsError: A value is not YAML, a label is given twice, or both forms are mixed.
    """
    parts = [re.fullmatch(r"\s*(\w+)\s*=(.*)", text, re.DOTALL) for text in typed]
    if len(typed) == 1 and parts[0] is None:
        return read_value(typed[0], name)
    labels = [part[1] for part in parts if part is not None]
    if len(labels) < len(typed) or len(set(labels)) < len(labels):
        twice = next((label for label in labels if labels.count(label) > 1), None)
        headline = f"{name} is given several times" if twice is None else f"{name} of {twice} is given twice"
        fields = (("found", "  ".join(typed)), ("needed", "one value for all models, or one for each label"))
        fix = f"use {flag(name)} a=0.4 {flag(name)} b=0.6"
        raise Problem(SettingsError, headline, fields, fix).error()
    return {part[1]: read_value(part[2], f"{name}.{part[1]}") for part in parts if part is not None}


def read_value(typed: str, name: str) -> Any:
    """Returns the value of a YAML string; `1e-8`, a string in YAML 1.1, is a number here.

    Raises:
        SettingsError: It is not YAML.
    """
    import yaml

    from fusion_slerp.recipes.yaml_loading import Loader

    try:
        return yaml.load(typed, Loader)  # a safe loader
    except yaml.YAMLError as error:
        fields = (("found", typed), ("because", getattr(error, "problem", None) or error))
        option = name.partition(".")[0]
        fix = f"write it as YAML between quotes, such as {setting(option, _example(option))}"
        raise Problem(SettingsError, f"{name} is not readable as YAML", fields, fix).error() from None


def _example(name: str) -> Any:
    return declaration(option_fields()[name]).example


def flag(name: str) -> str:
    """Returns an option as typed: its short form if it has one."""
    return next((each.flag for each in declarations(name) if each.flag), long_flag(name))


def declarations(name: str) -> list[Declaration]:
    """Returns the declarations of an option: one, or that of each method that has it."""
    own = fields_by_method().get(name)
    return list(map(declaration, own.values() if own else [declared(MergeSettings)[name]]))


def is_per_model(name: str) -> bool:
    """Whether each model may have a value of its own for an option, in some method."""
    return any(each.is_per_model for each in declarations(name))


def is_switch(name: str) -> bool:
    """Whether an option is typed without a value."""
    return all(each.check.is_switch for each in declarations(name))


def long_flag(name: str, is_on: bool = True) -> str:
    """Returns the long form of an option; that of a switch can also turn it off."""
    return f"--{normalized(name)}" if is_on else f"--no-{normalized(name)}"


def normalized(name: str) -> str:
    """Returns an option's name for the command line; Python's spelling, `--max_shard_size`, works as well."""
    return name.lower().replace("_", "-")


def _parameter(name: str) -> inspect.Parameter:
    about, may_stand_alone = declarations(name)[0], is_switch(name)
    short = [flag(name)] if flag(name) != long_flag(name) else []
    names = [f"{long_flag(name)}/{long_flag(name, False)}"] if may_stand_alone else [*short, long_flag(name)]
    option = typer.Option(
        *names,
        help=_escaped(help_text(name)),
        metavar=None if may_stand_alone else "TEXT" if about.is_text else "YAML",
        rich_help_panel=about.panel,
        show_default=False,
    )
    kind: Any = bool | None if may_stand_alone else list[str] | None if is_per_model(name) else str | None
    annotation = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _hidden_parameter(name: str) -> inspect.Parameter:
    annotation = Annotated[str | None, typer.Option(f"{long_flag(name)}-{NAMED}", hidden=True)]
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(f"{name}_{NAMED}", keyword_only, default=None, annotation=annotation)


def help_text(name: str) -> str:
    """Returns the help of an option: its meaning and default, for each group of methods that share them."""
    own = fields_by_method().get(name)
    if own is None:
        return _sentences(name, MergeSettings)
    groups: dict[str, list[str]] = {}
    for method in own:
        groups.setdefault(_sentences(name, METHODS[method].options), []).append(method)
    return " ".join(f"For {_enumerated(methods)}. {text}" for text, methods in groups.items())


def base_help() -> str:
    """Returns the help of `--base`: which methods take one."""
    by_base = {
        base: [method.name for method in METHODS.values() if method.base == base]
        for base in ("needed", "optional")
    }
    for_which = "; ".join(f"{base} for {_enumerated(names)}" for base, names in by_base.items() if names)
    return f"The models' common ancestor, labelled base: {MODEL_HELP}. {for_which.capitalize()}."


def _enumerated(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _sentences(name: str, owner: type) -> str:
    each = declared(owner)[name]
    about = declaration(each)
    choices, is_alone = about.check.choices, about.check.is_switch
    parts = [meanings(owner)[name]]
    parts += ["Repeat it as LABEL=YAML for each model."] if about.is_per_model else []
    parts += [f"Also `{long_flag(name)}={choice}`." for choice in choices if is_alone]
    parts += [f"One of {', '.join(choices)}."] if not is_alone and not _names_all(parts[0], choices) else []
    return " ".join([*parts, f"Default: {_shown(name, each.default)}."])


def _names_all(meaning: str, choices: Sequence[str]) -> bool:
    return all(re.search(rf"\b{re.escape(choice)}\b", meaning) for choice in choices)


def _shown(name: str, default: Any) -> str:
    if name == "show_pbar":
        return "in a terminal"
    default = None if default is MISSING else default
    words = {None: "none", True: "yes", False: "no"}
    return words[default] if default is None or isinstance(default, bool) else str(default)


def _escaped(text: str) -> str:
    """The text as rich markup: brackets are escaped, and code between backticks is bold."""
    return re.sub(r"`([^`]+)`", r"[bold]\1[/bold]", text.replace("[", r"\["))
