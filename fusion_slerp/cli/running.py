"""Runs a merge, and prints its progress, its result, and how to resume it if it stops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fusion_slerp.cli import recent
from fusion_slerp.cli.amounts import nbytes_text, path_text, relative
from fusion_slerp.cli.output import FAILED, INTERRUPTED, Output, exit_on_error, say
from fusion_slerp.cli.processes import on_all, share
from fusion_slerp.cli.request import Request
from fusion_slerp.cli.shell import folder_word, shell_line
from fusion_slerp.cli.stopping import interrupts_raise
from fusion_slerp.engine.event_lines import write_event
from fusion_slerp.interruption import Terminated, signals_raise

CONSOLE = Output()

if TYPE_CHECKING:
    from fusion_slerp.api import MergeResult, PreparedMerge
    from fusion_slerp.cluster.ranks import Ranks
    from fusion_slerp.output.unfinished import Unfinished


def prepare(request: Request, out: str, output: Output, ranks: Ranks | None = None) -> PreparedMerge:
    """Plans a merge, with a progress bar if the output is a terminal.

    Args:
        request: The merge.
        out: The merged model's folder as typed.
        output: Where to print.
        ranks: The processes that merge together; None for this one alone.

    Raises:
        FusionSlerpError: As `prepare_merge`.
    """
    from fusion_slerp.api import prepare_merge

    options = {"show_pbar": output.progress, **request.options}
    options = share(ranks, options)
    return on_all(ranks, lambda: prepare_merge(request.models, out, base=request.base, **options))


def run(
    prepared: PreparedMerge,
    request: Request,
    out: str,
    output: Output,
    command: str | None = None,
    log_to: str | None = None,
    ranks: Ranks | None = None,
) -> MergeResult:
    """Runs a prepared merge and remembers it; ends the command if it fails.

    Args:
        prepared: The merge.
        request: The same as the user asked for it.
        out: The merged model's folder as typed.
        output: Where to print.
        command: The line that resumes it; None for that of the request.
        log_to: Where the merge is logged, see `run_log`; None for nowhere.
        ranks: The processes that merge together; None for this one alone.
    """
    from fusion_slerp.output.unfinished import find_unfinished
    from fusion_slerp.run_logs import merge_config, run_log

    left = find_unfinished(prepared.target)
    if left is not None and left.finished:  # reading them again may take a while
        output.show(f"Resuming: {left_over(left)}\nVerifying finished files first.")
    line = command or request.command(out)
    is_silent = output.quiet or output.json_progress
    log = run_log(
        None if output.rank else log_to, merge_config(prepared.plan), prepared.target.name, is_silent
    )
    with (
        stops_cleanly(prepared.target, line, output),
        exit_on_error(output, FAILED),
        log as run,
    ):
        result = _run(prepared, ranks)
        run.log_merge(result)
    if output.rank:
        return result
    moved = result.nbytes_read + result.nbytes_made
    recent.remember(request.named.values(), moved, result.elapsed_s)
    return result


def _run(prepared: PreparedMerge, ranks: Ranks | None) -> MergeResult:
    if ranks is None:
        from fusion_slerp.api import run_merge

        return run_merge(prepared)
    from fusion_slerp.cluster.merging import run_shared_merge

    return run_shared_merge(prepared, ranks)


def show_result(result: MergeResult, request: Request, out: str, output: Output, with_config: bool) -> None:
    """Shows where the merged model is, and the lines to use it and to repeat the merge."""
    from rich.text import Text

    if not output.shows:
        return
    rules = ", ".join(f"{count} {rule}" for rule, count in result.counts.items())
    size = f"{nbytes_text(result.plan.nbytes_written)} in {result.elapsed_s:.1f} s"
    if result.n_resumed:
        size += f", {result.n_resumed} of {len(result.plan.shards)} files from an interrupted run"
    word = shell_line([folder_word(result.out)])
    load = f"model = AutoModelForCausalLM.from_pretrained({relative(result.out)!r})"
    lines = {
        "The merged model:": path_text(result.out),
        "To load it in Python:": f"from transformers import AutoModelForCausalLM; {load}",
        "To verify it:": f"fusion_slerp verify {word}",
        "To upload it to the Hub:": f"hf upload OWNER/NAME {word}",
        "To repeat this merge:": request.repeated(out),
    }
    output.show(Text.assemble(("Done: ", "bold green"), f"{len(result.report)} tensors ({rules}), {size}\n"))
    output.show(*(Text.assemble((title, "bold"), f"\n  {line}") for title, line in lines.items()))
    if with_config:
        output.show(Text("\nAs a config file:", "bold"), Text(request.recipe(out).rstrip()))


def result_fields(result: MergeResult, request: Request, out: str) -> dict[str, Any]:
    """Returns the result as fields for JSON."""
    return {
        "out": str(result.out),
        **request.named,
        "tensors": len(result.report),
        "rules": result.counts,
        "bytes_written": result.plan.nbytes_written,
        "files_resumed": result.n_resumed,
        "elapsed_s": round(result.elapsed_s, 3),
        "warnings": list(result.plan.warnings),
        "notes": request.notes_on(result.plan),
        "command": request.repeated(out),
        "recipe": request.recipe(out),
    }


def end(result: MergeResult, output: Output) -> None:
    """Prints the last JSON line of a merge, if they are asked for."""
    n_bytes = result.plan.nbytes_written
    output.end("done", out=str(result.out), bytes_written=n_bytes, elapsed_s=round(result.elapsed_s, 3))


@contextmanager
def stops_cleanly(target: Path, command: str, output: Output = CONSOLE) -> Iterator[None]:
    """Ends the command after Ctrl-C or SIGTERM, and prints the leftovers and how to resume.

    Args:
        target: The merged model's folder.
        command: The line that resumes it.
        output: Where to print.
    """
    before = _identity(target)
    try:
        with signals_raise(), interrupts_raise():
            yield
    except (KeyboardInterrupt, Terminated) as stop:
        is_complete = _identity(target) not in (before, None)  # it came after the model was published
        if output.rank:
            pass
        elif output.json_progress:
            write_event("stopped", complete=is_complete, resume=command)
        elif is_complete:
            _say_complete(target)
        else:
            report_stopped(target, command)
        raise typer.Exit(128 + stop.number if isinstance(stop, Terminated) else INTERRUPTED) from None


@contextmanager
def says_complete(target: Path) -> Iterator[None]:
    """Prints that the merged model is complete if the command ends before its result is printed."""
    try:
        with interrupts_raise():
            yield
    except (OSError, SystemExit, KeyboardInterrupt):  # SystemExit: how rich ends where a pipe was closed
        _say_complete(target)
        raise


def _say_complete(target: Path) -> None:
    say(f"\nStopped, but {path_text(target)} is complete.")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def report_stopped(target: Path | None, command: str) -> None:
    """Prints that a merge was stopped, its leftovers, and how to resume it."""
    from rich.text import Text

    from fusion_slerp.output.unfinished import clean_command, find_unfinished

    left = find_unfinished(target) if target else None
    if left is not None and target is not None:
        state = f"{_untouched(target)}\nKept: {left_over(left)}"
        more = f"To resume:\n  {command}\nTo remove it:\n  {clean_command(target)}"
    else:
        state = f"Nothing was kept. {_untouched(target)}" if target else "Nothing was written."
        more = f"To run it again:\n  {command}"
    say(Text.assemble(("\nStopped. ", "bold yellow"), f"{state}\n{more}"))


def left_over(left: Unfinished) -> str:
    """Returns the leftovers of an interrupted merge, with its folder on a line of its own."""
    return f"{len(left.finished)} of {left.n_files} weight files, in\n  {path_text(left.folder)}"


def _untouched(target: Path) -> str:
    """The state of the target of a merge that did not finish."""
    return f"{path_text(target)} was not {'changed' if target.exists() else 'created'}."
