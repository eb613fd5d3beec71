"""The command `inspect`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fusion_slerp.cli.inspection import inspect_source
from fusion_slerp.cli.output import Output, console, exit_on_error, warnings_to
from fusion_slerp.errors import FusionSlerpError, raise_all
from fusion_slerp.settings.labels import labels

if TYPE_CHECKING:
    from fusion_slerp.cli.difference import Difference


def inspect_models(sources: Sequence[str], output: Output) -> None:
    """Shows checkpoints, and how they differ: two in full, more by the first one's means with each other."""
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
            found = list(difference.compare_others(opened, progress))
    named = dict(zip(labels(len(facts)), facts, strict=True))
    _, *others = named
    by_label = dict(zip(others, found, strict=True))
    if len(found) == 1:
        output.show(*inspection_tables.difference_tables(found[0]))
    else:
        output.show(*inspection_tables.mean_tables(by_label))
    output.give(lambda: {**{label: asdict(each) for label, each in named.items()}, **_fields(by_label)})


def _fields(found: Mapping[str, Difference]) -> dict[str, Any]:
    """Differences from model a for machines: of one, or of each other model by its label."""
    from fusion_slerp.cli.difference import as_fields

    fields = {label: as_fields(each) for label, each in found.items()}
    return next(iter(fields.values())) if len(fields) == 1 else {"from_a": fields}


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
