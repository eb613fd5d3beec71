"""The four ways a merge can fail, and how their messages are written.

A message has a headline (what), indented fields (where, found, needed) and a last line `Fix:`
with something to paste. Several faults found together are raised together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice

SHOWN_PROBLEMS = 10

SHOWN_LINE = 5000
"""Characters of one line of a message: more than the longest path of an operating system."""

SHOWN_NAME = 200
"""Characters of one name or value within a line."""

COMPARED_NAME, COMPARISONS = 200, 1_600_000
"""Longer names get no suggestion; the known ones are compared as long as that takes less than a second."""


class FusionSlerpError(Exception):
    """Base of every error that fusion_slerp raises on purpose.

    Attributes:
        problems: What it reports, one by one; empty where the message is all there is.
    """

    problems: tuple[Problem | FusionSlerpError, ...] = ()


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
        fix: What to do; a command or a setting to paste where possible.
    """

    kind: type[FusionSlerpError]
    headline: str
    fields: tuple[tuple[str, object], ...] = ()
    fix: str = ""

    def __str__(self) -> str:
        lines = [printable(self.headline)]
        lines += [f"  {name}: {printable(value)}" for name, value in self.fields]
        if self.fix:
            lines.append(f"Fix: {printable(self.fix)}")
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
    error = kind(str(flat[0]) if len(flat) == 1 else _numbered(flat, so))
    error.problems = flat
    raise error


def _numbered(problems: Sequence[Problem | FusionSlerpError], so: str) -> str:
    blocks = [f"[{i}] {problem}" for i, problem in enumerate(problems[:SHOWN_PROBLEMS], start=1)]
    hidden = len(problems) - SHOWN_PROBLEMS
    more = [f"... and {hidden} more"] if hidden > 0 else []
    headline = f"{len(problems)} problems, {so}:"
    return "\n\n".join([headline, *blocks, *more])


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
    if not 0 < len(name) <= COMPARED_NAME:
        return ""
    fitting = (candidate for candidate in known if len(candidate) <= COMPARED_NAME)
    by_lower = {c.lower(): c for c in islice(fitting, COMPARISONS // len(name) ** 2)}
    matches = get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[matches[0]]!r}?)" if matches else ""


def listed(names: Sequence[str], limit: int = SHOWN_PROBLEMS) -> str:
    """Returns the first names joined by commas, each escaped and shortened, and how many were left out."""
    more = f", ... and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(printable(name, SHOWN_NAME) for name in names[:limit]) + more


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
