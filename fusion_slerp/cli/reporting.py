"""The command `report`, and the page of `inspect --html`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.cli.amounts import nbytes_text, path_text
from fusion_slerp.cli.output import Output, exit_on_error, warnings_to
from fusion_slerp.cli.shell import shell_line
from fusion_slerp.errors import Problem, SettingsError, not_an_option

if TYPE_CHECKING:
    from fusion_slerp.inspection.difference import Difference, Model
    from fusion_slerp.inspection.facts import Facts

Progress = Callable[[int, int], object]
"""Called with the bytes read and the bytes in all."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `report` was asked for.

    Attributes:
        models: A merged model, a sweep, or models to compare.
        base: The ancestor of models to compare.
        out: The file; None takes a name after the models.
        figures: The folder for figures; None draws none.
        evaluation: A file that `evaluate` wrote.
        quick: Read no weights of a merged model.
        overwrite: Replace files that exist.
    """

    models: Sequence[str]
    base: str | None = None
    out: str | None = None
    figures: str | None = None
    evaluation: str | None = None
    quick: bool = False
    overwrite: bool = False


def write_report(wanted: Wanted, output: Output) -> None:
    """Writes a report and says where it is."""
    from fusion_slerp.cli.inspecting import measuring
    from fusion_slerp.reports.writing import report

    with warnings_to(output), exit_on_error(output), measuring(output, "report") as progress:
        target = report(
            *wanted.models,
            base=wanted.base,
            out=wanted.out,
            figures=wanted.figures,
            evaluation=wanted.evaluation,
            quick=wanted.quick,
            overwrite=wanted.overwrite,
            progress=progress,
        )
    _show(target, wanted.figures, output)
    output.end("done")
    output.give(lambda: _fields(target, wanted.figures))


def _show(target: Path, figures: str | None, output: Output) -> None:
    output.show(
        f"The report, {nbytes_text(target.stat().st_size)}, to be opened in a browser:\n  {path_text(target)}"
    )
    if figures is not None:
        from fusion_slerp.reports.figures import EXTRA, has_png

        output.show(f"The figures:\n  {path_text(Path(figures))}")
        if not has_png():
            output.note(f"the figures are SVG only; for PNG as well: {EXTRA}")


def _fields(target: Path, figures: str | None) -> dict[str, Any]:
    drawn = [] if figures is None else sorted(os.listdir(os.path.expanduser(figures)))
    return {"out": str(target), "bytes": target.stat().st_size, "figures": drawn}


def page_for(models: Sequence[str], html: str) -> Path:
    """Returns the file for the page of `inspect --html`.

    Raises:
        SettingsError: There are no models to compare.
        OutputError: It exists, or its folder does not.
    """
    from fusion_slerp.reports.writing import target_of

    if len(models) < 2:
        fields = (("found", f"one model, {models[0]}"), ("needed", "two models or more"))
        fix = shell_line(["fusion_slerp", "inspect", not_an_option(models[0]), "OTHER", "--html", html])
        raise Problem(SettingsError, "a page compares models", fields, fix).error()
    return target_of(tuple(models), html, overwrite=False)


def write_comparison(
    models: Mapping[str, Model], facts: Mapping[str, Facts], html: Path, progress: Progress
) -> dict[str, Difference]:
    """Compares all pairs of models, writes the page, and returns the differences from model a by label.

    Args:
        models: The models by label, their ancestor under `base`.
        facts: Their facts by label.
        html: The file; it does not exist.
        progress: Called with the bytes measured and the bytes in all.
    """
    from fusion_slerp.reports.comparison import comparison_data, differences_of
    from fusion_slerp.reports.data import completed
    from fusion_slerp.reports.writing import write_page

    differences = differences_of(models, progress)
    write_page(completed(comparison_data(models, facts, differences)), html)
    return {pair.split("-")[1]: each for pair, each in differences.items() if pair.startswith("a-")}


def show_page(html: Path, output: Output) -> None:
    """Says where a page is."""
    output.show(f"\nAs a page, to be opened in a browser:\n  {path_text(html)}")
