"""Models of earlier merges, to offer them again, and the speed of the last large one.

They are kept in `$XDG_STATE_HOME/fusion_slerp/recent.json`, by default below `~/.local/state`. If the file
cannot be read or written, nothing is remembered and no error is raised.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fusion_slerp.paths import xdg_folder

MOST = 9
"""The number of models that are remembered: one digit chooses one."""

TIMED_NBYTES = 100_000_000
"""The time of a merge that moves less depends on the start more than on the disk."""


def state_file() -> Path:
    """The file that holds it."""
    return xdg_folder("XDG_STATE_HOME", ".local/state") / "recent.json"


def recent_models() -> list[str]:
    """Returns the models of earlier merges, the latest first, without local folders that are gone."""
    kept = _read().get("models")
    models = [model for model in kept if isinstance(model, str)] if isinstance(kept, list) else []
    return [model for model in models if not os.path.isabs(model) or os.path.isdir(model)][:MOST]


def measured_rate() -> float | None:
    """Returns the bytes per second, read and written, of the last large merge; None if none was timed."""
    rate = _read().get("bytes_per_s")
    return float(rate) if isinstance(rate, (int, float)) and 0 < rate < 1e15 else None


def remember(models: Iterable[str], nbytes: int, elapsed_s: float) -> None:
    """Remembers the models of a merge, and its rate if it was large enough to be meaningful.

    Args:
        models: As the user named them; folders are kept as absolute paths.
        nbytes: Bytes read and written.
        elapsed_s: Seconds that this took.
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
    except (OSError, ValueError, RuntimeError, RecursionError):  # RuntimeError: no home folder
        return {}
    return value if isinstance(value, dict) else {}
