"""Ids in config.json and generation_config.json follow their tokens; contradictions are reported."""

import json
from pathlib import Path
from typing import Any

import pytest

from fusion_slerp import merge, plan_merge
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.vocabulary.child_tokenizer import ChildTokenizer
from fusion_slerp.vocabulary.special_tokens import check_special_tokens, mean_the_same
from tests.models import tiny_tensors, write_checkpoint, write_json
from tests.vocabulary.aligned import words

GENERATION = "generation_config.json"
TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "<|im_end|>", "word"]
SHUFFLED = [TOKENS[i] for i in (5, 3, 1, 0, 4, 2)]
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}


def parent(
    folder: Path,
    tokens: list[str],
    config: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    template: str | None = None,
    **tokenizer_config: Any,
) -> Path:
    """A checkpoint with these tokens, ids in its configs and a chat template."""
    tensors = {
        name: tiny_tensors(1)[name].repeat(2, axis=0)[: len(tokens)]
        for name in ("lm_head.weight", "model.embed_tokens.weight")
    }
    config = {"vocab_size": len(tokens)} | (config or {})
    write_checkpoint(folder, tensors=tensors, config=config, tokens=None)
    write_json(folder / "tokenizer.json", words(tokens))
    write_json(folder / "tokenizer_config.json", {"eos_token": "</s>", **tokenizer_config})
    if generation is not None:
        write_json(folder / GENERATION, generation)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def ids_of(tokens: list[str], **named: str | list[str]) -> dict[str, Any]:
    return {
        key: [tokens.index(t) for t in token] if isinstance(token, list) else tokens.index(token)
        for key, token in named.items()
    }


def content(plan: MergePlan, name: str) -> dict[str, Any]:
    file = plan.configs[name]
    return json.loads(file if isinstance(file, bytes) else file.read_bytes())


def of_ids(plan: MergePlan, name: str = "config.json") -> dict[str, Any]:
    return {
        key: value for key, value in content(plan, name).items() if "token" in key or key == "text_config"
    }


NAMED = {"bos_token_id": "<s>", "eos_token_id": ["</s>", "<|im_end|>"], "pad_token_id": "<pad>"}


@pytest.mark.parametrize("choice", ["a", "b", "folder of b", "folder", "union"])
def test_ids_follow_the_childs_tokenizer(tmp_path, choice):
    """b's rows are shuffled; the tokenizer next to them has yet another order."""
    a = parent(tmp_path / "a", TOKENS, ids_of(TOKENS, **NAMED), ids_of(TOKENS, **NAMED))
    b = parent(tmp_path / "b", SHUFFLED, ids_of(SHUFFLED, **NAMED), ids_of(SHUFFLED, **NAMED))
    third = parent(tmp_path / "third", TOKENS[::-1])
    folders = {"folder of b": f"{tmp_path}/third/../b", "folder": str(third)}
    plan = plan_merge(a, b, tokenizer=folders.get(choice, choice))
    tokens = {"b": SHUFFLED, "folder of b": SHUFFLED, "folder": TOKENS[::-1]}.get(choice, TOKENS)
    assert of_ids(plan) == of_ids(plan, GENERATION) == ids_of(tokens, **NAMED)
    assert plan.tokenizer.giver == {"folder": None, "b": "b", "folder of b": "b"}.get(choice, "a")
    assert not [warning for warning in plan.warnings if "token" in warning]


def test_an_end_that_the_larger_tokenizer_brings_along(tmp_path):
    """A base model and a chat model of it: the child ends as the chat model, whose tokenizer it has."""
    a = parent(tmp_path / "a", TOKENS[:4], IDS, IDS)
    of_b = IDS | {"eos_token_id": 4}
    b = parent(tmp_path / "b", TOKENS, of_b, of_b, eos_token="<|im_end|>")
    plan = plan_merge(a, b)
    assert of_ids(plan) == of_b
    assert plan.configs[GENERATION] == b / GENERATION
    assert of_ids(plan_merge(b, a)) == of_b
    assert of_ids(plan_merge(a, b, tokenizer="a")) == IDS
    for way in (plan, plan_merge(b, a), plan_merge(a, b, tokenizer="a")):
        (warning,) = [warning for warning in way.warnings if "eos" in warning]
        assert "in its eos_token (" in warning


