"""The four ways a merge can fail, and how their messages are written.

A message has a headline (what), indented fields (where, found, needed) and a last line `Fix:`
with something to paste. Several faults found together are raised together. A fix that names a setting
spells it as the user would: as an argument in Python, an option of the command, or an override in Hydra.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any, Literal

SHOWN_PROBLEMS = 10

SHOWN_LINE = 5000
"""Characters of one line of a message: more than the longest path of an operating system."""

SHOWN_NAME = 200
"""Characters of one name or value within a line."""

COMPARED_NAME, COMPARISONS = 200, 1_600_000
"""Longer names get no suggestion; the known ones are compared as long as that takes less than a second."""


Dialect = Literal["python", "command", "hydra"]
"""How settings are written where the user is."""

SHORT_OPTIONS = {"t": "-t", "weight": "-w", "out": "-o", "tasks": "--task"}
"""Of the command; all others are the setting's name with dashes."""

SWITCHES_OR_NAMES = frozenset({"overwrite"})
"""Options of the command that stand alone, or take a name after `=`."""

REPEATED = {"vary": "--vary", "texts": "--text", "holdout": "--holdout"}
"""Settings that hold values by name: in the command, options that are repeated, with `name=value` each."""

HYDRA_KEYS = {
    "out": "method.model_save_path",
    "tokenizer": "modelpool.tokenizer",
    "base": "++modelpool.models._pretrained_",
    "method": "method",
    "texts": "++taskpool.texts",
} | {
    name: f"taskpool.{name}"
    for name in (
        *("context_length", "stride", "batch_size", "max_tokens", "device", "prompts", "max_new_tokens"),
        *("tasks", "include_path", "limit", "num_fewshot"),
    )
}
"""Of settings that are not keys of `method`."""


class FusionSlerpError(Exception):
    """Base of every error that fusion_slerp raises on purpose. Its message is in Python's dialect.

    Attributes:
        problems: The problems it reports, one by one; empty where there is only the message.
        state: The state that the user finds afterwards, for the headline of several problems.
    """

    problems: tuple[Problem | FusionSlerpError, ...] = ()
    state: str = ""

    def message(self, dialect: Dialect, limit: int | None = SHOWN_PROBLEMS) -> str:
        """Returns the message in a dialect, with at most `limit` problems; None shows them all."""
        if not self.problems:
            return str(self)
        blocks = [p.text(dialect) if isinstance(p, Problem) else str(p) for p in self.problems]
        return blocks[0] if len(blocks) == 1 else _numbered(blocks, self.state, limit)


class SettingsError(FusionSlerpError):
    """A setting is wrong, unknown, or contradicts another."""


class CheckpointError(FusionSlerpError):
    """An input is missing, is not a checkpoint, or holds damaged or unusable data."""


class MismatchError(FusionSlerpError):
    """Both inputs are fine, but they cannot be merged with each other."""


class OutputError(FusionSlerpError):
    """The result cannot be written where it was asked for."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in the user's input, worded for the user.

    Attributes:
        kind: The exception class that this fault is raised as.
        headline: What is wrong, in one line, without a full stop.
        fields: Where and what, in order of reading: `("file", path)`, `("found", ...)`.
        fix: What to do; a command or a setting (see `setting`) to paste where possible.
    """

    kind: type[FusionSlerpError]
    headline: str
    fields: tuple[tuple[str, object], ...] = ()
    fix: str = ""

    def __str__(self) -> str:
        return self.text("python")

    def text(self, dialect: Dialect) -> str:
        """Returns the message with settings as they are written there."""
        lines = [printable(self.headline)]
        lines += [f"  {name}: {printable(value)}" for name, value in self.fields]
        if self.fix:
            lines.append(f"Fix: {printable(spelled(self.fix, dialect))}")
        return "\n".join(lines)

    def error(self) -> FusionSlerpError:
        """Returns the exception that carries this problem alone."""
        error = self.kind(str(self))
        error.problems = (self,)
        return error


def raise_all(problems: Sequence[Problem | FusionSlerpError], so: str = "nothing was written") -> None:
    """Raises every problem at once as the class of the first; returns if there is none.

    Args:
        problems: What was found.
        so: The state that the user finds afterwards, for the headline.

    Raises:
        FusionSlerpError: One of its four subclasses, when `problems` is not empty. The message
            shows the first ten and the total.
    """
    flat = tuple(single for problem in problems for single in getattr(problem, "problems", ()) or [problem])
    if not flat:
        return
    kind = flat[0].kind if isinstance(flat[0], Problem) else type(flat[0])
    error = kind()
    error.problems, error.state = flat, so
    error.args = (error.message("python"),)
    raise error


def _numbered(blocks: Sequence[str], state: str, limit: int | None) -> str:
    shown = [f"[{i}] {block}" for i, block in enumerate(blocks[:limit], start=1)]
    more = [f"... and {len(blocks) - len(shown)} more"] if len(shown) < len(blocks) else []
    return "\n\n".join([f"{len(blocks)} problems, {state}:", *shown, *more])


