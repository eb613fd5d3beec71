"""The demo models: a search finds what a sweep of 11 values finds, at half its cost or less."""

from pathlib import Path

import pytest

import fusion_slerp
from fusion_slerp.evaluation.evaluation import AVERAGE, difference, load

DEMO = Path(fusion_slerp.__file__).parent / "demo"
MODELS = DEMO / "plays", DEMO / "code"
TEXTS = {name: DEMO / "texts" / f"{name}.txt" for name in ("plays", "code")}

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "sweep"
    return fusion_slerp.sweep(*MODELS, vary={"t": "0:1:0.1"}, texts=TEXTS, out=folder), folder


@pytest.mark.parametrize("seed", range(3))
def test_the_best_of_the_grid_in_half_the_evaluations(grid, tmp_path, seed):
    record, folder = grid
    found = fusion_slerp.search(
        *MODELS, vary={"t": "0:1"}, texts=TEXTS, out=tmp_path, evaluations=4.5, sampler_seed=seed
    )
    assert found.n_evaluations <= len(record.points) / 2
    ours = load(tmp_path / "losses" / f"{found.best_point.name}.npz")
    theirs = load(folder / "losses" / f"{record.best_point.name}.npz")
    gap = difference(ours, theirs)[AVERAGE]
    assert gap.low <= 0, f"{found.best_point.values} is worse than {record.best_point.values} by {gap}"
