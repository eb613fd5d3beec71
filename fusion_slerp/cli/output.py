"""What the command prints: results on stdout, notes, warnings and errors on stderr; and its exit codes."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from fusion_slerp.engine.event_lines import write_event
from fusion_slerp.errors import Dialect, FusionSlerpError, OutputError, Problem, SettingsError, spelled
from fusion_slerp.paths import utf8

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from fusion_slerp.settings.merge_settings import ShowPbar

FAILED = 1
"""Exit code: a merge started and failed."""

UNUSABLE = 2
"""Exit code: the arguments or models are unusable; nothing was started."""

INTERRUPTED = 130
"""Exit code: stopped by Ctrl-C; 128 + SIGINT, as in shells."""

DIALECT: Dialect = "command"

FILE_WIDTH = 160
"""Columns of a table in a file or a pipe."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command prints.

    Attributes:
        json: Print one JSON object on stdout, and nothing else there.
        quiet: Print errors only, and the object if `json` asks for it.
        json_progress: Print JSON lines on stderr, and nothing else there.
        rank: Of this process among several that do the same; others than 0 print only errors of their own.
    """

    json: bool = False
    quiet: bool = False
    json_progress: bool = False
    rank: int = 0

    @property
    def shows(self) -> bool:
        """Whether the result is printed for people."""
        return not (self.json or self.quiet)

    @property
    def progress(self) -> ShowPbar:
        """How progress is shown: as JSON lines if asked for, else as a bar, in a terminal only."""
        return "json" if self.json_progress else self.shows and sys.stderr.isatty()

    def show(self, *parts: Any) -> None:
        """Prints texts and tables, unless the output is JSON or quiet."""
        if self.shows:
            screen = console()
            for part in parts:
                show_part(screen, part)

    def give(self, content: Callable[[], dict[str, Any]]) -> None:
        """Prints the JSON object, which is made only if `json` is set."""
        if self.json:
            print(utf8(json.dumps(content(), ensure_ascii=False, indent=2)).decode())

    def warn(self, warning: str) -> None:
        """Prints a warning on stderr."""
        self._remark("warning", "yellow", warning)

    def note(self, note: str) -> None:
        """Prints information on stderr that is no cause for concern."""
        self._remark("note", "cyan", note)

    def _remark(self, kind: str, style: str, remark: str) -> None:
        if self.json_progress:
            write_event(kind, message=remark)
        elif not self.quiet:
            say(_marked(f"{kind}: ", style, remark))

    def end(self, event: str, **fields: Any) -> None:
        """Prints the last JSON line, if they are asked for: `done`, `failed` or `stopped`."""
        if self.json_progress:
            write_event(event, **fields)

    def fail(self, error: FusionSlerpError, in_full: bool = False) -> None:
        """Prints an error on stderr, and as JSON on stdout if `json` is set.

        Args:
            error: The error.
            in_full: Show all problems, however many there are.
        """
        message = every_problem(error) if in_full else error.message(DIALECT)
        if self.rank and _is_shown_by_rank_0(error):
            return
        if self.json_progress:
            self.end("failed", error=error_fields(error))
        else:
            say(_marked("error: ", "bold red", ""), error_text(message))
        self.give(lambda: {"error": error_fields(error)})


def _is_shown_by_rank_0(error: FusionSlerpError) -> bool:
    from fusion_slerp.cluster.failures import is_shown_by_rank_0

    return is_shown_by_rank_0(error)


def say(*parts: Text | str) -> None:
    """Prints on stderr; if it is full, what is said there is lost, and no merge."""
    with suppress(OSError):
        console(stderr=True).print(*parts, sep="")


def console(stderr: bool = False) -> Console:
    """Returns a console on the current stream; outside a terminal, tables are `FILE_WIDTH` wide."""
    from rich.console import Console

    is_file = not (sys.stderr if stderr else sys.stdout).isatty() and not os.environ.get("COLUMNS")
    width = FILE_WIDTH if is_file else None
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


def show_part(screen: Console, part: Any) -> None:
    """Prints a text with its own lines only, or a table that breaks no word.

    Names and numbers can be copied, also where a table is wider than the screen for that.
    """
    from rich.measure import Measurement
    from rich.table import Table

    if isinstance(part, Table):
        unlimited = screen.options.update(width=10_000)
        for column in part.columns:
            if column.no_wrap:  # which alone does not keep a column from being cut
                cells = (Measurement.get(screen, unlimited, cell).maximum for cell in column.cells)
                column.min_width = max(cells, default=1)
        screen.width = max(screen.width, Measurement.get(screen, unlimited, part).minimum)
    screen.print(part, soft_wrap=not isinstance(part, Table))


def error_text(message: str) -> Text:
    """Returns a message with its headlines in red and `Fix:` in green."""
    from rich.text import Text

    headline, newline, rest = message.partition("\n")
    text = Text.assemble((headline, "bold red"), newline, rest)
    text.highlight_regex(r"(?m)^\[\d+\] .*$", "red")
    text.highlight_regex(r"(?m)^Fix:", "bold green")
    return text


def every_problem(error: FusionSlerpError) -> str:
    """Returns the message with all problems, however many there are."""
    return error.message(DIALECT, limit=None)


def problem_blocks(error: FusionSlerpError) -> list[str]:
    """Returns the problems one by one, numbered if there are several."""
    blocks = [p.text(DIALECT) if isinstance(p, Problem) else str(p) for p in error.problems]
    return (
        [f"[{i}] {block}" for i, block in enumerate(blocks, start=1)]
        if len(blocks) > 1
        else blocks or [str(error)]
    )


def error_fields(error: FusionSlerpError) -> dict[str, Any]:
    """Returns the error as fields for JSON."""
    problems = error.problems or (error,)
    return {
        "kind": type(error).__name__,
        "message": error.message(DIALECT),
        "problems": [problem_fields(problem) for problem in problems],
    }


def problem_fields(problem: Problem | FusionSlerpError) -> dict[str, Any]:
    """Returns one problem as fields for JSON."""
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
    """Prints an error that is raised inside, and ends the command with an exit code.

    So it does for a file that the system refuses; an error without a file's name is one of standard output.
    """
    try:
        yield
    except FusionSlerpError as error:
        output.fail(error, in_full)
        raise typer.Exit(code) from None
    except OSError as error:
        if error.filename is None:
            raise
        output.fail(system_error(error).error())
        raise typer.Exit(code) from None


def system_error(error: OSError) -> Problem:
    """Returns the problem with a file that the system refuses, or with standard output."""
    found = ("found", error.strerror or str(error))
    if error.filename is None:
        fix = "free space where the output goes, or send it elsewhere"
        return Problem(OutputError, "standard output cannot be written to", (found,), fix)
    name = error.filename
    fields = (("path", os.fsdecode(name) if isinstance(name, bytes) else name), found)
    return Problem(SettingsError, "the system refuses a path", fields, "correct the path, or its permissions")


@contextmanager
def warnings_to(output: Output) -> Iterator[None]:
    """Prints the package's logged warnings."""
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


def _marked(mark: str, style: str, remark: str) -> Text:
    from rich.text import Text

    return Text.assemble((mark, style), remark)
