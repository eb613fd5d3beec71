"""How the samples were merged, and where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).with_name("format1")

FAKE_FOLDER = "/models"
"""Where the journal of the unfinished merge says that its parents are."""

WRITTEN_NS = 1_700_000_000_000_000_000
"""When it says that the parents' files were written."""

UNFINISHED = "sharded"
"""The merge of which the unfinished one is the first part."""

MERGES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "merged": (
        "plays",
        "code",
        {"t": [{"filter": "mlp", "value": [0, 1]}, {"filter": "norm", "value": 0.25}, {"value": 0.5}]},
    ),
    "sharded": (
        "plays",
        "code",
        {"t": 0.3, "max_shard_size": 900, "dtype": "float16", "granularity": "row", "checksum": "sha256"},
    ),
    "united": (
        "plays",
        "songs",
        {"t": 0.4, "tokenizer": "union", "pad_vocab_to_multiple_of": 10, "checksum": "blake3"},
    ),
}
"""The finished children: parents a and b, and options."""
