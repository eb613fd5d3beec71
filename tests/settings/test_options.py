"""How options are declared: each with a meaning, a check and an example, all of which are true."""

from dataclasses import dataclass

import pytest
import yaml

from fusion_slerp import MergeSettings, SettingsError, make_settings, merge
from fusion_slerp.methods import DEFAULT, METHODS
from fusion_slerp.methods.linear import LinearOptions
from fusion_slerp.methods.slerp import SlerpOptions
from fusion_slerp.options import (
    BOOLEAN,
    COUNT,
    FINITE,
    NON_NEGATIVE,
    TEXT,
    UNIT_INTERVAL,
    Declaration,
    declaration,
    declared,
    meanings,
    one_of,
    option,
    or_null,
)
from fusion_slerp.settings.labels import BASE, is_label, labels
from fusion_slerp.settings.merge_settings import Missing, fields_by_method, option_fields
from fusion_slerp.settings.schedule import PerModel, Schedule, read_schedule
from tests.every_method import Family, Way, each_method, write_family
from tests.models import contents, write_checkpoint

METHOD_OF = {MergeSettings: DEFAULT} | {method.options: method.name for method in METHODS.values()}
"""By the class that declares options."""

OWNERS: dict[str, type] = {}
"""The class that declares an option, by name: of several, the first."""
for owner in METHOD_OF:
    OWNERS = dict.fromkeys(declared(owner), owner) | OWNERS

each_option = pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(owner, name, id=f"{owner.__name__}-{name}")
        for owner in METHOD_OF
        for name in declared(owner)
    ],
)


def about(name: str, owner: type | None = None) -> Declaration:
    return declaration(declared(owner or OWNERS[name])[name])


# Declarations.


@each_option
def test_every_option_has_a_meaning_of_one_line(owner, name):
    meaning = meanings(owner)[name]
    assert meaning.endswith(".")
    assert "\n" not in meaning
    assert "  " not in meaning
    assert len(meaning) > 20


def test_meanings_speak_of_options_alone():
    for owner in METHOD_OF:
        assert set(meanings(owner)) - set(declared(owner)) <= {"parameters"}


@each_option
def test_every_example_is_fine_and_every_default(owner, name):
    example = about(name, owner).example
    made = make_settings(**{"method": METHOD_OF[owner], name: example})
    assert made.options[name] == example
    if not about(name, owner).is_schedule:
        assert about(name, owner).check.is_fine(example)
        assert about(name, owner).check.is_fine(declared(owner)[name].default)


def test_all_options_by_name():
    assert option_fields() == {name: declared(owner)[name] for name, owner in OWNERS.items()}
    by_method = fields_by_method()
    assert by_method.keys() == OWNERS.keys() - declared(MergeSettings).keys()
    for method in METHODS.values():
        for name, each in declared(method.options).items():
            assert by_method[name][method.name] is each


def test_a_meaning_is_read_from_the_docstring():
    @dataclass
    class Options:
        """Some.

        Attributes:
            one: A first line,
                and `more` of it: all.
            two: Short
            other: No option.
        """

        one: int = option(1, COUNT, "1", panel="Machine")
        two: int = option(2, COUNT, "2", panel="Machine")
        other: int = 3

    assert meanings(Options) == {
        "one": "A first line, and `more` of it: all.",
        "two": "Short.",
        "other": "No option.",
    }
    assert list(declared(Options)) == ["one", "two"]


@pytest.mark.parametrize(
    ("check", "fine", "wrong"),
    [
        (FINITE, [0, -3, 1.5, 1e308], [float("nan"), float("inf"), True, "1", None, 10**400]),
        (UNIT_INTERVAL, [0, 1, 0.5], [-1e-9, 1.1, True, None]),
        (NON_NEGATIVE, [0, 7.5], [-1, float("nan"), False]),
        (COUNT, [1, 2.0, 10**6], [0, 1.5, True, -2, "2", float("inf"), float("nan")]),
        (BOOLEAN, [True, False], [0, 1, None, "true"]),
        (TEXT, ["x"], ["", 3, None]),
        (or_null(COUNT), [None, 3], [0, "x"]),
    ],
)
def test_checks(check, fine, wrong):
    assert all(map(check.is_fine, fine))
    assert not any(map(check.is_fine, wrong))


def test_one_of_the_names_of_a_type():
    check = one_of(Missing)
    assert (check.choices, check.needed) == (("error", "copy"), "one of error, copy")
    assert or_null(check).choices == check.choices
    assert check.is_fine("copy")
    assert not check.is_fine("Copy")