def test_files_stay_as_they_are_where_no_id_changes(tmp_path):
    """Byte for byte, odd spacing included, though b's tokens are in other rows and one is new."""
    a, b = parent(tmp_path / "a", TOKENS, IDS), parent(tmp_path / "b", [*SHUFFLED[:5], "</s>"])
    for name, text in (
        ("config.json", json.dumps(json.loads((a / "config.json").read_text()))),
        (GENERATION, "{ }"),
    ):
        (a / name).write_text(text)
    plan = plan_merge(a, b)
    assert dict(plan.configs) == {name: a / name for name in ("config.json", GENERATION)}


@pytest.mark.parametrize(("given", "taken"), [("a", "a"), ("b", "b"), ("ab", "a"), ("", None)])
def test_which_generation_config_is_taken(tmp_path, given, taken):
    """That of the tokenizer's giver, else the other's, whose ids are then translated."""
    tokens = {"a": TOKENS, "b": SHUFFLED}
    for name in "ab":
        generation = ids_of(tokens[name], eos_token_id="</s>") | {"temperature": ord(name)}
        parent(tmp_path / name, tokens[name], None, generation if name in given else None)
    plan = plan_merge(tmp_path / "a", tmp_path / "b")
    if taken is None:
        assert GENERATION not in plan.configs
        return
    assert content(plan, GENERATION) == {"eos_token_id": 2, "temperature": ord(taken)}
    plan = plan_merge(tmp_path / "a", tmp_path / "b", tokenizer="b")
    wanted = "b" if "b" in given else "a"
    assert content(plan, GENERATION) == {"eos_token_id": 5, "temperature": ord(wanted)}


def test_nested_configs_and_other_keys(tmp_path):
    keys = {
        "decoder_start_token_id": 1,
        "image_token_index": 4,
        "suppress_tokens": [0, 5],
        "pad_token_id": -1,
    }
    config = keys | {
        "text_config": {"eos_token_id": 2, "hidden_size": 4, "vocab_size": 6},
        "sep_token_id": None,
    }
    a, b = parent(tmp_path / "a", TOKENS, config), parent(tmp_path / "b", SHUFFLED)
    plan = plan_merge(a, b, tokenizer="b")
    assert content(plan, "config.json") == json.loads((a / "config.json").read_text()) | {
        "decoder_start_token_id": SHUFFLED.index("<s>"),
        "image_token_index": SHUFFLED.index("<|im_end|>"),
        "suppress_tokens": [SHUFFLED.index("<unk>"), SHUFFLED.index("word")],
        "text_config": {"eos_token_id": SHUFFLED.index("</s>"), "hidden_size": 4, "vocab_size": 6},
    }


def test_an_id_of_a_token_that_the_child_has_not(tmp_path):
    """`tokenizer: a` with nothing but b's generation config, whose second end a does not know."""
    a = parent(tmp_path / "a", TOKENS[:4])
    b = parent(tmp_path / "b", TOKENS, None, {"eos_token_id": [2, 4], "forced_eos_token_id": 4})
    plan = plan_merge(a, b, tokenizer="a")
    assert content(plan, GENERATION) == {"eos_token_id": [2], "forced_eos_token_id": None}
    assert "eos_token_id [4] is not a token of the merged model and is left out" in plan.warnings
    assert "forced_eos_token_id [4] is not a token of the merged model and is left out" in plan.warnings


# --- what does not fit together ---------------------------------------------------------------------------


def remarks(config: dict, generation: dict, folder: Path, **tokenizer_config: Any) -> list[str]:
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    rows = {token: row for row, token in enumerate(TOKENS)}
    return check_special_tokens(config, generation, ChildTokenizer(folder, rows, "a"))


