"""Lines to paste: a shell reads back the names that were meant."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from fusion_slerp.cli.shell import folder_word, shell_line
from fusion_slerp.errors import not_an_option

NAMES = ["plain", "with space", "it's", '"quoted"', "$HOME `id` \\", "~", "*", "ünï", "", "line\nfeed"]
NAMES += ["\x1b[31m'\\", os.fsdecode(b"\xff\xfe1")]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_bash_reads_the_words_that_were_given(name):
    line = shell_line(["printf", "%s|", name, "-x"])
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout == os.fsencode(f"{name}|-x|")


def test_names_that_begin_with_a_dash_or_a_tilde(tmp_path, monkeypatch):
    assert [not_an_option(name) for name in ("-a", "a-", "~/a")] == ["./-a", "a-", "~/a"]
    monkeypatch.chdir(tmp_path)
    words = [folder_word(tmp_path / name) for name in ("-a", "~b", "c", "d/-e")]
    assert words == ["./-a", str(tmp_path / "~b"), "c", "d/-e"]
    assert folder_word(tmp_path.parent) == str(tmp_path.parent)
