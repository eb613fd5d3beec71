"""Merged models and sweeps for reports, made once."""

import os
from pathlib import Path

import pytest

import fusion_slerp
from tests.reports.made import (
    layer_reports,
    search_trials,
    sweep_record,
    write_child,
    write_evaluation,
    write_search,
    write_sweep,
)

DEMO = Path(fusion_slerp.__file__).parent / "demo"


@pytest.fixture(scope="session")
def demo_child(tmp_path_factory) -> Path:
    """A merge of two demo models, whose folders are next to it, with an evaluation."""
    folder = tmp_path_factory.mktemp("secret-folder")
    for name in ("plays", "code"):
        os.symlink(DEMO / name, folder / name, target_is_directory=True)
    options = {"t": [0.2, 0.8], "show_pbar": False}
    child = fusion_slerp.merge(folder / "plays", folder / "code", out=folder / "child", **options).out
    write_evaluation(child / "evaluation.json")
    return child


@pytest.fixture(scope="session")
def large_child(tmp_path_factory) -> Path:
    """A merge of two models of 72 billion parameters, in 723 tensors: its manifest and its report."""
    return write_child(tmp_path_factory.mktemp("large") / "Merged-72B", list(layer_reports(80)))


@pytest.fixture(scope="session")
def sweep_folder(tmp_path_factory) -> Path:
    """A sweep of t at eleven values."""
    return write_sweep(tmp_path_factory.mktemp("sweeps") / "sweep-of-t", sweep_record())


@pytest.fixture(scope="session")
def search_folder(tmp_path_factory) -> Path:
    """A search of t, with trials that were stopped and one that failed."""
    return write_search(tmp_path_factory.mktemp("searches") / "search-of-t", sweep_record(), search_trials())
