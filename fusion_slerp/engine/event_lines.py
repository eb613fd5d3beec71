"""Progress for programs: one JSON object a line on standard error, described in docs/progress.md."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any

from fusion_slerp.engine.tally import Tally
from fusion_slerp.paths import utf8

FORMAT = 1
"""The version of these lines. Fields and events may be added; a reader ignores those unknown to it."""


def write_event(event: str, **fields: Any) -> None:
    """Writes a line; if standard error is closed or full, it is lost, and no merge."""
    line = json.dumps({"format": FORMAT, "event": event, **fields}, ensure_ascii=False)
    with suppress(OSError, ValueError):
        sys.stderr.write(utf8(line).decode() + "\n")
        sys.stderr.flush()


def progress_fields(tally: Tally) -> dict[str, Any]:
    """Returns the fields of `progress`: bytes, by pass as well, rate and seconds left."""
    return {
        "pass": tally.doing,
        "subject": tally.subject,
        "done_bytes": tally.done,
        "total_bytes": tally.total,
        "passes": {name: {"done": each.done, "total": each.total} for name, each in tally.passes.items()},
        "bytes_per_s": _rounded(tally.rate),
        "left_s": _rounded(tally.left_s),
        "elapsed_s": _rounded(tally.elapsed_s),
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)
