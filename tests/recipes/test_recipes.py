"""Recipes in mergekit's form and in ours for Hydra: how they are read, and which are refused."""

from contextlib import suppress
from itertools import permutations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fusion_slerp import SettingsError
from fusion_slerp.recipes import Recipe, parse_recipe, read_recipe, to_hydra
from fusion_slerp.settings.merge_settings import make_settings

LAZY = """
slices:
  - sources:
      - model: OpenPipe/mistral-ft-optimized-1218
        layer_range: [0, 32]
      - model: mlabonne/NeuralHermes-2.5-Mistral-7B
        layer_range: [0, 32]
merge_method: slerp
base_model: OpenPipe/mistral-ft-optimized-1218
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: bfloat16
"""
"""The recipe of the LazyMergekit notebook, as published with hundreds of models."""

LAZY_T = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]


BOTH = "[{model: A, layer_range: [0, 4]}, {model: B, layer_range: [0, 4]}]"


def recipe_of(text: str) -> Recipe:
    return parse_recipe(yaml.safe_load(text), "recipe.yml")


def with_models(text: str) -> Recipe:
    """The recipe of A (the base) and B with more lines."""
    return recipe_of(f"merge_method: slerp\nbase_model: A\nmodels: [{{model: A}}, {{model: B}}]\n{text}")


def with_t(text: str) -> Recipe:
    return with_models(f"parameters: {{t: 0.5}}\n{text}")


def sliced(text: str, top: str = "parameters: {t: 0.5}") -> Recipe:
    """The recipe of one slice, layers 0-3 of A and B, with more of the slice and of the top."""
    return recipe_of(f"{{merge_method: slerp, base_model: A, {top}, slices: [{{sources: {BOTH}{text}}}]}}")


# --- the forms of mergekit --------------------------------------------------------------------------------


def test_the_recipe_of_lazymergekit(tmp_path):
    (tmp_path / "config.yaml").write_text(LAZY)
    recipe = read_recipe(tmp_path / "config.yaml")
    assert recipe == Recipe(
        ("OpenPipe/mistral-ft-optimized-1218", "mlabonne/NeuralHermes-2.5-Mistral-7B"),
        {"t": LAZY_T, "slices": [{"a": [0, 32], "b": [0, 32]}], "dtype": "bfloat16", "tokenizer": "a"},
    )
    assert [note.partition(":")[0] for note in recipe.notes] == ["dtype"]


@pytest.mark.parametrize("models", ["[{model: A}, {model: B}]", "[{model: B}, {model: A}]", "[{model: B}]"])
def test_models_in_any_order_and_with_the_base_left_out(models):
    recipe = recipe_of(f"{{merge_method: slerp, base_model: A, models: {models}, parameters: {{t: 0.3}}}}")
    assert recipe == Recipe(("A", "B"), {"t": 0.3, "tokenizer": "a"})
    assert recipe.notes == ()


def test_the_order_of_a_list_never_changes_the_meaning():
    slices = [
        [{"model": "A", "layer_range": [0, 2]}, {"model": "B", "layer_range": [1, 3]}],
        [{"model": "A", "layer_range": [1, 4]}, {"model": "B", "layer_range": [2, 5]}],
    ]
    found = [
        parse_recipe(
            {
                "merge_method": "slerp",
                "base_model": "A",
                "slices": [{"sources": list(first)}, {"sources": list(second)}],
                "parameters": {"t": [0, 1]},
            }
        )
        for first in permutations(slices[0])
        for second in permutations(slices[1])
    ]
    expected = [{"a": [0, 2], "b": [1, 3]}, {"a": [1, 4], "b": [2, 5]}]
    assert found == [Recipe(("A", "B"), {"t": [0, 1], "slices": expected, "tokenizer": "a"})] * 4


def test_a_slice_has_its_own_t():
    recipe = sliced(", parameters: {t: [{filter: mlp, value: [0, 1]}, {value: 0.2}]}")
    (part,) = recipe.options["slices"]
    assert part == {"a": [0, 4], "b": [0, 4], "t": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.2}]}
    assert recipe.options["t"] == 0.5


def test_t_in_every_slice_is_enough():
    recipe = sliced(", parameters: {t: 0.2}", top="dtype: float32")
    assert recipe.options["slices"][0]["t"] == 0.2
    make_settings(**recipe.options)


