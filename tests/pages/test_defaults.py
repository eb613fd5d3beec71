"""The tutorial's table of settings: every key there is, with the default that it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
ROW = re.compile(r"^\| `([\w.]+)` \| .* \| `([^`]*)` \|$", re.MULTILINE)


def values_in(name: str) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(CONFIG / f"{name}.yaml"), resolve=False)
    assert isinstance(content, dict)
    return content


@pytest.fixture(scope="module")
def documented() -> dict[str, str]:
    tutorial = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    rows = ROW.findall(tutorial[: tutorial.index("## 4.")])
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def shipped() -> dict[str, Any]:
    """By key as on the command line: the values of `--config-name llm_slerp`, and those of `linear`."""
    own = values_in("llm_slerp")
    parts = {
        "method": values_in("method/fusion_slerp/linear_lm")
        | values_in("method/fusion_slerp/slerp_lm")
        | own["method"],
        "modelpool": values_in("modelpool/fusion_slerp/demo") | own.get("modelpool", {}),
        "taskpool": values_in("taskpool/fusion_slerp/perplexity_demo") | own.get("taskpool", {}),
    }
    flat = {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}
    models = flat.pop("modelpool.models")
    return flat | {f"modelpool.models.{key}": value for key, value in models.items()}


def test_documented_defaults_are_those_that_ship(documented):
    values = shipped()
    chosen = next(
        each for each in values_in("llm_slerp")["defaults"] if isinstance(each, dict) and "method" in each
    )
    assert documented.pop("method") == chosen["method"]
    for key, shown in documented.items():
        value = yaml.safe_load(shown) if not shown.startswith("$") else shown
        value = float(value) if isinstance(values[key], float) and isinstance(value, str) else value
        assert value == values[key], key


def test_every_setting_of_a_method_is_documented(documented):
    keys = {key for key in shipped() if key.startswith("method.") and not key.endswith("_target_")}
    assert keys == {key for key in documented if key.startswith("method.")}
