"""Weight files while they are written: from any thread, space reserved at once, errors of a full disk."""

import os
import threading

import pytest
import safetensors.torch

from fusion_slerp.errors import OutputError
from fusion_slerp.output import output_file
from fusion_slerp.output.shard_writer import ShardWriter
from fusion_slerp.planning.layout import lay_out
from tests.models import contents
from tests.weight_files import tensor, write


def test_many_threads_write_at_once(tmp_path):
    slots, files = lay_out([tensor(f"w{i}", "U8", 1000) for i in range(40)], 9000)
    with ShardWriter(tmp_path, files) as writer:

        def fill(slot):
            writer.write(slot.shard, slot.offset, memoryview(bytes([int(slot.name[1:])]) * 1000))

        threads = [threading.Thread(target=fill, args=(slot,)) for slot in slots]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for file in tmp_path.glob("*.safetensors"):
        for name, values in safetensors.torch.load_file(file).items():
            assert values.tolist() == [int(name[1:])] * 1000


def test_the_whole_size_is_reserved_at_once(tmp_path):
    _, files = lay_out([tensor("w", "F32", 1000)], 10**9)
    with ShardWriter(tmp_path, files):
        assert (tmp_path / "model.safetensors").stat().st_size == files[0].nbytes


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    _, files = lay_out([tensor("w", "F32", 4)], 100)
    with pytest.raises(OutputError, match="File exists"), ShardWriter(tmp_path, files):
        pass
    assert contents(tmp_path) == {"model.safetensors": b"precious"}


@pytest.mark.parametrize("when", ["reserving", "header", "data"])
def test_full_disk(tmp_path, monkeypatch, when):
    real, calls = output_file.write_at, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == {"header": 1, "data": 4}.get(when):
            raise OSError(28, "No space left on device")
        real(*arguments)

    def no_room(descriptor, nbytes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output_file, "write_at", full)
    if when == "reserving":
        monkeypatch.setattr(output_file, "reserve", no_room)
    opened = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(OutputError) as caught:
        write(tmp_path, [tensor("v", "U8", 10), tensor("w", "U8", 10)], 10)
    lines = str(caught.value).splitlines()
    number = 2 if when == "data" else 1
    assert lines[0] == "cannot write the merged model's weights"
    assert lines[1] == f"  file: {tmp_path / f'model-0000{number}-of-00002.safetensors'}"
    assert lines[2] == "  found: No space left on device"
    needed = sum(file.nbytes for file in lay_out([tensor("v", "U8", 10), tensor("w", "U8", 10)], 10)[1])
    assert lines[3].startswith(f"  needed: {needed} bytes in all; ")
    assert lines[-1].startswith("Fix: free space")
    if opened:
        assert len(os.listdir("/proc/self/fd")) == opened
