"""The command `sweep`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from fusion_slerp.cli.amounts import nbytes_text, path_text
from fusion_slerp.cli.output import FAILED, INTERRUPTED, Output, console, exit_on_error, say, warnings_to
from fusion_slerp.cli.processes import on_all, share, take_gpu
from fusion_slerp.cli.request import Request, read_request
from fusion_slerp.cli.shell import shell_line
from fusion_slerp.cli.stopping import interrupts_raise
from fusion_slerp.cli.sweep_arguments import SweepArguments
from fusion_slerp.errors import Problem, SettingsError, raise_all, setting
from fusion_slerp.interruption import Terminated, signals_raise

if TYPE_CHECKING:
    from fusion_slerp.cli.search_arguments import SearchArguments
    from fusion_slerp.cluster.ranks import Ranks
    from fusion_slerp.sweeps.preparing import PreparedSweep
    from fusion_slerp.sweeps.record import SweepRecord
    from fusion_slerp.sweeps.running import Outputs
    from fusion_slerp.sweeps.sharing import OnResult


def sweep_models(
    models: Sequence[str],
    base: str | None,
    options: Mapping[str, Any],
    given: SweepArguments,
    output: Output,
    only_plan: bool = False,
    ranks: Ranks | None = None,
) -> None:
    """Runs a sweep, or shows what it would do; ends the command if it fails.

    Args:
        models: The models, or a recipe.
        base: The base.
        options: The options of the merge.
        given: The other arguments.
        output: Where to print.
        only_plan: Show what it would do.
        ranks: The processes that run it together; None for this one alone.
    """
    from fusion_slerp.cluster.ranks import ALONE
    from fusion_slerp.sweeps.running import run_sweep

    with warnings_to(output):
        with exit_on_error(output):
            threads = share(ranks, {})
            chosen = on_all(ranks, lambda: _prepare(models, base, options, given, only_plan, threads, ranks))
        for remark in chosen.request.notes_on(chosen.sweep.plan):
            output.note(remark)
        if ranks is not None:
            ranks.timeout_s = chosen.sweep.plan.settings.rank_timeout
        if only_plan:
            _show_plan(chosen.sweep, chosen.outputs, output)
            return
        take_gpu(ranks)
        command = resuming("sweep", chosen.request, chosen.vary, given)
        with (
            stops_cleanly(command, output, lambda: _kept(chosen.sweep)),
            exit_on_error(output, FAILED),
            _live(output) as show,
        ):
            record = run_sweep(chosen.sweep, chosen.outputs, on_result=show, ranks=ranks or ALONE)
    if ranks is None or ranks.is_first:
        _show_result(chosen.sweep, record, chosen.outputs, chosen.request, output)


def what_varies(typed: Sequence[str], options: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Returns what is varied, by name, and the options that stay the same.

    `-t` with several values is `--vary t=VALUES`, and so is any `-t` if nothing else is varied.

    Raises:
        SettingsError: A `--vary` has no name or no values, or names something twice.
    """
    from fusion_slerp.settings.labels import OPTION
    from fusion_slerp.sweeps.values import is_several

    vary, problems = {}, []
    fixed = dict(options)
    t = fixed.get(OPTION)
    if isinstance(t, str) and (is_several(t) or not typed):
        vary[OPTION] = fixed.pop(OPTION)
    for text in typed:
        name, equals, values = text.partition("=")
        name = name.strip()
        if not (name and equals and values.strip()):
            problems.append(_wrong(text, "NAME=VALUES"))
        elif name in vary:
            problems.append(_wrong(text, f"every name once: {name} is there already"))
        else:
            vary[name] = values
    raise_all(problems)
    return vary, fixed


def _wrong(found: str, needed: str) -> Problem:
    fields = (("found", found), ("needed", needed))
    return Problem(SettingsError, "invalid --vary", fields, f"use {setting('vary', {'t': '0:1:0.1'})}")


def resuming(
    verb: str, request: Request, vary: Mapping[str, str], given: SweepArguments | SearchArguments
) -> str:
    """Returns the line that resumes a sweep or a search."""
    words = replace(given, vary=[f"{name}={values}" for name, values in vary.items()]).words
    return f"{request.command(verb=verb, in_full=False)} {shell_line(words)}"


