"""The command `sweep`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fusion_slerp.cli.amounts import nbytes_text, path_text
from fusion_slerp.cli.output import FAILED, INTERRUPTED, Output, console, exit_on_error, say, warnings_to
from fusion_slerp.cli.request import Request, read_request
from fusion_slerp.cli.shell import shell_line
from fusion_slerp.cli.stopping import interrupts_raise
from fusion_slerp.cli.sweep_arguments import SweepArguments
from fusion_slerp.errors import Problem, SettingsError, raise_all, setting
from fusion_slerp.interruption import Terminated, signals_raise

if TYPE_CHECKING:
    from fusion_slerp.sweeps.preparing import PreparedSweep
    from fusion_slerp.sweeps.record import SweepRecord
    from fusion_slerp.sweeps.running import OnResult, Outputs


def sweep_models(
    models: Sequence[str],
    base: str | None,
    options: Mapping[str, Any],
    given: SweepArguments,
    output: Output,
    only_plan: bool = False,
) -> None:
    """Runs a sweep, or shows what it would do; ends the command if it fails."""
    from fusion_slerp.sweeps.running import prepare_outputs, run_sweep

    with warnings_to(output):
        with exit_on_error(output):
            vary, fixed = what_varies(given.vary, options)
            request = read_request(models, base, fixed)
            sweep = _prepare(request, vary, given, only_plan)
            outputs = prepare_outputs(sweep, given.children, given.save_best)
        for remark in request.notes_on(sweep.plan):
            output.note(remark)
        if only_plan:
            _show_plan(sweep, outputs, output)
            return
        command = _command(request, vary, given)
        with (
            stops_cleanly(command, output, lambda: _kept(sweep)),
            exit_on_error(output, FAILED),
            _live(output) as show,
        ):
            record = run_sweep(sweep, outputs, on_result=show)
    _show_result(sweep, record, outputs, request, output)


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


def named_texts(typed: Sequence[str]) -> dict[str, str]:
    """Returns the files of texts by name: `NAME=FILE`, or `FILE`, whose name is then that of the file.

    Raises:
        SettingsError: Two texts have one name.
    """
    texts: dict[str, str] = {}
    for text in typed:
        name, equals, file = text.partition("=")
        name, file = (name, file) if equals else (Path(text).stem, text)
        if name in texts:
            fields = (("found", f"{name}={texts[name]} and {name}={file}"), ("needed", "every name once"))
            fix = f"use {setting('texts', {f'{name}-2': file})}"
            raise Problem(SettingsError, "two texts have one name", fields, fix).error()
        texts[name] = file
    return texts


def _prepare(
    request: Request, vary: Mapping[str, str], given: SweepArguments, only_plan: bool
) -> PreparedSweep:
    from fusion_slerp.sweeps.points import MAX_POINTS
    from fusion_slerp.sweeps.preparing import AVERAGE_LOSS, prepare_sweep

    if given.out is None and given.children is None and not only_plan:
        fix = f"use {setting('out', 'sweep')}"
        fields = (("needed", "-o FOLDER, which keeps the results"),)
        raise Problem(SettingsError, "no folder is named for the sweep", fields, fix).error()
    return prepare_sweep(
        request.models,
        request.base,
        vary=vary,
        texts=named_texts(given.texts),
        out=given.children if given.out is None else given.out,
        needs_evaluation=given.children is None and not only_plan,
        metric=given.metric or AVERAGE_LOSS,
        mode=given.mode,
        max_points=given.max_points or MAX_POINTS,
        evaluation=given.chosen,
        **request.options,
    )


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
            output.show("Chosen on these texts out of several points: expect a little less on others.")
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


def _command(request: Request, vary: Mapping[str, str], given: SweepArguments) -> str:
    """The line that resumes a sweep."""
    words = [request.command(verb="sweep", in_full=False)]
    pairs = [("--vary", f"{name}={values}") for name, values in vary.items()]
    pairs += [("--text", text) for text in given.texts]
    pairs += [("--children", given.children), ("--save-best", given.save_best), ("--metric", given.metric)]
    pairs += [("--mode", None if given.mode == "min" else given.mode), ("--max-points", given.max_points)]
    chosen = dict(given.chosen)
    pairs += [("--prompt", prompt) for prompt in chosen.pop("prompts", ())]
    pairs += [(f"--{name.replace('_', '-')}", value) for name, value in chosen.items()]
    pairs += [("-o", given.out)]
    more = [str(word) for flag, value in pairs if value is not None for word in (flag, value)]
    return " ".join([*words, shell_line(more)])


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
        if output.json_progress:
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
