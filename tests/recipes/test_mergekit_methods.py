"""mergekit's methods and ours: the table, and every parameter at every level, there and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_slerp import SettingsError
from fusion_slerp.methods import METHODS
from fusion_slerp.options import declaration, declared
from fusion_slerp.recipes import Recipe, from_hydra, parse_recipe, to_hydra, to_mergekit
from fusion_slerp.recipes.mergekit_methods import COUNTERPARTS, Counterpart, Parameter
from fusion_slerp.settings.merge_settings import make_settings

each_method = pytest.mark.parametrize("how", COUNTERPARTS.values(), ids=COUNTERPARTS)

SPECIAL = {"slerp", "nuslerp", "linear"}
"""Methods with tests of their own."""

SPARSE = ["dare_linear", "dare_ties", "della", "della_linear", "ties", "breadcrumbs", "breadcrumbs_ties"]


def field_of(how: Counterpart, parameter: Parameter) -> Any:
    return declared(how.method.options)[parameter.option]


def models_for(how: Counterpart, n: int = 2) -> list[str]:
    """The names of as many models as the method takes, at most n."""
    most = how.method.n_models[1]
    fewest = how.method.n_models[0]
    return list("ABCDE"[: max(fewest, n if most is None else min(n, most))])


def recipe_of(how: Counterpart, models: Iterable[object], **more: object) -> Recipe:
    base = {"base_model": "BASE"} if how.method.base == "needed" else {}
    return parse_recipe({"merge_method": how.name, **base, "models": list(models), **more}, "recipe.yml")


def listed(how: Counterpart, n: int = 2, **parameters: object) -> list[dict[str, object]]:
    """The models, each with its required parameters and those of the first."""
    required = {each.name: 1.0 for each in how.parameters if each.is_required and each.is_per_model}
    names = models_for(how, n)
    return [{"model": name, "parameters": required | (parameters if name == "A" else {})} for name in names]


def shared_required(how: Counterpart) -> dict[str, float]:
    return {each.name: 0.25 for each in how.parameters if each.is_required and not each.is_per_model}


def value_for(how: Counterpart, parameter: Parameter) -> Any:
    """A value of mergekit's that differs from its default and is valid here."""
    if parameter.values:
        return next(given for given, ours in parameter.values.items() if ours != parameter.default)
    about = declaration(field_of(how, parameter))
    if about.check.is_switch:
        return not parameter.default
    return next(
        number for number in (0.25, 0.5) if about.check.is_fine(number) and number != parameter.default
    )


# --- the table ------------------------------------------------------------------------------------------


@each_method
def test_every_parameter_is_an_option_of_our_method(how):
    own = declared(how.method.options)
    for parameter in how.parameters:
        about = declaration(own[parameter.option])
        if how.name != "nuslerp":
            assert parameter.is_per_model == about.is_per_model, parameter.name
        if not parameter.is_required and not about.is_schedule:
            assert about.check.is_fine(parameter.default)


@each_method
def test_what_a_recipe_leaves_open_has_mergekits_default(how):
    if how.name in SPECIAL:
        return
    options = recipe_of(how, listed(how), parameters=shared_required(how)).options
    own = make_settings(**options).parameters
    for parameter in how.parameters:
        if not parameter.is_required:
            assert getattr(own, parameter.option) == parameter.default, parameter.name


def test_defaults_of_normalize_and_rescale_are_mergekits():
    """As its registry states them."""
    table = {
        "task_arithmetic": (False, None),
        "ties": (True, False),
        "dare_linear": (False, True),
        "dare_ties": (False, True),
        "della": (True, True),
        "della_linear": (False, True),
        "breadcrumbs": (False, False),
        "breadcrumbs_ties": (False, False),
    }
    for name, defaults in table.items():
        if name in COUNTERPARTS:
            of = {each.name: each.default for each in COUNTERPARTS[name].parameters}
            assert (of["normalize"], of.get("rescale")) == defaults, name


# --- levels ---------------------------------------------------------------------------------------------


@each_method
def test_parameters_of_a_model(how):
    for parameter in (each for each in how.parameters if each.is_per_model and how.name != "nuslerp"):
        value = value_for(how, parameter)
        models = listed(how, **{parameter.name: [value, {"value": value}][:1]})
        options = recipe_of(how, models, parameters=shared_required(how)).options
        assert options[parameter.option]["a"] == [value]


