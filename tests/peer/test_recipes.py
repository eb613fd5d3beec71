"""Recipes as mergekit runs them: t of every tensor, and every weight, beside mergekit's own."""

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

READ_NARROWER = "read narrower"
FLOAT32_UNITS = 4
"""Of the last place of SLERP's two terms together: where they cancel, the sum has few digits left."""

LAZY_T = """[{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]},
      {value: 0.5}]"""
ALL = "slices: [{sources: [{model: A, layer_range: [0, 6]}, {model: B, layer_range: [0, 6]}]}]"
NUSLERP = """merge_method: nuslerp
models: [{model: A, parameters: {weight: 0.7}}, {model: B, parameters: {weight: 0.3}}]
parameters: """
MODELS = "models: [{model: A}, {model: B}]"
REVERSED = "models: [{model: B}, {model: A}]"
STACKED = """slices:
      - sources: [{model: A, layer_range: [0, 4]}, {model: B, layer_range: [0, 4]}]
      - sources: [{model: B, layer_range: [2, 6]}, {model: A, layer_range: [2, 6]}]"""

RECIPES = {
    "one t": ("near bfloat16", f"{MODELS}\nparameters: {{t: 0.5}}"),
    "one t, reversed list": ("near bfloat16", f"{REVERSED}\nparameters: {{t: 0.3}}"),
    "base left out of the list": ("near bfloat16", "models: [{model: B}]\nparameters: {t: 0.3}"),
    "LazyMergekit": ("near bfloat16", f"{ALL}\nparameters: {{t: {LAZY_T}}}\ndtype: bfloat16"),
    "LazyMergekit, large angles": ("far bfloat16", f"{ALL}\nparameters: {{t: {LAZY_T}}}\ndtype: bfloat16"),
    "LazyMergekit, embed_slerp": (
        "near bfloat16",
        f"{ALL}\nparameters: {{t: {LAZY_T}, embed_slerp: true}}\ndtype: torch.bfloat16",
    ),
    "gradient": ("near float32", f"{MODELS}\nparameters: {{t: [0, 1]}}"),
    "gradient, reversed list": ("far float32", f"{REVERSED}\nparameters: {{t: [0.1, 0.9, 0.2]}}"),
    "numbers as texts": ("near float32", f"{MODELS}\nparameters: {{t: [1e-3, '0.5', 1]}}"),
    "the first filter wins": (
        "near float32",
        f"{MODELS}\nparameters: {{t: [{{filter: layers.1, value: 0.1}}, {{filter: mlp.up, value: 1}}, "
        "{filter: embed_tokens, value: [0.3, 0.9]}, {filter: norm, value: [0.6, 0.4]}, {value: 0.4}]}",
    ),
    "stacked": ("near bfloat16", f"{STACKED}\nparameters: {{t: [0, 1]}}"),
    "stacked, large angles": ("far float32", f"{STACKED}\nparameters: {{t: {LAZY_T}}}"),
    "overlapping ranges of different layers, own t": (
        "near bfloat16",
        """slices:
      - sources: [{model: A, layer_range: [0, 3]}, {model: B, layer_range: [1, 4]}]
        parameters: {t: [{filter: mlp, value: [0, 1]}]}
      - sources: [{model: A, layer_range: [2, 5]}, {model: B, layer_range: [0, 3]}]
        parameters: {t: 0.25}
      - sources: [{model: A, layer_range: [5, 6]}, {model: B, layer_range: [5, 6]}]
        parameters: {t: [0.2, 0.8]}
parameters: {t: [0.9, 0.1]}""",
    ),
    "an empty last slice": (
        "near float32",
        f"""{STACKED}
      - sources: [{{model: A, layer_range: [6, 6]}}, {{model: B, layer_range: [6, 6]}}]
        parameters: {{t: 1}}
parameters: {{t: 0.4}}""",
    ),
    "a slice that counts from the other model": (
        "near float32",
        """slices:
      - sources: [{model: A, layer_range: [0, 3]}, {model: B, layer_range: [0, 3]}]
      - sources: [{model: A, layer_range: [3, 6]}, {model: B, layer_range: [3, 6]}]
        base_model: B
        parameters: {t: [{filter: mlp, value: [0, 0.25]}]}
parameters: {t: 0.375}""",
    ),
    "written wider": ("near bfloat16", f"{MODELS}\nparameters: {{t: 0.7}}\ndtype: float32"),
    "written narrower": (
        "near float32",
        f"{MODELS}\nparameters: {{t: {LAZY_T}}}\ndtype: float32\nout_dtype: bfloat16",
    ),
    "float16": ("near float32", f"{MODELS}\nparameters: {{t: 0.7}}\ndtype: float32\nout_dtype: float16"),
    READ_NARROWER: ("near float32", f"{MODELS}\nparameters: {{t: 0.7}}\ndtype: bfloat16"),
    "nuslerp": (
        "far float32",
        "merge_method: nuslerp\nmodels: [{model: B, parameters: {weight: [3, 1]}}, "
        "{model: A, parameters: {weight: [1, 3]}}]",
    ),
    "nuslerp by rows": ("far float32", f"{NUSLERP}{{nuslerp_flatten: false}}"),
    "nuslerp by columns": ("near float32", f"{NUSLERP}{{nuslerp_flatten: false, nuslerp_row_wise: true}}"),
}
"""By name: the parents, and the recipe without merge_method: slerp and base_model: A."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> dict[str, dict[str, str]]:
    """Pairs of Llama models of 6 layers: near relatives (about 10 degrees), and strangers."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder = tmp_path_factory.mktemp("parents")
    config = LlamaConfig(
        vocab_size=6,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(5)
    one, stranger = (AutoModelForCausalLM.from_config(config) for _ in range(2))
    relative = AutoModelForCausalLM.from_config(config)
    for model in (one, stranger):
        for name, tensor in model.state_dict().items():
            if "norm" in name:
                tensor.add_(0.3 * torch.randn(tensor.shape))
    for name, tensor in relative.state_dict().items():
        tensor.copy_(one.state_dict()[name])
        tensor.add_(0.18 * tensor.std() * torch.randn(tensor.shape))
    found = {}
    for dtype in ("float32", "bfloat16"):  # in this order: the second rounds
        folders = {}
        for name, model in (("one", one), ("near", relative), ("far", stranger)):
            folders[name] = folder / dtype / name
            model.to(getattr(torch, dtype)).save_pretrained(folders[name])
            write_json(folders[name] / "tokenizer.json", tokenizer_json())
            settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
            write_json(folders[name] / "tokenizer_config.json", settings)
        for name in ("near", "far"):
            found[f"{name} {dtype}"] = {"A": str(folders["one"]), "B": str(folders[name])}
    return found


@dataclass(frozen=True)
class Child:
    """A child as one of the programs made it.

    Attributes:
        t: By tensor.
        weights: By tensor, as float64.
        dtypes: By tensor.
        n_layers: As its config says.
    """

    t: dict[str, float]
    weights: dict[str, np.ndarray]
    dtypes: dict[str, str]
    n_layers: int


@dataclass(frozen=True)
class Case:
    """A recipe, and the child by both programs.

    Attributes:
        recipe: As we read it.
        ours: Our child.
        theirs: mergekit's.
        t_of_ours: By tensor, mergekit's t for the recipe as `to_mergekit` writes it.
    """

    recipe: Recipe
    ours: Child
    theirs: Child
    t_of_ours: dict[str, float]


@pytest.fixture(scope="module")
def cases(pairs, tmp_path_factory) -> dict[str, Case]:
    """All recipes, run by both programs."""
    folder = tmp_path_factory.mktemp("children")
    jobs = {}
    for i, (pair, text) in enumerate(RECIPES.values()):
        given = yaml.safe_load(text)
        base = {} if "merge_method" in given else {"merge_method": "slerp", "base_model": "A"}
        jobs[str(folder / f"{i}-theirs")] = filled(base | given, pairs[pair])
    rewritten = {f"plan {out}": yaml.safe_load(to_mergekit(parse_recipe(jobs[out]))) for out in jobs}
    their_t = run_recipes(jobs | rewritten, folder / "jobs.json")
    found = {}
    for name, (theirs, given) in zip(RECIPES, jobs.items(), strict=True):
        ours = Path(theirs.replace("theirs", "ours"))
        recipe = parse_recipe(given, name)
        result = merge(*recipe.models, out=ours, **recipe.options)
        our_t = {row.name: row.values["t"] for row in result.report}
        made = child(ours, our_t), child(Path(theirs), their_t[theirs])
        found[name] = Case(recipe, *made, their_t[f"plan {theirs}"])
    return found


def child(folder: Path, t: dict[str, float]) -> Child:
    config = json.loads((folder / "config.json").read_text())
    return Child(t, *read(folder), config["num_hidden_layers"])


@pytest.mark.parametrize("name", RECIPES)
def test_t_of_every_tensor_is_mergekits(cases, name):
    ours, theirs = cases[name].ours, dict(cases[name].theirs.t)
    if name == "a slice that counts from the other model":
        for key in theirs:
            if any(part in key for part in (".3.", ".4.", ".5.", "model.norm", "lm_head")):
                theirs[key] = 1 - theirs[key]
    if name.startswith("nuslerp"):
        theirs = pytest.approx(theirs, abs=1e-15)
    assert ours.t == theirs


@pytest.mark.parametrize("name", RECIPES)
def test_mergekit_reads_what_we_write(cases, name):
    case = cases[name]
    assert case.t_of_ours == pytest.approx(case.ours.t, abs=1e-15)  # nuslerp's t is a quotient


@pytest.mark.parametrize("name", RECIPES)
def test_names_types_and_layers_are_mergekits(cases, name):
    ours, theirs = cases[name].ours, cases[name].theirs
    assert ours.dtypes == theirs.dtypes
    assert ours.n_layers == theirs.n_layers


@pytest.mark.parametrize("name", [name for name in RECIPES if name != READ_NARROWER])
def test_weights_are_mergekits(cases, name):
    """In types of 16 bits to one unit in the last place; in float32 as far as its float32 sums are right."""
    case = cases[name]
    for key, (terms, _) in slerps(case.recipe, case.ours.t).items():
        ours, theirs = case.ours.weights[key], case.theirs.weights[key]
        dtype = case.ours.dtypes[key]
        size = sum(map(abs, terms)) if dtype == "float32" else np.maximum(abs(ours), abs(theirs))
        units = np.ldexp(abs(ours - theirs), -last_place(size, FORMATS[dtype]))
        assert units.max() <= (FLOAT32_UNITS if dtype == "float32" else 1), key


def test_weights_of_16_bits_are_hardly_ever_unequal(cases):
    """docs/recipes.md has the counts: 7 of half a million."""
    pairs = [
        (case.ours.weights[key], case.theirs.weights[key])
        for name, case in cases.items()
        for key, dtype in case.ours.dtypes.items()
        if name != READ_NARROWER and dtype != "float32"
    ]
    assert sum(int((x != y).sum()) for x, y in pairs) <= 1e-4 * sum(x.size for x, _ in pairs)


@pytest.mark.parametrize("name", RECIPES)
def test_each_is_as_near_the_exact_value_as_its_sums_allow(cases, name):
    """Ours is rounded once from float64; mergekit's from float32, and from what it has rounded on reading."""
    case = cases[name]
    rounded = FORMATS["bfloat16"] if name == READ_NARROWER else None
    for child, inputs, noise in ((case.ours, None, 1e-13), (case.theirs, rounded, 1e-6)):
        for key, (terms, exact) in slerps(case.recipe, case.ours.t, inputs).items():
            half = np.ldexp(0.5, last_place(exact, FORMATS[child.dtypes[key]]))
            assert (abs(child.weights[key] - exact) <= half + noise * sum(map(abs, terms))).all(), key


def test_what_is_read_narrower_differs(cases):
    """By design; docs/recipes.md names it."""
    case = cases[READ_NARROWER]
    unequal = sum(int((case.ours.weights[key] != case.theirs.weights[key]).sum()) for key in case.ours.t)
    assert unequal > 0.1 * sum(weights.size for weights in case.ours.weights.values())


def slerps(recipe: Recipe, t: dict[str, float], rounded=None):
    """SLERP's two terms and their sum for every tensor of the child, in float64 from the parents' files."""
    a, b = (read(folder)[0] for folder in recipe.models)
    if rounded:
        a, b = ({key: round_to(value, rounded) for key, value in model.items()} for model in (a, b))
    parts = recipe.options.get("slices") or [{"a": [0, 6], "b": [0, 6]}]
    layers = [pair for part in parts for pair in zip(range(*part["a"]), range(*part["b"]), strict=True)]
    found = {}
    for key in t:
        place = re.search(r"(?<=layers\.)\d+", key)
        in_a, in_b = layers[int(place[0])] if place else (0, 0)
        x, y = (re.sub(r"(?<=layers\.)\d+", str(i), key) for i in (in_a, in_b))
        threshold = recipe.options.get("DOT_THRESHOLD", 0.9995)
        terms = vector_terms(a[x], b[y], t[key], threshold, recipe.options.get("granularity", "tensor"))
        found[key] = terms, sum(terms)
    return found


def vector_terms(a: np.ndarray, b: np.ndarray, t: float, threshold: float, granularity: str):
    """The terms of `slerp_terms`, for the whole or for each row or column of a matrix."""
    if a.ndim < 2 or granularity == "tensor":
        return slerp_terms(a, b, t, threshold)
    if granularity == "column":
        return tuple(term.T for term in vector_terms(a.T, b.T, t, threshold, "row"))
    rows = [slerp_terms(x, y, t, threshold) for x, y in zip(a, b, strict=True)]
    return tuple(np.array(terms) for terms in zip(*rows, strict=True))


def slerp_terms(a: np.ndarray, b: np.ndarray, t: float, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = float((a * b).sum() / norms)
    if abs(cosine) > threshold:
        return (1 - t) * a, t * b
    angle = np.arccos(cosine)
    return np.sin((1 - t) * angle) / np.sin(angle) * a, np.sin(t * angle) / np.sin(angle) * b