# Settings from options, and back.

VARIED = [
    {},
    {"method": "linear"},
    {"method": "linear", "weight": {"a": 0.4, "b": [0, 0.6], "c": {"filter": "mlp", "value": 2}}},
    {"method": "linear", "weight": [1, -1], "normalize": False, "dtype": "float32"},
    {"t": [{"filter": "self_attn", "value": [0, 1]}, {"value": 0.5}], "granularity": "row", "threads": 2},
    {"slices": [{"a": [0, 2], "b": [1, 3], "t": 0.3}], "direct_io": True, "memory_budget": "1GB"},
    {"method": "linear", "slices": [{"a": [0, 1], "b": [0, 1], "weight": {"b": 3}}], "strict": True},
    {"tokens": {"<x>": {"source": "b", "force": True}}, "vocab_fill": "mean", "chat_template": "{{ x }}"},
]


@pytest.mark.parametrize("options", VARIED, ids=str)
def test_settings_are_made_again_from_their_options(options):
    settings = make_settings(**options)
    assert make_settings(**settings.options) == settings
    assert settings.options.keys() == {*declared(MergeSettings), *declared(type(settings.parameters))}
    for name, value in options.items():
        assert settings.options[name] == ("on" if name == "direct_io" else value)
    unset = {name for name in settings.options if not about(name).records_default} - options.keys()
    decides = {name for name in settings.options if about(name).changes_child} - unset
    assert settings.about_the_child == {name: settings.options[name] for name in decides}
    again = make_settings(**yaml.safe_load(yaml.safe_dump(settings.options)))
    assert again == settings


def test_the_options_of_a_method_are_its_parameters():
    assert make_settings().parameters == SlerpOptions()
    assert make_settings(method="linear", weight=2).parameters == LinearOptions(weight=2)
    assert make_settings(method="linear").granularity == "tensor"
    assert make_settings(granularity="row").granularity == "row"
    assert make_settings(method="linear").how is METHODS["linear"]


@pytest.mark.parametrize(
    ("options", "name", "method"),
    [
        ({"weight": 1}, "weight", "linear"),
        ({"normalize": True, "t": 0.5}, "normalize", "linear"),
        ({"method": "linear", "t": 0.5}, "t", "slerp"),
        ({"method": "linear", "granularity": "row"}, "granularity", "slerp"),
    ],
    ids=str,
)
def test_an_option_of_another_method_names_that_method(options, name, method):
    with pytest.raises(SettingsError) as caught:
        make_settings(**options)
    lines = str(caught.value).splitlines()
    assert name in lines[0]
    assert options.get("method", DEFAULT) in lines[0]
    assert lines[-1] == f"Fix: use method={method!r}, or leave out {name}"
    options = {**options, "method": method}
    assert make_settings(**{name: options[name], "method": method}).method == method


# Options without effect on the merged model.

ELSE = {
    "strict": True,
    "follow_links": True,
    "hash_inputs": True,
    "overwrite": True,
    "threads": 3,
    "memory_budget": "300MB",
    "direct_io": "off",
    "checksum": "blake3",
    "rank_timeout": 5.0,
    "show_pbar": True,
}


def test_every_option_that_changes_nothing_is_tried():
    assert ELSE.keys() == {name for name in OWNERS if not about(name).changes_child}


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Family:
    """Read-only."""
    return write_family(tmp_path_factory.mktemp("family"))


@pytest.mark.parametrize("name", ELSE)
@each_method
def test_it_changes_no_byte_of_the_model(tmp_path, family, capsys, method, name):
    """Only the manifest may differ: in its hash, and in those of the source models."""
    call, made = family.call(Way(method, method.base != "none")), {}
    for key, options in (("plain", {}), ("else", {name: ELSE[name]})):
        merge(*call.models, out=tmp_path / key / "child", **call.options, **options)
        made[key] = contents(tmp_path / key / "child")
    capsys.readouterr()
    plain, other = made["plain"], made["else"]
    differing = {file for file in plain | other if plain.get(file) != other.get(file)}
    assert differing == ({"merge_manifest.json"} if name in ("checksum", "hash_inputs") else set())


# Labels.


def test_labels_leave_out_the_letter_of_an_option():
    found = labels(60)
    assert found[:21] == list("abcdefghijklmnopqrsuv")
    assert found[18:26] == ["s", "u", "v", "w", "x", "y", "z", "aa"]
    assert found[26] == "ab"
    assert len(set(found)) == 60
    assert not any("t" in label for label in found)
    assert labels(0) == []
    assert all(map(is_label, labels(1000)))


