"""The command `sweep`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import fusion_slerp
from fusion_slerp.cli import processes
from fusion_slerp.cli.sweep_arguments import Evaluated, SweepArguments
from fusion_slerp.cluster.ranks import Ranks
from fusion_slerp.sweeps.record import read_record
from fusion_slerp.sweeps.runner import SweepRunner
from tests.models import contents, save_transformers_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny models and a text, in the working folder."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("A", "B")):
        save_transformers_model(folder / name, "llama", seed, "float32")
    (folder / "words.txt").write_text("to be or not to be " * 100)
    return folder


@pytest.fixture
def here(models, tmp_path, monkeypatch):
    """A working folder with the models."""
    for path in models.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sweep_and_its_table(command, here):
    done = command("sweep", "A", "B", "-t", "0:1:0.5", "--text", "w=words.txt", "-o", "sweep")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["t", "w", "average", "from", "best", "parent"]
    assert [line.split()[0] for line in lines[1:6]] == ["a", "b", "0", "0.5", "1"]
    assert all(line.count("±") == n for line, n in zip(lines[1:6], (2, 2, 3, 3, 3), strict=True))
    assert "best t = " in done.out
    assert "The results:\n  sweep/sweep.json" in done.out
    assert "fusion_slerp merge A B -t " in done.out
    again = command("sweep", "A", "B", "-t", "0:1:0.5", "--text", "w=words.txt", "-o", "sweep")
    assert again.out == done.out


def test_json(command, here):
    words = ("--vary", "t=0,1", "--text", "words.txt", "--max-tokens", "50", "-o", "sweep", "--json")
    done = command("sweep", "A", "B", *words)
    assert done.json["vary"] == {"t": [0, 1]}
    assert [point["name"] for point in done.json["points"]] == ["t=0", "t=1"]
    assert done.json["verdict"] == str(read_record("sweep"))
    assert done.json["points"][0]["scores"]["words"]["tokens"] == 49
    assert len(done.out.splitlines()) > 20
    assert json.loads(done.out) == done.json


def test_a_plan_evaluates_and_writes_nothing(command, here):
    before = sorted(here.iterdir())
    words = ("--vary", "t.self_attn=0:1:0.5", "--vary", "t.mlp=0,1", "--text", "words.txt", "--plan")
    done = command("sweep", "A", "B", *words)
    assert done.code == 0, done.err
    assert done.out.startswith("6 points (3 of t.self_attn × 2 of t.mlp):\n  t.self_attn = 0, t.mlp = 0\n")
    assert "\nt.self_attn: 8 of 21 tensors\nt.mlp: 6 of 21 tensors\n" in done.out
    assert "read by all points" in done.out
    assert "memory before the evaluation" in done.out
    fields = command("sweep", "A", "B", *words, "--json").json
    assert len(fields["points"]) == 6
    assert fields["peak_memory_bytes"] > 100_000_000
    assert sorted(here.iterdir()) == before


def test_the_best_is_written_as_merge_would(command, here):
    words = ("--text", "words.txt", "--max-tokens", "50", "-o", "sweep", "--save-best", "best")
    done = command("sweep", "A", "B", "-t", "0.25,0.5", *words, "--json")
    best = done.json["points"][done.json["best"]]["values"]["t"]
    command("merge", "A", "B", "-t", best, "-o", "other/best", "-q")
    assert contents(here / "best") == contents(here / "other/best")


def test_children_need_no_text(command, here):
    done = command("sweep", "A", "B", "-t", "0:1:0.5", "--children", "children")
    assert done.code == 0, done.err
    assert "The merged models:\n  children" in done.out
    assert (here / "children/t=0.5/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["-t", "0:1:0.5", "-o", "s"], ["nothing to do", "use --text name=FILE.txt, or --children FOLDER"]),
        (["-t", "0:1:0.5", "--text", "words.txt"], ["no folder is named for the sweep", "Fix: use -o sweep"]),
        (["--text", "words.txt", "-o", "s"], ["a sweep needs an option to vary", "--vary t=0:1:0.1"]),
        (["--vary", "t", "--text", "words.txt", "-o", "s"], ["invalid --vary", "NAME=VALUES"]),
        (["--vary", "t=1", "--vary", "t=0", "--text", "words.txt", "-o", "s"], ["every name once"]),
        (["-t", "0:1:0.3", "--text", "words.txt", "-o", "s"], ["Fix: use --vary t=0:0.9:0.3"]),
        (["-t", "0:1:0.001", "--text", "words.txt", "-o", "s"], ["1001 points", "--max-points 1001"]),
        (["-t", "0,1", "--text", "none.txt", "-o", "s"], ["a text cannot be read", "none.txt"]),
        (["-t", "0,1", "--text", "w=words.txt", "--text", "w=x.txt", "-o", "s"], ["two texts have one name"]),
        (["-t", "0,2", "--text", "words.txt", "-o", "s"], ["invalid t", "at: t = 2"]),
        (["--vary", "t.selfattn=0,1", "--text", "words.txt", "-o", "s"], ["no tensor's name contains"]),
    ],
)
def test_what_is_wrong_ends_the_command_at_once(command, here, words, parts):
    done = command("sweep", "A", "B", *words)
    assert done.code == 2
    assert all(part in done.err for part in parts), done.err
    assert not (here / "s").exists()


def test_a_single_t_is_one_point_alone_and_stays_the_same_otherwise(command, here):
    assert command("sweep", "A", "B", "-t", "0.3", "--plan").out.startswith("1 point:\n  t = 0.3\n")
    assert command("sweep", "A", "B", "-t", "0.3", "--vary", "epsilon=0,1", "--plan").out.startswith(
        "2 points:\n  epsilon = 0\n"
    )


def test_stopped_it_says_how_to_resume(command, here, monkeypatch):
    measure = SweepRunner.measure

    def stops(self, subject):
        if subject == {"t": 0.5}:
            raise KeyboardInterrupt
        return measure(self, subject)

    words = ("-t", "0:1:0.5", "--text", "w=words.txt", "--max-tokens", "50", "-o", "sweep")
    words = (*words, "--prompt", "to be")
    with monkeypatch.context() as patch:
        patch.setattr(SweepRunner, "measure", stops)
        done = command("sweep", "A", "B", *words)
    assert done.code == 130
    assert "Stopped. Kept: 1 of 3 points, in\n  sweep\nTo resume:\n" in done.err
    line = done.err.splitlines()[-1].strip()
    done = command(*shlex.split(line)[1:], "--json")
    assert done.code == 0, done.err
    assert [len(point["samples"]) for point in done.json["points"]] == [1, 1, 1]
    assert done.json["neighbours"] in ([0, 2], [1])


def test_another_sweep_in_the_folder(command, here):
    words = ("sweep", "A", "B", "-t", "0,1", "--children", "children")
    command(*words)
    done = command(*words, "--dtype", "float16")
    assert done.code == 2
    assert "differs in: settings.dtype" in done.err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tasks(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo = Path(fusion_slerp.__file__).parent / "demo"
    words = ("--task", "fusion_slerp_demo", "--limit", 4, "-o", "sweep")
    done = command("sweep", demo / "plays", demo / "code", "-t", "0.5", *words)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["t", "fusion_slerp_demo.acc", "from", "best", "parent"]
    assert [line.count("±") for line in lines[1:4]] == [1, 1, 2]
    assert "Chosen on these" not in done.out
    done = command("sweep", demo / "plays", demo / "code", "-t", "0.5", *words, "--mode", "min", "--json")
    assert done.json["metric"] == {"name": "average.score", "better": "lower"}


def test_the_line_that_resumes_names_everything():
    settings = {"stride": 8, "prompts": ["to be"], "device": None}
    evaluated = Evaluated(["w=x.txt"], ["mmlu_*", "mine"], "tasks", 20.0, "mine.acc", None, settings)
    words = shlex.join(SweepArguments(["t=0,1"], evaluated, "s", None, None, 9).words)
    assert words == (
        "--vary t=0,1 --text w=x.txt --task 'mmlu_*' --task mine --include-path tasks --limit 20 "
        "--metric mine.acc --prompt 'to be' --stride 8 --max-points 9 -o s"
    )


def test_help_names_the_forms(command):
    done = command("sweep", "--help")
    assert "--vary" in done.out
    assert "--save-best" in done.out


def as_one_process(folder):
    """The record without what depends on the time."""
    record = json.loads((folder / "sweep.json").read_text())
    for point in record["points"]:
        del point["seconds"]
    for scores in (*record["parents"].values(), *(point["scores"] for point in record["points"])):
        del scores["w"]["tokens_per_s"]
    return record


@pytest.mark.long
def test_torchrun_shares_the_points(command, here):
    """The table, the record and the merged models are those of one process."""
    words = ["-t", "0:1:0.5", "--text", "w=words.txt", "--max-tokens", "50", "--prompt", "to be"]
    alone, shared = (
        [*words, "-o", f"{name}/sweep", "--children", f"{name}/children", "--save-best", f"{name}/best"]
        for name in ("one", "two")
    )
    expected = command("sweep", "A", "B", *alone)
    assert expected.code == 0, expected.err
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fusion_slerp"]
    done = subprocess.run(
        [sys.executable, *launch, "sweep", "A", "B", *shared],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected.out.replace("one/", "two/")
    assert as_one_process(here / "two/sweep") == as_one_process(here / "one/sweep")
    for name in ("best", "children/t=0", "children/t=0.5", "children/t=1"):
        assert contents(here / "two" / name) == contents(here / "one" / name)


def test_each_rank_of_a_machine_takes_another_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    for is_available, rank in ((False, "1"), (True, "1"), (True, "5")):
        monkeypatch.setattr("torch.cuda.is_available", lambda is_available=is_available: is_available)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
        monkeypatch.setenv("LOCAL_RANK", rank)
        processes.take_gpu(Ranks(None, 1, 2))
    processes.take_gpu(None)
    assert taken == [1, 1]
