"""The command in this process, with a state folder of its own."""

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fusion_slerp
from fusion_slerp.cli.app import app
from tests.cli import stand_in_recipes

DEMO = Path(fusion_slerp.__file__).parent / "demo"


@dataclass
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _surroundings(tmp_path, monkeypatch):
    """No colours, wide lines, nothing remembered; recipes where they are not there yet."""
    for name in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if importlib.util.find_spec("fusion_slerp.recipes") is None:
        monkeypatch.setitem(sys.modules, "fusion_slerp.recipes", stand_in_recipes)


@pytest.fixture
def command():
    """Runs the command with arguments; an exception that it lets through is raised."""

    def run(*arguments) -> Ended:
        done = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="fusion_slerp")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Ended(done.exit_code, done.stdout, done.stderr)

    return run