@each_method
def test_parameters_of_the_module_and_the_recipe(how):
    """A model's own value counts before the module's, and the module's before the recipe's."""
    for parameter in (each for each in how.parameters if each.is_per_model and how.name != "nuslerp"):
        value = value_for(how, parameter)
        names = models_for(how)
        base = {"base_model": "BASE"} if how.method.base == "needed" else {}
        required = {each.name: 1.0 for each in how.parameters if each.is_required}
        module = {"models": [{"model": name} for name in names], "parameters": {parameter.name: value}}
        given = {"merge_method": how.name, **base, "modules": {"default": module}, "parameters": required}
        assert parse_recipe(given).options[parameter.option] == value
        module["models"][0]["parameters"] = {parameter.name: [{"filter": "mlp", "value": 0}]}
        own = parse_recipe(given).options[parameter.option]["a"]
        assert own == [{"filter": "mlp", "value": 0}, {"value": value}]


@each_method
def test_an_optional_value_that_no_filter_finds_is_the_default(how):
    for parameter in (each for each in how.parameters if each.is_per_model and not each.is_required):
        models = listed(how, **{parameter.name: [{"filter": "mlp", "value": 0}]})
        options = recipe_of(how, models, parameters=shared_required(how)).options
        assert options[parameter.option] == {
            "a": [{"filter": "mlp", "value": 0}, {"value": parameter.default}]
        }


@each_method
def test_values_for_the_whole_merge(how):
    for parameter in (each for each in how.parameters if not each.is_per_model):
        value = value_for(how, parameter)
        parameters = shared_required(how) | {parameter.name: value}
        base = {"base_model": "A"} if how.has_base_as_a else {}
        options = recipe_of(how, listed(how), parameters=parameters, **base).options
        assert options[parameter.option] == parameter.values.get(value, value)
        if declaration(field_of(how, parameter)).is_schedule:
            continue
        with pytest.raises(SettingsError, match="a value that varies is not supported"):
            recipe_of(how, listed(how), parameters=parameters | {parameter.name: [value, value]})
        with pytest.raises(SettingsError, match=f"invalid parameters.{parameter.name}"):
            recipe_of(how, listed(how), parameters=parameters | {parameter.name: "much"})
        noted = recipe_of(how, listed(how, **{parameter.name: value}), parameters=shared_required(how)).notes
        key = f"models[0].parameters.{parameter.name}"
        assert f"{key}: has no effect in mergekit's {how.name}, nor here" in noted


@each_method
def test_a_missing_required_parameter_is_named(how):
    for parameter in (each for each in how.parameters if each.is_required):
        key = f"models[0].parameters.{parameter.name}" if parameter.is_per_model else "parameters.t"
        base = {"base_model": "A"} if how.has_base_as_a else {}
        with pytest.raises(SettingsError) as caught:
            recipe_of(how, [{"model": name} for name in models_for(how)], **base)
        assert str(caught.value).startswith(f"{key} is missing")


@each_method
def test_what_has_no_effect_is_noted_and_what_nobody_knows_is_refused(how):
    base = {"base_model": "A"} if how.has_base_as_a else {}
    parameters = shared_required(how) | {"int8_mask": True, "embed_slerp": True}
    notes = recipe_of(how, listed(how), parameters=parameters, **base).notes
    for name in ("int8_mask", "embed_slerp"):
        assert f"parameters.{name}: has no effect in mergekit's {how.name}, nor here" in notes
    with pytest.raises(
        SettingsError, match=r"parameters\.densty is not a key .*\(did you mean 'density'\?\)"
    ):
        recipe_of(how, listed(how), parameters=shared_required(how) | {"densty": 1}, **base)


def test_the_steps_of_the_mean_are_noted():
    if "karcher" in COUNTERPARTS:
        how = COUNTERPARTS["karcher"]
        notes = recipe_of(how, listed(how), parameters={"max_iter": 100, "tol": 1e-9}).notes
        assert [note.partition(":")[0] for note in notes][1:] == ["parameters.max_iter", "parameters.tol"]


# --- the base -------------------------------------------------------------------------------------------

