"""Completion of paths while somebody types one, by readline where Python has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def completions(text: str) -> list[str]:
    """Returns the folders that a typed beginning may become, each with a slash behind; `~` stays as typed."""
    typed, _, start = text.rpartition("/")
    place = os.path.expanduser(f"{typed}/" if "/" in text else ".")
    try:
        names = sorted(entry.name for entry in os.scandir(place) if entry.is_dir())
    except OSError:
        return []
    found = (name for name in names if name.startswith(start) and (start or not name.startswith(".")))
    return [f"{typed}/{name}/" if "/" in text else f"{name}/" for name in found]


@contextmanager
def completing() -> Iterator[None]:
    """Completes paths at every `input`, and nothing afterwards; does nothing where there is no readline."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    before = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer(_completer())
    readline.set_completer_delims("")  # a path is completed as a whole, spaces included
    is_libedit = "libedit" in (readline.__doc__ or "")  # macOS
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before[0])
        readline.set_completer_delims(before[1])


def _completer() -> Callable[[str, int], str | None]:
    found: list[str] = []

    def complete(text: str, state: int) -> str | None:
        if state == 0:
            found[:] = completions(text)
        return found[state] if state < len(found) else None

    return complete
