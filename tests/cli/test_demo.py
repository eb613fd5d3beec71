"""`fusion_slerp demo`: models to try a merge on, in folders of one's own."""

import shlex

import pytest

from tests.cli.conftest import DEMO
from tests.models import contents

MODELS = ("plays", "code", "manual", "ancestor")


@pytest.mark.parametrize("folder", [None, "a folder/-odd", "-odd"])
def test_the_models_are_copied_and_the_printed_line_merges_them(command, tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    ended = command("demo", *(["./" + folder] if folder else []))
    assert (ended.code, ended.err) == (0, "")
    target = tmp_path / (folder or ".")
    for name in (*MODELS, "texts"):
        assert contents(target / name) == contents(DEMO / name)
    printed = shlex.split(ended.out.splitlines()[-1])
    assert printed[0] == "fusion_slerp"
    assert command(*printed[1:]).code == 0
    assert (tmp_path / "child/model.safetensors").exists()


def test_a_folder_that_exists_is_left_alone(command, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/mine.txt").write_text("mine")
    ended = command("demo", tmp_path)
    assert ended.code == 2
    assert "it exists" in ended.err
    assert contents(tmp_path) == {"code/mine.txt": b"mine"}
    assert command("demo", tmp_path / "other").code == 0


def test_json(command, tmp_path):
    assert command("demo", tmp_path, "--json").json == {name: str(tmp_path / name) for name in MODELS}


def test_everything_that_ships_is_copied_and_each_model_stays_small(command, tmp_path):
    assert command("demo", tmp_path).code == 0
    shipped = {path.name for path in DEMO.iterdir() if path.is_dir() and not path.name.startswith(("_", "."))}
    assert {path.name for path in tmp_path.iterdir()} == shipped
    assert shipped == {*MODELS, "texts"}
    for name in MODELS:
        assert sum(map(len, contents(DEMO / name).values())) < 4_000_000
