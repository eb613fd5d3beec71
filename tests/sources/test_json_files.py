"""JSON of checkpoints: repeated keys are found, without a slower parse where there are none."""

import json

import pytest

from fusion_slerp.sources import json_files
from fusion_slerp.sources.json_files import SMALL, parse_json


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"x": [{"a:b": ":", "c": 1, "c": {}}]}', '{"a": 1, "\\u0061": 1}']
)
def test_a_key_that_stands_twice_is_refused_where_that_is_asked(text):
    with pytest.raises(ValueError, match="occurs twice in one object"):
        parse_json(text.encode(), SMALL, strict=True)
    assert parse_json(text.encode(), SMALL) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "n_parses"),
    [('{"a": {"b": [1]}, "c": {}}', 1), ('{"a:b": "::", "c": [{"d": ":"}]}', 2), ("[1]", 1)],
)
def test_a_second_parse_is_for_texts_with_colons(monkeypatch, text, n_parses):
    calls = []
    loads = json.loads
    monkeypatch.setattr(
        json_files.json, "loads", lambda *given, **more: calls.append(1) or loads(*given, **more)
    )
    assert parse_json(text.encode(), SMALL, strict=True) == loads(text)
    assert len(calls) == n_parses