with_a_base = pytest.mark.parametrize(
    "how", [each for each in COUNTERPARTS.values() if each.takes_base], ids=lambda how: how.name
)
without_a_base = pytest.mark.parametrize(
    "how",
    [each for each in COUNTERPARTS.values() if each.method.base == "none" and not each.has_base_as_a],
    ids=lambda how: how.name,
)


@with_a_base
def test_the_base_may_be_listed_without_parameters(how):
    parameters = shared_required(how)
    apart = recipe_of(how, listed(how), base_model="BASE", parameters=parameters)
    among = [{"model": "BASE"}, *listed(how)]
    assert recipe_of(how, among, base_model="BASE", parameters=parameters) == apart
    assert apart.base == "BASE"
    assert apart.models == tuple(models_for(how))
    assert apart.options["tokenizer"] == "base"
    assert recipe_of(how, among, base_model="BASE", parameters=parameters, tokenizer_source="A").options[
        "tokenizer"
    ] == ("a")


@with_a_base
@pytest.mark.parametrize(
    ("models", "headline"),
    [
        (
            [{"model": "BASE", "parameters": {"weight": 1}}],
            "models[0].parameters: the base has no parameters",
        ),
        ([{"model": "BASE"}, {"model": "BASE"}], "models names the base twice"),
        ([{"model": "A"}], "models names one model twice"),
    ],
)
def test_a_base_that_is_refused(how, models, headline):
    with pytest.raises(SettingsError) as caught:
        recipe_of(how, [*models, *listed(how)], base_model="BASE", parameters=shared_required(how))
    assert any(headline in problem.headline for problem in caught.value.problems)


@with_a_base
def test_the_base_in_slices(how):
    names = models_for(how)
    required = {each.name: 0.5 for each in how.parameters if each.is_required}
    sources = [{"model": name, "layer_range": [0, 2]} for name in names]
    base = {"model": "BASE", "layer_range": [1, 3]}
    given = {"merge_method": how.name, "base_model": "BASE", "parameters": required}
    recipe = parse_recipe(given | {"slices": [{"sources": [base, *sources]}]})
    assert recipe.base == "BASE"
    (part,) = recipe.options["slices"]
    assert part["base"] == [1, 3]
    assert parse_recipe(yaml.safe_load(to_mergekit(recipe))) == recipe
    with pytest.raises(SettingsError, match=r"slices\[0\].sources lacks the base_model"):
        parse_recipe(given | {"slices": [{"sources": sources}]})
    with pytest.raises(SettingsError, match=r"base_model: a base for a single slice is not supported"):
        parse_recipe(given | {"slices": [{"sources": [base, *sources], "base_model": "A"}]})


@pytest.mark.parametrize(
    "how",
    [each for each in COUNTERPARTS.values() if each.method.base == "needed"],
    ids=lambda how: how.name,
)
def test_no_base_where_one_is_needed(how):
    with pytest.raises(SettingsError, match="base_model is missing"):
        recipe_of(how, listed(how), base_model=None, parameters=shared_required(how))
    with pytest.raises(SettingsError, match=f"{how.ours} needs a base"):
        to_hydra(Recipe(tuple(models_for(how)), {"method": how.ours}))


@without_a_base
def test_a_base_that_is_one_of_the_models(how):
    n = 1 if how.per_slice == 1 else 3
    base = models_for(how, n)[-1]
    assert recipe_of(how, listed(how, n), base_model=base).models[0] == base
    with pytest.raises(SettingsError, match="base_model is not one of the models"):
        recipe_of(how, listed(how, n), base_model="elsewhere")


@each_method
def test_fewer_models_than_the_method_merges(how):
    if how.has_base_as_a or how.method.n_models[0] < 2:
        return
    with pytest.raises(SettingsError, match=f"models does not fit {how.name}"):
        recipe_of(how, listed(how)[:1], parameters=shared_required(how))


