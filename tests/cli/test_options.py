"""Every setting of a merge is an option, described by the docstring of the settings."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from fusion_slerp.cli import forecast
from fusion_slerp.cli.options import (
    base_help,
    declarations,
    flag,
    help_text,
    is_switch,
    long_flag,
    read_per_model,
    read_value,
)
from fusion_slerp.cli.request import Request, read_request
from fusion_slerp.errors import SettingsError
from fusion_slerp.methods import METHODS
from fusion_slerp.options import declaration, declared, meanings
from fusion_slerp.settings.merge_settings import option_fields

NAMES = list(option_fields())

TYPED = {
    "method": (["--method", "slerp"], "slerp"),
    "t": (["-t", "[0, 0.5, 1]"], [0, 0.5, 1]),
    "slices": (["--slices", "[{a: [0, 1], b: [0, 1]}]"], [{"a": [0, 1], "b": [0, 1]}]),
    "DOT_THRESHOLD": (["--dot-threshold", "1"], 1),
    "epsilon": (["--epsilon", "1e-6"], 1e-6),
    "granularity": (["--granularity", "row"], "row"),
    "weight": (["-w", "a=0.4", "--weight", "b=[0, 1e-1]"], {"a": 0.4, "b": [0, 0.1]}),
    "normalize": (["--no-normalize"], False),
    "rescale": (["--rescale"], True),
    "density": (["--density", "a=0.5", "--density", "b=[0.3, 7e-1]"], {"a": 0.5, "b": [0.3, 0.7]}),
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
    "vocabulary_tensors": (
        ["--vocabulary-tensors", "{model.x.weight: follow}"],
        {"model.x.weight": "follow"},
    ),
    "config_overrides": (["--config-overrides", "{text_config.x: null}"], {"text_config.x": None}),
    "missing": (["--missing", "copy"], "copy"),
    "strict": (["--strict"], True),
    "follow_links": (["--follow-links"], True),
    "hash_inputs": (["--hash-inputs"], True),
    "overwrite": (["--no-overwrite"], False),
    "threads": (["--threads", "3"], 3),
    "memory_budget": (["--memory-budget", "200MB"], "200MB"),
    "direct_io": (["--direct-io", "off"], "off"),
    "checksum": (["--checksum", "sha256"], "sha256"),
    "rank_timeout": (["--rank-timeout", "5"], 5),
    "show_pbar": (["--show-pbar"], True),
}


TYPED |= {
    name: ([long_flag(name), json.dumps(example)], example)
    for name, example in {name: declarations(name)[0].example for name in NAMES if name not in TYPED}.items()
}


def test_every_setting_is_tried_below():
    assert sorted(TYPED) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_one_option_is_typed_alike_for_all_methods(name):
    of_methods = declarations(name)
    assert {each.check.is_switch for each in of_methods} == {is_switch(name)}
    assert len({(each.panel, each.is_text) for each in of_methods}) == 1
    assert len({each.flag for each in of_methods if each.flag}) <= 1


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


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--overwrite"], True),
        (["--overwrite=any"], "any"),
        (["--Overwrite=any"], "any"),
        (["--overwrite=true"], True),
        (["--overwrite=false"], False),
        (["--overwrite=all"], "all"),  # which the settings refuse, with the values that they accept
        (["--no-overwrite", "--overwrite=any"], False),
        (["--overwrite=any", "--overwrite"], "any"),
    ],
    ids=str,
)
def test_a_switch_takes_a_name_after_an_equals_sign(command, monkeypatch, words, value):
    requests = []

    def make(request, out):
        requests.append(request)
        raise SettingsError("enough")

    monkeypatch.setattr(forecast, "make", make)
    assert command("plan", "a", *words, "b").code == 2
    assert requests[0].models == ("a", "b")
    assert requests[0].options == {"overwrite": value}


def test_the_line_names_a_switch_as_it_is_typed():
    for value, word in ((True, "--overwrite"), ("any", "--overwrite=any")):
        assert Request(("a", "b"), options={"overwrite": value}).command().endswith(f" {word}")


def test_after_two_dashes_there_are_no_options(command, parents):
    ended = command("plan", "--", parents[0], "--overwrite=any")
    assert ended.code == 2
    assert "--overwrite=any: model not found" in ended.err


def test_a_wrong_name_of_a_switch_names_the_values(command, parents):
    ended = command("plan", *parents, "--overwrite=all")
    assert ended.code == 2
    assert "invalid overwrite\n  found: 'all' (str)\n  needed: true, false or any" in ended.err
    assert "Also --overwrite=any." in help_text("overwrite").replace("`", "")
    assert "--overwrite-as" not in command("merge", "--help").out


@pytest.mark.parametrize("verb", ["merge", "plan"])
def test_help_lists_every_setting_with_its_docstring(verb, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    text = command(verb, "--help").out
    for name in NAMES:
        assert f"{flag(name)} " in text
        assert len(help_text(name)) > 30
        assert help_text(name).partition(". ")[2].partition(".")[0].replace("`", "") in text
    assert "[0, 1]" in text  # brackets are no markup
    assert '{"<|im_end|>": {"source": "b", "force": True}}' in text


def test_the_help_says_which_method_an_option_belongs_to():
    for name in NAMES:
        owners = [method for method in METHODS.values() if name in declared(method.options)]
        assert help_text(name).startswith("For ") == bool(owners), name
        for owner in owners:
            (part,) = re.findall(
                rf"For [a-z_, ]*\b{owner.name}\b[a-z_, ]*\. (.*?Default: .*?\.)(?= For|$)", help_text(name)
            )
            assert part.startswith(meanings(owner.options)[name]), (name, owner.name)
    assert "Repeat it as LABEL=YAML" in help_text("weight")
    assert all(f" {method}" in help_text("method") for method in METHODS)


def test_an_option_has_the_meaning_and_default_of_each_method():
    """TIES divides by the weights of the models that agree, linear by all."""
    linear, ties = (METHODS[name].options for name in ("linear", "ties"))
    text = help_text("normalize")
    assert meanings(linear)["normalize"] != meanings(ties)["normalize"]
    assert meanings(linear)["normalize"] in text
    assert meanings(ties)["normalize"] in text


def test_the_help_of_base_says_which_methods_take_one(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    assert base_help() in command("merge", "--help").out
    for method in METHODS.values():
        assert bool(re.search(rf"\b{method.name}\b", base_help())) == (method.base != "none")


def test_the_help_lists_options_under_their_panels(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    panel, found = "", {}
    for line in command("merge", "--help").out.splitlines():
        if line.startswith("╭─ "):
            panel = line.split()[1]
        found |= {word: panel for word in line.split() if word.startswith("--")}
    for name, each in option_fields().items():
        assert found["--" + name.lower().replace("_", "-")] == declaration(each).panel


# --- a value for each model -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        (["0.5"], 0.5),
        (["[0, 1]"], [0, 1]),
        (["{a: 0.4, b: 6e-1}"], {"a": 0.4, "b": 0.6}),
        (["a=0.4"], {"a": 0.4}),
        (["a=[0, 1]", " b = {value: 1}", "base=2"], {"a": [0, 1], "b": {"value": 1}, "base": 2}),
        (["[{filter: a=b, value: 1}]"], [{"filter": "a=b", "value": 1}]),
        (["a=[{filter: x=y, value: 1}]"], {"a": [{"filter": "x=y", "value": 1}]}),
    ],
)
def test_forms_of_a_value_per_model(typed, value):
    assert read_per_model(typed, "weight") == value


@pytest.mark.parametrize(
    ("typed", "headline"),
    [
        (["0.5", "0.6"], "weight is given several times"),
        (["0.5", "a=1"], "weight is given several times"),
        (["a=1", "b=2", "a=3"], "weight of a is given twice"),
        (["a=[1"], "weight.a is not readable as YAML"),
    ],
)
def test_values_per_model_that_contradict_each_other(typed, headline):
    with pytest.raises(SettingsError) as caught:
        read_per_model(typed, "weight")
    assert str(caught.value).startswith(headline)
    assert "Fix: " in str(caught.value)


def test_a_label_that_is_none_is_refused(command, parents):
    ended = command("plan", *parents, "--method", "linear", "-w", "A=1")
    assert ended.code == 2
    assert "labels of models: a, b, c, ..." in ended.err


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"t": [0, 0.5, 1], "DOT_THRESHOLD": 1},
        {"method": "linear"},
        {"method": "linear", "weight": 2},
        {"method": "linear", "weight": {"a": 0.4, "b": [0, 1]}, "normalize": False},
        {"method": "linear", "weight": [{"filter": "mlp", "value": 1e-9}, {"value": 1}]},
        {"method": "linear", "normalize": True},
        {
            "method": "linear",
            "weight": {"a": [{"filter": "mlp", "value": 1}, {"value": 1}]},
            "dtype": "float16",
        },
    ],
)
def test_the_line_that_a_request_gives_asks_for_the_same(options, command, monkeypatch):
    requests = []

    def make(request, out):
        requests.append(request)
        raise SettingsError("enough")

    monkeypatch.setattr(forecast, "make", make)
    request = Request(("a", "b b"), options=options)
    command(*shlex.split(request.command(verb="plan"))[1:])
    defaults = {"weight": 1.0} if options.get("method") else {"t": 0.5}
    assert requests[0].models == ("a", "b b")
    changed = {name: value for name, value in options.items() if (name, value) != ("normalize", True)}
    assert requests[0].options == defaults | changed


def test_the_line_names_the_base():
    assert " b --base 'x y' -t " in Request(("a", "b"), "x y").command()


# --- models and recipes ---------------------------------------------------------------------------------


def test_what_is_missing_depends_on_the_method():
    assert read_request(["a"], None, {"method": "linear"}).models == ("a",)
    with pytest.raises(SettingsError, match=r"the second model is missing(.|\n)*exactly 2 for slerp"):
        read_request(["a"], None, {})
    assert read_request(["a", "b", "c"], None, {"method": "nothing"}).models == ("a", "b", "c")


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
    found = read_value(text, "t")
    assert (found, type(found)) == (value, type(value))


def test_all_texts_that_are_no_yaml_are_named_at_once(command):
    ended = command("plan", "a", "b", "-t", "[0, 1", "--slices", "{a: ")
    assert ended.code == 2
    assert "2 problems" in ended.err
    assert "t is not readable as YAML\n  found: [0, 1\n" in ended.err
    assert "slices is not readable as YAML" in ended.err
    assert "\nFix: write it as YAML between quotes, such as --slices '[{" in ended.err
    assert "Traceback" not in ended.err
