"""Reads the questions of the task `fusion_slerp_demo`, whose YAML names the function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def load(**metadata: Any) -> Any:
    """Returns the questions as a `datasets.DatasetDict` with the split `test`.

    Held in memory: a data set that is loaded from a file would be copied to the user's cache, and its path in
    the YAML would depend on the working directory.

    Args:
        **metadata: The harness's own, which says nothing about the questions.
    """
    from datasets import Dataset, DatasetDict

    lines = Path(__file__).with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    return DatasetDict({"test": Dataset.from_list([json.loads(line) for line in lines])})
