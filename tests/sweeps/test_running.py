"""A whole sweep of real models: its points are those of separate merges and evaluations."""

from __future__ import annotations

import json

import pytest
import torch

import fusion_slerp
from fusion_slerp import FusionSlerpError, OutputError, SettingsError, merge
from fusion_slerp.evaluation.evaluator import Evaluator
from fusion_slerp.sweeps import running
from fusion_slerp.sweeps.preparing import prepare_sweep
from fusion_slerp.sweeps.record import FILE, read_record
from tests.models import contents

pytestmark = pytest.mark.usefixtures("one_thread")


def losses_of(folder, text):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = Evaluator({"words": text}).evaluate(model, AutoTokenizer.from_pretrained(folder))
    return found.scores["words"]["loss"]


def test_points_are_those_of_separate_merges(family, tmp_path):
    texts = {"words": family.text}
    record = fusion_slerp.sweep(
        family.a, family.b, vary={"t": "0:1:0.5"}, texts=texts, out=tmp_path / "sweep"
    )
    for label, folder in (("a", family.a), ("b", family.b)):
        assert record.parents[label]["words"]["loss"] == losses_of(folder, family.text)
    for point in record.points:
        child = merge(family.a, family.b, out=tmp_path / point.name, t=point.values["t"]).out
        assert point.scores["words"]["loss"] == pytest.approx(losses_of(child, family.text), abs=1e-6)
    ends = [record.points[0].differences["a"], record.points[2].differences["b"]]
    assert [end["average"]["value"] for end in ends] == pytest.approx([0, 0], abs=1e-6)
    assert read_record(tmp_path / "sweep") == record
    assert str(record).startswith("best t = ")


def test_a_finished_sweep_evaluates_nothing(family, tmp_path, monkeypatch):
    arguments = {"vary": {"t": [0, 1]}, "texts": {"words": family.text}, "out": tmp_path / "sweep"}
    record = fusion_slerp.sweep(family.a, family.b, **arguments)
    monkeypatch.setattr(Evaluator, "__init__", lambda *_, **__: pytest.fail("it evaluates"))
    assert fusion_slerp.sweep(family.a, family.b, **arguments) == record


def test_another_text_model_or_option_is_another_sweep(family, tmp_path):
    out = tmp_path / "sweep"
    given = {"vary": {"t": [0, 1]}, "texts": {"words": family.text}, "out": out, "max_tokens": 50}
    fusion_slerp.sweep(family.a, family.b, **given)
    other = tmp_path / "other.txt"
    other.write_text("to be")
    for change, part in (
        ({"texts": {"words": other}}, "texts.words"),
        ({"dtype": "bfloat16"}, "settings.dtype"),
        ({"max_tokens": 40}, "evaluation.max_tokens"),
    ):
        with pytest.raises(OutputError, match="the folder holds another sweep") as raised:
            fusion_slerp.sweep(family.a, family.b, **{**given, **change})
        assert part in str(raised.value)
    with pytest.raises(OutputError, match=r"places\.a"):
        fusion_slerp.sweep(family.b, family.a, **given)
    fusion_slerp.sweep(family.a, family.b, **given, batch_size=2)


def test_options_of_one_model_and_of_some_tensors(family):
    record = fusion_slerp.sweep(
        family.a,
        family.b,
        vary={"weight.b": [0, 1], "weight.mlp": [0.5, 2]},
        texts={"words": family.text},
        max_tokens=50,
        method="linear",
        normalize=False,
    )
    assert record.method == "linear"
    assert len({point.scores["words"]["loss"] for point in record.points}) == 4


def test_children_and_the_best_are_those_of_merge(family, tmp_path):
    given = {
        "vary": {"t": [0.25, 0.5]},
        "texts": {"words": family.text},
        "out": tmp_path / "sweep",
        "children": tmp_path / "children",
        "save_best": tmp_path / "best",
        "max_tokens": 100,
    }
    record = fusion_slerp.sweep(family.a, family.b, **given)
    for t in (0.25, 0.5):
        child = merge(family.a, family.b, out=tmp_path / f"t={t:g}", t=t).out
        assert contents(tmp_path / "children" / f"t={t:g}") == contents(child)
    best = contents(merge(family.a, family.b, out=tmp_path / "again/best", **record.best_point.values).out)
    assert contents(tmp_path / "best") == best
    before = contents(tmp_path / "best")
    assert fusion_slerp.sweep(family.a, family.b, **given) == record
    assert contents(tmp_path / "best") == before


