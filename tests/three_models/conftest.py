"""The models that the tests of this folder merge."""

from pathlib import Path

import pytest

from tests.models import write_checkpoint
from tests.three_models.models import N_LAYERS, tensors_of, weights_of


@pytest.fixture(scope="session")
def three(tmp_path_factory) -> list[Path]:
    """Three checkpoints of three layers; read-only."""
    folder = tmp_path_factory.mktemp("three")
    return [
        write_checkpoint(
            folder / name, tensors=tensors_of(seed), config={"num_hidden_layers": N_LAYERS}, n_shards=seed
        )
        for seed, name in enumerate("abc", 1)
    ]


@pytest.fixture
def beside(tmp_path, three) -> list[Path]:
    """Copies of the three in one folder, next to which a merged model is verified."""
    return [
        write_checkpoint(
            tmp_path / "models" / folder.name,
            tensors=weights_of(folder),
            config={"num_hidden_layers": N_LAYERS},
        )
        for folder in three
    ]
