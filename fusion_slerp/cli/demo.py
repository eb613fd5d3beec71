"""Copies the demo models out of the package, to try the command on."""

from __future__ import annotations

import os
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from fusion_slerp.cli.output import Output, exit_on_error
from fusion_slerp.cli.shell import folder_word, shell_line
from fusion_slerp.errors import OutputError, Problem
from fusion_slerp.paths import user_path

MODELS, TEXTS = ("plays", "code"), "texts"


def copy_demo_models(folder: str, output: Output) -> None:
    """Copies both models and their held-out texts into a folder; ends the command if one of them exists."""
    with exit_on_error(output), as_file(files("fusion_slerp") / "demo") as demo:
        target = user_path(folder, OutputError)
        folders = (*MODELS, TEXTS)
        there = [str(target / name) for name in folders if os.path.lexists(target / name)]
        if there:
            raise _cannot_copy(", ".join(there), "they exist" if len(there) > 1 else "it exists").error()
        for name in folders:
            _copy(demo / name, target / name)
    plays, code, texts = (shell_line([folder_word((target / n).resolve())]) for n in (*MODELS, TEXTS))
    output.show(
        "Copied two fine-tunes of one small model:",
        f"  {plays}: of Shakespeare's plays",
        f"  {code}: of Python's standard library",
        f"  {texts}: held-out text of both kinds",
        f"To merge them:\n  fusion_slerp merge {plays} {code} -o child",
    )
    output.give(lambda: {name: str(target / name) for name in MODELS})


def _copy(model: Path, target: Path) -> None:
    try:
        shutil.copytree(model, target)
    except OSError as error:
        raise _cannot_copy(target, error.strerror or error).error() from None


def _cannot_copy(target: object, why: object) -> Problem:
    fields = (("folder", target), ("found", why))
    return Problem(OutputError, "cannot copy the demo models", fields, "fusion_slerp demo another-folder")
