"""The command `clean`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusion_slerp.cli.amounts import nbytes_text, path_text
from fusion_slerp.cli.output import Output, exit_on_error


def clean_up(out: str, output: Output) -> None:
    """Removes what an interrupted merge left, and says what that was."""
    from fusion_slerp.output.unfinished import clean

    with exit_on_error(output):
        found = clean(out)
    if found is None:
        target = Path(out).expanduser().resolve()
        output.show(f"Nothing to remove: no merge to {path_text(target)} was interrupted.")
        output.give(lambda: {"removed": None})
        return
    files = f"{len(found.finished)} finished weight files of {found.n_files}"
    output.show(f"Removed: {path_text(found.folder)} ({files}, {nbytes_text(found.nbytes)})")
    fields: dict[str, Any] = {**asdict(found), "folder": str(found.folder)}
    output.give(lambda: {"removed": fields})
