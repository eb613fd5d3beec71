"""The recorded outcomes: `results.json` next to this file."""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("results.json")

Record = dict[str, str]
"""Of one architecture: its class, and the outcome of each check by name."""


def recorded() -> dict[str, Any]:
    """Returns the recorded versions, and the record of each architecture under `architectures`."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def write(results: dict[str, Record]) -> None:
    """Records outcomes with the versions that gave them."""
    import torch
    import transformers

    content = {
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
        "architectures": dict(sorted(results.items())),
    }
    FILE.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def not_built(record: Record) -> str | None:
    """Returns why there is no model, or None."""
    return record.get("not built")
