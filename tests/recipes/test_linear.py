"""mergekit's linear: weights per model, as our `weight`, and back."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp import SettingsError
from fusion_slerp.recipes import Recipe, from_hydra, parse_recipe, to_hydra, to_mergekit


def recipe_of(text: str) -> Recipe:
    return parse_recipe(yaml.safe_load(text), "recipe.yml")


def linear(models: str, more: str = "") -> Recipe:
    return recipe_of(f"merge_method: linear\nmodels: {models}\n{more}")


ABC = (
    "[{model: A, parameters: {weight: 1.0}}, {model: B, parameters: {weight: 0.3}}, "
    "{model: C, parameters: {weight: 1e-1}}]"
)


def options(recipe: Recipe) -> dict:
    """The options without those that every recipe has."""
    assert recipe.options["method"] == "linear"
    return {name: value for name, value in recipe.options.items() if name not in ("method", "tokenizer")}


# --- reading --------------------------------------------------------------------------------------------


def test_weights_of_each_model():
    recipe = linear(ABC)
    assert recipe == Recipe(
        ("A", "B", "C"), {"method": "linear", "weight": {"a": 1.0, "b": 0.3, "c": 0.1}, "tokenizer": "a"}
    )
    assert recipe.notes == (
        "linear without base_model: config, types and tokenizer are by default the first model's",
    )


def test_one_weight_for_all():
    recipe = linear("[{model: A}, {model: B}]", "parameters: {weight: [0, 1], normalize: false}")
    assert options(recipe) == {"weight": [0, 1], "normalize": False}


def test_the_base_is_a_where_it_is_one_of_the_models():
    recipe = linear(ABC, "base_model: C\ntokenizer_source: B")
    assert recipe.models == ("C", "A", "B")
    assert recipe.options["weight"] == {"b": 1.0, "c": 0.3, "a": 0.1}
    assert recipe.options["tokenizer"] == "c"
    assert recipe.notes == ()


def test_a_weight_that_no_filter_of_the_model_finds_is_looked_for_in_the_whole_recipe():
    recipe = linear(
        "[{model: A, parameters: {weight: [{filter: mlp, value: 0.25}]}}, {model: B}]",
        "parameters: {weight: [{filter: attn, value: [0, 1]}, {value: 0.5}]}",
    )
    whole = [{"filter": "attn", "value": [0, 1]}, {"value": 0.5}]
    assert options(recipe) == {"weight": {"a": [{"filter": "mlp", "value": 0.25}, *whole], "b": whole}}


def test_slices_have_the_weights_of_their_sources():
    recipe = recipe_of("""
merge_method: linear
slices:
  - sources:
      - {model: A, layer_range: [0, 4], parameters: {weight: 0.5}}
      - {model: B, layer_range: [4, 8], parameters: {weight: [{filter: mlp, value: 0.1}]}}
    parameters: {weight: 0.3}
  - sources:
      - {model: C, layer_range: [4, 6]}
