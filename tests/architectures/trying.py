"""Tries everything with one architecture, and says in a word how it went."""

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fusion_slerp.errors import FusionSlerpError
from tests.architectures.building import Architecture
from tests.architectures.checks import check_equal, check_larger, check_permuted
from tests.architectures.slicing import DROPPED, REPEATED, check_sliced
from tests.architectures.subjects import NotBuilt, Subject, Wrong, in_a_line, prepare
from tests.architectures.variants import check_generates, check_heads, check_layouts, check_text

Check = Callable[[Subject], str | None]
"""Returns a remark, or None if there is nothing of its kind to try."""

CHECKS: dict[str, Check] = {
    "equal": check_equal,
    "permuted": check_permuted,
    "larger": check_larger,
    "repeated layers": partial(check_sliced, ranges=REPEATED, name="repeated"),
    "first layer dropped": partial(check_sliced, ranges=DROPPED, name="dropped"),
    "layouts": check_layouts,
    "heads": check_heads,
    "text model": check_text,
    "generates": check_generates,
}


def tried(architecture: Architecture, folder: Path) -> dict[str, str]:
    """Returns the outcome of each check: `ok`, `refused` or `wrong`; or why there is no model."""
    record = {"class": architecture.class_name}
    try:
        subject = prepare(architecture, folder)
    except NotBuilt as error:
        return record | {"not built": str(error)}
    try:
        outcomes = {name: outcome(check, subject) for name, check in CHECKS.items()}
        record |= {name: each for name, each in outcomes.items() if each is not None}
        return record if subject.inputs is not None else record | {"not run": subject.reason}
    finally:
        shutil.rmtree(folder)


def outcome(check: Check, subject: Subject) -> str | None:
    """Returns how a check went; None if there was nothing to try."""
    subject.remarks.clear()
    try:
        remark = check(subject)
    except FusionSlerpError as error:
        return f"refused: {_reason(error, subject.folder)}"
    except Wrong as error:
        return f"wrong: {error}"
    except Exception as error:  # a crash is an outcome as well
        return f"wrong: {in_a_line(error)}".replace(str(subject.folder), "")
    if remark is None:
        return None
    remarks = [*filter(None, [remark]), *subject.remarks]
    return f"ok: {'; '.join(remarks)}" if remarks else "ok"


def _reason(error: FusionSlerpError, folder: Path) -> str:
    """The headline and the fields of the first problem, without paths."""
    lines = [line.strip() for line in str(error.problems[0] if error.problems else error).splitlines()]
    told = [line for line in lines if not line.startswith("Fix:")]
    return re.sub(r"\s+", " ", "; ".join(told).replace(f"{folder}/", ""))[:400]