def test_a_base_in_the_slices_alone():
    recipe = recipe_of(
        "{merge_method: slerp, parameters: {t: 0.1}, slices: [{base_model: B, sources: "
        "[{model: A, layer_range: [0, 1]}, {model: B, layer_range: [3, 4]}]}]}"
    )
    assert recipe == Recipe(("B", "A"), {"t": 0.1, "slices": [{"a": [3, 4], "b": [0, 1]}], "tokenizer": "a"})


def test_a_slice_that_counts_from_the_other_model():
    recipe = sliced(
        ", base_model: B, parameters: {t: [{filter: mlp, value: [0, 0.25]}]}",
        top="parameters: {t: [{filter: '*', value: 0.25}]}",
    )
    assert recipe.models[0] == "A"
    turned = [{"filter": "mlp", "value": [1, 0.75]}, {"value": 0.75}]
    assert recipe.options["slices"] == [{"a": [0, 4], "b": [0, 4], "t": turned}]


@pytest.mark.parametrize(
    ("given_t", "t"),
    [
        ("0.25", 0.25),
        ("1e-3", 0.001),
        ("[0, '0.5', 1e-3]", [0, 0.5, 0.001]),
        ("{filter: mlp, value: 0.3}", [{"filter": "mlp", "value": 0.3}]),
        ("[{filter: '*', value: [0, 1]}]", [{"filter": "*", "value": [0, 1]}]),
    ],
)
def test_forms_of_t(given_t, t):
    assert with_models(f"parameters: {{t: {given_t}}}").options["t"] == t


def test_a_zero_length_slice_is_kept():
    assert make_settings(**sliced("").options)
    recipe = recipe_of(
        "{merge_method: slerp, base_model: A, parameters: {t: 0.5}, slices: ["
        "{sources: [{model: A, layer_range: [0, 4]}, {model: B, layer_range: [0, 4]}]}, "
        "{parameters: {t: 1}, sources: [{model: A, layer_range: [4, 4]}, {model: B, layer_range: [4, 4]}]}]}"
    )
    assert recipe.options["slices"][1] == {"a": [4, 4], "b": [4, 4], "t": 1}


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("dtype: float16", "float16"),
        ("dtype: torch.bfloat16", "bfloat16"),
        ("dtype: float32\nout_dtype: torch.bfloat16", "bfloat16"),
        ("out_dtype: float64", "float64"),
    ],
)
def test_types(text, dtype):
    recipe = with_t(text)
    assert recipe.options["dtype"] == dtype
    is_narrow = "dtype: float16" in text or "dtype: torch.bfloat16" in text.splitlines()[0]
    assert [note.split(":")[0] for note in recipe.notes] == (["dtype"] if is_narrow else [])


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        *[("", "a"), ("tokenizer_source: base", "a"), ("tokenizer_source: A", "a")],
        *[("tokenizer_source: union", "union"), ("tokenizer_source: B", "b")],
        *[("tokenizer_source: some/other@v1", "some/other@v1"), ("tokenizer: {source: base}", "a")],
        *[("tokenizer: {source: {model: {path: B}}}", "b"), ("tokenizer: {tokens: {}}", "a")],
        ("tokenizer: {tokens: {x: {source: B}}}", "union"),
    ],
)
def test_tokenizers(text, tokenizer):
    assert with_t(text).options["tokenizer"] == (tokenizer if "tokens: {}" not in text else "union")


def test_tokens_speak_of_a_and_b():
    recipe = with_t("""
tokenizer:
  source: union
  pad_to_multiple_of: 64
  tokens:
    <|im_end|>: {source: B, force: true}
    <s>: {source: {kind: model_token, model: A, token_id: 1}}
    <pad>: {source: {kind: model_token, model: B, token: </s>}, force: false}
    <zero>: {source: {kind: zero}}
""")
    assert recipe.options["pad_vocab_to_multiple_of"] == 64
    assert recipe.options["tokens"] == {
        "<|im_end|>": {"source": "b", "force": True},
        "<s>": {"source": {"kind": "model_token", "model": "a", "token_id": 1}},
        "<pad>": {"source": {"kind": "model_token", "model": "b", "token": "</s>"}, "force": False},
        "<zero>": {"source": {"kind": "zero"}},
    }