def test_passthrough_stacks_slices_of_one_model_each():
    if "passthrough" not in COUNTERPARTS:
        return
    sources = [{"model": "A", "layer_range": [0, 24]}], [{"model": "B", "layer_range": [8, 32]}]
    given = {"merge_method": "passthrough", "slices": [{"sources": each} for each in sources]}
    recipe = parse_recipe(given)
    assert recipe.models == ("A", "B")
    assert recipe.options["slices"] == [{"a": [0, 24]}, {"b": [8, 32]}]
    with pytest.raises(SettingsError, match=r"slices\[0\].sources does not fit passthrough"):
        parse_recipe(
            given | {"slices": [{"sources": [sources[0][0], {"model": "B", "layer_range": [0, 24]}]}]}
        )


# --- there and back -------------------------------------------------------------------------------------


def numbers(how: Counterpart, parameter: Parameter) -> st.SearchStrategy[Any]:
    check = declaration(field_of(how, parameter)).check
    if check.is_switch:
        return st.booleans()
    if parameter.values:
        return st.sampled_from(list(parameter.values.values()))
    return st.sampled_from([each for each in (0.0, 0.125, 0.25, 1.0, 1.5, -0.5) if check.is_fine(each)])


def schedules(how: Counterpart, parameter: Parameter) -> st.SearchStrategy[Any]:
    """Schedules with a value for every name."""
    number = numbers(how, parameter)
    value = number | st.lists(number, min_size=1, max_size=3)
    entry = st.fixed_dictionaries({"value": value, "filter": st.sampled_from(["mlp", "attn"])})
    entries = st.lists(entry, min_size=1, max_size=2)
    return value | st.tuples(entries, value).map(lambda pair: [*pair[0], {"value": pair[1]}])


@st.composite
def recipes(draw, how: Counterpart):
    names = models_for(how, draw(st.integers(1, 3)))
    labels = "abcde"[: len(names)]
    has_base = how.method.base == "needed" or (how.takes_base and draw(st.booleans()))
    options: dict[str, Any] = {"method": how.ours, "tokenizer": draw(st.sampled_from(["a", "union", "x/y"]))}
    is_sliced = draw(st.booleans())
    of_slices = [*labels] if how.per_slice == 1 else [labels] * draw(st.integers(1, 2))
    more = ["base"] if has_base else []
    slices = [{label: [2 * i, 2 * i + 2] for label in [*own, *more]} for i, own in enumerate(of_slices)]
    for parameter in how.parameters:
        each = field_of(how, parameter)
        schedule = schedules(how, parameter)
        if not declaration(each).is_schedule:
            options[parameter.option] = draw(numbers(how, parameter))
        elif not declaration(each).is_per_model:
            options[parameter.option] = draw(schedule)
            for part in slices:
                part |= draw(st.fixed_dictionaries({}, optional={parameter.option: schedule}))
        elif is_sliced:
            options[parameter.option] = draw(schedule)
            for part in slices:
                own = st.fixed_dictionaries(
                    dict.fromkeys([label for label in part if label in labels], schedule)
                )
                part |= draw(st.fixed_dictionaries({}, optional={parameter.option: own}))
        else:
            by_label = st.fixed_dictionaries(dict.fromkeys(labels, schedule))
            options[parameter.option] = draw(schedule | by_label)
    options |= {"slices": slices} if is_sliced else {}
    return Recipe(tuple(f"org/{name}" for name in names), options, "org/BASE" if has_base else None)


@pytest.mark.parametrize(
    "how", [each for each in COUNTERPARTS.values() if each.name not in SPECIAL], ids=lambda how: how.name
)
@settings(max_examples=20)
@given(st.data())
def test_converted_and_back_it_is_the_same_recipe(how, data):
    recipe = data.draw(recipes(how))
    schedules = {
        name: each.default
        for name, each in declared(how.method.options).items()
        if declaration(each).is_schedule
    }
    stated = replace(recipe, options=schedules | recipe.options)
    assert parse_recipe(yaml.safe_load(to_hydra(recipe))) == stated
    assert parse_recipe(yaml.safe_load(to_mergekit(recipe))) == recipe


@with_a_base
def test_nuslerp_and_others_with_a_base_there_and_back(how):
    names = models_for(how)
    recipe = recipe_of(how, listed(how), base_model="BASE", parameters=shared_required(how))
    text = to_mergekit(recipe)
    assert yaml.safe_load(text)["merge_method"] == how.name
    assert parse_recipe(yaml.safe_load(text)).options == to_options(recipe)
    content = yaml.safe_load(to_hydra(recipe))
    assert list(content["modelpool"]["models"].values()) == [*names, "BASE"]
    assert content["modelpool"]["models"]["_pretrained_"] == "BASE"
    assert from_hydra(content).base == "BASE"


