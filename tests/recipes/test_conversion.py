"""Recipes from one form into the other and back, and our form for Hydra."""

from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp import SettingsError
from fusion_slerp.options import declaration
from fusion_slerp.recipes import Recipe, from_hydra, parse_recipe, read_recipe, to_hydra, to_mergekit
from fusion_slerp.settings.merge_settings import option_fields
from fusion_slerp.settings.schedule import parse_schedule

# --- there and back ---------------------------------------------------------------------------------------

numbers = st.floats(0, 1) | st.integers(0, 1)
values = numbers | st.lists(numbers, min_size=1, max_size=5)
words = st.text("abcdefghijklmnop_./-", min_size=1, max_size=12)
entries = st.fixed_dictionaries({"value": values}, optional={"filter": words})
schedules = values | st.lists(entries, min_size=1, max_size=3)


@st.composite
def a_slice(draw):
    n, in_a, in_b = draw(st.integers(0, 9)), draw(st.integers(0, 9)), draw(st.integers(0, 9))
    t = draw(st.none() | schedules)
    ranges = {"a": [in_a, in_a + n], "b": [in_b, in_b + n]}
    return ranges if t is None else ranges | {"t": t}


tokens = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable()),
    st.fixed_dictionaries(
        {
            "source": st.sampled_from(
                ["a", "b", {"kind": "zero"}, {"kind": "model_token", "model": "b", "token_id": 3}]
            )
        },
        optional={"force": st.booleans()},
    ),
    min_size=1,
    max_size=3,
)


@st.composite
def recipes(draw):
    models = draw(st.lists(words, min_size=2, max_size=2, unique=True))
    options = st.fixed_dictionaries(
        {"t": schedules, "tokenizer": st.sampled_from(["a", "b", "union", "some/other@v1"])},
        optional={
            "slices": st.lists(a_slice(), min_size=1, max_size=3),
            "dtype": st.sampled_from(["bfloat16", "float16", "float32", "float64"]),
            "tokens": tokens,
            "pad_vocab_to_multiple_of": st.integers(1, 128),
        },
    )
    return Recipe(tuple(f"org/{name}" for name in models), draw(options))


@given(recipes())
def test_converted_and_back_it_is_the_same_recipe(recipe):
    assert parse_recipe(yaml.safe_load(to_hydra(recipe))) == recipe
    assert parse_recipe(yaml.safe_load(to_mergekit(recipe))) == recipe


@given(recipes())
def test_without_a_threshold_it_is_nuslerp_and_back(recipe):
    t = recipe.options["t"]
    own = {"slices": [each | {"t": t} for each in recipe.options.get("slices", [])]}
    recipe = replace(recipe, options=recipe.options | {"DOT_THRESHOLD": 1.0} | (own if own["slices"] else {}))
    text = to_mergekit(recipe)
    assert "merge_method: nuslerp" in text
    assert in_entries(parse_recipe(yaml.safe_load(text))) == in_entries(recipe)


def in_entries(recipe: Recipe) -> Recipe:
    """The recipe with t as it is understood: one number and a list of it are the same."""
    slices = [each | {"t": parse_schedule(each["t"])} for each in recipe.options.get("slices", [])]
    return replace(
        recipe, options={**recipe.options, "t": parse_schedule(recipe.options["t"]), "slices": slices}
    )


def test_what_mergekit_cannot_say():
    base = {"t": 0.5, "tokenizer": "a"}
    for option, headline in (
        ({"vocab_fill": "mean"}, "vocab_fill has no equivalent in mergekit"),
        ({"t": [{"glob": "*", "value": 1}]}, "t[0]: a glob has no equivalent in mergekit"),
        (
            {"slices": [{"a": [0, 1], "b": [0, 1], "t": {"regex": "x", "value": 1}}]},
            "slices[0].t[0]: a regex",
        ),
    ):
        with pytest.raises(SettingsError) as caught:
            to_mergekit(Recipe(("A", "B"), base | option))
        assert str(caught.value).startswith(headline)
        assert from_hydra(yaml.safe_load(to_hydra(Recipe(("A", "B"), base | option)))).models == ("A", "B")
    text = to_mergekit(Recipe(("A", "B"), base | {"threads": 3}))
    assert text.startswith("# Without an equivalent in mergekit: threads=3\n")