def test_models_with_revisions_and_as_mappings():
    recipe = recipe_of("""
merge_method: slerp
base_model: {model: {path: org/A, revision: main}, lora: null}
models: [{model: org/B@v2}, {model: org/A@main}]
parameters: {t: 0.5}
""")
    assert recipe.models == ("org/A@main", "org/B@v2")


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("embed_slerp: true", "embed_slerp: has no effect in mergekit, nor here"),
        ("name: my-merge", "name: has no effect in mergekit, nor here"),
        (
            "chat_template: auto",
            "chat_template: auto: the merged model gets the chat template of its tokenizer",
        ),
    ],
)
def test_what_has_no_effect_is_noted(text, note):
    assert with_t(text).notes == (note,)


def test_a_chat_template_is_taken_as_it_is():
    assert (
        with_t("chat_template: \"{{ '<|im_start|>' }}\"").options["chat_template"] == "{{ '<|im_start|>' }}"
    )


def test_parameters_without_effect_are_noted_with_their_place():
    recipe = sliced(
        ", residual_weight: 0.1, parameters: {t: 1, density: 0.5}", "parameters: {t: 0.5, embed_slerp: true}"
    )
    assert recipe.notes == (
        "slices[0].residual_weight: has no effect in mergekit, nor here",
        "parameters.embed_slerp: has no effect in mergekit's slerp, nor here",
        "slices[0].parameters.density: has no effect in mergekit's slerp, nor here",
    )


def test_a_t_that_may_leave_tensors_out_is_noted():
    (note,) = with_models("parameters: {t: [{filter: mlp, value: 0.3}]}").notes
    assert note.startswith("t: no entry covers every name; a tensor without a match is base_model's")


# --- nuslerp ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "t"),
    [
        *[("0.5", "0.5", 0.5), ("3", "1", 0.25), ("0", "0", 0.5)],
        *[("[1, 0]", "[0, 1]", [0, 1])],
        (
            "[{filter: mlp, value: 1}, {value: 2}]",
            "[{filter: mlp, value: 3}, {value: 2}]",
            [{"filter": "mlp", "value": 0.75}, {"value": 0.5}],
        ),
    ],
)
def test_nuslerp_of_two_models(first, second, t):
    recipe = recipe_of(
        f"{{merge_method: nuslerp, models: [{{model: B, parameters: {{weight: {first}}}}}, "
        f"{{model: A, parameters: {{weight: {second}}}}}]}}"
    )
    assert recipe == Recipe(("B", "A"), {"t": t, "DOT_THRESHOLD": 1.0, "tokenizer": "a"})


NUSLERP = """merge_method: nuslerp
models: [{model: A, parameters: {weight: 1}}, {model: B, parameters: {weight: 1}}]
"""


@pytest.mark.parametrize(
    ("text", "headline"),
    [
        ("parameters: {nuslerp_flaten: true}", "did you mean 'nuslerp_flatten'?"),
        ("parameters: {nuslerp_flatten: 3}", "invalid parameters.nuslerp_flatten or nuslerp_row_wise"),
    ],
)
def test_nuslerp_that_is_refused(text, headline):
    with pytest.raises(SettingsError, match=headline.replace("?", r"\?")):
        recipe_of(NUSLERP + text)


def test_nuslerp_with_weights_that_have_no_t():
    with pytest.raises(SettingsError, match="weight: no t corresponds to these weights"):
        recipe_of(NUSLERP.replace("weight: 1}}]", "weight: [1, 2]}}]"))
    with pytest.raises(SettingsError, match=r"invalid models\[1\].parameters.weight"):
        recipe_of(NUSLERP.replace("weight: 1}}]", "weight: -1}}]"))
    with pytest.raises(SettingsError, match=r"models\[1\].parameters.weight is missing"):
        recipe_of(NUSLERP.replace("weight: 1}}]", "}}]"))


def test_nuslerp_by_rows_and_by_columns():
    for row_wise, granularity in (("false", "row"), ("true", "column")):
        text = f"{NUSLERP}parameters: {{nuslerp_flatten: false, nuslerp_row_wise: {row_wise}}}"
        assert recipe_of(text).options["granularity"] == granularity
    assert "granularity" not in recipe_of(f"{NUSLERP}parameters: {{nuslerp_row_wise: true}}").options


# --- what is refused --------------------------------------------------------------------------------------

TOP = "merge_method: slerp\nbase_model: A\n"
T = f"{TOP}models: [{{model: B}}]\nparameters: {{t: 1}}\n"