parameters: {weight: 0.7}
dtype: float32
""")
    assert recipe.models == ("A", "B", "C")
    assert options(recipe) == {
        "weight": 0.7,
        "slices": [
            {
                "a": [0, 4],
                "b": [4, 8],
                "weight": {"a": 0.5, "b": [{"filter": "mlp", "value": 0.1}, {"value": 0.3}]},
            },
            {"c": [4, 6]},
        ],
        "dtype": "float32",
    }


@pytest.mark.parametrize(
    ("given_value", "found"), [("true", True), ("false", False), ("1.0", True), ("0", False)]
)
def test_normalize(given_value, found):
    assert linear(ABC, f"parameters: {{normalize: {given_value}}}").options["normalize"] is found


def test_what_mergekit_does_not_read_is_noted():
    recipe = linear(
        ABC.replace("weight: 0.3", "weight: 0.3, normalize: true"),
        "parameters: {t: 0.5, density: 1, int8_mask: true}\nbase_model: A",
    )
    assert recipe.notes == tuple(
        f"{place}: has no effect in mergekit's linear, nor here"
        for place in (
            "parameters.t",
            "parameters.density",
            "parameters.int8_mask",
            "models[1].parameters.normalize",
        )
    )


def test_weights_that_may_leave_tensors_out_are_noted():
    (note,) = linear("[{model: A, parameters: {weight: {filter: mlp, value: 1}}}]", "base_model: A").notes
    assert note.startswith("weight: no entry covers every name")


SLICED = "merge_method: linear\nparameters: {weight: 1}\nslices: "
WRONG = {
    "no weight": (
        "merge_method: linear\nmodels: [{model: A, parameters: {weight: 1}}, {model: B}]",
        "models[1].parameters.weight is missing",
        "set models[1].parameters.weight: 1.0",
    ),
    "base elsewhere": (
        f"merge_method: linear\nbase_model: D\nmodels: {ABC}",
        "base_model is not one of the models",
        "remove base_model",
    ),
    "twice": (
        "merge_method: linear\nmodels: [{model: A}, {model: A}]\nparameters: {weight: 1}",
        "models names one model twice",
        "name it once",
    ),
    "twice in a slice": (
        f"{SLICED}[{{sources: [{{model: A, layer_range: [0, 1]}}, {{model: A, layer_range: [1, 2]}}]}}]",
        "slices[0].sources names one model twice",
        "name it once",
    ),
    "a weight of no number": (
        f"merge_method: linear\nmodels: {ABC.replace('0.3', 'much')}",
        "invalid models[1].parameters.weight",
        "set models[1].parameters.weight: 0.5",
    ),
    "labels": (
        "merge_method: linear\nmodels: [{model: A}]\nparameters: {weight: {a: 1}}",
        "parameters.weight[0].a is not a key of mergekit",
        "remove it",
    ),
    "key of a model": (
        f"merge_method: linear\nmodels: {ABC.replace('weight: 0.3', 'wieght: 0.3')}",
        "models[1].parameters.wieght is not a key of a recipe (did you mean 'weight'?)",
        "correct",
    ),
    "normalize": (
        f"merge_method: linear\nmodels: {ABC}\nparameters: {{normalize: maybe}}",
        "invalid parameters.normalize",
        "set parameters.normalize: true",
    ),
    "normalize of one slice": (
        f"{SLICED}[{{sources: [{{model: A, layer_range: [0, 1]}}], parameters: {{normalize: false}}}}]",
        "slices[0].parameters.normalize: a value for a single slice is not supported",
        "set parameters.normalize: false",
    ),
    "a filter with the number of a layer that moved": (
        f"{SLICED}[{{sources: [{{model: A, layer_range: [1, 2], parameters: "
        "{weight: [{filter: layers.1., value: 1}, {value: 2}]}}]}]",
        "slices[0].sources[0].parameters.weight: a filter that selects other layers in mergekit",
        "leave the layer's number out",
    ),
    "typo": ("merge_method: linaer\n", "(did you mean 'linear'?)", "run this recipe with mergekit"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_names_its_key(name):
    text, headline, fix = WRONG[name]
    with pytest.raises(SettingsError) as caught:
        recipe_of(text)
    (problem,) = [each for each in caught.value.problems if headline in each.headline]
    assert fix in problem.fix
    assert all(each.fix for each in caught.value.problems)


def test_a_filter_with_a_number_is_fine_where_layers_keep_theirs():
    part = (
        "{sources: [{model: A, layer_range: [0, 2], parameters: {weight: [{filter: layers.1., value: 2}]}}]}"
    )
    assert recipe_of(f"{SLICED}[{part}]").options["slices"][0]["weight"]
    moved = part.replace("[0, 2]", "[3, 5]").replace("layers.1.", "experts.w1")
    assert recipe_of(f"{SLICED}[{moved}]").options["slices"][0]["weight"]


# --- there and back -------------------------------------------------------------------------------------

numbers = st.floats(-9, 9) | st.integers(-9, 9)
values = numbers | st.lists(numbers, min_size=1, max_size=4)
entries = st.fixed_dictionaries(
    {"value": values}, optional={"filter": st.sampled_from(["mlp", "attn", "a/b"])}
)
schedules = values | st.lists(entries, min_size=1, max_size=3)
complete = schedules.map(lambda value: value if is_complete(value) else [*value, {"value": 1}])


def is_complete(value: object) -> bool:
    entries = value if isinstance(value, list) else [value]
    return any("filter" not in each if isinstance(each, dict) else True for each in entries)


@st.composite
def recipes(draw):
    names = "abc"[: draw(st.integers(1, 3))]
    weight = draw(schedules | st.fixed_dictionaries(dict.fromkeys(names, complete)))
    found = {
        "method": "linear",
        "weight": weight,
        "tokenizer": draw(st.sampled_from([*names, "union", "x/y"])),
    }
    found |= draw(st.fixed_dictionaries({}, optional={"normalize": st.booleans()}))
    if draw(st.booleans()):
        own = st.fixed_dictionaries(dict.fromkeys(names, complete))
        parts = []
        for i in range(draw(st.integers(1, 3))):
            is_own = isinstance(weight, dict) or draw(st.booleans())
            parts.append(
                {label: [2 * i, 2 * i + 2] for label in names} | ({"weight": draw(own)} if is_own else {})
            )
        found["slices"] = parts
    if isinstance(weight, dict) and "slices" in found:
        del found["weight"]  # in mergekit a model has weights with its slices
    return Recipe(tuple(f"org/{name}" for name in names), found)


@given(recipes())
def test_converted_and_back_it_is_the_same_recipe(recipe):
    stated = recipe.options | {"weight": recipe.options.get("weight", 1.0)}
    expected = Recipe(recipe.models, stated)
    assert parse_recipe(yaml.safe_load(to_hydra(recipe))) == expected
    assert parse_recipe(yaml.safe_load(to_mergekit(recipe))) == expected


def test_weights_of_the_models_go_with_each_slice():
    whole = {"a": [{"filter": "mlp", "value": 1}, {"value": 2}], "b": 3}
    slices = [{"a": [0, 1], "b": [0, 1], "weight": {"a": [{"filter": "attn", "value": 4}]}}, {"b": [1, 2]}]
    text = to_mergekit(Recipe(("A", "B"), {"method": "linear", "weight": whole, "slices": slices}))
    written = yaml.safe_load(text)["slices"]
    assert [source.get("parameters") for part in written for source in part["sources"]] == [
        {"weight": [{"filter": "attn", "value": 4}, *whole["a"]]},
        {"weight": 3},
        {"weight": 3},
    ]


def test_a_model_without_a_weight_of_its_own_weighs_1():
    written = yaml.safe_load(to_mergekit(Recipe(("A", "B"), {"method": "linear", "weight": {"a": 0.5}})))
    assert [model["parameters"]["weight"] for model in written["models"]] == [0.5, 1.0]
    assert written["base_model"] == "A"


@pytest.mark.parametrize(
    ("more", "headline"),
    [
        ({"weight": {"a": [{"glob": "*", "value": 1}]}}, "weight[0]: a glob has no equivalent in mergekit"),
        ({"missing": "copy"}, "missing has no equivalent in mergekit"),
        (
            {"weight": [{"filter": "layers.1.", "value": 1}, {"value": 2}], "slices": [{"a": [1, 2]}]},
            "slices[0].weight: a filter that selects other layers",
        ),
    ],
)
def test_what_mergekit_cannot_say(more, headline):
    with pytest.raises(SettingsError) as caught:
        to_mergekit(Recipe(("A",), {"method": "linear", **more}))
    assert str(caught.value).startswith(headline)


def test_a_base_is_refused_rather_than_lost():
    recipe = Recipe(("A", "B"), {"method": "linear"}, "BASE")
    for write in (to_mergekit, to_hydra):
        with pytest.raises(SettingsError, match="linear takes no base without towards_base"):
            write(recipe)


# --- our form for Hydra ---------------------------------------------------------------------------------


def test_the_class_is_the_method():
    content = yaml.safe_load(to_hydra(Recipe(("A", "B", "C"), {"method": "linear", "tokenizer": "c"}), "out"))
    assert content["method"] == {
        "_target_": "fusion_slerp.LinearForCausalLM",
        "weight": 1.0,
        "model_save_path": "out",
    }
    assert content["modelpool"]["models"] == {"model_1": "A", "model_2": "B", "model_3": "C"}
    assert content["modelpool"]["tokenizer"] == "C"
    content["method"]["weight"] = {"a": "1e-1", "b": {"filter": "x", "value": 2}}
    recipe = from_hydra(content)
    assert recipe.models == ("A", "B", "C")
    assert recipe.options == {
        "method": "linear",
        "weight": {"a": 0.1, "b": [{"filter": "x", "value": 2}]},
        "tokenizer": "c",
    }


def test_options_of_another_method_are_refused():
    content = yaml.safe_load(to_hydra(Recipe(("A", "B"), {"method": "linear"})))
    content["method"]["t"] = 0.5
    with pytest.raises(SettingsError, match=r"method\.t is not a key of a recipe"):
        from_hydra(content)
