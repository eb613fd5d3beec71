"""Models of sentence-transformers: their settings are copied, or what is not copied is named."""

import json
from pathlib import Path

import pytest

from fusion_slerp import merge, verify
from tests.models import contents, write_json

SENTENCE = "sentence_transformers"
OLD, NEW = f"{SENTENCE}.models", f"{SENTENCE}.sentence_transformer.modules.pooling"


def modules(folder: Path, *parts: tuple[str, str], mode: str = "mean") -> Path:
    """Turns a checkpoint into a model of sentence-transformers with these modules: paths and classes."""
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(parts)]
    write_json(folder / "modules.json", listed)
    write_json(folder / "config_sentence_transformers.json", {"prompts": {}})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 512})
    for path, _ in parts[1:]:
        (folder / path).mkdir(parents=True)
        write_json(folder / path / "config.json", {"pooling_mode": mode})
        (folder / path / "notes.txt").write_text("not read")
    return folder


def of_child(out: Path) -> set[str]:
    return {name for name in contents(out) if "sentence" in name or name == "modules.json" or "_P" in name}


@pytest.mark.parametrize("pooling", [f"{OLD}.Pooling", f"{NEW}.Pooling"])
def test_what_has_no_weights_is_copied(tmp_path, parents, pooling):
    a = modules(parents[0], ("", f"{OLD}.Transformer"), ("1_Pooling", pooling))
    modules(parents[1], ("", f"{OLD}.Transformer"), ("1_Pooling", pooling))
    result = merge(*parents, out=tmp_path / "child")
    assert result.plan.warnings == ()
    names = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
    assert of_child(tmp_path / "child") == {*names, "1_Pooling/config.json"}
    for name in (*names, "1_Pooling/config.json"):
        assert (tmp_path / "child" / name).read_bytes() == (a / name).read_bytes()
    assert verify(tmp_path / "child").ok


def test_a_module_without_settings_needs_no_folder(tmp_path, parents):
    a = modules(parents[0], ("", f"{OLD}.Transformer"))
    listed = [
        *json.loads((a / "modules.json").read_text()),
        {"path": "1_Normalize", "type": f"{OLD}.Normalize"},
    ]
    write_json(a / "modules.json", listed)
    merge(*parents, out=tmp_path / "child")
    assert (tmp_path / "child/modules.json").is_file()
    assert not (tmp_path / "child/1_Normalize").exists()


@pytest.mark.parametrize(
    ("path", "kind", "shown"),
    [
        ("2_Dense", f"{OLD}.Dense", "Dense (2_Dense)"),
        ("1_Pooling", "my_code.Pooling", "Pooling (1_Pooling)"),
        ("../x", f"{OLD}.Pooling", "Pooling (../x)"),
        ("sub/1_Pooling", f"{OLD}.Pooling", "Pooling (sub/1_Pooling)"),
    ],
)
def test_modules_that_the_merged_model_cannot_have(tmp_path, parents, path, kind, shown):
    a = modules(parents[0], ("", f"{OLD}.Transformer"), (path, kind))
    (warning,) = merge(*parents, out=tmp_path / "child").plan.warnings
    start = f"{a}: the merged model is no sentence-transformers model as this one is: "
    assert warning == f"{start}{shown}: neither merged nor copied"
    assert of_child(tmp_path / "child") == set()


@pytest.mark.parametrize(
    "content", ["{", "{}", '[{"path": 1}]', '[{"path": "", "type": 3}]', "[1]", '"x"', "1", "[]"]
)
def test_a_file_that_is_no_list_of_modules(tmp_path, parents, content):
    modules(parents[0], ("", f"{OLD}.Transformer"))
    (parents[0] / "modules.json").write_text(content)
    warnings = merge(*parents, out=tmp_path / "child").plan.warnings
    assert of_child(tmp_path / "child") == set()
    assert warnings[0].endswith("as this one is: no list of modules in modules.json")


def test_other_settings_of_another_model_are_named(tmp_path, parents):
    for folder, mode in zip(parents, ("mean", "cls"), strict=True):
        modules(folder, ("", f"{OLD}.Transformer"), ("1_Pooling", f"{OLD}.Pooling"), mode=mode)
    (warning,) = merge(*parents, out=tmp_path / "child").plan.warnings
    a, b = parents
    assert warning == f"{b} has other 1_Pooling/config.json; the merged model has those of {a}"
    assert "mean" in (tmp_path / "child/1_Pooling/config.json").read_text()
