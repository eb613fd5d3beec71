"""Completion of folders."""

from __future__ import annotations

import pytest

from fusion_slerp.cli.paths import completions


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("models/llama", "models/large", "models/.hidden", "my models", "outputs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models" / "letter.txt").write_text("a file")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["models/", "my models/", "outputs/"]),
        ("m", ["models/", "my models/"]),
        ("models/", ["models/large/", "models/llama/"]),
        ("models/l", ["models/large/", "models/llama/"]),
        ("models/.h", ["models/.hidden/"]),
        ("~/models/ll", ["~/models/llama/"]),
        ("./ou", ["./outputs/"]),
        ("nowhere/x", []),
    ],
)
def test_folders_complete_what_was_typed(text, found, folders):
    assert completions(text) == found


def test_an_absolute_path_stays_absolute(folders):
    assert completions(f"{folders}/models/la") == [f"{folders}/models/large/"]
