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

MODELS = {
    "plays": "fine-tuned on Shakespeare's plays",
    "code": "fine-tuned on Python's standard library",
    "manual": "fine-tuned on the manual of Docutils",
    "ancestor": "the model that all three were fine-tuned from",
}
TEXTS = "texts"


def copy_demo_models(folder: str, output: Output) -> None:
    """Copies the models and their held-out texts into a folder; ends the command if one of them exists."""
    with exit_on_error(output), as_file(files("fusion_slerp") / "demo") as demo:
        target = user_path(folder, OutputError)
        folders = (*MODELS, TEXTS)
        there = [str(target / name) for name in folders if os.path.lexists(target / name)]
        if there:
            raise _cannot_copy(", ".join(there), "they exist" if len(there) > 1 else "it exists").error()
        for name in folders:
            _copy(demo / name, target / name)
    words = {name: shell_line([folder_word((target / name).resolve())]) for name in folders}
    output.show(
        "Copied small language models:",
        *(f"  {words[name]}: {history}" for name, history in MODELS.items()),
        f"  {words[TEXTS]}: held-out text of all three kinds",
        f"To merge two of them:\n  fusion_slerp merge {words['plays']} {words['code']} -o child",
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
