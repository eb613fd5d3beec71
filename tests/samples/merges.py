"""How the samples of each format were merged, and where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAKE_FOLDER = "/models"
"""Where the journal of an unfinished merge says that its parents are."""

WRITTEN_NS = 1_700_000_000_000_000_000
"""When it says that the parents' files were written."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one format.

    Attributes:
        name: Of their folder.
        merges: The finished children by name: the models in their order, and options.
        unfinished: The merge of which the unfinished one is the first part.
        made_by: The version of fusion_slerp that made them.
    """

    name: str
    merges: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]]
    unfinished: str
    made_by: str = "0.1.0"

    @property
    def folder(self) -> Path:
        """Where they are."""
        return Path(__file__).with_name(self.name)


FORMAT1 = Samples(
    "format1",
    {
        "merged": (
            ("plays", "code"),
            {"t": [{"filter": "mlp", "value": [0, 1]}, {"filter": "norm", "value": 0.25}, {"value": 0.5}]},
        ),
        "sharded": (
            ("plays", "code"),
            {
                "t": 0.3,
                "max_shard_size": 900,
                "dtype": "float16",
                "granularity": "row",
                "checksum": "sha256",
            },
        ),
        "united": (
            ("plays", "songs"),
            {"t": 0.4, "tokenizer": "union", "pad_vocab_to_multiple_of": 10, "checksum": "blake3"},
        ),
    },
    "sharded",
)

FORMAT2 = Samples(
    "format2",
    {
        "merged": (
            ("plays", "code"),
            {"t": [{"filter": "mlp", "value": [0, 1]}, {"filter": "norm", "value": 0.25}, {"value": 0.5}]},
        ),
        "summed": (
            ("plays", "code", "tales"),
            {
                "method": "linear",
                "weight": {
                    "a": 0.5,
                    "b": [0.25, 0.75],
                    "c": [{"filter": "norm", "value": 0}, {"filter": "mlp", "value": [1, 0]}, {"value": 0.4}],
                },
                "dtype": "float16",
                "checksum": "sha256",
            },
        ),
        "united": (
            ("plays", "songs", "rhymes"),
            {
                "method": "linear",
                "weight": {"a": 0.5, "b": 0.3, "c": 0.9},
                "max_shard_size": 900,
                "pad_vocab_to_multiple_of": 10,
                "checksum": "blake3",
            },
        ),
    },
    "united",
    made_by="0.2.0",
)