def test_children_alone_need_no_text(family, tmp_path):
    record = fusion_slerp.sweep(family.a, family.b, vary={"t": [0, 1]}, children=tmp_path / "children")
    assert (record.points, record.parents, record.best) == ((), {}, None)
    assert sorted(path.name for path in (tmp_path / "children").iterdir()) == [".lock", FILE, "t=0", "t=1"]
    fusion_slerp.sweep(family.a, family.b, vary={"t": [0, 0.5, 1]}, children=tmp_path / "children")
    assert (tmp_path / "children/t=0.5/model.safetensors").is_file()


def test_children_of_somebody_else_are_not_taken_for_ours(family, tmp_path):
    merge(family.a, family.b, out=tmp_path / "children/t=0", t=0)
    given = {"vary": {"t": [0, 1]}, "children": tmp_path / "children", "out": tmp_path / "sweep"}
    with pytest.raises(OutputError, match="the output exists"):
        fusion_slerp.sweep(family.a, family.b, **given)
    assert not (tmp_path / "sweep").exists()
    fusion_slerp.sweep(family.a, family.b, **given, overwrite=True)


def test_everything_wrong_is_said_before_anything_is_read(family, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "run_sweep", lambda *_, **__: pytest.fail("it runs"))
    (tmp_path / "file").write_text("")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/notes").write_text("")
    cases = [
        (
            {"vary": {"t": "0.5:1.5:1", "epsilon": [0, 1]}},
            ["invalid t", "at: t = 1.5, epsilon = 0, t = 1.5, epsilon = 1"],
        ),
        ({"vary": {"t": [0]}, "texts": None}, ["nothing to do", "children='FOLDER'"]),
        (
            {"vary": {"t": [0]}, "texts": None, "children": "c", "save_best": "b"},
            ["without texts and tasks, no point is best"],
        ),
        ({"vary": {"t": [0]}, "mode": "least"}, ["invalid mode"]),
        ({"vary": {}}, ["needs an option to vary"]),
        (
            {"vary": {"t.selfattn": [0, 1]}, "out": tmp_path / "file"},
            ["2 problems", "self_attn", "is a file"],
        ),
        ({"vary": {"t": [0]}, "out": tmp_path / "sweep"}, ["something else than a sweep"]),
        ({"vary": {"t": [0]}, "texts": {"words": tmp_path / "none.txt"}}, ["a text cannot be read"]),
        ({"vary": {"t": [0]}, "stride": 0, "context_length": 1}, ["2 problems", "stride", "context_length"]),
    ]
    for change, parts in cases:
        with pytest.raises(FusionSlerpError) as raised:
            fusion_slerp.sweep(family.a, family.b, **{"texts": {"words": family.text}, **change})
        assert all(part in str(raised.value) for part in parts), str(raised.value)
    assert list((tmp_path / "sweep").iterdir()) == [tmp_path / "sweep/notes"]


def test_memory_of_the_plan_counts_the_model(family):
    texts = {"words": family.text}
    with_model = prepare_sweep([family.a, family.b], vary={"t": [0, 1]}, texts=texts)
    without = prepare_sweep([family.a, family.b], vary={"t": [0, 1]}, needs_evaluation=False)
    assert with_model.nbytes_resident == with_model.plan.nbytes_written
    assert without.nbytes_resident == 0
    assert with_model.peak_nbytes > without.peak_nbytes + with_model.nbytes_resident


def test_a_sweep_of_models_with_other_values_of_the_metric(family):
    given = {"vary": {"t": [0, 0.5, 1]}, "texts": {"words": family.text}, "max_tokens": 50}
    least, most = (fusion_slerp.sweep(family.a, family.b, **given, mode=mode) for mode in ("min", "max"))
    losses = [point.scores["average"]["loss"] for point in least.points]
    assert losses[least.best] == min(losses)
    assert losses[most.best] == max(losses)
    with pytest.raises(SettingsError):
        fusion_slerp.sweep(family.a, family.b, **given, tt=1)
    assert json.dumps(least.vary) == '{"t": [0.0, 0.5, 1.0]}'
