"""mergekit's linear of one to eight models: the weight of every model in every tensor, and every element."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from fusion_slerp import merge
from fusion_slerp.recipes import Recipe, parse_recipe, to_mergekit
from tests.models import tokenizer_json, write_json
from tests.peer.mergekit_command import filled, read, run_recipes
from tests.reference import FORMATS, last_place, round_to

pytestmark = pytest.mark.peer

NAMES = "ABCDEFGH"
N_LAYERS = 4
READ_NARROWER = "read narrower"


def listed(**weights: object) -> str:
    """The part `models` of a recipe."""
    return f"models: {json.dumps([{'model': m, 'parameters': {'weight': w}} for m, w in weights.items()])}"


def slices(*ranges: str) -> str:
    """The part `slices`: of each, the layers of A and B with their weights."""
    return "slices: [" + ", ".join(f"{{sources: [{sources}]}}" for sources in ranges) + "]"


THREE = listed(A=0.5, B=0.3, C=1.7)
FILTERS = [{"filter": "mlp.up", "value": [0, 1]}, {"filter": "norm", "value": 0.25}, {"value": 0.75}]
RECIPES = {
    "two": ("float32", listed(A=0.7, B=0.3)),
    "two of 16 bits": ("bfloat16", listed(A=0.7, B=0.3)),
    "three": ("float32", THREE),
    "three of 16 bits": ("bfloat16", THREE),
    "eight": ("float32", listed(**{name: 0.1 + i / 10 for i, name in enumerate(NAMES)})),
    "eight of 16 bits": ("bfloat16", listed(**{name: 0.1 + i / 10 for i, name in enumerate(NAMES)})),
    "one weight for all eight": (
        "float32",
        f"models: [{', '.join(f'{{model: {name}}}' for name in NAMES)}]\nparameters: {{weight: 1}}",
    ),
    "not normalised": ("float32", f"{THREE}\nparameters: {{normalize: false}}"),
    "not normalised, of 16 bits": ("bfloat16", f"{THREE}\nparameters: {{normalize: false}}"),
    "a negative weight": ("float32", listed(A=1, B=-0.25, C=0.5)),
    "gradients": ("float32", listed(A=[1, 0.5], B=[0.25, 1, 0.25], C=0.5)),
    "one gradient for all": (
        "float32",
        "models: [{model: A}, {model: B}]\nparameters: {weight: [0.25, 1], normalize: false}",
    ),
    "filters": ("float32", listed(A=FILTERS, B=0.5, C=FILTERS[::2])),
    "what no filter of the model finds is the recipe's": (
        "float32",
        listed(A=FILTERS[:1], B=0.5)
        + "\nparameters: {weight: [{filter: attn, value: [0.1, 1]}, {value: 0.6}]}",
    ),
    "a base": ("float32", f"base_model: C\n{THREE}"),
    "stacked": (
        "float32",
        slices(
            "{model: A, layer_range: [0, 3], parameters: {weight: [0.2, 0.8]}}, "
            "{model: B, layer_range: [1, 4], parameters: {weight: 0.5}}",
            "{model: A, layer_range: [1, 4]}, {model: B, layer_range: [0, 3], parameters: {weight: [1, 3]}}",
        )
        + "\nparameters: {weight: 0.4}",
    ),
    "written wider": ("bfloat16", f"{THREE}\ndtype: float32"),
    "written narrower": ("float32", f"{THREE}\ndtype: float32\nout_dtype: bfloat16"),
    "float16": ("float32", f"{THREE}\ndtype: float32\nout_dtype: float16"),
    READ_NARROWER: ("float32", f"{THREE}\ndtype: bfloat16"),
    "one": ("float32", listed(A=0.3)),
    "one, scaled": ("float32", f"{listed(A=1.5)}\nparameters: {{normalize: false}}"),
}
"""By name: the type of the models, and the recipe without merge_method: linear."""


@dataclass(frozen=True)
class Case:
    """A recipe, and the child by both programs.

    Attributes:
        recipe: As we read it.
        sources: Tensors of its models, by label.
        our_weights: By tensor: the weight of each model, by label.
        their_weights: mergekit's.
        of_ours: mergekit's, for the recipe as `to_mergekit` writes it.
        ours: Our child: weights, and types.
        theirs: mergekit's.
        configs: config.json of both.
    """

    recipe: Recipe
    sources: dict[str, dict[str, np.ndarray]]
    our_weights: dict[str, dict[str, float]]
    their_weights: dict[str, dict[str, float]]
    of_ours: dict[str, dict[str, float]]
    ours: tuple[dict[str, np.ndarray], dict[str, str]]
    theirs: tuple[dict[str, np.ndarray], dict[str, str]]
    configs: tuple[dict, dict]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, dict[str, str]]:
    """By type: eight Llama models, similar to one another."""
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
    torch.manual_seed(7)
    first = AutoModelForCausalLM.from_config(config)
    found = {"float32": {}, "bfloat16": {}}
    for name in NAMES:
        model = AutoModelForCausalLM.from_config(config)
        for key, tensor in model.state_dict().items():
            tensor.copy_(first.state_dict()[key] + 0.05 * torch.randn(tensor.shape))
        for dtype, folders in found.items():  # in this order: the second rounds
            folders[name] = str(folder / dtype / name)
            model.to(getattr(torch, dtype)).save_pretrained(folders[name])
            write_json(Path(folders[name], "tokenizer.json"), tokenizer_json())
            settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
            write_json(Path(folders[name], "tokenizer_config.json"), settings)
    return found


@pytest.fixture(scope="module")
def cases(models, tmp_path_factory) -> dict[str, Case]:
    """All recipes, run by both programs."""
    folder = tmp_path_factory.mktemp("children")
    jobs = {
        str(folder / f"{i}-theirs"): filled({"merge_method": "linear", **yaml.safe_load(text)}, models[dtype])
        for i, (dtype, text) in enumerate(RECIPES.values())
    }
    recipes = {out: parse_recipe(given) for out, given in jobs.items()}
    rewritten = {f"plan {out}": yaml.safe_load(to_mergekit(recipe)) for out, recipe in recipes.items()}
    planned = run_recipes(jobs | rewritten, folder / "jobs.json")
    found = {}
    for name, (out, recipe) in zip(RECIPES, recipes.items(), strict=True):
        ours = Path(out.replace("theirs", "ours"))
        result = merge(*recipe.models, out=ours, **recipe.options)
        label_of = {model: label for label, model in recipe.named.items()}
        theirs, of_ours = (
            {
                key: {label_of[model]: value for model, value in weights.items()}
                for key, weights in planned[which].items()
            }
            for which in (out, f"plan {out}")
        )
        found[name] = Case(
            recipe,
            {label: read(model)[0] for label, model in recipe.named.items()},
            {row.name: dict(row.values["weight"]) for row in result.report},
            theirs,
            of_ours,
            read(ours),
            read(out),
            tuple(json.loads(Path(each, "config.json").read_text()) for each in (ours, out)),
        )
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_weights_of_every_model_are_mergekits(cases, name):
    assert cases[name].our_weights == cases[name].their_weights


@pytest.mark.parametrize("name", RECIPES)
def test_mergekit_reads_what_we_write(cases, name):
    assert cases[name].of_ours == cases[name].our_weights


@pytest.mark.parametrize("name", RECIPES)
def test_names_types_and_layers_are_mergekits(cases, name):
    ours, theirs = cases[name].configs
    assert cases[name].ours[1] == cases[name].theirs[1]
    assert ours["num_hidden_layers"] == theirs["num_hidden_layers"] == (6 if name == "stacked" else N_LAYERS)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != READ_NARROWER])
def test_every_element_is_mergekits(cases, name):
    """But for one rounding to the type, and in float32 for the roundings of mergekit's sum."""
    case = cases[name]
    for key, terms in terms_of(case).items():
        ours, theirs = case.ours[0][key], case.theirs[0][key]
        unit = np.ldexp(1.0, last_place(sum(terms), FORMATS[case.ours[1][key]]))
        assert (abs(ours - theirs) <= unit + noise(terms)).all(), key


