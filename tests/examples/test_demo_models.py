"""The models in fusion_slerp/demo are a family: three fine-tunes of one ancestor that ships with them."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import fusion_slerp

DEMO = Path(fusion_slerp.__file__).parent / "demo"
FINE_TUNES = ("plays", "code", "manual")
FAMILY = ("ancestor", *FINE_TUNES)


def weights_of(name: str) -> np.ndarray:
    """All weights of a model as one float32 vector."""
    with safe_open(DEMO / name / "model.safetensors", framework="pt") as file:
        names = sorted(file.keys())
        return np.concatenate([file.get_tensor(each).float().numpy().ravel() for each in names])


def test_the_family_has_one_architecture_and_one_tokenizer():
    for file in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert len({(DEMO / name / file).read_bytes() for name in FAMILY}) == 1, file


def test_the_ancestor_is_nearer_to_each_fine_tune_than_any_other_fine_tune():
    weights = {name: weights_of(name) for name in FAMILY}
    steps = {name: weights[name] - weights["ancestor"] for name in FINE_TUNES}
    for a, b in combinations(FINE_TUNES, 2):
        apart = np.linalg.norm(weights[a] - weights[b])
        assert max(np.linalg.norm(steps[a]), np.linalg.norm(steps[b])) < apart
        cosine = steps[a] @ steps[b] / (np.linalg.norm(steps[a]) * np.linalg.norm(steps[b]))
        assert abs(cosine) < 0.5


@pytest.mark.parametrize("name", FAMILY)
def test_every_model_has_a_card_with_its_licence_and_its_history(name):
    card = (DEMO / name / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: mit\n")
    assert f"# fusion_slerp demo model: {name}\n" in card
    assert ("`../ancestor`" in card) == (name != "ancestor")
    assert json.loads((DEMO / name / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", FINE_TUNES)
def test_each_kind_of_text_has_a_held_out_part_and_licence_notes(name):
    assert 30_000 < (DEMO / f"texts/{name}.txt").stat().st_size < 60_000
    assert f"**`texts/{name}.txt`**" in (DEMO / "LICENSES.md").read_text(encoding="utf-8")
