"""Writes reports: the page as one file, and the figures of a paper."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from fusion_slerp.errors import OutputError, Problem, SettingsError, setting
from fusion_slerp.output.lineage import public_name
from fusion_slerp.paths import Named, absolute_text, user_path, utf8
from fusion_slerp.reports.data import Subject, gather
from fusion_slerp.reports.page import page

MAX_NAME = 60
"""Characters of the models' names in a report's default name."""


def report(
    *models: Named,
    base: Named | None = None,
    out: Named | None = None,
    figures: Named | None = None,
    evaluation: Named | None = None,
    quick: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Path:
    """Writes a report as one HTML file that needs no network, and returns its path.

    Args:
        models: A merged model's folder, a sweep's folder, or two models or more that are to be compared.
        base: The common ancestor of models that are compared: angles and norms are then those of their
            differences from it.
        out: The file. None takes a name after the models in the current folder, as `child-report.html`.
        figures: A folder for the pictures as SVG, and as PNG with the extra `figures`; None draws none.
        evaluation: A file that `fusion_slerp evaluate` wrote with `-o`; None takes `evaluation.json` in the
            merged model's folder, if there is one.
        quick: Read no weights of a merged model: its norms are left out, and angles that the merge did not
            take.
        overwrite: Replace files that exist.
        progress: Called with the bytes read and the bytes in all.

    Raises:
        SettingsError: There is nothing to show.
        CheckpointError: A model cannot be opened.
        OutputError: A file cannot be written, or exists.
    """
    names = tuple(str(os.fspath(each)) for each in models)
    if not names:
        raise Problem(SettingsError, "nothing to report on", (), "name a merged model, or two models").error()
    target = target_of(names, out, overwrite)
    subject = Subject(
        names,
        None if base is None else os.fspath(base),
        None if evaluation is None else os.fspath(evaluation),
        quick,
    )
    if figures is None:
        return write_page(gather(subject, progress), target, overwrite)
    from fusion_slerp.reports.figures import check_folder, write_figures

    folder = check_folder(figures)
    data = gather(subject, progress)
    write_figures(data, folder, overwrite)
    return write_page(data, target, overwrite)


def target_of(models: tuple[str, ...], out: Named | None, overwrite: bool) -> Path:
    """Returns the file that a report will be written to.

    Raises:
        OutputError: It exists, or its folder does not.
    """
    target = Path(default_name(models)) if out is None else user_path(out, OutputError)
    if target.is_dir():
        raise _cannot_write(
            target, "it is a folder", f"use {setting('out', str(target / default_name(models)))}"
        )
    if os.path.lexists(target) and not overwrite:
        raise _exists(target)
    if not target.absolute().parent.is_dir():
        raise _cannot_write(target, "its folder does not exist", "name a file in a folder that exists")
    return target


def default_name(models: tuple[str, ...]) -> str:
    """Returns the name of the report on some models."""
    own = "-".join(public_name(os.path.abspath(os.path.expanduser(each))) for each in models)
    return f"{own[:MAX_NAME]}-report.html"


def write_page(data: Mapping[str, Any], target: Path, overwrite: bool = False) -> Path:
    """Writes the page of a report and returns its path; see `write_file`."""
    return write_file(target, utf8(page(data)), overwrite)


def write_file(target: Path, content: bytes, overwrite: bool) -> Path:
    """Writes a file that appears complete or not at all, and returns its path.

    Raises:
        OutputError: It exists and is not to be replaced, or the system refuses.
    """
    beside = next(
        name for i in count() if not os.path.lexists(name := target.with_name(f".{target.name}.{i}.tmp"))
    )
    try:
        with beside.open("xb") as stream:
            stream.write(content)
        if overwrite:
            beside.replace(target)
        else:
            os.link(beside, target)  # fails if the file exists by now
    except FileExistsError:
        raise _exists(target) from None
    except OSError as error:
        raise _cannot_write(target, error.strerror or str(error), "free space, or write elsewhere") from None
    finally:
        with suppress(OSError):
            beside.unlink()
    return target


def _exists(target: Path) -> OutputError:
    fields = (("file", absolute_text(target)), ("found", "it exists"))
    fix = f"use {setting('overwrite', True)} to replace it"
    return Problem(OutputError, "the report is not written over a file", fields, fix).error()  # type: ignore[return-value]


def _cannot_write(target: Path, found: str, fix: str) -> OutputError:
    fields = (("file", absolute_text(target)), ("found", found))
    return Problem(OutputError, "the report cannot be written", fields, fix).error()  # type: ignore[return-value]
