"""The command `evaluate`."""

import json
import re

import pytest

from tests.cli.conftest import DEMO

PLAYS, CODE = DEMO / "plays", DEMO / "code"
TEXT = ("--text", f"plays={DEMO / 'texts' / 'plays.txt'}", "--max-tokens", 300)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_shows_losses_differences_samples_and_the_verdict(command):
    done = command("evaluate", PLAYS, CODE, *TEXT, "--prompt", "To be", "--max-new-tokens", 4)
    assert (done.code, done.err) == (0, "")
    assert re.search(r"^ plays +\d\.\d+ ± \d\.\d+ ", done.out, re.MULTILINE)
    assert re.search(r"^ plays minus +plays +average", done.out, re.MULTILINE)
    assert re.search(r"^ code +-\d\.\d+ ± \d\.\d+ ", done.out, re.MULTILINE)
    assert re.search(r"^Prompt: To be\n  plays: .*\n  code: ", done.out, re.MULTILINE)
    assert re.search(
        r"^plays: lowest average loss .* below the best baseline, code \(95 %", done.out, re.MULTILINE
    )


def test_json_is_what_the_file_holds(command, tmp_path):
    done = command("evaluate", PLAYS, *TEXT, "--json", "-o", tmp_path / "a.json")
    assert done.json == json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert done.json["models"]["plays"]["scores"]["plays"]["tokens"] == 299
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("a")] == ["a.json"]


def test_the_result_may_lie_in_the_folder_of_a_merged_model(command, tmp_path):
    child = tmp_path / "child"
    assert command("merge", PLAYS, CODE, "-o", child, "-q").code == 0
    for _ in range(2):  # an earlier result is replaced
        done = command("evaluate", child, *TEXT, "-o", child)
        assert (done.code, str(child / "evaluation.json") in done.out) == (0, True)
    assert command("verify", child).code == 0
    assert command("merge", PLAYS, CODE, "-o", child, "--overwrite", "-t", 0.4, "-q").code == 0


@pytest.mark.parametrize(
    ("name", "found", "fix"),
    [
        ("a.txt", "the name does not end in .json", "a.txt.json\n"),
        ("none/a.json", "no such folder", "Fix: use -o evaluation.json"),
        ("config.json", "it exists, and is no evaluation", "Fix: use -o config-evaluation.json"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_at_once(command, tmp_path, name, found, fix):
    (tmp_path / "config.json").write_text("{}")
    done = command("evaluate", tmp_path / "none", "-o", tmp_path / name)
    assert done.code == 2
    assert found in done.err
    assert fix in done.err
    assert (tmp_path / "config.json").read_text() == "{}"


def test_problems_are_in_the_words_of_the_command(command, tmp_path):
    done = command("evaluate", PLAYS, "--text", tmp_path / "none.txt", "--stride", 0)
    assert done.code == 2
    assert "Fix: use --text none=FILE.txt" in done.err
    assert "Fix: use --stride 512" in done.err
    nothing = command("evaluate", PLAYS)
    assert nothing.code == 2
    assert "Fix: use --text NAME=FILE.txt" in nothing.err


@pytest.mark.long
def test_a_task_is_run_on_every_model(command):
    pytest.importorskip("lm_eval")
    done = command("evaluate", PLAYS, CODE, "--task", "fusion_slerp_demo", "--limit", 4, "--json")
    assert done.code == 0, done.err
    for model in ("plays", "code"):
        assert done.json["models"][model]["tasks"]["tasks"]
        assert done.json["models"][model]["scores"] == {}
    assert done.json["task_differences"]["plays"]["code"]
