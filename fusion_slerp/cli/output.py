"""What the command says and where: results on stdout, remarks and errors on stderr, and how it ends."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from fusion_slerp.errors import Dialect, FusionSlerpError, Problem, spelled

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FAILED = 1
"""Exit code: a merge was begun and failed."""

UNUSABLE = 2
"""Exit code: arguments or models cannot be used as they are; nothing was begun."""

INTERRUPTED = 130
"""Exit code: stopped by Ctrl-C, as shells have it (128 + SIGINT)."""

DIALECT: Dialect = "command"

FILE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command's words go.

    Attributes:
        json: One JSON object on stdout, and nothing else there.
        quiet: Nothing but errors, and what was asked for with `json`.
    """

    json: bool = False
    quiet: bool = False

    @property
    def shows(self) -> bool:
        """Whether people are to read the result."""
        return not (self.json or self.quiet)

    @property
    def shows_progress(self) -> bool:
        """Whether a progress bar has somebody to look at it."""
        return self.shows and sys.stderr.isatty()

    def show(self, *parts: Any) -> None:
        """Prints texts and tables for people; nothing if they are not to read it."""
        if self.shows:
            screen = console()
            for part in parts:
                show_part(screen, part)

    def give(self, content: Callable[[], dict[str, Any]]) -> None:
        """Prints the one JSON object, which is made only if it was asked for."""
        if self.json:
            print(json.dumps(content(), ensure_ascii=False, indent=2))

    def warn(self, text: str) -> None:
        """Prints a remark on stderr."""
        if not self.quiet:
            console(stderr=True).print(_marked("warning: ", "yellow", text))

    def fail(self, error: FusionSlerpError, in_full: bool = False) -> None:
        """Prints an error: as it is on stderr, and as JSON if that was asked for.

        Args:
            error: What happened.
            in_full: All problems, however many they are.
        """
        message = every_problem(error) if in_full else error.message(DIALECT)
        console(stderr=True).print(_marked("error: ", "bold red", ""), error_text(message), sep="")
        self.give(lambda: {"error": error_fields(error)})


def console(stderr: bool = False) -> Console:
    """A console on the stream as it is now; without a terminal, lines are as long as they are."""
    from rich.console import Console

    is_file = not (sys.stderr if stderr else sys.stdout).isatty() and not os.environ.get("COLUMNS")
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=FILE_WIDTH if is_file else None)


def show_part(screen: Console, part: Any) -> None:
    """Prints a text with its lines as they are, to be copied, or a table as wide as the screen."""
    from rich.table import Table

    screen.print(part, soft_wrap=not isinstance(part, Table))


def error_text(message: str) -> Text:
    """The message with the headline in red, and each problem's headline in bold where there are several."""
    from rich.text import Text

    headline, newline, rest = message.partition("\n")
    text = Text.assemble((headline, "bold red"), newline, rest)
    text.highlight_regex(r"(?m)^\[\d+\] .*$", "red")
    text.highlight_regex(r"(?m)^Fix:", "bold green")
    return text


def every_problem(error: FusionSlerpError) -> str:
    """The message without its limit on the number of problems."""
    return error.message(DIALECT, limit=None)


def problem_blocks(error: FusionSlerpError) -> list[str]:
    """The problems one by one, numbered where there are several."""
    blocks = [p.text(DIALECT) if isinstance(p, Problem) else str(p) for p in error.problems]
    return (
        [f"[{i}] {block}" for i, block in enumerate(blocks, start=1)]
        if len(blocks) > 1
        else blocks or [str(error)]
    )


def error_fields(error: FusionSlerpError) -> dict[str, Any]:
    """The error for machines."""
    found = error.problems or (error,)
    return {
        "kind": type(error).__name__,
        "message": error.message(DIALECT),
        "problems": [_problem_fields(problem) for problem in found],
    }


def _problem_fields(problem: Problem | FusionSlerpError) -> dict[str, Any]:
    if not isinstance(problem, Problem):
        return {"kind": type(problem).__name__, "headline": str(problem).partition("\n")[0]}
    return {
        "kind": problem.kind.__name__,
        "headline": problem.headline,
        "fields": [[name, str(value)] for name, value in problem.fields],
        "fix": spelled(problem.fix, DIALECT),
    }


@contextmanager
def exit_on_error(output: Output, code: int = UNUSABLE, in_full: bool = False) -> Iterator[None]:
    """Ends the command with that exit code and the message where one of our errors arrives."""
    try:
        yield
    except FusionSlerpError as error:
        output.fail(error, in_full)
        raise typer.Exit(code) from None


@contextmanager
def warnings_to(output: Output) -> Iterator[None]:
    """Shows what the package logs as warnings."""
    log, handler = logging.getLogger("fusion_slerp"), _Handler(output)
    propagate, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


class _Handler(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.warn(record.getMessage())


def _marked(mark: str, style: str, text: str) -> Text:
    from rich.text import Text

    return Text.assemble((mark, style), text)
