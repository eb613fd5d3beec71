"""What is imported when: names resolve on first use, and a merge needs no framework."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fusion_slerp

PACKAGE = Path(fusion_slerp.__file__).parent
HOST = {"fusion_bench", "lightning", "omegaconf", "hydra"}
FRAMEWORKS = HOST | {"torch", "transformers", "safetensors", "tokenizers"}
HEAVY = FRAMEWORKS | {"numpy", "llvmlite", "yaml", "tqdm", "huggingface_hub", "rich"}


def modules_after(code: str, *arguments: object) -> set[str]:
    """The names of all modules in a fresh process that ran the code."""
    report = "import sys as _sys, json as _json; print(_json.dumps(sorted(_sys.modules)))"
    command = [sys.executable, "-c", f"{code}\n{report}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_package_alone_imports_nothing():
    found = modules_after("import fusion_slerp")
    assert found & HEAVY == set()
    assert {name for name in found if name.startswith("fusion_slerp.")} == {"fusion_slerp._version"}


def test_settings_and_errors_need_no_numbers():
    found = modules_after(
        "from fusion_slerp import MergeSettings, MismatchError, make_settings; make_settings(t=0.3)"
    )
    assert found & HEAVY == set()


def test_methods_and_recipes_of_settings_need_no_numbers():
    code = """
from fusion_slerp import make_settings
make_settings(method="linear", weight={"a": [0, 1], "b": 0.3}, slices=[{"a": [0, 2], "c": [1, 3]}])
from fusion_slerp.settings.labels import labels
"""
    assert modules_after(code) & HEAVY == set()


def test_evaluation_needs_no_host():
    names = [module_of(path.stem) for path in sorted((PACKAGE / "evaluation").glob("*.py"))]
    assert len(names) > 3
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    assert modules_after(code, *names) & HOST == set()


def module_of(name: str) -> str:
    return "fusion_slerp.evaluation" if name == "__init__" else f"fusion_slerp.evaluation.{name}"


def test_the_front_door_needs_no_framework():
    found = modules_after("from fusion_slerp import merge, plan_merge, slerp")
    assert found & FRAMEWORKS == set()
    assert {"numpy", "llvmlite"} <= found


def test_a_whole_merge_needs_no_framework(tmp_path, parents):
    code = """
import os, sys, threading
before = dict(os.environ), threading.active_count()
from fusion_slerp import merge
import logging
assert (dict(os.environ), threading.active_count()) == before
assert not logging.getLogger().handlers and not logging.getLogger("fusion_slerp").handlers
result = merge(sys.argv[1], sys.argv[2], out=sys.argv[3], dtype="bfloat16", max_shard_size=100)
assert result.counts == {"slerp": 4}
result = merge(*sys.argv[1:3], sys.argv[1], out=sys.argv[4], method="linear", weight={"b": 2})
assert result.counts == {"linear": 4}
"""
    found = modules_after(code, *parents, tmp_path / "child", tmp_path / "sum")
    assert found & (FRAMEWORKS | {"huggingface_hub", "tqdm"}) == set()
    assert (tmp_path / "child/model.safetensors.index.json").is_file()
    assert (tmp_path / "sum/model.safetensors").is_file()


def test_numpy_tensors_need_no_framework():
    code = "import numpy as np, fusion_slerp; fusion_slerp.slerp(0.5, np.ones(3), np.arange(3.0))"
    assert modules_after(code) & FRAMEWORKS == set()


# --- names ----------------------------------------------------------------------------------------------


def test_every_public_name_resolves_and_is_listed():
    assert fusion_slerp.__all__ == sorted(fusion_slerp.__all__)
    assert set(fusion_slerp._HOMES) == set(fusion_slerp.__all__)
    for name in fusion_slerp.__all__:
        value = getattr(fusion_slerp, name)
        assert value.__name__ == name
        assert value.__doc__
        assert fusion_slerp.__dict__[name] is value
    assert set(fusion_slerp.__all__) <= set(dir(fusion_slerp))


def test_names_for_type_checkers_are_those_that_resolve():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {alias.name: node.module for node in guarded.body for alias in node.names}
    assert homes == fusion_slerp._HOMES


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fusion_slerp' has no attribute 'slurp'"):
        fusion_slerp.slurp  # noqa: B018


# --- who may import whom --------------------------------------------------------------------------------


def imported_by(file: Path) -> set[str]:
    """The top-level packages that a file imports anywhere, in functions too."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in names}


def test_only_the_plugin_knows_the_host():
    files = {path.relative_to(PACKAGE): imported_by(path) for path in PACKAGE.rglob("*.py")}
    knowing = {path.parts[0] for path, names in files.items() if names & HOST}
    assert knowing == {"fusion_bench_plugin"}
