"""Chat templates in every form in which a folder may hold them."""

import json

import pytest

from fusion_slerp.vocabulary.chat_templates import chat_templates


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{ a }}", {"default": "{{ a }}"}),
        ([{"name": "tools", "template": "{{ b }}"}], {"tools": "{{ b }}"}),
        ({"tools": "{{ b }}"}, {"tools": "{{ b }}"}),
        ([{"name": ["a list"], "template": "{{ b }}"}, {"template": "{{ c }}"}, "text", None], {}),
        ([{"name": {"a": 1}, "template": "{{ b }}"}, {"name": "x", "template": ["y"]}], {}),
        (17, {}),
    ],
)
def test_templates_of_a_tokenizer_config(tmp_path, value, expected):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    assert dict(chat_templates(tmp_path)) == expected