def to_options(recipe: Recipe) -> dict[str, Any]:
    return dict(recipe.options)


def test_a_base_of_the_pool_that_the_method_does_not_take():
    content = yaml.safe_load(to_hydra(Recipe(("A",), {"method": "passthrough"})))
    content["modelpool"]["models"]["_pretrained_"] = "BASE"
    with pytest.raises(SettingsError, match="_pretrained_: passthrough takes no base"):
        from_hydra(content)


@pytest.mark.parametrize("name", [name for name, each in METHODS.items() if each.base == "needed"])
def test_a_pool_without_the_base_that_the_method_needs(name):
    models = tuple("ABC"[: METHODS[name].n_models[0]])
    content = yaml.safe_load(to_hydra(Recipe(models, {"method": name}, "BASE")))
    del content["modelpool"]["models"]["_pretrained_"]
    with pytest.raises(SettingsError, match=r"modelpool\.models\._pretrained_ is missing"):
        from_hydra(content)


@pytest.mark.parametrize("name", METHODS)
def test_what_mergekit_does_not_have_is_refused_with_its_name(name):
    method = METHODS[name]
    models = tuple("ABC"[: method.n_models[0]])
    plain = Recipe(models, {"method": name}, "BASE" if method.base == "needed" else None)
    if all(how.ours != name for how in COUNTERPARTS.values()):
        with pytest.raises(SettingsError, match=f"the method {name} has no equivalent in mergekit"):
            to_mergekit(plain)
        return
    expressed = {each.option for how in COUNTERPARTS.values() for each in how.parameters if how.ours == name}
    for option, each in declared(method.options).items():
        example = declaration(each).example
        if option in (*expressed, "granularity", "DOT_THRESHOLD") or example == each.default:
            continue
        with pytest.raises(SettingsError, match=f"{option} has no equivalent in mergekit"):
            to_mergekit(replace(plain, options={**plain.options, option: example}))


PUBLISHED = """
base_model: meta-llama/Llama-3.1-8B
dtype: float16
merge_method: METHOD
modules:
  default:
    slices:
    - sources:
      - layer_range: [0, 32]
        model: org/code
        parameters: {density: 0.8, weight: 0.7}
      - layer_range: [0, 32]
        model: org/math
        parameters: {density: 0.7, weight: 0.5}
      - layer_range: [0, 32]
        model: meta-llama/Llama-3.1-8B
parameters: {lambda: 0.9, normalize: 1.0, int8_mask: 1.0}
"""
"""As mergekit writes recipes into the folders and cards of its merges."""


@pytest.mark.parametrize("name", [name for name in SPARSE if name in COUNTERPARTS])
def test_recipes_in_the_cards_of_published_merges(name):
    recipe = parse_recipe(yaml.safe_load(PUBLISHED.replace("METHOD", name)))
    assert recipe.models == ("org/code", "org/math")
    assert recipe.base == "meta-llama/Llama-3.1-8B"
    assert recipe.options == {
        "method": name,
        "scaling_factor": 0.9,
        "normalize": True,
        "slices": [
            {
                "a": [0, 32],
                "b": [0, 32],
                "base": [0, 32],
                "weight": {"a": 0.7, "b": 0.5},
                "density": {"a": 0.8, "b": 0.7},
            }
        ],
        "dtype": "float16",
        "tokenizer": "base",
    }


@pytest.mark.parametrize("name", [name for name in SPARSE if name in COUNTERPARTS])
def test_a_filter_with_a_layers_number_where_layers_are_renumbered(name):
    content = yaml.safe_load(PUBLISHED.replace("METHOD", name))
    (part,) = content["modules"]["default"]["slices"]
    for source in part["sources"]:
        source["layer_range"] = [8, 32]
    part["sources"][0]["parameters"]["density"] = [{"filter": "layers.9.", "value": 0.5}, {"value": 1}]
    with pytest.raises(SettingsError, match=r"density: a filter that selects other layers in mergekit"):
        parse_recipe(content)
