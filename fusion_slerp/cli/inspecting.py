"""The command `inspect`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fusion_slerp.cli.output import Output, console, error_fields, exit_on_error, problem_fields, warnings_to
from fusion_slerp.cli.shell import shell_line
from fusion_slerp.cli.stopping import interrupts_raise
from fusion_slerp.errors import FusionSlerpError, Problem, SettingsError, not_an_option, raise_all
from fusion_slerp.inspection.facts import Facts, inspect_anything
from fusion_slerp.inspection.readable import Problems
from fusion_slerp.settings.labels import BASE, labels

if TYPE_CHECKING:
    from fusion_slerp.inspection.difference import Difference


def inspect_models(sources: Sequence[str], base: str | None, output: Output) -> None:
    """Shows checkpoints, and the difference of two or the mean angles of the first with the others.

    Args:
        sources: The models.
        base: Their ancestor, for the angles between task vectors; None without.
        output: Where to print.
    """
    from fusion_slerp.cli import inspection_tables
    from fusion_slerp.inspection import difference

    names = labels(len(sources)) + ([] if base is None else [BASE])
    with warnings_to(output), exit_on_error(output):
        _check_count(sources, base)
        opened, facts, problems = zip(*_open_all([*sources, *([] if base is None else [base])]), strict=True)
        output.show(*inspection_tables.facts_tables(dict(zip(names, facts, strict=True))))
        fields = [_with_problems(*each) for each in zip(facts, problems, strict=True)]
        if len(opened) == 1:
            error = difference.as_error(problems[0])
            output.show(*inspection_tables.problem_parts(inspection_tables.PREVENTED, error) if error else ())
            for line in opened[0].warnings:
                output.warn(line)
            output.give(lambda: fields[0])
            return
        with _progress(output) as progress:
            models = dict(zip(names, zip(opened, problems, strict=True), strict=True))
            by_label = dict(difference.compare_others(models, progress))
    if len(by_label) == 1:
        (only,) = by_label.values()
        output.show(*inspection_tables.difference_tables(only, has_base=base is not None))
    else:
        output.show(*inspection_tables.mean_tables(by_label, has_base=base is not None))
    output.give(lambda: {**dict(zip(names, fields, strict=True)), **_fields(by_label)})


def _check_count(sources: Sequence[str], base: str | None) -> None:
    """Refuses a base without two models to compare."""
    if base is None or len(sources) > 1:
        return
    fields = (("found", f"one model, {sources[0]}, and the base {base}"), ("needed", "two models or more"))
    fix = shell_line(["fusion_slerp", "inspect", not_an_option(sources[0]), not_an_option(base)])
    raise Problem(SettingsError, "no models to compare by their differences from a base", fields, fix).error()


def _with_problems(facts: Facts, problems: Problems) -> dict[str, Any]:
    """Facts as fields for JSON, with everything that prevents a merge of the model."""
    return {**asdict(facts), "problems": [problem_fields(problem) for problem in problems]}


def _fields(differences: Mapping[str, Difference]) -> dict[str, Any]:
    """The difference from model a as fields for JSON: of one model, or of each by its label."""
    fields = {label: _difference_fields(each) for label, each in differences.items()}
    return next(iter(fields.values())) if len(fields) == 1 else {"from_a": fields}


def _difference_fields(difference: Difference) -> dict[str, Any]:
    """The difference as fields for JSON."""
    from fusion_slerp.inspection.difference import by_layer, cell

    measured = difference.measured
    return {
        "can_be_merged": difference.error is None,
        "problems": [] if difference.error is None else error_fields(difference.error)["problems"],
        "warnings": list(difference.warnings),
        "notes": list(difference.notes),
        "mean_angle_deg": cell(measured).angle_deg if measured else None,
        "largest": [report.name for report in difference.largest],
        "layers": {
            str(n): {m: [c.angle_deg, c.norm_a, c.norm_b] for m, c in modules.items()}
            for n, modules in by_layer(measured).items()
        },
        "tensors": [
            {
                "name": report.name,
                "rule": report.rule,
                "angle_deg": report.angle_deg,
                "norm_a": report.norms.get("a"),
                "norm_b": report.norms.get("b"),
            }
            for report in difference.reports
        ],
    }


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
