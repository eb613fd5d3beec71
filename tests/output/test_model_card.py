"""README.md: the source models by their labels, the method, and how to use the model and make it again."""

import re
from importlib.resources import files

import pytest
import yaml

import fusion_slerp
from fusion_slerp import merge
from fusion_slerp.api import prepare_merge, run_merge
from fusion_slerp.methods import METHODS
from fusion_slerp.output.model_card import CardParent, model_card
from fusion_slerp.settings.merge_settings import make_settings
from tests.models import contents, write_checkpoint

A = CardParent("owner/a", "0" * 40, {"license": "mit"}, True)
B = CardParent("b", from_files=True)
C = CardParent("c", from_files=True)


def card(parents=(A, B), labels="ab", **options) -> str:
    return model_card(dict(zip(labels, parents, strict=True)), make_settings(**options), [], "child")


def configuration(text: str) -> dict:
    return yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])["method"]


def test_two_models():
    text = card(t=0.3)
    assert (
        "This is a merged language model: spherical linear interpolation (SLERP) of two models, made" in text
    )
    assert "| label | model | revision |\n| --- | --- | --- |\n" in text
    assert f"\n| a | owner/a | {'0' * 40} |\n| b | b | local |\n" in text
    assert re.search(r"^`t` = 0\.3: \w.*\.$", text, re.MULTILINE)
    assert f"merge('owner/a@{'0' * 40}', 'b', out='child', t=0.3)" in text
    assert configuration(text)["_target_"] == "fusion_slerp.SlerpForCausalLM"
    assert "license: mit" in text


@pytest.mark.parametrize("t", [[0, 1], [{"filter": "mlp", "value": 0.3}, {"value": 0.3}, {"value": 1}]])
def test_a_schedule(t):
    text = card(t=t)
    assert "\n`t` varies from tensor to tensor (see the configuration): " in text
    assert f", out='child', t={t!r})" in text


def test_three_models_and_their_weights():
    text = card((A, B, C), "abc", method="linear", weight={"a": 0.25, "b": [0, 1]}, normalize=False)
    assert "This is a merged language model: weighted average of the weights (linear), made" in text
    assert "| label | model | revision | weight |\n" in text
    assert f"| a | owner/a | {'0' * 40} | 0.25 |\n" in text
    assert "| b | b | local | varies, see below |\n| c | c | local | 1 |\n" in text
    assert "'b', 'c', out='child', method='linear', weight={'a': 0.25, 'b': [0, 1]}, normalize=False)" in text
    assert configuration(text) == {
        "_target_": "fusion_slerp.LinearForCausalLM",
        "weight": {"a": 0.25, "b": [0, 1]},
        "normalize": False,
        **{
            name: value
            for name, value in make_settings().about_the_child.items()
            if name not in ("method", "tokenizer", "t", "DOT_THRESHOLD", "epsilon", "granularity")
        },
    }


def test_a_base_is_named():
    text = card((A, B, C), ("a", "b", "base"), method="linear")
    assert f"merge('owner/a@{'0' * 40}', 'b', base='c', out='child', method='linear', weight=1.0)" in text
    assert "| base | c | local |  |\n\nThe model labelled base is the common ancestor" in text


def test_models_in_memory_cannot_be_merged_again():
    text = card((CardParent("one"), CardParent("two")))
    assert "How to reproduce" not in text
    assert "| a | one | local |" in text


def test_hub_ids_are_metadata_in_their_order():
    hub = CardParent("owner/z", "1" * 40, {"license": "other"}, True)
    metadata = yaml.safe_load(card((hub, B, A), "abc", method="linear").split("---\n")[1])
    assert metadata["base_model"] == ["owner/z", "owner/a"]
    assert metadata["license"] == "other"
    assert "base_model" not in card((B, C))


def test_the_program_that_ran_the_merge_is_credited(tmp_path, parents):
    """The cards of one merge differ in that line alone, and either program may resume it."""
    assert "FusionBench" not in card()
    alone, in_host = (prepare_merge(parents, tmp_path / name / "child") for name in ("alone", "host"))
    assert alone.identity == in_host.identity
    run_merge(alone)
    run_merge(in_host, made_with="[FusionBench](https://example.org)")
    one, other = contents(tmp_path / "alone/child"), contents(tmp_path / "host/child")
    assert {name for name in one if one[name] != other[name]} == {"README.md", "merge_manifest.json"}
    credit = (
        f"made with fusion_slerp {fusion_slerp.__version__} in [FusionBench](https://example.org).".encode()
    )
    assert credit in other["README.md"]
    assert other["README.md"].replace(b" in [FusionBench](https://example.org)", b"") == one["README.md"]


def usage(text: str) -> str:
    return re.search(r"## How to use\n\n```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.mark.long
def test_the_usage_works_next_to_the_folder(tmp_path, monkeypatch, capsys):
    models = files("fusion_slerp.demo")
    merge(str(models / "plays"), str(models / "code"), out=tmp_path / 'it\'s "mine"')
    monkeypatch.chdir(tmp_path)
    exec(usage((tmp_path / 'it\'s "mine"/README.md').read_text()), names := {})
    assert type(names["model"]).__name__ == "LlamaForCausalLM"
    assert capsys.readouterr().out


def test_without_a_tokenizer_the_usage_loads_the_model_alone():
    text = model_card({"a": A, "b": B}, make_settings(), [], "child", has_tokenizer=False)
    assert "okenizer" not in usage(text)
    assert "AutoModelForCausalLM.from_pretrained('child')" in usage(text)


@pytest.mark.parametrize("method", METHODS)
def test_the_class_of_every_method_exists(method):
    assert METHODS[method].class_name in fusion_slerp.__all__


def test_the_reproduction_makes_the_same_model(tmp_path, parents, monkeypatch):
    c = write_checkpoint(tmp_path / "models/c", seed=3)
    options = {"method": "linear", "weight": {"a": 0.5, "b": [0, 1]}, "dtype": "float16"}
    merge(*parents, c, out=tmp_path / "one/child", **options)
    text = (tmp_path / "one/child/README.md").read_text()
    call = re.search(r"^merge\(.*\)$", text, re.MULTILINE)
    assert call is not None
    monkeypatch.chdir(tmp_path / "models")
    exec(call[0], {"merge": merge})
    for name in ("model.safetensors", "merge_manifest.json", "README.md"):
        assert (tmp_path / "models/child" / name).read_bytes() == (tmp_path / "one/child" / name).read_bytes()
