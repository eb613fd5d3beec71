"""Which settings are published, and in what form."""

import pytest

from fusion_slerp.methods import METHODS
from fusion_slerp.options import declaration
from fusion_slerp.output.child_settings import child_settings
from fusion_slerp.settings.merge_settings import make_settings, option_fields


@pytest.mark.parametrize("method", METHODS)
def test_the_options_that_change_the_model_and_no_others(method):
    settings = make_settings(method=method)
    shown = child_settings(settings)
    fields = option_fields()
    assert shown.keys() == {
        name
        for name, each in fields.items()
        if declaration(each).changes_child and declaration(each).records_default and name in settings.options
    }
    assert next(iter(shown)) == "method"
    assert make_settings(**shown) == settings


def test_of_a_tokenizers_folder_the_last_name_alone(tmp_path, monkeypatch):
    (tmp_path / "deep/tokens").mkdir(parents=True)
    assert child_settings(make_settings(tokenizer=str(tmp_path / "deep/tokens")))["tokenizer"] == "tokens"
    monkeypatch.chdir(tmp_path / "deep")
    assert child_settings(make_settings(tokenizer="./tokens"))["tokenizer"] == "tokens"
    assert child_settings(make_settings(tokenizer="owner/name"))["tokenizer"] == "owner/name"


@pytest.mark.parametrize("tokenizer", ["union", "a", "c", "base"])
def test_labels_are_no_folders(tmp_path, monkeypatch, tokenizer):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / tokenizer).symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert child_settings(make_settings(tokenizer=tokenizer))["tokenizer"] == tokenizer
