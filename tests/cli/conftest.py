"""The command in this process, with a state folder of its own."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fusion_slerp
from fusion_slerp.cli.app import app

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
    """No colours, wide lines, nothing remembered."""
    for name in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def command():
    """Runs the command with arguments; an exception that it lets through is raised."""

    def run(*arguments) -> Ended:
        done = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="fusion_slerp")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Ended(done.exit_code, done.stdout, done.stderr)

    return run
