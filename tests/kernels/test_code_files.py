"""Compiled kernels are kept in files, which are used only if they can be trusted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from fusion_slerp import kernels
from fusion_slerp.kernels import code_files, compiler

CODE = b"machine code"
NAME = code_files.name_of("module", "processor")

SUM = """
import numpy as np
from fusion_slerp import kernels
from fusion_slerp.kernels import compiler
compiler._compile = lambda *of: 1 / 0
a = np.arange(9, dtype=np.float32)
print(kernels.gram((a, a)).tolist())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the kept kernels, which is not there yet."""
    monkeypatch.setenv(code_files.VARIABLE, str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture
def nothing_compiled(monkeypatch):
    """This process has no kernels yet."""
    monkeypatch.setattr(compiler, "_functions", {})


def a_kernel():
    a = np.arange(9, dtype=np.float32)
    return kernels.gram((a, a)).tolist()


def test_a_flipped_bit_is_noticed(folder):
    code_files.keep(NAME, CODE)
    content = bytearray((folder / NAME).read_bytes())
    content[-1] ^= 1
    (folder / NAME).write_bytes(content)
    assert code_files.read(NAME) is None


def test_what_is_kept_is_read_again(folder):
    assert code_files.read(NAME) is None
    code_files.keep(NAME, CODE)
    assert code_files.read(NAME) == CODE
    assert [file.name for file in folder.iterdir()] == [NAME]


def test_a_name_stands_for_all_texts_and_where_they_end():
    names = [code_files.name_of(*parts) for parts in (("a", "b"), ("ab",), ("ab", ""), ("b", "a"))]
    assert len(set(names)) == 4


@pytest.mark.usefixtures("nothing_compiled")
def test_another_process_need_not_compile(folder):
    a_kernel()
    assert len(list(folder.iterdir())) == 1
    done = subprocess.run([sys.executable, "-c", SUM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[204.0, 204.0, 204.0]\n"), done.stderr


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.parametrize("n_kept", [0, 20, 40, -1])
def test_damaged_code_is_compiled_again(folder, monkeypatch, n_kept):
    a_kernel()
    (file,) = folder.iterdir()
    sound = file.read_bytes()
    file.write_bytes(sound[:n_kept])
    monkeypatch.setattr(compiler, "_functions", {})
    assert a_kernel() == [204.0, 204.0, 204.0]
    assert file.read_bytes() == sound


@pytest.mark.parametrize("mode", [0o777, 0o770])
@pytest.mark.parametrize("which", ["folder", "file"])
def test_code_that_others_may_write_is_not_used(folder, which, mode):
    code_files.keep(NAME, CODE)
    (folder if which == "folder" else folder / NAME).chmod(mode)
    assert code_files.read(NAME) is None


def test_nothing_is_kept_where_others_may_write(folder):
    folder.mkdir()
    folder.chmod(0o777)
    code_files.keep(NAME, CODE)
    assert not list(folder.iterdir())


def test_links_are_not_followed(folder, tmp_path):
    code_files.keep(NAME, CODE)
    (folder / NAME).rename(tmp_path / "elsewhere")
    (folder / NAME).symlink_to(tmp_path / "elsewhere")
    assert code_files.read(NAME) is None


def test_a_folder_of_somebody_else_is_not_used(folder, monkeypatch):
    code_files.keep(NAME, CODE)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert code_files.read(NAME) is None


def test_where_nothing_can_be_kept_there_is_no_error(folder):
    folder.write_text("a file in place of the folder")
    code_files.keep(NAME, CODE)
    assert code_files.read(NAME) is None
    assert folder.read_text() == "a file in place of the folder"


def test_a_full_disk_leaves_nothing(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    code_files.keep(NAME, CODE)
    assert not list(folder.iterdir())


def test_it_can_be_turned_off(folder, monkeypatch):
    monkeypatch.setenv(code_files.VARIABLE, "off")
    assert code_files.folder() is None
    code_files.keep(NAME, CODE)
    assert code_files.read(NAME) is None


def test_without_a_home_folder_nothing_is_kept(folder, monkeypatch):
    monkeypatch.setenv(code_files.VARIABLE, "~nobody-of-this-name/kernels")
    assert code_files.folder() is None


def test_it_is_in_the_folder_for_caches(monkeypatch, tmp_path):
    monkeypatch.delenv(code_files.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert code_files.folder() == tmp_path / "fusion_slerp" / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert code_files.folder() == tmp_path / ".cache" / "fusion_slerp" / "kernels"


def test_old_code_is_removed_and_nothing_else(folder, monkeypatch):
    monkeypatch.setattr(code_files, "MOST_FILES", 3)
    for k in range(3):
        code_files.keep(code_files.name_of(str(k)), CODE)
    (folder / "notes.txt").write_text("mine")
    code_files.keep(NAME, CODE)
    assert {file.name for file in folder.iterdir()} == {NAME, "notes.txt"}


def test_many_threads_may_keep_the_same_code(folder):
    threads = [threading.Thread(target=code_files.keep, args=(NAME, CODE)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert code_files.read(NAME) == CODE
    assert [file.name for file in folder.iterdir()] == [NAME]
