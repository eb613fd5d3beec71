"""The command `verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from fusion_slerp.cli.amounts import nbytes_text, path_text
from fusion_slerp.cli.output import FAILED, Output, exit_on_error, warnings_to
from fusion_slerp.errors import Problem, SettingsError
from fusion_slerp.settings.labels import is_label

if TYPE_CHECKING:
    from fusion_slerp.verification.findings import Verification


def verify_child(
    out: str, inputs: bool, recompute: str | None, models: Sequence[str], output: Output
) -> None:
    """Verifies a merged model and shows what deviates; ends with exit code 1 if anything does.

    Args:
        out: Its folder.
        inputs: Whether its source models are checked as well.
        recompute: How many tensors are merged again; None for none.
        models: Where source models are: `label=FOLDER`.
        output: Where words go.
    """
    from fusion_slerp.verification.verify import verify

    count: Any = int(recompute) if recompute and recompute.isdecimal() else recompute or 0
    with warnings_to(output), exit_on_error(output):
        where = read_models(models)
        result = verify(out, inputs=inputs, recompute=count, models=where, show_pbar=output.shows_progress)
    _show(result, output)
    output.give(lambda: _fields(result))
    if not result.ok:
        raise typer.Exit(FAILED)


def read_models(typed: Sequence[str]) -> dict[str, str]:
    """Returns the folders of models by label.

    Raises:
        SettingsError: Something is not `label=FOLDER`, or a label comes twice.
    """
    found: dict[str, str] = {}
    for text in typed:
        label, is_there, folder = text.partition("=")
        if not (is_there and folder and is_label(label)):
            fields = (("found", text), ("needed", "a label of a model, =, and its folder"))
            raise Problem(SettingsError, "--model names no model", fields, "--model a=FOLDER").error()
        if label in found:
            fields = (("found", f"{found[label]} and {folder}"),)
            fix = f"name one folder: --model {label}={folder}"
            raise Problem(SettingsError, f"model {label} is given twice", fields, fix).error()
        found[label] = folder
    return found


def _show(result: Verification, output: Output) -> None:
    from rich.table import Table
    from rich.text import Text

    verdict = f"{result.verdict[0].upper()}{result.verdict[1:]}. "
    read = f"{result.n_files} files, {result.n_tensors} tensors, {nbytes_text(result.nbytes)}"
    took = f"{read} in {result.elapsed_s:.1f} s"
    style = "bold green" if result.ok else "bold red"
    output.show(Text.assemble((verdict, style), f"{path_text(result.folder)}: {took}"))
    if result.measured:
        output.show(f"  source models: {result.measured} tensors measured again")
    if result.recomputed:
        output.show(f"  merged again and compared bit by bit: {len(result.recomputed)} tensors")
    if not result.ok:
        table = Table("file", "tensor", "found", box=None, header_style="bold")
        for deviation in result.deviations:
            table.add_row(*map(Text, (deviation.file, deviation.tensor or "", deviation.found)))
        output.show(table)


def _fields(result: Verification) -> dict[str, Any]:
    return {**asdict(result), "folder": str(result.folder), "ok": result.ok}
