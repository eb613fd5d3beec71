"""The command `clean`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fusion_slerp.cli.amounts import nbytes_text, path_text
from fusion_slerp.cli.output import Output, exit_on_error, warnings_to
from fusion_slerp.errors import OutputError
from fusion_slerp.paths import real_path


def clean_up(out: str, output: Output) -> None:
    """Removes the partial folder of an interrupted merge, and prints what it held."""
    from fusion_slerp.output.unfinished import clean

    with warnings_to(output), exit_on_error(output):
        removed, target = clean(out), real_path(out, OutputError)
    if removed is None:
        output.show(f"Nothing to remove: no interrupted merge to\n  {path_text(target)}")
        output.give(lambda: {"removed": None})
        return
    files = f"{len(removed.finished)} of {removed.n_files} weight files, {nbytes_text(removed.nbytes)}"
    output.show(f"Removed {files}:\n  {path_text(removed.folder)}")
    fields: dict[str, Any] = {**asdict(removed), "folder": str(removed.folder)}
    output.give(lambda: {"removed": fields})
