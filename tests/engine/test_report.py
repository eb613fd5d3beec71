"""Reports as plain values, and those that earlier versions wrote."""

import pytest

from fusion_slerp.engine.report import TensorReport, from_fields
from fusion_slerp.vocabulary.rows import RowCounts

REPORTS = [
    TensorReport("w", "slerp", 4, {"t": 0.3}, None, 60.0, {"a": 1.0, "b": 2.0}, digest="00"),
    TensorReport("w", "lerp: zero vector", 4, {"t": 0.3}, norms={"a": 0.0, "b": 2.0}),
    TensorReport("w", "copy b", 4, why="owner", rows=RowCounts(1, {"a": 2}, 3)),
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.rule)
def test_fields_become_the_same_report(report):
    assert from_fields(report.fields) == report


@pytest.mark.parametrize("suffix", ["", ", by row", ", by column"])
def test_the_old_name_of_a_rule_is_understood(suffix):
    old = TensorReport("w", f"lerp: null vector{suffix}", 4)
    assert from_fields(old.fields).rule == f"lerp: zero vector{suffix}"