WRONG = {
    "method": (
        "merge_method: arcee_fusion\n",
        "merge_method: arcee_fusion is not supported",
        "run this recipe with mergekit",
    ),
    "lerp": ("merge_method: lerp\n", "merge_method: lerp is not supported", "run this recipe with mergekit"),
    "typo": (
        "merge_method: slrep\n",
        "slrep is not supported (did you mean 'slerp'?)",
        "merge_method: slerp",
    ),
    "no method": ("models: []\n", "merge_method is missing", "merge_method: slerp"),
    "nothing": (TOP, "the recipe names no models", "list the models"),
    "both": (f"{TOP}models: [x]\nslices: [y]", "models and slices exclude each other", "remove one"),
    "two modules": (
        f"{TOP}modules: {{m: {{models: [{{model: B}}]}}, n: 1}}",
        "modules: more than one is not supported",
        "merge the language model alone",
    ),
    "a module of nothing": (f"{TOP}modules: {{m: {{}}}}", "modules.m names no models", "list the models"),
    "a module and models": (f"{TOP}modules: {{m: 1}}\nmodels: 1", "modules excludes models", "remove one"),
    "a key of a module": (
        f"{TOP}modules: {{m: {{models: [{{model: B}}], parameter: {{t: 1}}}}}}",
        "modules.m.parameter is not a key of a recipe (did you mean 'parameters'?)",
        "correct",
    ),
    "no base": (
        "merge_method: slerp\nmodels: [{model: A}, {model: B}]\nparameters: {t: 1}",
        "base_model is missing",
        "set base_model: A",
    ),
    "three": (f"{TOP}models: [{{model: B}}, {{model: C}}]", "a merge has 2 models, not 3", "same spelling"),
    "twice": (f"{TOP}models: [{{model: B}}, {{model: B}}]", "a merge has 2 models, not 3", "same spelling"),
    "three in slices": (
        f"{TOP}slices: [{{sources: {BOTH}}}, {{sources: {BOTH.replace('B', 'C')}}}]",
        "a merge has 2 models, not 3",
        "two models",
    ),
    "no t": (f"{TOP}models: [{{model: B}}]", "parameters.t is missing", "set parameters.t: 0.5"),
    "no t in a slice": (f"{TOP}slices: [{{sources: {BOTH}}}]", "slices[0].parameters.t is missing", "0.5"),
    "t at a model": (
        f"{TOP}models: [{{model: B, parameters: {{t: 0.3}}}}]",
        "models[0].parameters.t has no effect: t does not belong to a single model",
        "move it to parameters.t",
    ),
    "t at a source": (
        f"{TOP}slices: [{{sources: {BOTH.replace('4]}]', '4], parameters: {t: 1}}]')}}}]",
        "slices[0].sources[1].parameters.t has no effect",
        "move it to slices[0].parameters.t or parameters.t",
    ),
    "t at the top": (f"{TOP}models: [{{model: B}}]\nt: 0.5", "t is not a top-level key", "parameters.t"),
    "t too large": (
        f"{TOP}models: [{{model: B}}]\nparameters: {{t: 1.5}}",
        "invalid parameters.t",
        "0.5",
    ),
    "t in a slice": (
        f"{TOP}slices: [{{sources: {BOTH}, parameters: {{t: [{{value: 2}}]}}}}]\nparameters: {{t: 0.5}}",
        "invalid slices[0].parameters.t[0].value",
        "0.5",
    ),
    "glob": (
        f"{TOP}models: [{{model: B}}]\nparameters: {{t: [{{glob: x, value: 1}}]}}",
        "parameters.t[0].glob is not a key of mergekit",
        "remove it",
    ),
    "filters": (
        f"{TOP}models: [{{model: B}}]\nparameters: {{t: [{{filters: x, value: 1}}]}}",
        "parameters.t[0].filters is not a key of mergekit (did you mean 'filter'?)",
        "correct it",
    ),
    "key": (f"{TOP}models: [{{model: B}}]\nparamters: {{t: 1}}", "(did you mean 'parameters'?)", "correct"),
    "key of parameters": (
        f"{TOP}models: [{{model: B}}]\nparameters: {{t: 1, embd_slerp: 1}}",
        "parameters.embd_slerp is not a key of a recipe (did you mean 'embed_slerp'?)",
        "correct",
    ),
    "key of a slice": (
        f"{TOP}slices: [{{sources: {BOTH}, t: 1}}]\nparameters: {{t: 1}}",
        "slices[0].t is not a key of a recipe",
        "correct",
    ),
    "key of a source": (
        f"{TOP}slices: [{{sources: {BOTH.replace('layer_range', 'layer_rang')}}}]",
        "slices[0].sources[0].layer_rang is not a key of a recipe (did you mean 'layer_range'?)",
        "correct",
    ),
    "range": (
        f"{TOP}slices: [{{sources: {BOTH.replace('[0, 4]', '[4, 0]')}}}]",
        "slices[0].sources[0].layer_range is not a range of layers",
        "layer_range: [0, 32]",
    ),
    "lengths": (
        f"{TOP}slices: [{{sources: {BOTH.replace('[0, 4]', '[0, 5]', 1)}}}]\nparameters: {{t: 1}}",
        "slices[0].sources differ in their number of layers",
        "the same length",
    ),
    "one source": (
        f"{TOP}slices: [{{sources: [{{model: A, layer_range: [0, 4]}}]}}]",
        "slices[0].sources is not a pair",
        "two models",
    ),
    "one model twice": (
        f"{TOP}slices: [{{sources: {BOTH.replace('B', 'A')}}}]",
        "slices[0].sources names one model twice",
        "two models",
    ),
    "base elsewhere": (
        f"{TOP}slices: [{{sources: {BOTH.replace('model: A', 'model: ./A')}}}]",
        "slices[0].sources lacks the base_model",
        "name A there",
    ),
    "lora": (
        f"{TOP}models: [{{model: B+adapter}}]",
        "models[0].model: a LoRA",
        "M.from_pretrained('adapter', dtype='auto').merge_and_unload(); "
        "m.save_pretrained('./adapter-converted'); T.from_pretrained('B')",
    ),
    "lora of a mapping": (
        f"{TOP}models: [{{model: {{model: B, lora: x}}}}]",
        "models[0].model.lora is not supported",
        "M.from_pretrained('x', dtype='auto').merge_and_unload()",
    ),
    "architecture": (
        f"{TOP}models: [{{model: {{model: B, override_architecture: X}}}}]",
        "models[0].model.override_architecture is not supported",
        "remove it",
    ),
    "revisions": (f"{TOP}models: [{{model: B@x@y}}]", "models[0].model has more than one @", "path@revision"),
    "a number": (f"{TOP}models: [{{model: 7}}]", "models[0].model is not a model", "FOLDER, or a Hub id"),
    "dtype": (
        f"{T}dtype: bfloat61",
        "invalid dtype (did you mean 'bfloat16'?)",
        "set dtype: bfloat16",
    ),
    "int64": (
        f"{T}out_dtype: int64",
        "invalid out_dtype",
        "set out_dtype: bfloat16",
    ),
    "template": (
        f"{T}chat_template: chatml",
        "chat_template: the names of mergekit's own templates are not supported",
        "write the template itself, or remove chat_template",
    ),
    "two tokenizers": (
        f"{T}tokenizer_source: base\ntokenizer: {{source: A}}",
        "tokenizer and tokenizer_source exclude each other",
        "remove one",
    ),
    "token of a stranger": (
        f"{T}tokenizer: {{tokens: {{x: {{source: C}}}}}}",
        "tokenizer.tokens.x.source is not one of the models",
        "source: A",
    ),
    "token without source": (
        f"{T}tokenizer: {{tokens: {{x: {{force: true}}}}}}",
        "tokenizer.tokens.x.source is missing",
        "source: A",
    ),
    "token of a kind": (
        f"{T}tokenizer: {{tokens: {{x: {{source: {{kind: one}}}}}}}}",
        "invalid tokenizer.tokens.x",
        "{source: A}",
    ),
    "padding": (
        f"{T}tokenizer: {{pad_to_multiple_of: 0}}",
        "invalid tokenizer.pad_to_multiple_of",
        "64",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_names_its_key(name):
    text, headline, fix = WRONG[name]
    with pytest.raises(SettingsError) as caught:
        recipe_of(text)
    (problem,) = [each for each in caught.value.problems if headline in each.headline]
    assert fix in problem.fix
    assert all(each.fix for each in caught.value.problems)


def test_all_faults_are_raised_at_once():
    with pytest.raises(SettingsError) as caught:
        recipe_of(
            "{merge_method: slerp, base_model: A, dtyp: float32, dtype: float33, chat_template: chatml, "
            "models: [{model: B, parameters: {t: 1}}], parameters: {t: 3}}"
        )
    message = str(caught.value)
    assert message.startswith("5 problems, nothing was read or written:")
    for part in ("dtyp is", "float33", "chat_template", "models[0].parameters.t has", "invalid parameters.t"):
        assert part in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: [1", "not YAML"),
        ("", "nothing instead of a mapping"),
        ("- 1", "a list instead of a mapping"),
        ("a: 1\n---\na: 2\n", "2 documents"),
        ("merge_method: slerp\nmerge_method: ties\n", "the key 'merge_method' occurs twice"),
    ],
)
def test_files_that_hold_no_recipe(tmp_path, content, reason):
    file = tmp_path / "recipe.yml"
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        read_recipe(file)
    assert str(caught.value).startswith(f"{file}: not a recipe\n")
    assert reason in str(caught.value)
    assert "\nFix: " in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingsError, match="not a recipe\n  found: No such file"):
        read_recipe(tmp_path / "nowhere.yml")


