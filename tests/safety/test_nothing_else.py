"""A merge writes to its staging folder and its target alone, except for the kernels that it compiles; and it
notices what others write meanwhile.
"""

import json
import os
import subprocess
import sys

import pytest

from fusion_slerp import CheckpointError, OutputError, merge
from fusion_slerp.kernels import code_files
from fusion_slerp.output import side_files
from fusion_slerp.sources.open_files import OpenFiles
from tests.models import contents, names_in

AUDITED = """
import json, os, sys
events, writing = set(), os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)) and args[2] & writing:
        events.add(os.fsdecode(args[0]))
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate",
                   "os.chmod", "os.chown", "os.utime", "shutil.copyfile", "shutil.rmtree", "subprocess.Popen",
                   "os.system", "os.exec", "os.posix_spawn", "socket.connect"):
        events.update(f"{event} {arg}" for arg in args if isinstance(arg, (str, bytes, os.PathLike)))
sys.addaudithook(hook)
from fusion_slerp import merge
merge(*sys.argv[1:3], out=sys.argv[3], max_shard_size=100)
merge(*sys.argv[1:3], out=sys.argv[3], t=0.3, overwrite=True)
print(json.dumps(sorted(events)))
"""


def test_nothing_is_written_elsewhere_and_nothing_is_started(tmp_path, parents):
    before, kernels = contents(tmp_path / "models"), str(tmp_path / "kernels")
    words = [sys.executable, "-B", "-c", AUDITED, *map(str, parents), str(tmp_path / "place/child")]
    env = {**os.environ, code_files.VARIABLE: kernels}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
    events = [event for event in json.loads(done.stdout) if event != os.devnull]
    # The removal of a folder names what is in it by the name alone.
    whole = [event for event in events if "/" in event and not event.startswith("shutil.copyfile")]
    copied = [event for event in events if event.startswith("shutil.copyfile") and "/models/" not in event]
    allowed = (str(tmp_path / "place/.child.partial"), str(tmp_path / "place/child"))
    outside = [event for event in [*whole, *copied] if not event.rpartition(" ")[2].startswith(allowed)]
    kept = [event for event in outside if event.rpartition(" ")[2].startswith(kernels)]
    assert {os.path.splitext(event)[1] for event in kept} == {"", ".o", code_files.UNFINISHED}
    assert [event for event in outside if event not in kept] == [f"os.mkdir {tmp_path / 'place'}"]
    assert all(name.endswith(".o") for name in os.listdir(kernels))
    assert {event for event in events if "/" not in event} <= {
        *(f"os.remove {name}" for name in ("lock", "journal.jsonl")),
        *(f"os.rmdir {name}" for name in ("files",)),
        *(f"os.remove {name}" for name in os.listdir(tmp_path / "place/child")),
        *(f"os.remove model-0000{i}-of-00004.safetensors" for i in range(1, 5)),
        "os.remove model.safetensors.index.json",
    }
    assert contents(tmp_path / "models") == before


# --- parents that change meanwhile ----------------------------------------------------------------------


@pytest.fixture
def after_opening(monkeypatch):
    """Runs something once the files are open and were compared with the plan."""

    def install(happens):
        real, calls = OpenFiles.check_unchanged, []

        def check(files):
            calls.append(real(files))
            if len(calls) == 1:
                happens()

        monkeypatch.setattr(OpenFiles, "check_unchanged", check)

    return install


def one_byte_more(file):
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\0")


def test_weights_written_to_while_they_are_read(tmp_path, parents, after_opening):
    file = parents[1] / "model.safetensors"
    after_opening(lambda: one_byte_more(file))
    with pytest.raises(CheckpointError) as caught:
        merge(*parents, out=tmp_path / "child", max_shard_size=100)
    lines = str(caught.value).splitlines()
    assert lines[:2] == ["a model changed while it was read", f"  file: {file}"]
    assert names_in(tmp_path) == ["models"]


@pytest.mark.parametrize("how", ["written to", "replaced", "longer"])
def test_weights_changed_between_plan_and_merge(tmp_path, parents, monkeypatch, how):
    file = parents[0] / "model.safetensors"
    real = OpenFiles.__enter__

    def change_first(self):
        if how == "written to":
            one_byte_more(file)
        elif how == "longer":
            file.write_bytes(file.read_bytes() + b"x")
        else:
            (tmp_path / "new").write_bytes(file.read_bytes())
            (tmp_path / "new").rename(file)
        return real(self)

    monkeypatch.setattr(OpenFiles, "__enter__", change_first)
    with pytest.raises(CheckpointError, match="a model changed while it was read"):
        merge(*parents, out=tmp_path / "child")
    assert names_in(tmp_path) == ["models"]


def test_a_side_file_that_changes_before_it_is_copied(tmp_path, parents, monkeypatch):
    real = side_files.shutil.copyfile

    def changing(source, target):
        if source.name == "tokenizer.json":
            source.write_bytes(source.read_bytes() + b" ")
        return real(source, target)

    monkeypatch.setattr(side_files.shutil, "copyfile", changing)
    with pytest.raises(
        CheckpointError, match=r"a model changed while it was read\n  file: .*/tokenizer\.json"
    ):
        merge(*parents, out=tmp_path / "child")
    assert names_in(tmp_path) == ["models"]


def test_parents_that_cannot_be_written_to_are_enough(tmp_path, parents):
    for folder in parents:
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
    merge(*parents, out=tmp_path / "child")
    with pytest.raises(OutputError, match="the output lies inside model a"):
        merge(*parents, out=parents[0] / "child")
    for folder in parents:
        folder.chmod(0o755)