@pytest.mark.parametrize("name", RECIPES)
def test_each_is_as_near_the_exact_sum_as_its_type_allows(cases, name):
    """Ours is rounded once; mergekit's from a sum in float32, and from what it has rounded on reading."""
    case = cases[name]
    for key, terms in terms_of(case).items():
        half = np.ldexp(0.5, last_place(sum(terms), FORMATS[case.ours[1][key]]))
        slack = 1e-15 * sum(map(abs, terms))
        assert (abs(case.ours[0][key] - sum(terms)) <= half + slack).all(), key
    rounded = FORMATS["bfloat16"] if name == READ_NARROWER else None
    for key, terms in terms_of(case, rounded).items():
        half = np.ldexp(0.5, last_place(sum(terms), FORMATS[case.theirs[1][key]]))
        assert (abs(case.theirs[0][key] - sum(terms)) <= half + noise(terms)).all(), key


def noise(terms: list[np.ndarray]) -> np.ndarray:
    """What mergekit's sum may be off: a rounding of each weight, product, sum, and of the quotient."""
    return 2.0**-24 * (len(terms) + 4) * sum(map(abs, terms))


def terms_of(case: Case, rounded=None) -> dict[str, list[np.ndarray]]:
    """The terms of every tensor's sum in float64, from the models' files."""
    parts = case.recipe.options.get("slices") or [{label: [0, N_LAYERS] for label in case.recipe.named}]
    layer_of = {label: [i for part in parts for i in range(*part[label])] for label in case.recipe.named}
    found = {}
    for key, weights in case.our_weights.items():
        total = sum(weights.values()) if case.recipe.options.get("normalize", True) else 1
        terms = []
        for label, weight in weights.items():
            there = re.sub(r"(?<=layers\.)\d+", lambda m, label=label: str(layer_of[label][int(m[0])]), key)
            source = case.sources[label][there]
            terms.append(weight / total * (source if rounded is None else round_to(source, rounded)))
        found[key] = terms
    return found


def test_what_is_read_narrower_differs(cases):
    """By design; docs/recipes.md names it."""
    case = cases[READ_NARROWER]
    unequal = sum(int((x != case.theirs[0][key]).sum()) for key, x in case.ours[0].items())
    assert unequal > 0.1 * sum(x.size for x in case.ours[0].values())