FULL = {
    "merge_method": "slerp",
    "base_model": {"model": {"path": "A", "revision": "v1"}},
    "slices": [
        {
            "sources": [
                {"model": "A@v1", "layer_range": [0, 4], "parameters": {"weight": 1}},
                {"model": "B", "layer_range": [0, 4]},
            ],
            "base_model": "B",
            "parameters": {"t": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]},
        }
    ],
    "parameters": {"t": [0, 1]},
    "dtype": "float32",
    "out_dtype": "bfloat16",
    "tokenizer": {
        "source": "union",
        "tokens": {"x": {"source": {"kind": "model_token", "model": "B", "token": "y"}, "force": True}},
        "pad_to_multiple_of": 8,
    },
    "chat_template": "auto",
}
MODELS = {
    "merge_method": "nuslerp",
    "models": [
        {"model": "A", "parameters": {"weight": [{"filter": "x", "value": 1}, {"value": [1, 2]}]}},
        {"model": "B", "parameters": {"weight": [{"filter": "x", "value": 3}, {"value": [2, 1]}]}},
    ],
    "parameters": {"nuslerp_flatten": True, "nuslerp_row_wise": False},
    "tokenizer_source": "base",
}
LINEAR = {
    "merge_method": "linear",
    "base_model": "B",
    "slices": [
        {
            "sources": [
                {
                    "model": "A",
                    "layer_range": [0, 2],
                    "parameters": {"weight": [{"filter": "x", "value": 1}]},
                },
                {"model": "B", "layer_range": [2, 4], "parameters": {"weight": [0, 1]}},
                {"model": "C", "layer_range": [0, 2]},
            ],
            "parameters": {"weight": 0.5, "normalize": True},
        }
    ],
    "parameters": {"weight": 1.5, "normalize": True},
}
TIES = {
    "merge_method": "ties",
    "base_model": "BASE",
    "modules": {
        "default": {
            "models": [
                {"model": "BASE"},
                {"model": "A", "parameters": {"weight": [0, 1], "density": [{"filter": "x", "value": 0.5}]}},
                {"model": "B", "parameters": {"normalize": True}},
            ],
            "parameters": {"weight": 0.5, "density": 0.25},
        }
    },
    "parameters": {"lambda": 0.5, "normalize": False, "rescale": 1, "int8_mask": True},
}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=3,
)


def places_in(value, path=()):
    """The path to every node of nested mappings and lists."""
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [path, *(found for key, each in children for found in places_in(each, (*path, key)))]


def replaced(value, path, by):
    if not path:
        return by
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], by)
    return copy


@pytest.mark.parametrize(
    "valid",
    [
        *(FULL, MODELS, LINEAR, TIES),
        *(yaml.safe_load(to_hydra(parse_recipe(each))) for each in (FULL, LINEAR, TIES)),
    ],
)
@given(st.data())
def test_nonsense_in_any_place_is_an_error_of_ours_or_harmless(valid, data):
    assert isinstance(parse_recipe(valid), Recipe)
    broken = replaced(valid, data.draw(st.sampled_from(places_in(valid))), data.draw(ANY))
    with suppress(SettingsError):
        make_settings(**parse_recipe(broken).options)
