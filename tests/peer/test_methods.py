"""Every other method of mergekit that we have: parameters of every tensor, and every element, beside its own.

The models are float32, and mergekit reads them as such: no two of their differences have one magnitude, so
that no choice among equal ones is left to its sort.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fusion_slerp import merge
from fusion_slerp.recipes import Recipe, parse_recipe, to_mergekit
from fusion_slerp.recipes.mergekit_methods import COUNTERPARTS
from tests.models import tokenizer_json, write_json
from tests.peer.mergekit_command import filled, read, run_recipes

pytestmark = pytest.mark.peer

N_LAYERS = 4
NAMES = ("BASE", "A", "B", "C")
NOISE = 2.0**-19
"""Of mergekit's float32, as a part of the largest element that takes part: a few roundings."""


def listed(**parameters: dict[str, Any]) -> str:
    return f"models: {json.dumps([{'model': m, 'parameters': p} for m, p in parameters.items()])}"


GRADIENT = [0.2, 0.8]
FILTERS = [{"filter": "mlp", "value": [0.9, 0.3]}, {"filter": "norm", "value": 0.5}, {"value": 0.6}]
WEIGHTS = listed(A={"weight": 0.5}, B={"weight": GRADIENT}, C={"weight": FILTERS})
SPARSE_ONE = listed(A={"weight": 1, "density": 0.4})
DENSE = listed(
    A={"weight": 0.5, "density": 0.5},
    B={"weight": GRADIENT, "density": [0.9, 0.2]},
    C={"weight": 0.4, "density": FILTERS},
)
WHOLE = listed(A={"weight": 0.5}, B={"weight": GRADIENT}, C={"weight": 0.4, "density": 1})
PLAIN = "models: [{model: A}, {model: B}, {model: C}]"
SLICES = """slices:
  - sources:
      - {model: A, layer_range: [0, 3], parameters: {weight: [0.2, 0.8]}}
      - {model: BASE, layer_range: [0, 3]}
      - {model: B, layer_range: [0, 3], parameters: {weight: 0.5}}
  - sources:
      - {model: BASE, layer_range: [1, 4]}
      - {model: A, layer_range: [2, 4], parameters: {weight: 0.3}}
      - {model: B, layer_range: [2, 4], parameters: {weight: [{filter: mlp, value: 1}, {value: 0.1}]}}
parameters: {normalize: false}
""".replace("BASE, layer_range: [1, 4]", "BASE, layer_range: [2, 4]")

RECIPES = {
    "task_arithmetic": [
        WEIGHTS,
        f"{WEIGHTS}\nparameters: {{normalize: true, lambda: 0.7}}",
        SLICES,
        "modules: {default: {models: [{model: A}, {model: BASE}, {model: B}], parameters: {weight: 0.6}}}",
        f"{WEIGHTS}\ndtype: float32\nout_dtype: bfloat16",
    ],
    "ties": [
        DENSE,
        f"{DENSE}\nparameters: {{normalize: false, lambda: 1.25, int8_mask: true}}",
        f"{DENSE}\nparameters: {{rescale: true}}",
        WHOLE,
    ],
    "breadcrumbs": [f"{DENSE}\nparameters: {{gamma: 0.1}}", DENSE],
    "breadcrumbs_ties": [f"{DENSE}\nparameters: {{gamma: [0, 0.2], normalize: true}}", DENSE],
    "dare_linear": [WHOLE],
    "dare_ties": [WHOLE],
    "della": [WHOLE],
    "della_linear": [WHOLE],
    "sce": [PLAIN, f"{PLAIN}\nparameters: {{select_topk: 0.4}}"],
    "ram": [PLAIN, f"{PLAIN}\nparameters: {{epsilon: 0.02}}"],
    "ramplus_tl": [f"{PLAIN}\nparameters: {{epsilon: 0.02}}", f"{PLAIN}\nparameters: {{r: 0.5, alpha: 1}}"],
    "nearswap": ["models: [{model: A}]\nparameters: {t: [0.001, 0.02]}"],
    "multislerp": [
        WEIGHTS,
        f"{WEIGHTS}\nbase_model: null",
        f"{WEIGHTS}\nparameters: {{normalize_weights: false}}\nbase_model: null",
    ],
    "karcher": [f"{PLAIN}\nbase_model: null\nparameters: {{max_iter: 400, tol: 1e-12}}"],
    "model_stock": [PLAIN, f"{PLAIN}\nparameters: {{filter_wise: true}}"],
    "nuslerp": [
        "models: [{model: A, parameters: {weight: 0.7}}, {model: B, parameters: {weight: 0.3}}]",
    ],
    "passthrough": [
        "models: [{model: A, parameters: {scale: [{filter: o_proj, value: [0.5, 2]}, {value: 1}]}}]\n"
        "base_model: null",
        "slices: [{sources: [{model: A, layer_range: [0, 3]}]}, {sources: [{model: B, layer_range: [1, 4]}]}]"
        "\nbase_model: null\nparameters: {scale: 1.5}",
    ],
}
"""Recipes by method, without merge_method; the base is BASE, unless they say that there is none."""