@pytest.mark.parametrize("text", ["a", "z", "aa", "zz", BASE])
def test_what_is_a_label(text):
    assert is_label(text)


@pytest.mark.parametrize(
    "text", ["", "t", "at", "A", "1", "a1", "base2", "bases", "abcd", None, 1, "é", "a b"]
)
def test_what_is_no_label(text):
    assert not is_label(text)


# Schedules for each model.


def of_models(value: object, is_whole: bool = True) -> PerModel:
    found = read_schedule(value, "weight", declared(LinearOptions)["weight"], is_whole)
    assert isinstance(found, PerModel)
    return found


def at(schedule: Schedule | None, name: str = "x", depth: float = 0.0) -> float | None:
    return None if schedule is None else schedule.at(name, depth)


def test_one_form_holds_for_all_models():
    for value in (2, [2, 4], {"value": 2}, [{"filter": "x", "value": 2}, {"value": 3}]):
        found = of_models(value)
        assert found.by_label == {}
        assert at(found.of("a")) == at(found.of("zz")) == 2
    assert at(of_models([2, 4]).of("b"), depth=1.0) == 4


def test_a_mapping_by_label_holds_a_form_for_each():
    found = of_models({"a": 3, "b": [0, 1], "base": [{"filter": "mlp", "value": -1}]})
    assert list(found.by_label) == ["a", "b", "base"]
    assert at(found.of("a")) == 3
    assert at(found.of("b"), depth=0.5) == 0.5
    assert at(found.of("base"), "mlp") == -1
    assert at(found.of("base"), "x") is None
    assert at(found.of("c")) == 1.0  # the default


def test_a_slice_leaves_what_it_does_not_say_to_the_whole():
    found = of_models({"a": 3}, is_whole=False)
    assert at(found.of("a")) == 3
    assert found.of("b") is None


@pytest.mark.parametrize(
    ("weight", "headline", "found"),
    [
        ({"first": 1}, "invalid weight", "the key 'first'"),
        ({"a": 1, "t": 0.5}, "invalid weight", "the key 't'"),
        ({"a": 1, 2: 0.5}, "invalid weight", "the key 2"),
        ({"a": "heavy"}, "invalid weight.a", "'heavy' (str)"),
        ({"a": 1, "b": [1, None]}, "invalid weight.b", "[1, None] (list)"),
        ({"b": {"filter": "x"}}, "invalid weight.b[0].value", "None (NoneType)"),
        (
            {"b": [{"filter": "x", "valu": 1}]},
            "invalid weight.b[0]",
            "the key 'valu' (did you mean 'value'?)",
        ),
        ({"a": {"b": 1}}, "invalid weight.a[0]", "the key 'b'"),
        ({"value": 1, "a": 2}, "invalid weight[0]", "the key 'a'"),
        ({"a": float("nan")}, "invalid weight.a", "nan (float)"),
    ],
    ids=str,
)
def test_wrong_values_for_models(weight, headline, found):
    with pytest.raises(SettingsError) as caught:
        make_settings(method="linear", weight=weight)
    lines = str(caught.value).splitlines()
    assert lines[0] == headline
    assert lines[1] == f"  found: {found}"
    assert lines[-1] == "Fix: use weight={'a': 0.4, 'b': 0.6}"
    assert make_settings(method="linear", weight={"a": 0.4, "b": 0.6})


def test_wrong_values_in_slices_name_the_slice():
    slices = [{"a": [0, 1], "b": [0, 1]}, {"a": [0, 1], "b": [0, 1], "weight": {"a": "x"}}]
    with pytest.raises(SettingsError, match=r"^invalid slices\[1\]\.weight\.a\n  found: 'x' \(str\)"):
        make_settings(method="linear", slices=slices)
    with pytest.raises(SettingsError, match=r"Fix: use t=0\.5, and leave it out of the slice$"):
        make_settings(slices=[{"a": [0, 1], "b": [0, 1], "t": 2}])
    with pytest.raises(SettingsError, match=r"the key 'weight'"):
        make_settings(slices=[{"a": [0, 1], "b": [0, 1], "weight": 1}])


def test_more_models_than_letters(tmp_path):
    folder = write_checkpoint(tmp_path / "model", 1)
    result = merge(*[folder] * 27, out=tmp_path / "child", method="linear", weight={"z": 5, "ab": 2})
    assert list(result.plan.parents) == labels(27)
    assert result.plan.tensors[0].values["weight"]["z"] == 5
    assert result.plan.tensors[0].values["weight"]["ab"] == 2
