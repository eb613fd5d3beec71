"""Paths that the system refuses, in every argument that takes one: an error, exit code 2, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fusion_slerp import merge
from tests.models import contents, names_in

NOT_UTF8 = "A\udcff"

PATHS = {
    "empty": "",
    "no user": "~nosuchuser/x",
    "loop": "loop",
    "through a loop": "loop/x",
    "link to nothing": "dangling",
    "long": "x" * 300,
    "long on the way": "x" * 300 + "/x",
    "not UTF-8": NOT_UTF8,
    "below a file": "file/x",
    "a device": "/dev/null",
}
"""By what is wrong with them; those without a slash in front are in the test's folder."""

COMMANDS = [
    ["merge", "PATH", "./b", "-o", "child"],
    ["merge", "./a", "PATH", "-o", "child"],
    ["merge", "PATH.yml", "-o", "child"],
    ["merge", "./a", "./b", "-o", "child", "--tokenizer", "PATH"],
    ["merge", "./a", "./b", "--base", "PATH", "-o", "child"],
    ["plan", "PATH", "./b"],
    ["inspect", "PATH"],
    ["inspect", "./a", "PATH"],
    ["verify", "PATH"],
    ["verify", "merged", "--inputs", "--model", "a=PATH"],
    ["verify", "merged", "--inputs", "--model", "PATH.yml"],
    ["convert", "PATH"],
    ["convert", "PATH.yml"],
]

OUTPUTS = [
    ["merge", "./a", "./b", "-o", "PATH"],
    ["plan", "./a", "./b", "-o", "PATH"],
    ["convert", "recipe.yml", "-o", "PATH"],
    ["demo", "PATH"],
]

WRITABLE = ("link to nothing", "not UTF-8")
"""What can be made at these paths is made."""


@pytest.fixture
def place(tmp_path, parents, monkeypatch) -> Path:
    """A working folder with two models, their merge, a recipe and strange paths."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    merge(*parents, out="merged")
    for parent in parents:
        parent.rename(tmp_path / parent.name)
    models = "base_model: ./a, models: [{model: ./a}, {model: ./b}]"
    Path("recipe.yml").write_text(f"{{merge_method: slerp, {models}, parameters: {{t: 0.5}}}}")
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to(tmp_path / "gone")
    Path("file").write_bytes(b"mine")
    return tmp_path


def words_with(path: str, words: list[str]) -> list[str]:
    """A command's words with a path; relative ones cannot be Hub ids."""
    path = path if path[:1] in ("", "/", "~") else f"./{path}"
    return [word.replace("PATH", path) for word in words]


@pytest.mark.parametrize("kind", PATHS)
def test_paths_that_are_read(place, command, kind):
    for words in COMMANDS:
        ended = command(*words_with(PATHS[kind], words))
        assert ended.code == 2, words
        assert ended.err.startswith("error: "), words
        assert "\nFix: " in ended.err, words
    assert not (place / "child").exists()


@pytest.mark.parametrize("kind", [kind for kind in PATHS if kind not in WRITABLE])
def test_paths_that_are_written(place, command, kind):
    before, names = contents(place), names_in(place)
    for words in OUTPUTS:
        ended = command(*words_with(PATHS[kind], words))
        assert ended.code == 2, words
        assert "\nFix: " in ended.err, words
    assert contents(place) == before
    assert names_in(place) == names


@pytest.mark.parametrize("kind", PATHS)
def test_clean_finds_nothing_or_refuses(place, command, kind):
    before, names = contents(place), names_in(place)
    ended = command("clean", *words_with(PATHS[kind], ["PATH"]))
    assert ended.code == 0 or (ended.code == 2 and "\nFix: " in ended.err)
    assert contents(place) == before
    assert names_in(place) == names


def test_a_link_to_nothing_is_an_output_where_it_leads(place, command):
    assert command("merge", "./a", "./b", "-o", "./dangling").code == 0
    assert (place / "gone/model.safetensors").is_file()
    assert (place / "dangling").is_symlink()


def test_names_that_are_not_utf8(place, command):
    """A merge of such a model, into such a folder: its records name both, and everything works on."""
    model, child = f"./{NOT_UTF8}", "./c\udcfe"
    shutil.copytree("a", model)
    ended = command("merge", model, "./b", "-o", child, "--json", "--max-shard-size", "100")
    assert (ended.code, ended.err) == (0, "")
    assert Path(ended.json["out"]) == place / "c\udcfe"
    manifest = json.loads((place / "c\udcfe/merge_manifest.json").read_bytes())
    assert manifest["parents"]["a"]["model"] == NOT_UTF8
    assert "A\\udcff" in (place / "c\udcfe/README.md").read_text(encoding="utf-8")
    assert command("verify", child, "--inputs", "--recompute", "all").code == 0
    for words in (["plan", model, "./b", "-o", "new\udcff", "--json"], ["inspect", model, "--json"]):
        assert command(*words).json
    assert command("clean", child).code == 0
    assert command("merge", model, "./b", "-o", child, "--overwrite", "--show-config").code == 0


# --- as the real command, to an ordinary user -----------------------------------------------------------


def ordinary_user() -> list[str]:
    """The words before a command that closed folders are to be closed to: to root nothing is."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root, and no setpriv (util-linux) to give up its rights with")
    return ["setpriv", *(f"--{kind}=-dac_override,-dac_read_search" for kind in ("bounding-set", "inh-caps"))]


@pytest.fixture
def closed(place):
    """A closed folder in the place, with a model in it, and in a folder that is open."""
    shutil.copytree("a", "closed/a")
    shutil.copytree("merged", "half/child")
    Path("half/child/model.safetensors").chmod(0)
    for folder in ("closed", "half/child"):
        Path(folder).chmod(0)
    yield place
    for folder in ("closed", "half/child"):
        Path(folder).chmod(0o700)


RUN = """
import json, sys, traceback
from typer.testing import CliRunner
from fusion_slerp.cli.app import app
for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words, prog_name="fusion_slerp")
    crash = None if isinstance(done.exception, (SystemExit, type(None))) else repr(done.exception)
    print(json.dumps([words, done.exit_code, done.stderr, crash]))
"""
"""Many commands in one process: as an ordinary user, for whom the tests' own process cannot run them."""


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.long
def test_closed_folders(closed):
    overwriting = ["merge", "./a", "./b", "--overwrite", "-o", "PATH"]
    commands = [
        words_with(path, words)
        for path in ("closed", "closed/a", "half/child")
        for words in [*COMMANDS, *OUTPUTS, overwriting, ["clean", "PATH"]]
    ]
    line = [*ordinary_user(), sys.executable, "-c", RUN, json.dumps(commands)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    for words, code, errors, crash in map(json.loads, done.stdout.splitlines()):
        assert crash is None, (words, crash)
        assert code == 2 or (words[0], code) == ("clean", 0), words
        assert code == 0 or "\nFix: " in errors, (words, errors)
