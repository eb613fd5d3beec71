"""Runs a merge for a terminal: what is shown while it runs, when it stops, and when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fusion_slerp.cli import recent
from fusion_slerp.cli.amounts import nbytes_text, path_text
from fusion_slerp.cli.output import FAILED, INTERRUPTED, Output, console, exit_on_error
from fusion_slerp.cli.request import Request
from fusion_slerp.interruption import Terminated, signals_raise

if TYPE_CHECKING:
    from fusion_slerp.api import MergeResult, PreparedMerge


def prepare(request: Request, out: str, output: Output) -> PreparedMerge:
    """Plans a merge with a progress bar where somebody sees it.

    Raises:
        FusionSlerpError: As `prepare_merge`.
    """
    from fusion_slerp.api import prepare_merge

    options = {"show_pbar": output.shows_progress, **request.options}
    return prepare_merge(request.models, out, base=request.base, **options)


def run(prepared: PreparedMerge, request: Request, out: str, output: Output) -> MergeResult:
    """Runs a prepared merge, remembers it and shows the result; ends the command if that fails."""
    from fusion_slerp.api import run_merge
    from fusion_slerp.output.unfinished import find_unfinished

    left = find_unfinished(prepared.target)
    if left is not None and left.finished:  # reading them again may take its time
        output.show(f"Resuming: {left}. Verifying finished files first.")
    with stops_cleanly(prepared.target, request.command(out)), exit_on_error(output, FAILED):
        result = run_merge(prepared)
    moved = result.nbytes_read + result.nbytes_made
    recent.remember(request.named.values(), moved, result.elapsed_s)
    return result


def show_result(result: MergeResult, request: Request, out: str, output: Output) -> None:
    """Shows what was made, and how to make it again."""
    from rich.text import Text

    if not output.shows:
        return
    rules = ", ".join(f"{count} {rule}" for rule, count in result.counts.items())
    size = f"{nbytes_text(result.plan.nbytes_written)} in {result.elapsed_s:.1f} s"
    if result.n_resumed:
        size += f", {result.n_resumed} of {len(result.plan.shards)} files from an interrupted run"
    output.show(
        Text.assemble(
            ("Done. ", "bold green"), f"{path_text(result.out)}: {len(result.report)} tensors, {size}"
        ),
        Text(f"  {rules}"),
        Text("\nTo repeat this merge:", "bold"),
        Text(f"  {request.command(out)}"),
        Text("\nAs a config file:", "bold"),
        Text(request.recipe(out).rstrip()),
    )


def result_fields(result: MergeResult, request: Request, out: str) -> dict[str, Any]:
    """The result for machines."""
    return {
        "out": str(result.out),
        **request.named,
        "tensors": len(result.report),
        "rules": result.counts,
        "bytes_written": result.plan.nbytes_written,
        "files_resumed": result.n_resumed,
        "elapsed_s": round(result.elapsed_s, 3),
        "warnings": list(result.plan.warnings),
        "command": request.command(out),
        "recipe": request.recipe(out),
    }


@contextmanager
def stops_cleanly(target: Path, command: str) -> Iterator[None]:
    """Ends the command after Ctrl-C or SIGTERM, with what is left and how to resume."""
    before = _identity(target)
    try:
        with signals_raise():
            yield
    except (KeyboardInterrupt, Terminated) as stop:
        if _identity(target) not in (before, None):  # it came after the child was published
            console(stderr=True).print(f"\nStopped, but {path_text(target)} is complete.")
        else:
            tell_stopped(target, command)
        raise typer.Exit(128 + stop.number if isinstance(stop, Terminated) else INTERRUPTED) from None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def tell_stopped(target: Path | None, command: str) -> None:
    """Says that a merge was stopped, what is left of it, and how to resume."""
    from rich.text import Text

    from fusion_slerp.output.unfinished import clean_command, find_unfinished

    left = find_unfinished(target) if target else None
    if left is not None and target is not None:
        state = f"{_untouched(target)} Kept: {left}"
        more = f"To resume:\n  {command}\nTo remove it:\n  {clean_command(target)}"
    else:
        state = f"Nothing is left of it. {_untouched(target)}" if target else "Nothing was written."
        more = f"To run it again:\n  {command}"
    console(stderr=True).print(Text.assemble(("\nStopped. ", "bold yellow"), f"{state}\n{more}"))


def _untouched(target: Path) -> str:
    """What a merge that did not finish did to its target."""
    return f"{path_text(target)} was not {'changed' if target.exists() else 'created'}."
