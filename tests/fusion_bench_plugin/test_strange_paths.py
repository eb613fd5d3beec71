"""Paths that the system refuses, in a configuration of FusionBench."""

from __future__ import annotations

import pytest
from fusion_bench.modelpool import CausalLMPool

from fusion_slerp import CheckpointError, OutputError, SlerpForCausalLM
from tests.models import write_checkpoint

PATHS = {
    "~nosuchuser/x": "no home folder for a path",
    "loop": "links lead in a circle|model not found",
    "loop/x": "links lead in a circle|model not found",
    "x" * 300: "cannot be created|model not found",
}


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    return [str(write_checkpoint(tmp_path / name, seed=seed)) for seed, name in enumerate("ab")]


def merge(models, out):
    pool = CausalLMPool(dict(zip("xy", models, strict=True)), tokenizer=None, enable_lazy_loading=True)
    return SlerpForCausalLM(t=0.5, model_save_path=out).run(pool)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:12])
def test_it_is_one_error(models, tmp_path, path):
    place = path if path.startswith("~") else str(tmp_path / path)
    with pytest.raises(OutputError, match=PATHS[path]):
        merge(models, place)
    with pytest.raises(CheckpointError, match=PATHS[path]):
        merge([place, models[1]], str(tmp_path / "child"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b", "loop"]