def test_how_a_merge_is_run_is_left_out_and_said():
    """All options that do not change the merged model, as they are declared; and the size of its files."""
    given = {
        "threads": 3,
        "checksum": "sha256",
        "follow_links": True,
        "max_shard_size": "1GB",
        "overwrite": True,
    }
    text = to_mergekit(Recipe(("A", "B"), {"t": 0.5, "tokenizer": "a"} | given))
    assert text.startswith("# Without an equivalent in mergekit: ")
    said = text.splitlines()[0].partition(": ")[2].split(", ")
    assert sorted(said) == sorted(f"{name}={value!r}" for name, value in given.items())
    assert parse_recipe(yaml.safe_load(text)).options == {"t": 0.5, "tokenizer": "a"}
    for name, each in option_fields().items():
        if not declaration(each).changes_child:
            to_mergekit(Recipe(("A", "B"), {name: declaration(each).example}))


# --- our form for Hydra -----------------------------------------------------------------------------------

HYDRA = yaml.safe_load(to_hydra(Recipe(("A", "B"), {"t": 0.5, "tokenizer": "b"})))


def changed(key: str, value: object) -> dict:
    section, _, name = key.partition(".")
    return HYDRA | {section: HYDRA[section] | {name: value}} if name else HYDRA | {key: value}


@pytest.mark.parametrize(
    ("key", "value", "headline"),
    [
        ("defaults", ["x"], "defaults: only Hydra can compose them"),
        ("method", {"_target_": "fusion_bench.method.SimpleAverage"}, "invalid method._target_"),
        ("modelpool", None, "invalid modelpool._target_"),
        ("method.tt", 1, "method.tt is not a key of a recipe (did you mean 't'?)"),
        ("method.t", "${x}", "method.t: only Hydra can resolve this value"),
        ("modelpool.models", {"x": "A"}, "modelpool.models does not fit slerp"),
        ("modelpool.models", {"x": "A", "y": {"_target_": "f"}}, "modelpool.models.y is not a model"),
        ("modelpool.tokeniser", "A", "(did you mean 'tokenizer'?)"),
    ],
)
def test_configurations_that_are_refused(key, value, headline):
    with pytest.raises(SettingsError) as caught:
        from_hydra(changed(key, value))
    assert headline in str(caught.value)
    assert "\nFix: " in str(caught.value)


def test_configurations_of_other_shapes():
    entry = {"_target_": "transformers.AutoModelForCausalLM", "pretrained_model_name_or_path": "A"}
    models = {"one": entry | {"revision": "v1"}, "two": "B"}
    recipe = from_hydra(changed("modelpool.models", models))
    assert recipe == Recipe(("A@v1", "B"), {"t": 0.5, "tokenizer": "b"})
    assert from_hydra(changed("modelpool.tokenizer", None)).options["tokenizer"] == "union"
    assert from_hydra(changed("method.t", {"filter": "x", "value": "1e-3"})).options["t"] == [
        {"filter": "x", "value": 0.001}
    ]
    assert from_hydra(changed("method.model_save_path", "there")).notes != ()


def test_what_is_left_open_is_written_as_the_default():
    assert from_hydra(yaml.safe_load(to_hydra(Recipe(("A", "B"), {})))).options == {
        "t": 0.5,
        "tokenizer": "union",
    }
    assert parse_recipe(yaml.safe_load(to_mergekit(Recipe(("A", "B"), {})))).options["tokenizer"] == "union"


def test_numbers_as_hydra_reads_them(tmp_path):
    text = to_hydra(Recipe(("A", "B"), {"t": 0.5, "epsilon": 1e-8}))
    (tmp_path / "recipe.yaml").write_text(text.replace("1.0e-08", "1e-8"))
    assert read_recipe(tmp_path / "recipe.yaml").options["epsilon"] == 1e-8
