"""The comparison of methods on the demo models: every method is in it, and its errors are those of blocks."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fusion_slerp import plan_merge
from fusion_slerp.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
LEFT_OUT = "passthrough"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("compare_methods", ROOT / "examples/compare_methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_method_of_the_registry_is_compared_but_layer_stacking(script):
    assert {merge.method for merge in script.MERGES} == set(METHODS) - {LEFT_OUT}
    assert f"`{LEFT_OUT}`" in script.__doc__


def test_every_merge_has_a_plan(script):
    for merge in script.MERGES:
        base = {"base": script.SHIPPED / script.ANCESTOR} if merge.has_base else {}
        paths = [script.SHIPPED / name for name in merge.models]
        assert plan_merge(*paths, method=merge.method, **base, **merge.options).nbytes_written > 3_000_000


def test_every_merge_is_in_the_table_of_the_page(script):
    for merge in script.MERGES:
        assert f"\n| {merge} |" in PAGE


def test_the_mean_counts_texts_alike_and_its_error_is_that_of_blocks(script):
    blocks = {"long": torch.tensor([1.0, 2.0, 3.0, 2.0]).double(), "short": torch.tensor([5.0, 7.0]).double()}
    mean, error = script.mean_and_error(blocks)
    assert mean == (2 + 6) / 2
    variances = (2 / 3) / 4 + 2 / 2  # of each text's mean
    assert error == pytest.approx(math.sqrt(variances) / 2)


def test_a_difference_is_taken_block_by_block(script):
    reference = {"text": torch.tensor([1.0, 9.0]).double()}
    shifted = {"text": reference["text"] + 0.25}
    assert script.mean_and_error(script.difference(shifted, reference)) == (0.25, 0)


def test_the_ancestor_has_no_length_and_the_reference_has_length_one(script):
    plays, ancestor = script.SHIPPED / "plays", script.SHIPPED / "ancestor"
    blocks = {"text": torch.tensor([1.0, 2.0]).double()}
    assert script.length_of(ancestor, ancestor) == 0
    length = script.length_of(plays, ancestor)
    assert " 1.00 | 1.500 |" in script.row("plays", (length, blocks), None)
    assert " 0.50 | 1.500 |" in script.row("half", (length / 2, blocks), (length, blocks))


@pytest.mark.long
def test_the_table_of_one_method_on_the_first_tokens(script):
    head, rule, *rows = script.rows(script.SHIPPED, ["task_arithmetic"], max_tokens=200)
    assert head.count("|") == rule.count("|")
    assert {row.count("|") for row in rows} == {head.count("|")}
    assert [row.split(" | ")[0] for row in rows] == ["| `linear`", "| `task_arithmetic`", *["| none"] * 4]
    cells = [re.sub(r" ± .*", "", row.split(" | ")[-2]) for row in rows]
    assert all(2 < float(cell) < 7 for cell in cells)
