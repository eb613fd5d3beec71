"""The command `inspect`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from fusion_slerp.cli.inspection import inspect_source
from fusion_slerp.cli.output import Output, console, exit_on_error, warnings_to
from fusion_slerp.errors import FusionSlerpError, raise_all


def inspect_models(sources: Sequence[str], output: Output) -> None:
    """Shows one checkpoint, or two and how they differ."""
    from fusion_slerp.cli import difference, inspection_tables

    with warnings_to(output), exit_on_error(output):
        opened, facts = zip(*_open_all(sources), strict=True)
        output.show(inspection_tables.facts_table(facts))
        if len(opened) == 1:
            for line in opened[0].warnings:
                output.warn(line)
            output.give(lambda: asdict(facts[0]))
            return
        with _progress(output) as progress:
            found = difference.compare(opened[0], opened[1], progress)
    output.show(*inspection_tables.difference_tables(found))
    output.give(lambda: {"a": asdict(facts[0]), "b": asdict(facts[1]), **difference.as_fields(found)})


def _open_all(sources: Sequence[str]):
    opened, failures = [], []
    for source in sources:
        try:
            opened.append(inspect_source(source))
        except FusionSlerpError as error:
            failures.append(error)
    raise_all(failures)
    return opened


@contextmanager
def _progress(output: Output) -> Iterator[Callable[[int, int], object]]:
    """Shows bytes measured on stderr, where somebody sees it."""
    if not output.shows_progress:
        yield lambda done, total: None
        return
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
