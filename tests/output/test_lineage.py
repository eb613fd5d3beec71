"""Source models that are merges themselves are named in the card with their own source models and method."""

import json

import pytest

from fusion_slerp import merge
from fusion_slerp.output.lineage import MAX_MODELS, Lineage, lineage, public_name, sentence
from fusion_slerp.output.manifest import manifest_text
from fusion_slerp.output.model_card import card_parent
from fusion_slerp.settings.merge_settings import make_settings
from fusion_slerp.sources.opening import open_source
from tests.hostile.bounds import bounded
from tests.models import write_checkpoint

COMMIT = "0123456789" * 4


def with_manifest(folder, parents, **settings):
    text = manifest_text(parents, make_settings(**settings), {}, {})
    (folder / "merge_manifest.json").write_text(text)
    return folder


def test_a_merge_of_merges(tmp_path, parents):
    c = write_checkpoint(tmp_path / "models/c", seed=3)
    merge(*parents, out=tmp_path / "models/ab")
    merge(tmp_path / "models/ab", c, out=tmp_path / "models/abc", method="linear")
    text = (tmp_path / "models/abc/README.md").read_text()
    assert "\n\nModel a is itself a merge of `a` and `b` (method: slerp).\n\n" in text
    assert "Model b" not in text
    merge(c, tmp_path / "models/abc", out=tmp_path / "models/last")
    text = (tmp_path / "models/last/README.md").read_text()
    assert "\n\nModel b is itself a merge of `ab` and `c` (method: linear).\n\n" in text
    assert "Model a" not in text
    assert str(tmp_path) not in text


def test_models_of_the_hub_are_pinned(tmp_path):
    parents = {"a": {"model": "owner/x", "revision": COMMIT}, "b": {"model": "y", "revision": "main"}}
    assert lineage(with_manifest(tmp_path, parents), {}) == Lineage((f"owner/x@{COMMIT}", "y"), 2, "slerp")


def test_merges_of_other_programs_by_their_card(tmp_path):
    folder = write_checkpoint(tmp_path / "a")
    card = "---\nbase_model:\n- owner/x\n- /home/somebody/y\nlicense: mit\ntags: [merge]\n---\n# A\n"
    (folder / "README.md").write_text(card)
    parent = card_parent(open_source(folder))
    assert parent.lineage == Lineage(("owner/x", "y"), 2)
    assert parent.metadata["license"] == "mit"
    assert sentence("a", parent.lineage) == (
        "Model a is itself a merge of `owner/x` and `y` (according to its card)."
    )


@pytest.mark.parametrize("bases", ["owner/x", "[owner/x]", "{x: y}", "[[1], [2]]", "\n  - " + "x" * 3000])
def test_fine_tunes_and_nonsense_are_no_merges(tmp_path, bases):
    folder = write_checkpoint(tmp_path / "a")
    (folder / "README.md").write_text(f"---\nlicense: mit\nbase_model: {bases}\n---\n")
    parent = card_parent(open_source(folder))
    assert parent.lineage is None
    assert parent.metadata["license"] == "mit"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("owner/name-1.5_x", "owner/name-1.5_x"),
        ("plays", "plays"),
        ("/home/somebody/secret/plays/", "plays"),
        ("C:\\Users\\somebody\\plays", "plays"),
        ("~/models/plays", "plays"),
        ("a/b/c", "c"),
        ("a | b`](javascript:x)\n# <b>", "a_b_javascript_x_b_"),
        ("\x1b[2J\u202e", "_2J_"),
        ("///", "unknown"),
        ("", "unknown"),
        ("x" * 5000, "x" * 96),
    ],
)
def test_names_are_public_and_plain(name, shown):
    assert public_name(name) == shown


def test_many_models_are_counted(tmp_path):
    parents = {label: {"model": label} for label in ("a", "b", "base")} | {
        f"{x}{y}": {"model": "m"} for x in "abcdef" for y in "abcdefg"
    }
    made = lineage(with_manifest(tmp_path, parents), {})
    assert made is not None
    assert (len(made.models), made.n_models) == (MAX_MODELS, 45)
    assert " and 25 more (method: slerp)." in sentence("a", made)


def damaged(text):
    return text.replace("slerp", "linear")


@pytest.mark.parametrize(
    "change",
    [damaged, lambda text: text[:-9], lambda text: "[" * 90_000, lambda text: " " * 20_000_000 + text],
    ids=["changed", "cut", "deep", "large"],
)
def test_a_manifest_that_says_nothing_sound(tmp_path, change):
    with_manifest(tmp_path, {"a": {"model": "x"}, "b": {"model": "y"}})
    file = tmp_path / "merge_manifest.json"
    file.write_text(change(file.read_text()))
    with bounded():
        assert lineage(tmp_path, {}) is None


def test_a_manifest_of_another_shape(tmp_path):
    with_manifest(tmp_path, {"a": {"model": {"x": 1}}, "b": {"model": "y"}})
    assert lineage(tmp_path, {}) is None
    (tmp_path / "merge_manifest.json").write_text(json.dumps({"format": 99}))
    assert lineage(tmp_path, {}) is None
