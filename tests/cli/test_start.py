"""How the command starts: without a terminal, without anything heavy, under its name."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import fusion_slerp
from tests.test_import import modules_after

HEAVY = {"numpy", "torch", "transformers", "llvmlite", "yaml", "tqdm", "huggingface_hub", "fusion_bench"}


def test_without_a_terminal_it_prints_help_and_exits_2(tmp_path):
    words = [sys.executable, "-m", "fusion_slerp"]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert re.findall(r"^│ (merge|plan|verify|clean|inspect|convert) ", done.stdout, re.MULTILINE) == [
        "merge",
        "plan",
        "verify",
        "clean",
        "inspect",
        "convert",
    ]
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", ["['--help']", "['merge', '--help']", "['plan', '--nonsense']", "[]"])
def test_help_and_errors_of_usage_import_nothing_heavy(arguments):
    code = f"""
import sys
sys.argv[1:] = {arguments}
from fusion_slerp.cli import main
try:
    main()
except SystemExit:
    pass
"""
    assert modules_after(code) & HEAVY == set()


def test_version(command):
    ended = command("--version")
    assert (ended.code, ended.out) == (0, f"fusion_slerp {fusion_slerp.__version__}\n")


def test_an_unknown_command_is_named_with_the_nearest(command):
    ended = command("merg")
    assert ended.code == 2
    assert "Did you mean 'merge'?" in ended.err


def test_completion_can_be_installed(command):
    assert "--install-completion" in command("--help").out


@pytest.mark.parametrize("verb", ["merge", "plan", "verify", "clean", "inspect", "convert", "demo"])
def test_every_command_tells_its_exit_codes_and_common_options(verb, command):
    out = command(verb, "--help").out
    assert "Exit codes: 0 done, 1 a merge or a verification failed, 2 " in out
    for option in ("--json", "--quiet", "--no-color"):
        assert f" {option} " in out


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "fusion_slerp", "--version"], capture_output=True, text=True)
    assert done.stdout == f"fusion_slerp {fusion_slerp.__version__}\n"


def test_main_asks_for_no_blas_threads_unless_the_user_did():
    code = "import os, sys; sys.argv[1:] = ['--version']\nfrom fusion_slerp.cli import main\n"
    code += "try:\n main()\nexcept SystemExit:\n print(os.environ['OPENBLAS_NUM_THREADS'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "1"


def test_the_entry_point_is_declared():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'fusion_slerp = "fusion_slerp.cli:main"' in text
    found = [each.value for each in entry_points(group="console_scripts") if each.name == "fusion_slerp"]
    assert found in ([], ["fusion_slerp.cli:main"])  # none in an older editable install


# --- usage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["A", "B"], "fusion_slerp merge A B -o child"),
        (["owner/a", "owner/b@main"], "fusion_slerp merge owner/a owner/b@main -o child"),
        (["./A", "it's B", "-t", "0.3"], """fusion_slerp merge ./A 'it'"'"'s B' -t 0.3 -o child"""),
        (["A", "B", "--out", "x y"], "fusion_slerp merge A B --out 'x y'"),
        (["gpt2", "distilgpt2"], "fusion_slerp merge gpt2 distilgpt2 -o child"),
        (["A", "B", "./C"], "fusion_slerp merge A B ./C --method linear -o child"),
        (["recipe.yml"], "fusion_slerp merge recipe.yml -o child"),
        (["A"], "fusion_slerp inspect A, or with a second model: fusion_slerp merge A SECOND -o child"),
    ],
)
def test_models_in_place_of_a_command_suggest_merge(command, tmp_path, monkeypatch, words, fix):
    monkeypatch.chdir(tmp_path)
    for name in ("A", "B", "it's B"):
        Path(name).mkdir()
    ended = command(*words)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err == f"error: no command is named\n  found: {words[0]}\nFix: {fix}\n"


@pytest.mark.parametrize(
    ("words", "headline", "of"),
    [
        (["merg"], "No such command 'merg'. Did you mean 'merge'?", ""),
        (["merg", "b", "merg"], "No such command 'merg'. Did you mean 'merge'?", ""),
        (["plan", "--treads"], "No such option: --treads", "plan "),
        (["verify"], "Missing argument 'OUT'", "verify "),
        (["verify", "a", "/long" * 99], "Got unexpected extra argument", "verify "),
    ],
)
def test_errors_of_usage_are_lines_as_all_others(command, monkeypatch, words, headline, of):
    monkeypatch.setenv("COLUMNS", "40")
    ended = command(*words)
    assert ended.code == 2
    first, fix = ended.err.splitlines()
    assert first.startswith(f"error: {headline}")
    assert words[-1] in first or words == ["verify"]
    assert fix == f"Fix: fusion_slerp {of}--help"


def test_an_option_without_its_value_leads_to_the_help_of_its_command(command):
    ended = command("verify", "child", "--recompute")
    assert ended.code == 2
    assert ended.err.endswith("Fix: fusion_slerp verify --help\n")
