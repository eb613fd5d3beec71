"""Questions in a terminal: each is asked until an answer passes its check."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from rich.text import Text

from fusion_slerp.cli.output import console, error_text, every_problem
from fusion_slerp.errors import FusionSlerpError

T = TypeVar("T")


class InvalidAnswer(Exception):
    """An invalid answer; the message says in one line what to enter."""


def until(question: str, check: Callable[[str], T], default: str = "") -> T:
    """Asks until an answer passes the check, and prints what is wrong with those that do not."""
    while True:
        answer = _line(f"{question} [{default}]: " if default else f"{question}: ")
        try:
            return check(answer)
        except FusionSlerpError as error:
            refuse(every_problem(error))
        except InvalidAnswer as reason:
            remark(str(reason), "yellow")


def agreed(question: str, default: bool) -> bool:
    """Asks for yes or no; an empty line is the default."""
    while True:
        answer = _line(f"{question} [{'Y/n' if default else 'y/N'}] ").lower()
        if answer in ("y", "yes", "n", "no", ""):
            return default if not answer else answer[0] == "y"
        remark("enter y or n", "yellow")


def _line(prompt: str) -> str:
    """Reads an answer, without the quotes around a pasted path."""
    answer = input(_bold(prompt)).strip()
    return answer[1:-1] if len(answer) > 1 and answer[0] == answer[-1] and answer[0] in "'\"" else answer


def _bold(prompt: str) -> str:
    """The prompt in bold, if readline is there to be told which characters have no width."""
    if "readline" not in sys.modules or console().color_system is None:
        return prompt
    return f"\x01\x1b[1m\x02{prompt}\x01\x1b[0m\x02"


def say(text: Any) -> None:
    """Prints a text."""
    console().print(text)


def remark(text: str, style: str = "dim") -> None:
    """Prints a remark on an answer."""
    console().print(Text.assemble(("  - ", style), text))


def refuse(message: str) -> None:
    """Prints an error."""
    console().print(error_text(message))
