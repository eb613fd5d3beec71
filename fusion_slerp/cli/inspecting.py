"""The command `inspect`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fusion_slerp.cli.inspection import Facts, inspect_anything
from fusion_slerp.cli.output import Output, console, exit_on_error, problem_fields, warnings_to
from fusion_slerp.cli.readable import Problems
from fusion_slerp.cli.stopping import interrupts_raise
from fusion_slerp.errors import FusionSlerpError, raise_all
from fusion_slerp.settings.labels import labels

if TYPE_CHECKING:
    from fusion_slerp.cli.difference import Difference


def inspect_models(sources: Sequence[str], output: Output) -> None:
    """Shows checkpoints, and the difference of two or the mean angles of the first with the others."""
    from fusion_slerp.cli import difference, inspection_tables

    with warnings_to(output), exit_on_error(output):
        opened, facts, problems = zip(*_open_all(sources), strict=True)
        output.show(*inspection_tables.facts_tables(facts))
        fields = [_with_problems(*each) for each in zip(facts, problems, strict=True)]
        if len(opened) == 1:
            error = difference.as_error(problems[0])
            output.show(*inspection_tables.problem_parts(inspection_tables.PREVENTED, error) if error else ())
            for line in opened[0].warnings:
                output.warn(line)
            output.give(lambda: fields[0])
            return
        with _progress(output) as progress:
            differences = list(difference.compare_others(opened, progress, problems))
    first, *others = labels(len(facts))
    by_label = dict(zip(others, differences, strict=True))
    if len(differences) == 1:
        output.show(*inspection_tables.difference_tables(differences[0]))
    else:
        output.show(*inspection_tables.mean_tables(by_label))
    output.give(lambda: {**dict(zip([first, *others], fields, strict=True)), **_fields(by_label)})


def _with_problems(facts: Facts, problems: Problems) -> dict[str, Any]:
    """Facts as fields for JSON, with everything that prevents a merge of the model."""
    return {**asdict(facts), "problems": [problem_fields(problem) for problem in problems]}


def _fields(differences: Mapping[str, Difference]) -> dict[str, Any]:
    """The difference from model a as fields for JSON: of one model, or of each by its label."""
    from fusion_slerp.cli.difference import as_fields

    fields = {label: as_fields(each) for label, each in differences.items()}
    return next(iter(fields.values())) if len(fields) == 1 else {"from_a": fields}


def _open_all(sources: Sequence[str]):
    opened, failures = [], []
    for source in sources:
        try:
            opened.append(inspect_anything(source))
        except FusionSlerpError as error:
            failures.append(error)
    raise_all(failures)
    return opened


@contextmanager
def _progress(output: Output) -> Iterator[Callable[[int, int], object]]:
    """Shows the bytes measured, in a terminal."""
    if not output.shows_progress:
        yield lambda done, total: None
        return
    from rich.progress import Progress

    with interrupts_raise(), Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
