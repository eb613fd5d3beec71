"""Two tiny models with a text, which sweeps of a second merge and evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.models import save_transformers_model

WORDS = "to be or not to be ".split()


@dataclass(frozen=True)
class Family:
    """Models and a text.

    Attributes:
        a: A model.
        b: Another one of the same shape.
        text: A file with 600 words that both know.
    """

    a: Path
    b: Path
    text: Path


@pytest.fixture(scope="session")
def family(tmp_path_factory) -> Family:
    """Not to be written to."""
    folder = tmp_path_factory.mktemp("family")
    models = [
        save_transformers_model(folder / name, "llama", seed, "float32") for seed, name in enumerate("ab")
    ]
    text = folder / "words.txt"
    text.write_text(" ".join(WORDS * 100))
    return Family(models[0], models[1], text)