CASES = {
    f"{name} {i}": (name, text)
    for name, texts in RECIPES.items()
    if name in COUNTERPARTS and (name != "nuslerp" or COUNTERPARTS[name].takes_base)
    for i, text in enumerate(texts)
}

RANDOM = {
    f"{name}, random": (name, SPARSE_ONE)
    for name in ("dare_linear", "dare_ties", "della", "della_linear")
    if name in COUNTERPARTS
}
"""One generator of mergekit draws for all tensors in turn: its masks are others at every run."""


@dataclass(frozen=True)
class Case:
    """A recipe, and the child by both programs.

    Attributes:
        recipe: As we read it.
        sources: Tensors of its models and base, by label.
        our_values: By tensor, the values of options that vary.
        their_values: By tensor, mergekit's parameters.
        of_ours: mergekit's, for the recipe as `to_mergekit` writes it.
        ours: Our child: weights, and types.
        theirs: mergekit's.
        n_layers: As the config of each says.
    """

    recipe: Recipe
    sources: dict[str, dict[str, np.ndarray]]
    our_values: dict[str, Any]
    their_values: dict[str, Any]
    of_ours: dict[str, Any]
    ours: tuple[dict[str, np.ndarray], dict[str, str]]
    theirs: tuple[dict[str, np.ndarray], dict[str, str]]
    n_layers: tuple[int, int]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """Llama models: a base, and three that differ from it in one direction and each in its own."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder = tmp_path_factory.mktemp("models")
    config = LlamaConfig(
        vocab_size=6,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(11)
    base = AutoModelForCausalLM.from_config(config)
    common = {name: 0.03 * torch.randn(tensor.shape) for name, tensor in base.state_dict().items()}
    found = {}
    for name in NAMES:
        model = AutoModelForCausalLM.from_config(config)
        for key, tensor in model.state_dict().items():
            own = common[key] + 0.04 * torch.randn(tensor.shape)
            tensor.copy_(base.state_dict()[key] + (0 if name == "BASE" else own))
        found[name] = str(folder / name)
        model.save_pretrained(found[name])
        write_json(Path(found[name], "tokenizer.json"), tokenizer_json())
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
        write_json(Path(found[name], "tokenizer_config.json"), settings)
    return found


def content_of(method: str, text: str) -> dict[str, Any]:
    content = {"merge_method": method, "base_model": "BASE", **yaml.safe_load(text)}
    return {key: value for key, value in content.items() if value is not None}


@pytest.fixture(scope="module")
def cases(models, tmp_path_factory) -> dict[str, Case]:
    """All recipes, run by both programs."""
    folder = tmp_path_factory.mktemp("children")
    jobs = {
        str(folder / f"{i}-theirs"): filled(content_of(*case), models)
        for i, case in enumerate((CASES | RANDOM).values())
    }
    recipes = {out: parse_recipe(given) for out, given in jobs.items()}
    rewritten = {f"plan {out}": yaml.safe_load(to_mergekit(recipe)) for out, recipe in recipes.items()}
    planned = run_recipes(jobs | rewritten, folder / "jobs.json")
    found = {}
    for name, (out, recipe) in zip(CASES | RANDOM, recipes.items(), strict=True):
        ours = Path(out.replace("theirs", "ours"))
        result = merge(*recipe.models, base=recipe.base, out=ours, **recipe.options)
        configs = (json.loads(Path(each, "config.json").read_text()) for each in (ours, out))
        found[name] = Case(
            recipe,
            {label: read(model)[0] for label, model in recipe.named.items()},
            {row.name: row.values for row in result.report},
            planned[out],
            planned[f"plan {out}"],
            read(ours),
            read(out),
            tuple(config["num_hidden_layers"] for config in configs),
        )
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_values_of_every_tensor_are_mergekits(cases, name):
    method, _ = CASES[name]
    case = cases[name]
    assert case.our_values.keys() == case.their_values.keys()
    for key, theirs in case.their_values.items():
        for parameter in COUNTERPARTS[method].parameters:
            ours = case.our_values[key].get(parameter.option)
            if not parameter.is_per_model:
                if ours is not None:  # t
                    assert ours == theirs, key
                    continue
                value = case.recipe.options.get(parameter.option, parameter.default)
                given = theirs["shared"][parameter.name]
                assert parameter.values.get(given, given) == value
            elif method == "nuslerp":
                assert ours == pytest.approx(theirs, abs=1e-15)
            else:
                of_theirs = {model: own[parameter.name] for model, own in theirs["models"].items()}
                label_of = {model: label for label, model in case.recipe.named.items()}
                values = {label_of[model]: value for model, value in of_theirs.items()}
                shown = {label: 1.0 if value is None else value for label, value in values.items()}
                assert {label: ours[label] for label in shown} == shown, key


@pytest.mark.parametrize("name", CASES)
def test_mergekit_reads_what_we_write(cases, name):
    case = cases[name]
    if CASES[name][0] == "karcher":
        return  # the steps, which ours does without
    of_ours, theirs = case.of_ours, case.their_values
    if CASES[name][0] == "nuslerp":
        assert of_ours == pytest.approx(theirs, abs=1e-15)
        return
    assert {key: without_masks(each) for key, each in of_ours.items()} == {
        key: without_masks(each) for key, each in theirs.items()
    }


def without_masks(value: Any) -> Any:
    """Parameters without the type of masks, which changes no value; a scale of None is 1."""
    if not isinstance(value, dict):
        return value
    rest = {key: without_masks(each) for key, each in value.items() if key != "int8_mask"}
    return {key: 1.0 if each is None else each for key, each in rest.items()}


@pytest.mark.parametrize("name", CASES)
def test_types_and_layers_are_mergekits(cases, name):
    case = cases[name]
    assert case.n_layers[0] == case.n_layers[1]
    assert case.ours[1] == case.theirs[1]


@pytest.mark.parametrize("name", CASES)
def test_every_element_is_mergekits(cases, name):
    """As far as mergekit's float32 is exact, and where its t is inside [0, 1]."""
    case = cases[name]
    for key, ours in case.ours[0].items():
        theirs = case.theirs[0][key]
        noise = NOISE if case.ours[1][key] == "float32" else 2.0**-8
        if case.recipe.options.get("granularity") == "row":
            opposed = rows_that_disagree(case, key)
            assert np.array_equal(ours[opposed], case.sources["base"][key][opposed])
            ours, theirs = ours[~opposed], theirs[~opposed]
        assert abs(ours - theirs).max() <= noise * max(abs(ours).max(), abs(theirs).max()), key


