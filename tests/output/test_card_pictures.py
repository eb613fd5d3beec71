"""The pictures in cards: drawn from what a merge measured, left out where they say nothing."""

import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from fusion_slerp import merge, verify
from fusion_slerp.engine.report import TensorReport
from fusion_slerp.output.card_pictures import MAX_LAYERS, MAX_LINES, card_pictures
from tests.models import contents, write_checkpoint

NAMES = {"a": "plays", "b": "owner/code"}
KINDS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm")


def reports(n_layers=4, angle=7.0, prefix="model.layers.", **values):
    """A report for each tensor of a model: values are functions of the layer."""
    return [
        TensorReport(
            f"{prefix}{layer}.{kind}.weight",
            "slerp",
            100,
            {name: of_layer(layer) for name, of_layer in values.items()},
            angle_deg=None if angle is None else angle + layer,
        )
        for layer in range(n_layers)
        for kind in KINDS
    ]


def files(*given, **more):
    return [picture.file for picture in card_pictures(NAMES, reports(*given, **more))]


def shown(text):
    """The texts in a drawing."""
    return [each.text for each in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]


def test_the_angle_and_an_option_that_varies():
    angle, t = card_pictures(NAMES, reports(t=lambda layer: layer / 3))
    assert (angle.file, t.file) == ("images/angle.svg", "images/t.svg")
    assert angle.about.endswith(
        "of models a and b by layer and kind of module, each tensor taken as one vector: 7.00° to 10.00°."
    )
    assert "7.00° to 10.00°" in angle.description
    assert "plays (a) and owner/code (b)" in angle.svg
    named = {"q_proj", "o_proj", "up_proj", "input_layernorm"}
    assert named | {"0", "3", "7.00", "10.00"} <= set(shown(angle.svg))
    assert {"all modules", "0", "1", "layer"} <= set(shown(t.svg))


def test_what_says_nothing_is_left_out():
    assert files(t=lambda layer: 0.5) == ["images/angle.svg"]
    assert files(angle=None, t=lambda layer: layer) == ["images/t.svg"]
    assert files(1) == files(angle=None) == files(angle=None, t=lambda layer: 0.5) == files(0) == []
    assert files(MAX_LAYERS + 1) == []
    assert files(prefix="no.numbers") == []


def test_an_option_of_each_model_has_a_line_for_each():
    weights = reports(angle=None, weight=lambda layer: {"a": layer / 3, "b": 0.5})
    (picture,) = card_pictures(NAMES, weights)
    assert picture.file == "images/weight.svg"
    assert {"plays (a)", "owner/code (b)"} <= set(shown(picture.svg))


def test_lines_that_could_not_be_told_apart_are_left_out():
    def of_kinds(n):
        kinds = [(i, k) for i in (0, 1) for k in range(n)]
        return [TensorReport(f"layers.{i}.mlp.w{k}.weight", "x", 1, {"t": k}) for i, k in kinds]

    assert len(card_pictures(NAMES, of_kinds(MAX_LINES))) == 1
    assert card_pictures(NAMES, of_kinds(MAX_LINES + 1)) == []


def test_the_largest_stack_is_shown_and_empty_cells_are_explained():
    vision = reports(prefix="vision.layers.", angle=80.0)[:-4]
    language = [each._replace(n_elements=10_000) for each in reports(6)]
    language[0] = language[0]._replace(angle_deg=None)
    (picture,) = card_pictures(NAMES, [*vision, *language])
    assert picture.about.endswith("7.0° to 12.0°. Of empty cells, no angle was measured.")


def test_task_vectors_are_named():
    (picture,) = card_pictures({**NAMES, "base": "ancestor"}, reports())
    assert "between the differences of models a and b from the base" in picture.about


@pytest.mark.parametrize("n", [1, 100])
def test_names_of_strangers_cannot_break_a_picture(n):
    names = {"a": "</svg><script>x</script>" * n, "b": 'b" onload="x'}
    rows = [
        TensorReport(
            f'layers.{i}.<b>"{k}' * n + ".weight", "x", 1, {"weight": {"a": i, "b": k}}, angle_deg=9.0
        )
        for i in (0, 1)
        for k in (0, 1)
    ]
    for picture in card_pictures(names, rows):
        root = ET.fromstring(picture.svg)
        assert not [each for each in root.iter() if each.tag.endswith("script") or each.get("onload")]
        assert float(root.get("width", "")) <= 720


@pytest.fixture
def parents(tmp_path):
    """Two models of four layers."""
    config = {"num_hidden_layers": 4}
    return [write_checkpoint(tmp_path / "xy"[i], tensors=tensors(i), config=config) for i in (0, 1)]


def tensors(seed):
    generator = np.random.default_rng(seed)
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(4)]
    return {name: generator.standard_normal((8, 8)).astype(np.float32) for name in names}


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 3}, {"max_shard_size": 300}])
def test_a_merge_writes_them_and_the_card_embeds_them(parents, tmp_path, options):
    out = tmp_path / "child"
    merge(*parents, out=out, t=[0, 1], **options)
    card = (out / "README.md").read_text()
    for name in ("images/angle.svg", "images/t.svg"):
        assert f"]({name})\n" in card
        ET.fromstring((out / name).read_text())
    assert verify(out).ok
    once = contents(out)
    merge(
        *parents,
        out=out,
        t=[0, 1],
        threads=2,
        overwrite=True,
        **{k: v for k, v in options.items() if k != "threads"},
    )
    assert contents(out) == once


def test_verify_names_a_picture_that_was_changed(parents, tmp_path):
    merge(*parents, out=tmp_path / "child", t=[0, 1])
    (tmp_path / "child/images/t.svg").write_text("<svg/>")
    assert not verify(tmp_path / "child").ok
    shutil.rmtree(tmp_path / "child/images")
    assert not verify(tmp_path / "child").ok


def test_a_merge_of_a_merge_has_pictures_of_its_own(parents, tmp_path):
    merge(*parents, out=tmp_path / "one", t=[0, 1])
    merge(tmp_path / "one", parents[1], out=tmp_path / "two", t=0.5)
    assert [path.name for path in sorted((tmp_path / "two/images").iterdir())] == ["angle.svg"]