def check_out(out: str | None, verb: str) -> None:
    """Raises a SettingsError unless a folder is named for the results of a command."""
    if out is None:
        fields = (("needed", "-o FOLDER, which keeps the results"),)
        fix = f"use {setting('out', verb)}"
        raise Problem(SettingsError, f"no folder is named for the {verb}", fields, fix).error()


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What the command is about to do.

    Attributes:
        request: The merge, as the user asked for it.
        vary: What is varied.
        sweep: The sweep; that of rank 0 alone has a folder.
        outputs: The merged models that it writes; on rank 0.
    """

    request: Request
    vary: Mapping[str, str]
    sweep: PreparedSweep
    outputs: Outputs


def _prepare(
    models: Sequence[str],
    base: str | None,
    options: Mapping[str, Any],
    given: SweepArguments,
    only_plan: bool,
    threads: Mapping[str, int],
    ranks: Ranks | None,
) -> _Chosen:
    from fusion_slerp.sweeps.points import MAX_POINTS
    from fusion_slerp.sweeps.preparing import prepare_sweep
    from fusion_slerp.sweeps.running import Outputs, prepare_outputs

    vary, fixed = what_varies(given.vary, options)
    request = read_request(models, base, fixed)
    out = given.children if given.out is None else given.out
    if not only_plan:
        check_out(out, "sweep")
    is_first = ranks is None or ranks.is_first
    sweep = prepare_sweep(
        request.models,
        request.base,
        vary=vary,
        out=out if is_first else None,
        needs_evaluation=given.children is None and not only_plan,
        max_points=given.max_points or MAX_POINTS,
        **given.evaluated.arguments,
        **{**threads, **request.options},
    )
    outputs = prepare_outputs(sweep, given.children, given.save_best) if is_first else Outputs()
    return _Chosen(request, vary, sweep, outputs)


@contextmanager
def _live(output: Output) -> Iterator[OnResult]:
    """Shows results as they come: a table that grows in a terminal, else a line for each."""
    from fusion_slerp.cli import sweep_table

    if output.json_progress or not output.shows:
        yield lambda record, name: output.end("evaluated", name=name)
        return
    if not sys.stdout.isatty():
        n_shown = 0

        def print_line(record: SweepRecord, name: str) -> None:
            nonlocal n_shown
            for line in sweep_table.plain_lines(record, name, is_first=not n_shown):
                output.show(line)
            n_shown += 1

        yield print_line
        return
    from rich.live import Live

    with Live(console=console(), auto_refresh=False, vertical_overflow="visible") as live:
        yield lambda record, name: live.update(sweep_table.rich_table(record), refresh=True)


def _show_plan(sweep: PreparedSweep, outputs: Outputs, output: Output) -> None:
    from fusion_slerp.sweeps.points import point_text

    n_points, sizes = len(sweep.points), [f"{len(axis.values)} of {axis.name}" for axis in sweep.axes]
    grid = f" ({' × '.join(sizes)})" if len(sizes) > 1 else ""
    shown = [f"  {point_text(values)}" for values in sweep.points]
    output.show(f"{n_points} point{'s' * (n_points > 1)}{grid}:", *_shortened(shown))
    output.show(*_matches(sweep))
    nbytes_in = sum(parent.nbytes for parent in sweep.parents.values())
    output.show(
        f"inputs: {nbytes_text(nbytes_in)}; at most {nbytes_text(sweep.nbytes_read)} read by all points"
    )
    output.show(f"memory before the evaluation: about {nbytes_text(sweep.peak_nbytes)}")
    written = sum(each.nbytes_written for each in outputs.children)
    if outputs.children:
        output.show(f"written: {len(outputs.children)} models, {nbytes_text(written)}")
    output.give(
        lambda: {
            "points": [dict(values) for values in sweep.points],
            "bytes_in": nbytes_in,
            "bytes_read_most": sweep.nbytes_read,
            "bytes_written": written,
            "peak_memory_bytes": sweep.peak_nbytes,
        }
    )


def _matches(sweep: PreparedSweep) -> Iterator[str]:
    """Yields a line for each axis of some tensors: how many they are."""
    names = [tensor.out.name for tensor in sweep.plan.tensors]
    for axis in sweep.axes:
        if axis.pattern is not None:
            n_matching = sum(axis.pattern in name for name in names)
            yield f"{axis.name}: {n_matching} of {len(names)} tensors"


def _shortened(lines: Sequence[str], limit: int = 20) -> list[str]:
    more = [f"  ... and {len(lines) - limit} more"] if len(lines) > limit else []
    return [*lines[:limit], *more]


def _show_result(
    sweep: PreparedSweep, record: SweepRecord, outputs: Outputs, request: Request, output: Output
) -> None:
    from rich.text import Text

    from fusion_slerp.sweeps.best import neighbours, within_noise
    from fusion_slerp.sweeps.record import as_fields

    best = record.best_point
    if best is not None:
        output.show("", Text(str(record), "bold"))
        if len(record.points) > 1:
            on = " and ".join(sweep.evaluating.kinds)
            output.show(f"Chosen on these {on} out of several points: expect a little less on others.")
    lines = {"The results:": [path_text(sweep.out / "sweep.json")] if sweep.out else []}
    if best is not None and outputs.best is None:
        merged = replace(request, options=sweep.options_at(best.values))
        lines["To merge the best:"] = [merged.command("best")]
    lines["The best merged model:"] = [path_text(outputs.best)] if outputs.best else []
    lines["The merged models:"] = [path_text(outputs.folder)] if outputs.folder else []
    shown = (Text.assemble((title, "bold"), f"\n  {line}") for title, each in lines.items() for line in each)
    output.show(*shown)
    output.end("done", verdict=str(record))
    output.give(
        lambda: {
            **as_fields(record),
            "verdict": str(record),
            "within_noise": within_noise(record),
            "neighbours": None if record.best is None else neighbours(record.points, record.best),
            "out": str(sweep.out),
            "children": None if outputs.folder is None else str(outputs.folder),
            "save_best": None if outputs.best is None else str(outputs.best),
        }
    )


@contextmanager
def stops_cleanly(command: str, output: Output, kept: Callable[[], str]) -> Iterator[None]:
    """Ends the command after Ctrl-C or SIGTERM, and prints what is kept and how to resume.

    Args:
        command: The line that resumes.
        output: Where that is printed.
        kept: Says what is kept.
    """
    from rich.text import Text

    try:
        with signals_raise(), interrupts_raise():
            yield
    except (KeyboardInterrupt, Terminated) as stop:
        if output.rank:
            pass
        elif output.json_progress:
            output.end("stopped", resume=command)
        else:
            say(Text.assemble(("\nStopped. ", "bold yellow"), f"Kept: {kept()}\nTo resume:\n  {command}"))
        raise typer.Exit(128 + stop.number if isinstance(stop, Terminated) else INTERRUPTED) from None


def _kept(sweep: PreparedSweep) -> str:
    from fusion_slerp.sweeps.results import Results

    record = Results(sweep.record, sweep.out).peek()
    n_done = sum(record.point(values) is not None for values in sweep.points)
    where = "" if sweep.out is None else f", in\n  {path_text(sweep.out)}"
    return f"{n_done} of {len(sweep.points)} points{where}"