def rows_that_disagree(case: Case, key: str) -> np.ndarray:
    """Rows whose task vectors have a negative mean cosine: mergekit extrapolates beyond the base there."""
    base = case.sources["base"][key]
    if base.ndim < 2:
        return np.zeros(len(base), bool)
    steps = [case.sources[label][key].astype(float) - base for label in "abc"]
    units = [step / np.linalg.norm(step, axis=1, keepdims=True) for step in steps]
    cosines = [(units[i] * units[j]).sum(axis=1) for i, j in ((0, 1), (0, 2), (1, 2))]
    return np.mean(cosines, axis=0) < 0


@pytest.mark.parametrize("name", RANDOM)
def test_random_masks_have_mergekits_statistics(cases, name):
    """As many differences are kept, as many of them large, and their magnitudes have the sum of all."""
    case = cases[name]
    shares, sums = [], []
    for child in (case.ours[0], case.theirs[0]):
        kept, large, of_child, of_model = 0, 0, 0.0, 0.0
        for key, base in case.sources["base"].items():
            difference = abs(case.sources["a"][key] - base)
            is_kept = child[key] != base
            kept += int(is_kept.sum())
            large += int((is_kept & (difference > np.median(difference))).sum())
            of_child += float(abs(child[key] - base).sum())
            of_model += float(difference.sum())
        n = sum(base.size for base in case.sources["base"].values())
        shares.append((kept / n, large / kept))
        sums.append(of_child / of_model)
    assert abs(shares[0][0] - 0.4) < 0.03
    assert np.abs(np.subtract(*shares)).max() < 0.04
    assert sums == pytest.approx([1, 1], abs=1e-5)