_MARK, _BETWEEN, _END = "\x02", "\x1f", "\x03"
"""Around and in a setting within a text. No message shows them: `printable` escapes what is not printable."""

_SETTING = re.compile(f"{_MARK}(\\w+){_BETWEEN}([^{_END}]*){_END}")


def setting(name: str, value: Any) -> str:
    """Returns a setting with its value as part of a problem's fix, to be spelled in the user's dialect.

    Args:
        name: Its name in Python.
        value: Plain: a number, string, boolean, None, list or mapping.
    """
    return f"{_MARK}{name}{_BETWEEN}{json.dumps(value, ensure_ascii=False)}{_END}"


def spelled(text: str, dialect: Dialect) -> str:
    """Returns a text with the settings in it as they are written in a dialect.

    Texts may hold names from strangers' files: what only looks like a setting is left alone.
    """

    def one(found: re.Match[str]) -> str:
        try:
            return _SPELLINGS[dialect](found[1], json.loads(found[2]))
        except (ValueError, RecursionError):
            return found[0]

    return _SETTING.sub(one, text)


def _in_python(name: str, value: Any) -> str:
    return f"{name}={value!r}"


def _in_command(name: str, value: Any) -> str:
    if name in REPEATED and isinstance(value, Mapping):
        return " ".join(
            f"{REPEATED[name]} {shlex.quote(f'{key}={_listed(each)}')}" for key, each in value.items()
        )
    option = SHORT_OPTIONS.get(name, f"--{name.lower().replace('_', '-')}")
    if isinstance(value, bool):
        return option if value else option.replace("--", "--no-", 1)
    if name in SWITCHES_OR_NAMES:
        return f"{option}={_yaml(value)}"
    return f"{option} {shlex.quote(_yaml(value))}"


def _in_hydra(name: str, value: Any) -> str:
    key = HYDRA_KEYS.get(name, f"method.{name}")
    if name == "method":
        return f"method=fusion_slerp/{value}_lm"
    if name == "texts" and isinstance(value, Mapping):
        return " ".join(shlex.quote(f"{key}.{entry}={each}") for entry, each in value.items())
    if _holds_mapping(value):  # Hydra reads no quoted keys on the command line
        outer, _, inner = key.partition(".")
        return f"{inner}: {_yaml(value)} (in YAML, under {outer}:)"
    return shlex.quote(f"{key}={_yaml(value)}")


def _holds_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(map(_holds_mapping, value)))


_SPELLINGS = {"python": _in_python, "command": _in_command, "hydra": _in_hydra}


def _listed(value: Any) -> str:
    """A value of a repeated option: several are separated by commas."""
    return ",".join(map(_yaml, value)) if isinstance(value, list) else _yaml(value)


def _yaml(value: Any) -> str:
    """A value as YAML in one line; JSON is that."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def printable(text: object, limit: int = SHOWN_LINE) -> str:
    """Returns a text as one line of bounded length that cannot command a terminal.

    Names and values come from files of strangers. What is not printable is escaped (control
    characters, marks that turn the direction of writing, lone surrogates), and the middle of a longer
    text is left out.
    """
    line = str(text)
    if len(line) > limit:
        half = limit // 2
        line = f"{line[:half]}... ({len(line) - 2 * half} characters) ...{line[-half:]}"
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def quoted(text: str) -> str:
    """Returns a name from a file between quotes, escaped and shortened."""
    half = SHOWN_NAME // 2
    return repr(text if len(text) <= SHOWN_NAME else f"{text[:half]}...{text[-half:]}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `" (did you mean 'x'?)"` for the closest known name, or an empty string."""
    found = nearest_name(name, known)
    return f" (did you mean {found!r}?)" if found else ""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Returns the closest known name, or an empty string."""
    if not 0 < len(name) <= COMPARED_NAME:
        return ""
    fitting = (candidate for candidate in known if len(candidate) <= COMPARED_NAME)
    by_lower = {c.lower(): c for c in islice(fitting, COMPARISONS // len(name) ** 2)}
    matches = get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[matches[0]] if matches else ""


def listed(names: Sequence[str], limit: int = SHOWN_PROBLEMS) -> str:
    """Returns the first names joined by commas, each escaped and shortened, and how many were left out."""
    more = f", ... and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(printable(name, SHOWN_NAME) for name in names[:limit]) + more


def not_an_option(name: str) -> str:
    """Returns the name of a model or folder such that no command takes it for an option."""
    return f"./{name}" if name.startswith("-") else name


def unknown_names_error(unknown: Iterable[str], known: Iterable[str], what: str) -> SettingsError:
    """Returns the error for arguments that nobody reads, each with the nearest known name.

    Args:
        unknown: The names given that are not known; at least one.
        known: All names that may be given.
        what: Whose settings they are, as the user knows it: `"SlerpForCausalLM"`.
    """
    known = sorted(known)
    named = ", ".join(f"{name!r}{nearest(name, known)}" for name in unknown)
    return SettingsError(
        f"{what} has no setting {named}\n  known settings: {', '.join(known)}\n"
        "Fix: remove it or correct its name; unknown settings are never ignored."
    )
