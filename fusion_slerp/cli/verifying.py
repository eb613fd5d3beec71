"""The command `verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from fusion_slerp.cli.amounts import nbytes_text, path_text
from fusion_slerp.cli.output import FAILED, Output, exit_on_error, warnings_to
from fusion_slerp.cli.request import is_recipe
from fusion_slerp.cli.shell import shell_line
from fusion_slerp.errors import Problem, SettingsError
from fusion_slerp.settings.labels import is_label

if TYPE_CHECKING:
    from fusion_slerp.verification.findings import Verification


def verify_child(
    out: str, inputs: bool, recompute: str | None, models: Sequence[str], output: Output
) -> None:
    """Verifies a merged model and shows the deviations; ends with exit code 1 if there are any.

    Args:
        out: Its folder.
        inputs: Whether its source models are checked as well.
        recompute: The number of tensors to merge again, or `all`; None for none.
        models: Folders of source models, as `label=FOLDER`.
        output: Where to print.
    """
    from fusion_slerp.verification.verify import verify

    count: Any = int(recompute) if recompute and recompute.isdecimal() else recompute or 0
    with warnings_to(output), exit_on_error(output):
        where = read_models(models)
        result = verify(out, inputs=inputs, recompute=count, models=where, show_pbar=output.progress)
    _show(result, output)
    output.end("done", ok=result.ok, verdict=result.verdict, elapsed_s=round(result.elapsed_s, 3))
    output.give(lambda: _fields(result))
    if not result.ok:
        raise typer.Exit(FAILED)


def read_models(typed: Sequence[str]) -> dict[str, str]:
    """Returns the folders of models by label.

    Args:
        typed: Each `label=FOLDER`, or a recipe that names the models.

    Raises:
        SettingsError: An argument is neither, or a label is given twice.
    """
    from fusion_slerp.recipes import read_recipe

    folders: dict[str, str] = {}
    for argument in typed:
        if is_recipe(argument):
            folders |= read_recipe(argument).named
            continue
        label, equals, folder = argument.partition("=")
        if not (equals and folder and is_label(label)):
            fields = (("found", argument), ("needed", "a model's label, =, and its folder"))
            raise Problem(SettingsError, "invalid --model", fields, "use --model a=FOLDER").error()
        if label in folders:
            fields = (("found", f"{folders[label]} and {folder}"),)
            fix = f"name one folder: {shell_line(['--model', f'{label}={folder}'])}"
            raise Problem(SettingsError, f"model {label} is given twice", fields, fix).error()
        folders[label] = folder
    return folders


def _show(result: Verification, output: Output) -> None:
    from rich.table import Table
    from rich.text import Text

    verdict = result.verdict if result.ok else f"Verification failed: {result.verdict}"
    read = f"{result.n_files} files, {result.n_tensors} tensors, {nbytes_text(result.nbytes)}"
    style = "bold green" if result.ok else "bold red"
    output.show(
        Text(verdict, style), f"  {path_text(result.folder)}", f"  {read} in {result.elapsed_s:.1f} s"
    )
    for line in result.compared:
        output.show(f"  {line}")
    if not result.ok:
        table = Table(box=None, header_style="bold")
        for name in ("file", "tensor", "found"):
            table.add_column(name, no_wrap=True)
        for deviation in result.deviations:
            table.add_row(*map(Text, (deviation.file, deviation.tensor or "", deviation.found)))
        output.show(table)


def _fields(result: Verification) -> dict[str, Any]:
    return {**asdict(result), "folder": str(result.folder), "ok": result.ok}
