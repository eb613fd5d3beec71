"""What stands around the code: make targets, the debugger's entries, versions, the wheel."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import pytest

import fusion_slerp
from tests.fusion_bench_commands import HOST_SETTINGS

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""The environment of a process that is to find nothing of this repository."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_make_help_is_the_default_and_lists_every_target():
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    listed = re.findall(r"^  make (\S+) +\S", done.stdout, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", text_of("Makefile"), re.MULTILINE)
    assert phony is not None
    assert listed == phony[1].split()


def test_ci_and_contributing_name_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    calls = re.findall(r"^make --no-print-directory (.*)$", text_of(".ci/run"), re.MULTILINE)
    calls += re.findall(r"(?:^    |`)make ([a-z -]+)", text_of("CONTRIBUTING.md"), re.MULTILINE)
    assert len(calls) > 1
    assert {name for call in calls for name in call.split()} <= targets
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_debugger_runs_what_the_readme_and_the_tutorial_run():
    entries = json.loads(text_of(".vscode/launch.json"))["configurations"]
    standalone = ["--config-path", "${workspaceFolder}/config/_get_started", "--config-name", "llm_slerp"]
    first, second, third = (entry["args"] for entry in entries)
    assert (first, second) == (["--config-name", "llm_slerp"], standalone)
    assert third[:4] == standalone
    for name, path in re.findall(r"(model_\d|tokenizer)=(\S+)", " ".join(third)):
        assert (ROOT / path / "config.json").exists(), name
    assert "+method.model_save_path=outputs/standalone_demo" in third
    for entry in entries:
        assert (entry["type"], entry["module"]) == ("debugpy", "fusion_bench.scripts.cli")
        assert entry["env"] == {"HYDRA_FULL_ERROR": "1"}
    assert (ROOT / "config/_get_started/llm_slerp.yaml").exists()


def test_version_stands_in_one_place():
    number = fusion_slerp.__version__
    assert version("fusion-slerp") == number
    for name in ("pyproject.toml", "mkdocs.yml", "Makefile", ".ci/run", "constraints.txt"):
        assert not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", text_of(name)), name


def test_versions_of_dependencies_stand_in_one_place():
    pinned = re.findall(r"^([\w-]+)==", text_of("constraints.txt"), re.MULTILINE)
    needed = [re.split(r"[\s;<>=!\[]", line)[0] for line in requires("fusion-slerp") or []]
    same = [name.lower().replace("_", "-") for name in pinned]
    assert {name.lower().replace("_", "-") for name in needed} - {"fusion-slerp"} <= set(same)
    assert len(set(same)) == len(same)
    assert not re.search(r"==\s*\d", text_of("pyproject.toml") + text_of("Makefile"))


def files_under(folder: str) -> set[str]:
    """The files of a folder that ship, as paths relative to the repository."""
    found = (p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(ROOT).as_posix() for p in found if not p.name.startswith(".")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    return Path(next(builder.build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])))


def test_wheel_carries_code_configs_demo_and_plugin_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    configs = {f"fusion_slerp/{name}" for name in files_under("config")}
    assert names == files_under("fusion_slerp") | files_under("hydra_plugins") | configs
    assert {"fusion_slerp/config/llm_slerp.yaml", "fusion_slerp/config/_get_started/llm_slerp.yaml"} <= names
    assert {"fusion_slerp/demo/plays/config.json", "fusion_slerp/demo/texts/code.txt"} <= names
    assert "hydra_plugins/fusion_slerp_search_path/__init__.py" in names
    assert "hydra_plugins/__init__.py" not in names


@pytest.mark.host
@pytest.mark.wheel
def test_wheel_in_a_fresh_environment_runs_the_main_job_from_an_empty_folder(wheel, tmp_path):
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    # The dependencies are those of this environment, by their folder. Its .pth files are not read there,
    # so that the editable install of this repository is out of sight.
    here = sysconfig.get_path("purelib")
    there = Path(_printed(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (there / "dependencies.pth").write_text(here)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    command = [python, "-m", "fusion_bench.scripts.cli", "--config-name", "llm_slerp"]
    env = {**OUTSIDE, **HOST_SETTINGS, "COLUMNS": "100"}
    done = subprocess.run(command, cwd=empty, env=env, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "merged: lowest average loss" in done.stdout
    assert _printed(python, "import fusion_slerp; print(fusion_slerp.__file__)").startswith(str(there))
    assert len(list(empty.glob("outputs/llm_slerp/*/merged_model/model.safetensors"))) == 1


def _printed(python: Path, code: str) -> str:
    """What a line of code prints, run outside this repository."""
    command = [python, "-c", code]
    run = subprocess.run(command, cwd=python.parent, env=OUTSIDE, check=True, capture_output=True, text=True)
    return run.stdout.strip()
