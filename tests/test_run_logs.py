"""Logs in trackio and wandb, with a package that stands in for them."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType

import pytest

from fusion_slerp import merge
from fusion_slerp.errors import SettingsError
from fusion_slerp.run_logs import PROJECT, mean_angle_deg, merge_config, merge_values, read_target, run_log
from tests.models import names_in


class Package(ModuleType):
    """What trackio and wandb have in common; remembers everything."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.begun, self.logged, self.finished = [], [], 0

    def init(self, **arguments):
        print("a package that talks")
        self.begun.append(arguments)
        return self

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished += 1


@pytest.fixture(params=["trackio", "wandb"])
def package(request, monkeypatch):
    fake = Package(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    return fake


def test_a_merge_is_logged(package, parents, tmp_path, capsys):
    result = merge(*parents, out=tmp_path / "child", t=0.3)
    with run_log(f"{package.__name__}:mine", merge_config(result.plan), "child") as log:
        log.log_merge(result)
    (begun,) = package.begun
    assert (begun["project"], begun["name"]) == ("mine", "child")
    assert begun["config"]["t"] == 0.3
    assert begun["config"]["model_b"] == str(parents[1])
    (values,) = package.logged
    assert values["bytes_written"] == result.plan.nbytes_written
    assert values["mean_angle_deg"] == mean_angle_deg(result.report)
    assert sum(count for name, count in values.items() if name.startswith("rule/")) == len(result.report)
    assert package.finished == 1
    assert capsys.readouterr() == ("", "a package that talks\n")


def test_points_of_a_sweep_are_steps(package):
    with run_log(package.__name__, {}, is_silent=True) as log:
        log.log_point({"t": 0.5, "weight": [0, 1]}, {"plays": {"loss": 2.0}, "average": {"loss": 1.0}})
    assert package.begun[0]["project"] == PROJECT
    assert package.logged == [
        {"value/t": 0.5, "value/weight": "[0, 1]", "plays/loss": 2.0, "average/loss": 1.0}
    ]


def test_nothing_is_logged_unasked(parents, tmp_path):
    result = merge(*parents, out=tmp_path / "child")
    with run_log(None, {}) as log:
        log.log_merge(result)
    assert "seconds" in merge_values(result)


def test_a_log_that_fails_later_costs_no_merge(package, caplog, monkeypatch):
    def refuse(values):
        raise RuntimeError("the network is gone")

    monkeypatch.setattr(package, "log", refuse)
    with run_log(package.__name__, {}) as log:
        log.log({"x": 1})
    assert "the network is gone" in caplog.text
    assert package.finished == 1


def test_a_log_that_cannot_start_says_so(package, monkeypatch):
    def refuse(**arguments):
        raise ValueError("no API key")

    monkeypatch.setattr(package, "init", refuse)
    with pytest.raises(SettingsError, match="no API key") as caught, run_log(package.__name__, {}):
        raise AssertionError
    assert "Fix: " in str(caught.value)


def test_unknown_and_missing_packages_are_refused(monkeypatch):
    with pytest.raises(SettingsError, match="unknown log"):
        read_target("tensorboard")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="Fix: pip install trackio"):
        read_target("trackio:mine")


def test_the_command_refuses_before_anything_is_read_and_logs(package, parents, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from fusion_slerp.cli.app import app

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    words = ["merge", *map(str, parents), "-o", str(tmp_path / "child")]
    ended = CliRunner().invoke(app, [*words, "--log-to", "nothing"])
    assert ended.exit_code == 2
    assert "unknown log" in ended.stderr
    assert "child" not in names_in(tmp_path)
    ended = CliRunner().invoke(app, [*words, "--log-to", f"{package.__name__}:mine"])
    assert ended.exit_code == 0, ended.stderr
    assert package.logged[0]["tensors"] == 4
