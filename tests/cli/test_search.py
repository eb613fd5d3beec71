"""The command `search`: what it prints, keeps and refuses."""

import importlib.util
import json
import logging

import pytest

from fusion_slerp.cli import processes
from fusion_slerp.cli.output import Output
from fusion_slerp.cli.search_arguments import SearchArguments
from fusion_slerp.cli.searching import search_models
from fusion_slerp.cli.sweep_arguments import Evaluated
from fusion_slerp.searches.record import read_search
from tests.cluster.ranks_in_threads import run_ranks
from tests.sweeps.conftest import family

__all__ = ["family"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def search(command, family, tmp_path):
    def run(*more, out=tmp_path / "search", text=family.text):
        given = ["--context-length", 16, "--text", f"words={text}"] if text else []
        return command("search", family.a, family.b, *given, *(["-o", out] if out else []), *more)

    return run


def test_a_search_and_its_conclusion(search, tmp_path):
    ended = search("--vary", "t.mlp=0:1", "--vary", "t.self_attn=0:1:0.1", "--trials", 6)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines[:8]] == ["a", "b", *"012345"]
    assert "t.mlp = 0.5, t.self_attn = 0.5  best so far" in lines[2]
    assert "stopped at" in ended.out
    record = read_search(tmp_path / "search")
    assert str(record).splitlines()[0] in ended.out
    assert "6 trials" in ended.out
    assert "owes part of its lead to chance" in ended.out
    assert "To merge the best:\n  fusion_slerp merge " in ended.out
    again = search("--vary", "t.mlp=0:1", "--vary", "t.self_attn=0:1:0.1", "--trials", 6)
    assert str(record).splitlines()[0] in again.out


def test_the_json_object_and_t_alone(search, tmp_path):
    ended = search("-t", "0:1:0.5", "--json", "--save-best", tmp_path / "best")
    assert ended.code == 0, ended.err
    assert "no budget is given: the search ends after 30 trials" in ended.err
    assert ended.json["identity"]["vary"] == {"t": {"steps": [0.0, 0.5, 1.0]}}
    assert len(ended.json["trials"]) == 3
    assert ended.json["best_values"]["t"] in (0.0, 0.5, 1.0)
    assert (tmp_path / "best/model.safetensors").is_file()
    assert json.loads((tmp_path / "search/search.json").read_text())["trials"] == ended.json["trials"]


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--trials", 3], ["a search needs an option to vary", "Fix: use --vary t=0:1"]),
        (["--vary", "t=1:0"], ["the range of t is empty", "Fix: use --vary t=0:1"]),
        (["--vary", "t"], ["invalid --vary", "NAME=VALUES"]),
        (["--vary", "t=0:1", "--sampler", "grid"], ["needs steps", "--vary t=0:1:STEP"]),
        (["--vary", "t=0:1", "--trials", 0], ["invalid trials", "Fix: use --trials 30"]),
        (["--vary", "t=0:1", "--sampler-seed", -1], ["invalid sampler_seed", "Fix: use --sampler-seed 0"]),
    ],
)
def test_what_is_refused(search, tmp_path, more, parts):
    ended = search(*more)
    assert ended.code == 2
    assert all(part in ended.err for part in parts), ended.err
    assert not (tmp_path / "search").exists()


def test_a_folder_and_texts_are_needed(search, family):
    assert "Fix: use -o search" in search("--vary", "t=0:1", out=None).err
    assert "Fix: use --text name=FILE.txt" in search("--vary", "t=0:1", text=None).err
    ended = search("--vary", "t=0:1", "--holdout", f"other={family.text}")
    assert "Fix: use --holdout other=OTHER.txt" in ended.err


def test_without_optuna_the_extra_is_named(search, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "Fix: pip install 'fusion-slerp[search]'" in search("--vary", "t=0:1").err


def test_several_processes_are_refused(family, tmp_path, capsys, monkeypatch):
    """Rank 0 says so."""
    monkeypatch.setattr(
        logging.getLogger("fusion_slerp"), "propagate", True
    )  # which threads may leave changed
    evaluated = Evaluated([f"w={family.text}"], [], None, None, None, None, {})
    given = SearchArguments(["t=0:1"], evaluated, [], str(tmp_path / "s"), None, {})

    def run(ranks):
        models = [str(family.a), str(family.b)]
        search_models(models, None, {}, given, processes.output_of(ranks, Output()), ranks)

    assert [end.error.exit_code for end in run_ranks(2, run)] == [2, 2]
    assert capsys.readouterr().err.count("a search runs in one process") == 1
    assert not (tmp_path / "s").exists()
