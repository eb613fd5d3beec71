"""Ctrl-C at any moment: exit code 130 and no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from fusion_slerp.cli import stop_at_once
from fusion_slerp.cli.running import says_complete
from fusion_slerp.cli.stopping import interrupts_raise

STARTED = """
import os, signal, sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Stop())
from fusion_slerp.cli import main
sys.argv[1:] = {words!r}
main()
"""


@pytest.mark.parametrize(
    "module",
    [
        "fusion_slerp.cli.streams",
        "fusion_slerp.cli.app",
        "typer",
        "rich.console",
        "numpy",
        "fusion_slerp.api",
    ],
)
def test_ctrl_c_in_the_middle_of_an_import(parents, module):
    code = STARTED.format(module=module, words=["plan", *map(str, parents)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


def test_it_is_an_exception_only_where_something_is_cleaned_up():
    before = signal.signal(signal.SIGINT, stop_at_once)
    try:
        with pytest.raises(KeyboardInterrupt), interrupts_raise():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is stop_at_once
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_of_others_stay():
    with interrupts_raise():
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_raise():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_ignored_ctrl_c_stays_ignored():
    """As for a command that a script started in the background."""
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.argv[1:] = ['--version']\n"
    code += "from fusion_slerp.cli import main\ntry:\n    main()\nfinally:\n"
    code += "    print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("True\n")


@pytest.mark.parametrize("what", [KeyboardInterrupt, OSError, SystemExit])
def test_a_merge_whose_result_is_not_shown_is_said_to_be_complete(tmp_path, capsys, what):
    with pytest.raises(what), says_complete(tmp_path / "child"):
        raise what
    assert f"{tmp_path / 'child'} is complete" in capsys.readouterr().err
