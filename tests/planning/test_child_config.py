"""The ids in the child's config.json and generation_config.json."""

import json

import pytest

from fusion_slerp import merge
from tests.models import write_json
from tests.vocabulary.test_rows import WORDS, parent


@pytest.mark.parametrize("tokenizer", ["a", "union"])
def test_the_other_parents_generation_config_gets_the_childs_ids(tmp_path, tokenizer):
    """The child's tokenizer is a's as it is, but only b has the file: its ids are b's rows."""
    a = parent(tmp_path / "a", WORDS[:10], 10)
    b = parent(tmp_path / "b", WORDS[9::-1], 10)
    write_json(b.folder / "generation_config.json", {"eos_token_id": [2, 0], "suppress_tokens": [1]})
    merge(a.folder, b.folder, out=tmp_path / "child", tokenizer=tokenizer)
    generation = json.loads((tmp_path / "child/generation_config.json").read_text())
    assert generation == {"eos_token_id": [7, 9], "suppress_tokens": [8]}
    written, given = (folder / "config.json" for folder in (tmp_path / "child", a.folder))
    assert written.read_bytes() == given.read_bytes()
