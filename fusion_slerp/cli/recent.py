"""What the command remembers from run to run: folders to offer, and how fast this machine merged.

In `$XDG_STATE_HOME/fusion_slerp/recent.json`, or below `~/.local/state`. A file that cannot be read or
written is no failure: then nothing is remembered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

MOST = 9
"""Models that are remembered: each can be chosen by one digit."""

TIMED_NBYTES = 100_000_000
"""A merge that moves less says more of the start than of the disk."""


def state_file() -> Path:
    """Where it is kept."""
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path.home() / ".local" / "state"
    return base / "fusion_slerp" / "recent.json"


def recent_models() -> list[str]:
    """Returns the models of earlier merges, the last first; local folders only while they exist."""
    found = _read().get("models")
    texts = [text for text in found if isinstance(text, str)] if isinstance(found, list) else []
    return [text for text in texts if not os.path.isabs(text) or os.path.isdir(text)][:MOST]


def measured_rate() -> float | None:
    """Returns the bytes per second, read and written, of the last merge here; None if none was timed."""
    rate = _read().get("bytes_per_s")
    return float(rate) if isinstance(rate, (int, float)) and 0 < rate < 1e15 else None


def remember(models: Iterable[str], nbytes: int, elapsed_s: float) -> None:
    """Keeps the models of a merge, and its rate if it was large enough to tell.

    Args:
        models: What the user called them; folders are kept by their absolute paths.
        nbytes: Read and written.
        elapsed_s: In so many seconds.
    """
    with suppress(OSError, RuntimeError):
        names = [os.path.abspath(m) if os.path.isdir(m) else m for m in map(os.path.expanduser, models)]
        state = {**_read(), "models": list(dict.fromkeys([*names, *recent_models()]))[:MOST]}
        if nbytes >= TIMED_NBYTES and elapsed_s > 0:
            state["bytes_per_s"] = round(nbytes / elapsed_s)
        file = state_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.{os.getpid()}")
        new.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        new.replace(file)


def _read() -> dict[str, Any]:
    try:
        value = json.loads(state_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, RecursionError):  # RuntimeError: there is no home
        return {}
    return value if isinstance(value, dict) else {}
