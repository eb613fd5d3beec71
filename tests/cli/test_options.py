"""Every setting of a merge is an option, described by the docstring of the settings."""

from __future__ import annotations

from dataclasses import fields

import pytest

from fusion_slerp.cli import forecast
from fusion_slerp.cli.options import PANELS, flag, help_texts, read_value
from fusion_slerp.errors import SettingsError
from fusion_slerp.settings.merge_settings import MergeSettings

NAMES = [field.name for field in fields(MergeSettings)]

TYPED = {
    "t": (["-t", "[0, 0.5, 1]"], [0, 0.5, 1]),
    "slices": (["--slices", "[{a: [0, 1], b: [0, 1]}]"], [{"a": [0, 1], "b": [0, 1]}]),
    "DOT_THRESHOLD": (["--dot-threshold", "1"], 1),
    "epsilon": (["--epsilon", "1e-6"], 1e-6),
    "granularity": (["--granularity", "row"], "row"),
    "dtype": (["--dtype", "float16"], "float16"),
    "max_shard_size": (["--max-shard-size", "500MiB"], "500MiB"),
    "tokenizer": (["--tokenizer", "~/on: it"], "~/on: it"),
    "chat_template": (["--chat-template", "{{ messages }}"], "{{ messages }}"),
    "vocab_fill": (["--vocab-fill", "mean"], "mean"),
    "tokens": (
        ["--tokens", "{'<pad>': {source: b, force: true}}"],
        {"<pad>": {"source": "b", "force": True}},
    ),
    "pad_vocab_to_multiple_of": (["--pad-vocab-to-multiple-of", "64"], 64),
    "missing": (["--missing", "copy"], "copy"),
    "strict": (["--strict"], True),
    "follow_links": (["--follow-links"], True),
    "overwrite": (["--no-overwrite"], False),
    "threads": (["--threads", "3"], 3),
    "memory_budget": (["--memory-budget", "200MB"], "200MB"),
    "direct_io": (["--direct-io", "off"], "off"),
    "checksum": (["--checksum", "sha256"], "sha256"),
    "show_pbar": (["--show-pbar"], True),
}


def test_every_setting_is_tried_below():
    assert list(TYPED) == NAMES


@pytest.mark.parametrize("name", TYPED)
def test_every_setting_can_be_typed(name, command, monkeypatch):
    words, value = TYPED[name]
    requests = []

    def make(request, out):
        requests.append(request)
        raise SettingsError("enough")

    monkeypatch.setattr(forecast, "make", make)
    assert command("plan", "a", "b", *words).code == 2
    assert requests[0].options == {name: value}


@pytest.mark.parametrize("verb", ["merge", "plan"])
def test_help_lists_every_setting_with_its_docstring(verb, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    text = command(verb, "--help").out
    for name in NAMES:
        assert f"{flag(name)} " in text
        assert len(help_texts()[name]) > 20
        assert help_texts()[name].partition(".")[0].replace("`", "") in text
    assert "[0, 1]" in text  # brackets are no markup
    assert '{"<|im_end|>": {"source": "b", "force": True}}' in text


def test_every_setting_has_its_place_in_the_help():
    assert sorted(name for names in PANELS.values() for name in names) == sorted(NAMES)


def test_options_may_be_spelled_as_the_settings(command, parents):
    plan = command("plan", *parents, "--DOT_THRESHOLD", "1", "--max_shard_size", "100", "--json")
    assert plan.code == 0
    assert len(plan.json["files"]) > 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.3", 0.3),
        ("1e-8", 1e-8),
        ("2E+3", 2000.0),
        ("null", None),
        ("[0, 1]", [0, 1]),
        ("[{filter: mlp, value: 1}]", [{"filter": "mlp", "value": 1}]),
        ("5GB", "5GB"),
    ],
)
def test_values_are_yaml_and_numbers_are_numbers(text, value):
    assert read_value(text, "t") == value


def test_all_texts_that_are_no_yaml_are_named_at_once(command):
    ended = command("plan", "a", "b", "-t", "[0, 1", "--slices", "{a: ")
    assert ended.code == 2
    assert "2 problems" in ended.err
    assert "t is not readable as YAML\n  found: [0, 1\n" in ended.err
    assert "slices is not readable as YAML" in ended.err
    assert "Traceback" not in ended.err
