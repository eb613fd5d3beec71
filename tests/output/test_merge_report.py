"""merge_report.json: what happened to each tensor, and why; in every format."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fusion_slerp import merge
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.output.merge_report import read_report, report_text
from fusion_slerp.vocabulary.rows import RowCounts
from tests.models import tiny_tensors, write_checkpoint
from tests.samples.merges import FORMAT1


def rows_of(folder: Path) -> dict[str, dict]:
    return read_report(folder / "merge_report.json")


def explained(folder: Path) -> dict[str, tuple[str, str | None]]:
    return {name: (row["action"], row.get("why")) for name, row in rows_of(folder).items()}


# --- the text -------------------------------------------------------------------------------------------

REPORTS = (
    TensorReport(
        "x.weight",
        "slerp",
        12,
        {"t": 0.3},
        angle_deg=90.0,
        norms={"a": 1.5, "b": 2.0},
        rows=RowCounts(3, {"b": 1}, 2),
        digest="ab",
    ),
    TensorReport("y.weight", "linear", 4, {"weight": {"a": 0.4, "b": 0.4, "c": 0.2}}),
    TensorReport("z.weight", "lerp: zero vector", 4, {"t": 0.3}, norms={"a": 0.0, "b": 2.0}),
    TensorReport("ids", "copy if equal", 4, {"t": 0.3}, why="integer"),
    TensorReport("bias", "copy c", 4, {"weight": {"c": 1.0}}, why="owner"),
)

ROWS = [
    {
        "name": "x.weight",
        "action": "slerp",
        "t": 0.3,
        "n_elements": 12,
        "angle_deg": 90.0,
        "norms": {"a": 1.5, "b": 2.0},
        "rows": {"merged": 3, "copied": {"b": 1}, "filled": 2},
    },
    {"name": "y.weight", "action": "linear", "weight": {"a": 0.4, "b": 0.4, "c": 0.2}, "n_elements": 4},
    {
        "name": "z.weight",
        "action": "lerp",
        "why": "zero vector",
        "t": 0.3,
        "n_elements": 4,
        "norms": {"a": 0.0, "b": 2.0},
    },
    {"name": "ids", "action": "copy if equal", "why": "integer", "t": 0.3, "n_elements": 4},
    {"name": "bias", "action": "copy c", "why": "owner", "weight": {"c": 1.0}, "n_elements": 4},
]


def test_a_row_has_the_values_of_the_method_and_norms_by_label():
    content = json.loads(report_text(REPORTS))
    assert list(content) == ["format", "tensors"]
    assert content["format"] == 2
    for row, expected in zip(content["tensors"], ROWS, strict=True):
        assert row == expected
        assert list(row)[:2] == ["name", "action"]


def test_a_report_has_a_line_for_each_tensor(tmp_path):
    text = report_text(REPORTS)
    assert text.count("\n") == len(REPORTS) + 5
    (tmp_path / "report").write_text(text)
    assert list(read_report(tmp_path / "report").values()) == ROWS


def test_norms_of_format_1_get_their_labels():
    rows = rows_of(FORMAT1.folder / "models/merged")
    assert rows["model.norm.weight"] == {
        "name": "model.norm.weight",
        "action": "slerp",
        "t": 0.25,
        "n_elements": 8,
        "angle_deg": 116.81173222005056,
        "norms": {"a": 0.08916395974276914, "b": 0.11075318354056386},
    }
    assert rows["model.layers.1.mlp.up_proj.weight"] == {
        "name": "model.layers.1.mlp.up_proj.weight",
        "action": "copy b",
        "why": "values",
        "t": 1.0,
        "n_elements": 96,
    }


def test_rows_of_format_1_get_their_labels():
    rows = rows_of(FORMAT1.folder / "models/united")["model.embed_tokens.weight"]
    assert rows["rows"] == {"merged": 4, "copied": {"a": 2, "b": 2}, "filled": 2}
    assert rows["norms"].keys() == {"a", "b"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"tensors": 1}', '{"tensors": [1]}', '{"tensors": [{"name": []}]}', "null"]
)
def test_a_report_that_cannot_be_read_is_empty(tmp_path, text):
    (tmp_path / "report").write_text(text)
    assert read_report(tmp_path / "report") == {}
    assert read_report(tmp_path / "none") == {}


# --- what a merge writes --------------------------------------------------------------------------------


def test_the_report_tells_what_happened_to_each_tensor_and_why(tmp_path):
    base = tiny_tensors(1)
    other = tiny_tensors(2) | {
        "lm_head.weight": base["lm_head.weight"] * np.float32(1.5),
        "model.embed_tokens.weight": -base["model.embed_tokens.weight"],
        "model.norm.weight": np.zeros(4, np.float32),
    }
    a, b = (write_checkpoint(tmp_path / n, tensors=t) for n, t in (("a", base), ("b", other)))
    result = merge(a, b, out=tmp_path / "child", t=0.25)
    assert explained(tmp_path / "child") == {
        "lm_head.weight": ("lerp", "nearly parallel"),
        "model.embed_tokens.weight": ("lerp", "nearly opposite"),
        "model.layers.0.mlp.up_proj.weight": ("slerp", None),
        "model.norm.weight": ("lerp", "zero vector"),
    }
    rows = rows_of(tmp_path / "child")
    for report in result.report:
        row = rows[report.name]
        assert (row["t"], row["n_elements"]) == (0.25, report.n_elements)
        assert (row["norms"], row.get("angle_deg")) == (report.norms, report.angle_deg)


def test_copies_are_reported_with_whose_they_are_and_why(tmp_path, parents):
    for seed, folder in enumerate(parents):
        more = {"ids": np.arange(4, dtype=np.int32)} | (
            {"only.b.weight": np.ones(2, np.float32)} if seed else {}
        )
        save_file(tiny_tensors(seed) | more, folder / "model.safetensors", {"format": "pt"})
    t = [{"filter": "norm", "value": 1}, {"filter": "head", "value": 0}, {"value": 0.5}]
    merge(*parents, out=tmp_path / "child", t=t, missing="copy")
    assert explained(tmp_path / "child") == {
        "ids": ("copy if equal", "integer"),
        "lm_head.weight": ("copy a", "values"),
        "model.embed_tokens.weight": ("slerp", None),
        "model.layers.0.mlp.up_proj.weight": ("slerp", None),
        "model.norm.weight": ("copy b", "values"),
        "only.b.weight": ("copy b", "owner"),
    }


def test_a_tensor_without_an_entry_says_so(tmp_path, parents):
    merge(*parents, out=tmp_path / "child", t=[{"filter": "norm", "value": 0.5}])
    rows = explained(tmp_path / "child")
    assert rows.pop("model.norm.weight") == ("slerp", None)
    assert set(rows.values()) == {("copy a", "no entry")}


def test_weights_of_three_models_are_reported_by_label(tmp_path, parents):
    c = write_checkpoint(tmp_path / "models/c", seed=3)
    merge(*parents, c, out=tmp_path / "child", method="linear", weight={"a": 0.5, "b": 0.25, "c": 0.25})
    for row in rows_of(tmp_path / "child").values():
        assert row["action"] == "linear"
        assert row["weight"] == {"a": 0.5, "b": 0.25, "c": 0.25}
