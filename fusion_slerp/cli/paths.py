"""Completion of paths in answers, with readline where Python has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def completions(typed: str) -> list[str]:
    """Returns the folders that complete a typed path, each with a slash at its end; `~` stays as typed."""
    parent, _, start = typed.rpartition("/")
    folder = os.path.expanduser(f"{parent}/" if "/" in typed else ".")
    try:
        names = sorted(name for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name)))
    except OSError:
        return []
    fitting = (name for name in names if name.startswith(start) and (start or not name.startswith(".")))
    return [f"{parent}/{name}/" if "/" in typed else f"{name}/" for name in fitting]


@contextmanager
def completing() -> Iterator[None]:
    """Completes paths at every `input` inside; does nothing if there is no readline."""
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
    fitting: list[str] = []

    def complete(typed: str, state: int) -> str | None:
        if state == 0:
            fitting[:] = completions(typed)
        return fitting[state] if state < len(fitting) else None

    return complete
