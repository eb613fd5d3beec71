"""Generation stops where the merged model's chat template ends a turn, if that of either source model did."""

import json
from pathlib import Path
from typing import Any

import pytest

from fusion_slerp import plan_merge
from fusion_slerp.planning.turn_ends import ends_of, with_turn_ends
from fusion_slerp.vocabulary.child_tokenizer import ChildTokenizer
from tests.models import tiny_tensors, write_checkpoint, write_json
from tests.vocabulary.aligned import words

TOKENS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "word"]
CHAT = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
GENERATION = "generation_config.json"


def parent(
    folder: Path,
    config: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    template: str | None = None,
    tokens: list[str] = TOKENS,
) -> Path:
    tensors = {
        name: tensor
        for name, tensor in tiny_tensors(len(folder.name)).items()
        if name in ("lm_head.weight", "model.embed_tokens.weight")
    }
    write_checkpoint(folder, tensors=tensors, config=config, tokens=None)
    write_json(folder / "tokenizer.json", words(tokens))
    write_json(folder / "tokenizer_config.json", {"eos_token": "</s>"})
    if generation is not None:
        write_json(folder / GENERATION, generation)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def ends(plan, name: str) -> Any:
    file = plan.configs[name]
    return json.loads(file if isinstance(file, bytes) else file.read_bytes()).get("eos_token_id")


def remark(token: str, row: int) -> str:
    return f"the chat template ends a turn with '{token}' ({row}), which is added to eos_token_id"


@pytest.mark.parametrize("base_has_file", [True, False])
@pytest.mark.parametrize("order", ["chat first", "base first"])
def test_a_base_model_and_a_chat_model(tmp_path, base_has_file, order):
    """The template and the list of ends come from either; a chat model may state its ends in both files."""
    base = parent(tmp_path / "base", {"eos_token_id": 2}, {"eos_token_id": 2} if base_has_file else None)
    chat = parent(tmp_path / "chat", {"eos_token_id": 2}, {"eos_token_id": [2, 4]}, CHAT)
    plan = plan_merge(*((chat, base) if order == "chat first" else (base, chat)), tokenizer=str(chat))
    assert ends(plan, GENERATION) == [2, 4]
    assert remark("<|im_end|>", 4) not in plan.warnings


def test_the_files_of_the_base_and_the_template_of_the_chat_model(tmp_path):
    base = parent(tmp_path / "base", {"eos_token_id": 2}, {"eos_token_id": 2})
    chat = parent(tmp_path / "chat", {"eos_token_id": 2}, {"eos_token_id": [2, 4]}, CHAT)
    plan = plan_merge(base, chat, chat_template=CHAT)
    assert ends(plan, GENERATION) == [2, 4]
    assert ends(plan, "config.json") == 2
    assert remark("<|im_end|>", 4) in plan.warnings
    without = plan_merge(base, chat)
    assert ends(without, GENERATION) == 2
    assert without.configs[GENERATION] == base / GENERATION


def test_the_config_has_the_ends_where_there_is_no_other_file(tmp_path):
    base = parent(tmp_path / "base", {"eos_token_id": 2}, template=CHAT)
    chat = parent(tmp_path / "chat", {"eos_token_id": 4})
    plan = plan_merge(base, chat)
    assert ends(plan, "config.json") == [2, 4]
    assert GENERATION not in plan.configs
    assert remark("<|im_end|>", 4) in plan.warnings


def test_ids_are_those_of_the_merged_model(tmp_path):
    """The chat model has its tokens in other rows."""
    base = parent(tmp_path / "base", {"eos_token_id": 2}, {"eos_token_id": 2}, CHAT)
    shuffled = TOKENS[::-1]
    chat = parent(tmp_path / "chat", {"eos_token_id": shuffled.index("<|im_end|>")}, tokens=shuffled)
    plan = plan_merge(base, chat)
    assert ends(plan, GENERATION) == [2, 4]


NOTHING_TO_ADD = {
    "no model stops at it": ({"eos_token_id": 2}, {"eos_token_id": 2}, CHAT),
    "the template does not use it": ({"eos_token_id": 2}, {"eos_token_id": [2, 4]}, "{{ messages }}"),
    "it is known": ({"eos_token_id": [4, 2]}, {"eos_token_id": [2, 4]}, CHAT),
}


@pytest.mark.parametrize("case", NOTHING_TO_ADD)
def test_nothing_is_added(tmp_path, case):
    of_base, of_chat, template = NOTHING_TO_ADD[case]
    base = parent(tmp_path / "base", {}, of_base, template)
    chat = parent(tmp_path / "chat", {}, of_chat)
    plan = plan_merge(base, chat)
    assert plan.configs[GENERATION] == base / GENERATION
    assert not any("ends a turn" in warning for warning in plan.warnings)


def tokenizer_with(folder: Path, template: str) -> ChildTokenizer:
    (folder / "chat_template.jinja").write_text(template)
    write_json(folder / "tokenizer_config.json", {"eos_token": "</s>"})
    return ChildTokenizer(folder, {token: row for row, token in enumerate(TOKENS)}, "a")


def test_a_template_that_writes_the_end_by_its_name(tmp_path):
    tokenizer = tokenizer_with(tmp_path, "{{ messages[0].content + eos_token }}")
    config, (line,) = with_turn_ends({"eos_token_id": 4}, {}, tokenizer, {"</s>", "<|im_end|>"})
    assert config == {"eos_token_id": [4, 2]}
    assert line == remark("</s>", 2)


def test_ends_in_the_language_part_stay_there(tmp_path):
    tokenizer = tokenizer_with(tmp_path, CHAT)
    nested = {"text_config": {"eos_token_id": 2}, "vision_config": {}}
    config, _ = with_turn_ends(nested, nested, tokenizer, {"<|im_end|>"})
    assert config == {"text_config": {"eos_token_id": [2, 4]}, "vision_config": {}}


def test_an_end_that_no_config_states_is_the_tokenizers(tmp_path):
    config, _ = with_turn_ends({}, {}, tokenizer_with(tmp_path, CHAT), {"<|im_end|>"})
    assert config == {"eos_token_id": [2, 4]}


def test_the_ends_of_a_model():
    rows = {token: row for row, token in enumerate(TOKENS)}
    assert ends_of({"eos_token_id": 2}, {"eos_token_id": [2, 4]}, rows) == {"</s>", "<|im_end|>"}
    assert ends_of({"text_config": {"eos_token_id": 4}}, {}, rows) == {"<|im_end|>"}
    assert ends_of({"eos_token_id": None}, {"eos_token_id": "x"}, rows) == set()
    assert ends_of({"eos_token_id": 99}, {}, rows) == set()