FITTING = [
    ({}, {}, {}),
    (IDS, {}, {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>", "unk_token": None}),
    (IDS, {"eos_token_id": [2, 4]}, {"eos_token": "<|im_end|>"}),
    ({"eos_token_id": 2}, {"eos_token_id": 4}, {"eos_token": {"content": "<|im_end|>"}}),
    ({"eos_token_id": [4, 2]}, {"eos_token_id": None}, {"eos_token": "</s>"}),
    ({"text_config": IDS}, {}, {"eos_token": "</s>"}),
    ({"pad_token_id": -1}, {}, {"pad_token": "</s>"}),
    ({}, {}, {"chat_template": "<s>{{ '<|im_end|>' }} [INST] {{ '<|' + role + '|>' }}"}),
]


@pytest.mark.parametrize("case", range(len(FITTING)))
def test_nothing_is_said_of_what_fits(tmp_path, case):
    config, generation, tokenizer_config = FITTING[case]
    assert remarks(config, generation, tmp_path, **tokenizer_config) == []


ENDS = (
    "the tokenizer's eos_token is '<|im_end|>' (4), eos_token_id in the configs is {}: "
    "generation may not stop"
)
NOT_FITTING = [
    (IDS, {}, {"eos_token": "<|im_end|>"}, ENDS.format(2)),
    ({"eos_token_id": 4}, {"eos_token_id": [1, 2]}, {"eos_token": "<|im_end|>"}, ENDS.format([1, 2])),
    ({"text_config": IDS, "eos_token_id": None}, {}, {"eos_token": "<|im_end|>"}, ENDS.format(2)),
    ({}, {}, {"eos_token": "<end>"}, "the tokenizer's eos_token '<end>' is not among its tokens"),
    ({}, {}, {"pad_token": "[PAD]"}, "the tokenizer's pad_token '[PAD]' is not among its tokens"),
    ({}, {}, {"bos_token": "[CLS]"}, "the tokenizer's bos_token '[CLS]' is not among its tokens"),
    ({"pad_token_id": 6}, {}, {}, "pad_token_id 6 in config.json is not a token of the tokenizer"),
    (
        {"text_config": {"bos_token_id": 9}},
        {},
        {},
        "bos_token_id 9 in config.json is not a token of the tokenizer",
    ),
    (
        {},
        {"eos_token_id": [2, 7, 8]},
        {},
        "eos_token_id 7, 8 in generation_config.json is not a token of the tokenizer",
    ),
    (
        {},
        {},
        {"chat_template": "{{ '<|im_start|>' }}<|im_end|><｜User｜>"},
        "the chat template uses '<|im_start|>', '<｜User｜>', which the tokenizer lacks",
    ),
]


@pytest.mark.parametrize("case", range(len(NOT_FITTING)))
def test_what_does_not_fit_is_said(tmp_path, case):
    config, generation, tokenizer_config, remark = NOT_FITTING[case]
    assert remarks(config, generation, tmp_path, **tokenizer_config) == [remark]


def test_a_normal_pair_gives_no_remark(tmp_path):
    template = "{% for m in messages %}<s>{{ m.content }}<|im_end|>{% endfor %}"
    ids = IDS | {"eos_token_id": 4}
    for name in "ab":
        parent(tmp_path / name, TOKENS, ids, ids, template, eos_token="<|im_end|>", bos_token="<s>")
    assert plan_merge(tmp_path / "a", tmp_path / "b").warnings == ()


# --- the chat template --------------------------------------------------------------------------------------

MARK = {"a": "{{ 'of a' }}", "b": "{{ 'of b' }}"}
CHOICES = {  # tokens of b, which parents have a template, setting: whose the child has
    "equal": (TOKENS, "ab", "union", "a"),
    "permuted": (SHUFFLED, "ab", "union", "a"),
    "equal, only b": (TOKENS, "b", "union", None),
    "b asked for": (TOKENS, "ab", "b", "b"),
    "b larger": ([*TOKENS, "new"], "ab", "union", "b"),
    "b larger, only a": ([*TOKENS, "new"], "a", "union", None),
    "united": ([*TOKENS[:5], "new"], "ab", "union", "a"),
    "united, only b": ([*TOKENS[:5], "new"], "b", "union", "b"),
    "united, none": ([*TOKENS[:5], "new"], "", "union", None),
}


@pytest.mark.parametrize("place", ["file", "config"])
@pytest.mark.parametrize("case", CHOICES)
def test_whose_chat_template_the_child_has(tmp_path, case, place):
    tokens_of_b, given, setting, whose = CHOICES[case]
    for name, tokens in (("a", TOKENS), ("b", tokens_of_b)):
        text = MARK[name] if name in given else None
        config = {"chat_template": text} if text and place == "config" else {}
        parent(tmp_path / name, tokens, template=text if place == "file" else None, **config)
    plan = plan_merge(tmp_path / "a", tmp_path / "b", tokenizer=setting)
    assert plan.tokenizer.chat_template == (MARK[whose] if whose else None)
    warnings = [warning for warning in plan.warnings if "chat template" in warning]
    assert warnings == (
        [
            f"only {tmp_path / given} has a chat template, and the merged model has none; "
            f"tokenizer {given!r} would include it"
        ]
        if given and whose is None
        else [
            f"the tokenizer of {tmp_path / ('b' if whose == 'a' else 'a')} differs from that of "
            f"{tmp_path / str(whose)} in its chat template; the merged model follows {tmp_path / str(whose)}"
        ]
        if given == "ab"
        else []
    )


def test_several_chat_templates_of_b(tmp_path):
    """A list in tokenizer_config.json becomes the files that transformers reads today."""
    listed = [
        {"name": "default", "template": MARK["b"]},
        {"name": "tool_use", "template": "tools"},
        {"name": "../../outside", "template": "never written"},
    ]
    a = parent(tmp_path / "a", TOKENS)
    b = parent(tmp_path / "b", [*TOKENS[:5], "new"], chat_template=listed)
    files = plan_merge(a, b).tokenizer.files
    assert {name: file for name, file in files.items() if name.endswith(".jinja")} == {
        "chat_template.jinja": MARK["b"].encode(),
        "additional_chat_templates/tool_use.jinja": b"tools",
    }


@pytest.mark.parametrize("place", ["file", "config"])
def test_a_template_of_the_users_own(tmp_path, place):
    """It has the last word: no other file says another one."""
    for name in "ab":
        config = {"chat_template": MARK[name]} if place == "config" else {}
        parent(tmp_path / name, TOKENS, template=MARK[name] if place == "file" else None, **config)
    own = "{{ 'mine <|im_end|>' }}"
    merge(tmp_path / "a", tmp_path / "b", out=tmp_path / "child", chat_template=own)
    assert (tmp_path / "child/chat_template.jinja").read_text() == own
    config = json.loads((tmp_path / "child/tokenizer_config.json").read_text())
    assert "chat_template" not in config
    assert config["eos_token"] == "</s>"


# --- ids of other rows --------------------------------------------------------------------------------------

FIRST = {"<s>": 0, "</s>": 1, "<img>": 2}
OTHER = {"<img>": 0, "<s>": 1, "</s>": 2}


@pytest.mark.parametrize(
    ("key", "one", "two", "same"),
    [
        ("image_token_id", 2, 0, True),
        ("image_token_id", 2, 2, False),
        ("eos_token_id", [1, 2], [2, 0], True),
        ("eos_token_id", [1, 2], [0, 2], False),
        ("eos_token_id", 1, [2], True),
        ("image_token_index", 9, 9, True),
        ("image_token_index", 9, 8, False),
        ("image_token_id", None, None, False),
        ("image_token_id", 2, None, False),
        ("hidden_size", 2, 0, False),
    ],
)
def test_ids_that_mean_the_same_token(key, one, two, same):
    """An id that is not a token stands for itself; other keys hold no ids."""
    assert mean_the_same(key, (one, FIRST), (two, OTHER)) is same


def test_ids_of_a_text_model_go_into_the_language_part(tmp_path):
    """The merged model has b's tokenizer, and a's config, which describes its language model in a part."""
    nested = {"text_config": {"hidden_size": 4, "vocab_size": 6, **IDS}, "eos_token_id": 2}
    a = parent(tmp_path / "a", TOKENS, nested)
    b = parent(tmp_path / "b", SHUFFLED, ids_of(SHUFFLED, **NAMED))
    found = content(plan_merge(a, b, tokenizer="b"), "config.json")
    ids = ids_of(SHUFFLED, **NAMED)
    assert {key: found["text_config"][key] for key in ids} == ids
    assert found["eos_token_id"] == ids["eos_token_id"]
    assert "bos_token_id" not in found
