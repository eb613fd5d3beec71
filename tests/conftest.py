"""Fixtures that several test modules share."""

import os
from pathlib import Path

import hypothesis
import pytest

from tests.models import save_transformers_model, write_checkpoint

# The same examples in every run; no deadline, as a busy machine is no failure.
hypothesis.settings.register_profile("repository", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repository")


@pytest.fixture
def parents(tmp_path: Path) -> tuple[Path, Path]:
    """Two tiny checkpoints that belong together, `a` and `b`, alone in a folder of their own."""
    return write_checkpoint(tmp_path / "models/a", seed=1), write_checkpoint(tmp_path / "models/b", seed=2)


@pytest.fixture(scope="session")
def has_direct_io(tmp_path_factory) -> bool:
    """Whether the system and the file system of all temporary folders open files past the page cache."""
    if not hasattr(os, "O_DIRECT"):
        return False
    file = tmp_path_factory.mktemp("direct_io") / "file"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    except OSError:
        return False
    os.close(descriptor)
    return True


@pytest.fixture
def direct(has_direct_io: bool) -> None:
    """Skips a test where there is no direct I/O, before its other fixtures are made."""
    if not has_direct_io:
        pytest.skip("the temporary folder has no direct I/O")


@pytest.fixture(scope="session", params=["llama", "gpt2", "qwen2", "mixtral"])
def transformers_parents(request, tmp_path_factory) -> tuple[Path, Path]:
    """Two real transformers models of one family, in bfloat16; not to be written to."""
    folder = tmp_path_factory.mktemp(request.param)
    a = save_transformers_model(folder / "a", request.param, seed=1)
    return a, save_transformers_model(folder / "b", request.param, seed=2)
