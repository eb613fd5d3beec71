"""The command `inspect`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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


def inspect_models(
    sources: Sequence[str], base: str | None, output: Output, every: bool = False, html: str | None = None
) -> None:
    """Shows checkpoints, and the difference of two or the mean angles of the first with the others.

    Args:
        sources: The models.
        base: Their ancestor, for the angles between task vectors; None without.
        output: Where to print.
        every: List the angle and the norms of every layer instead of a map of the angles.
        html: A file for a page about models that are compared; None writes none.
    """
    from fusion_slerp.cli import inspection_tables, reporting
    from fusion_slerp.inspection import difference

    names = labels(len(sources)) + ([] if base is None else [BASE])
    with warnings_to(output), exit_on_error(output):
        _check_count(sources, base)
        page = None if html is None else reporting.page_for(sources, html)
        opened, facts, problems = zip(*_open_all([*sources, *([] if base is None else [base])]), strict=True)
        output.show(*inspection_tables.facts_tables(dict(zip(names, facts, strict=True))))
        fields = [_with_problems(*each) for each in zip(facts, problems, strict=True)]
        if len(opened) == 1:
            error = difference.as_error(problems[0])
            output.show(*inspection_tables.problem_parts(inspection_tables.PREVENTED, error) if error else ())
            for line in opened[0].warnings:
                output.warn(line)
            output.end("done")
            output.give(lambda: fields[0])
            return
        with measuring(output) as progress:
            models = dict(zip(names, zip(opened, problems, strict=True), strict=True))
            if page is None:
                by_label = dict(difference.compare_others(models, progress))
            else:
                by_facts = dict(zip(names, facts, strict=True))
                by_label = reporting.write_comparison(models, by_facts, page, progress)
    if output.shows and len(by_label) == 1:
        (only,) = by_label.values()
        output.show(*inspection_tables.difference_tables(only, base is not None, console(), every))
    elif output.shows:
        output.show(*inspection_tables.mean_tables(by_label, base is not None, console(), every))
    if page is not None:
        reporting.show_page(page, output)
    output.end("done")
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
def measuring(output: Output, command: str = "inspect") -> Iterator[Callable[[int, int], object]]:
    """Shows the bytes measured; each comparison of two models has its own progress."""
    from fusion_slerp.engine.progress import Progress, following
    from fusion_slerp.planning.amounts import MEASURING

    with interrupts_raise(), ExitStack() as stack:
        before, shown = 0, Progress()

        def on_progress(done: int, total: int) -> None:
            nonlocal before, shown
            if not before or done < before:
                stack.close()
                before = 0
                comparison = following(command, {MEASURING: total}, output.progress, leave=False)
                shown = stack.enter_context(comparison)
            shown(done - before, MEASURING)
            before = done

        yield on_progress
