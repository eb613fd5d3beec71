"""The command in a real terminal: questions, wrong answers, Ctrl-C, colours."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fusion_slerp import slerp
from tests.cli.conftest import DEMO
from tests.every_method import write_family
from tests.models import CONFIG, names_in, write_checkpoint, write_json

pexpect = pytest.importorskip("pexpect")  # there is no pseudo-terminal on Windows

# forkpty warns where the test process has threads; the child runs another program at once.
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

COLOUR = "\x1b[1;31m"

COLUMNS = 160

HANG_S = 300
"""No answer takes that long; a command that does hangs."""


@pytest.fixture
def terminal(tmp_path):
    """Starts the command in a terminal, in `tmp_path`; whatever runs at the end is stopped."""
    started = []

    def start(*arguments, program=("-m", "fusion_slerp"), **environment):
        env = {**os.environ, "TERM": "xterm-256color", "HF_HUB_OFFLINE": "1", **environment}
        env.pop("COLUMNS")
        child = pexpect.spawn(
            sys.executable,
            [*program, *map(str, arguments)],
            cwd=tmp_path,
            env=env,
            encoding="utf-8",
            dimensions=(50, COLUMNS),
            timeout=HANG_S,
            # what a shell has started in the background ignores Ctrl-C, and so would its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)


def ended(child):
    """The rest of what the command prints, and its exit code."""
    child.expect(pexpect.EOF)
    child.close()
    return child.before, child.exitstatus


def without_styles(output: str) -> str:
    """The text alone."""
    return re.sub(r"\x1b\[[0-9;]*m", "", output)


def answer(child, *pairs):
    """Waits for each question and gives its answer; returns what was said before each question."""
    said = []
    for question, text in pairs:
        child.expect_exact(question)
        said.append(child.before)
        child.sendline(text)
    return said


METHOD = "Method, or ? for a list [slerp]: "
FIRST, SECOND, OUT = "First model (t = 0): ", "Second model (t = 1): ", "Folder to save in ["
T, MERGE = "[0.5]: ", "Merge? [Y/n] "


def with_slerp(terminal):
    """Starts the command without arguments and leaves the method as it is."""
    child = terminal()
    answer(child, (METHOD, ""))
    return child


def test_a_method_with_a_base_asks_for_all_it_needs(terminal, tmp_path):
    family = write_family(tmp_path / "models")
    child = terminal()
    said = answer(
        child,
        (METHOD, "?"),
        (METHOD, "tise"),
        (METHOD, "ties"),
        ("First model: ", str(family.models[0])),
        ("Second model (Enter: no more): ", str(family.models[1])),
        ("Third model (Enter: no more): ", ""),
        ("Base, the ancestor of all of them: ", str(family.base)),
        ("Folder to save in [a-b-ties]: ", ""),
        ("weight: ", "{a: 0.4}"),
        ("density: ", "2"),
        ("density: ", "0.5"),
        (MERGE, "n"),
    )
    assert "at least 1 model and a base: trimmed task vectors" in said[1]
    assert "no method 'tise' (did you mean 'ties'?); ? lists them" in said[2]
    assert "invalid density" in said[10]
    assert "no weight is given for b: 1 is used" not in said[10]
    output, code = ended(child)
    assert code == 0
    words = " ".join(map(str, family.models[:2]))
    line = f"fusion_slerp merge {words} --base {family.base} --method ties -w a=0.4 --density 0.5 -o a-b-ties"
    assert line in output.replace("\r\n", "")


def test_one_model_is_enough_for_a_method_of_one(terminal, tmp_path):
    folder = write_checkpoint(tmp_path / "models/a")
    child = terminal()
    answer(
        child,
        (METHOD, "passthrough"),
        ("First model: ", str(folder)),
        ("Folder to save in [a-passthrough]: ", "child"),
        ("scale: ", "2"),
        (MERGE, "y"),
    )
    output, code = ended(child)
    assert code == 0
    assert "fusion_slerp merge" in output
    assert "--method passthrough --scale 2 --overwrite -o child" in output.replace("\r\n", "")


def test_the_whole_conversation_with_wrong_answers_on_the_way(terminal, parents, tmp_path):
    (tmp_path / "empty").mkdir()
    child = with_slerp(terminal)
    said = answer(
        child,
        (FIRST, ""),
        (FIRST, "modls"),
        ("Look on the Hub? [y/N] ", "n"),
        (FIRST, "./models/c"),
        (FIRST, "mod\ta"),  # Tab completes the folder
        (SECOND, "empty"),
        (SECOND, "models/b/"),
        (OUT, "models/b"),
        (OUT, "my child"),
        (T, "1.5"),
        (T, "[0, 1"),
        (T, "-t 0.3"),
        (MERGE, "perhaps"),
        (MERGE, "y"),
    )
    assert "enter a folder or a Hub id" in said[1]
    assert "No folder modls here" in said[2]
    assert "no such folder (did you mean 'a'?)" in said[4] or "no such folder" in said[4]
    assert "LlamaForCausalLM (llama): 84 parameters in 1 layers, float32, 6 tokens" in said[5]
    assert "no usable config.json" in said[6]
    assert "the same architecture" in said[7]
    assert "the same vocabulary" in said[7]
    assert "the output is model b" in said[8]
    assert "needed" in said[9]
    assert "invalid t" in said[10]
    assert "not readable as YAML" in said[11]
    assert "model.embed_tokens.weight" in said[12]  # the plan
    assert "enter y or n" in said[13]
    output, code = ended(child)
    assert code == 0
    assert "merging: 100%" in output
    assert "fusion_slerp merge models/a models/b -t 0.3 --overwrite -o 'my child'" in output
    a, b = (load_file(parent / "model.safetensors") for parent in parents)
    found = load_file(tmp_path / "my child" / "model.safetensors")
    assert (found["model.norm.weight"] == slerp(0.3, a["model.norm.weight"], b["model.norm.weight"])).all()


def test_earlier_models_are_offered_by_number_and_an_empty_line_goes_back(terminal, parents):
    child = terminal("merge", *parents, "-o", "child")
    assert ended(child)[1] == 0
    child = terminal()
    said = answer(
        child,
        (METHOD, ""),
        (FIRST, "7"),
        (FIRST, "2"),
        (SECOND, ""),
        (FIRST, "1"),
        (SECOND, "2"),
        (OUT, ""),
        (T, ""),
        (MERGE, "n"),
    )
    assert str(parents[0]) in said[0]
    assert "the last number is 2" in said[2]
    output, code = ended(child)
    assert code == 0
    assert "Nothing was written" in output
    assert f"fusion_slerp merge {parents[0]} {parents[1]} -t 0.5 -o a-b-slerp" in output.replace("\r\n", "")


def test_an_existing_model_is_replaced_only_after_a_question(terminal, parents, tmp_path):
    assert ended(terminal("merge", *parents, "-t", "0.1", "-o", "child"))[1] == 0
    before = (tmp_path / "child/model.safetensors").read_bytes()
    child = with_slerp(terminal)
    answer(
        child,
        (FIRST, str(parents[0])),
        (SECOND, str(parents[1])),
        (OUT, "child"),
        ("Replace it when the merge is done? [y/N] ", ""),
        (OUT, "child"),
        ("Replace it when the merge is done? [y/N] ", "y"),
        (T, ""),
        (MERGE, ""),
    )
    output, code = ended(child)
    assert code == 0
    assert "--overwrite" in output
    assert (tmp_path / "child/model.safetensors").read_bytes() != before


def test_warnings_are_remarks_on_the_answers_and_told_once(terminal, parents, tmp_path):
    other = write_checkpoint(tmp_path / "models/other", seed=3, config={"rope_theta": 1.0})
    child = with_slerp(terminal)
    t = "[{filter: nothing_is_called_so, value: 1}]"
    pairs = ((FIRST, str(parents[0])), (SECOND, str(other)), (OUT, ""), (T, t), (MERGE, ""))
    said = answer(child, *pairs)
    output, code = ended(child)
    assert code == 0
    assert "the configs differ in rope_theta" in said[2]
    assert "no entry of t matches, copied from a" in said[4]
    whole = "".join([*said, output])
    assert whole.count("the configs differ in rope_theta") == 1
    assert whole.count("no entry of t matches") == 1


def test_models_that_do_not_fit_are_refused_at_the_second_question(terminal, parents, tmp_path):
    wide = write_checkpoint(tmp_path / "models/wide", config={"hidden_size": 5})
    child = with_slerp(terminal)
    said = answer(child, (FIRST, str(parents[0])), (SECOND, str(wide)), (SECOND, str(parents[1])))
    assert "the models differ in hidden_size" in said[2]
    assert "an empty line returns to the first" in said[2]
    child.expect_exact(OUT)


@pytest.mark.parametrize("key", ["c", "d"])
def test_ctrl_c_and_ctrl_d_at_a_question_stop_it(key, terminal, parents, tmp_path):
    child = with_slerp(terminal)
    answer(child, (FIRST, str(parents[0])), (SECOND, str(parents[1])))
    child.expect_exact(OUT)
    child.sendcontrol(key)
    output, code = ended(child)
    assert code == 130
    assert "Nothing was written." in output
    assert f"fusion_slerp merge {parents[0]} {parents[1]} -t 0.5 -o child" in output.replace("\r\n", "")
    assert "Traceback" not in output
    assert names_in(tmp_path) == ["models"]


# --- a merge that is stopped ----------------------------------------------------------------------------


HELD = """
import os, pathlib, sys, threading
from concurrent.futures import ThreadPoolExecutor
n, journal, held = int(sys.argv.pop(1)), pathlib.Path(sys.argv.pop(1)), pathlib.Path(sys.argv.pop(1))
write, shutdown, stopped = os.pwrite, ThreadPoolExecutor.shutdown, threading.Event()

def holding(descriptor, data, offset):
    is_main = threading.current_thread() is threading.main_thread()  # which writes headers
    if not is_main and journal.read_bytes().count(b"\\n") >= n:
        held.touch()
        stopped.wait(300)
    return write(descriptor, data, offset)

def releasing(pool, wait=True, *, cancel_futures=False):
    shutdown(pool, wait=False, cancel_futures=cancel_futures)
    stopped.set()
    shutdown(pool, wait=wait)

os.pwrite, ThreadPoolExecutor.shutdown = holding, releasing
from fusion_slerp.cli import main
main()
"""
"""The command, whose writing threads wait from the n-th line of the journal on, until it stops them."""


def write_sparse_model(folder: Path, n_tensors: int = 16, rows: int = 1 << 11) -> Path:
    """A model of 128 MB of zeros that takes no space on the disk: each tensor takes two writes."""
    folder.mkdir(parents=True)
    width = 1 << 10
    nbytes = 4 * rows * width
    header = {
        f"model.layers.{i}.mlp.up_proj.weight": {
            "dtype": "F32",
            "shape": [rows, width],
            "data_offsets": [i * nbytes, (i + 1) * nbytes],
        }
        for i in range(n_tensors)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + n_tensors * nbytes)
    write_json(folder / "config.json", CONFIG | {"num_hidden_layers": n_tensors})
    return folder


@pytest.fixture
def held_merge(terminal, tmp_path):
    """Starts a merge that stands still once its journal has `n_lines` lines (the first describes it)."""
    models = [write_sparse_model(tmp_path / "models" / name) for name in "ab"]

    def start(*options, n_lines):
        words = ("merge", *models, "-o", "out/child", "--threads", "1", *options)
        journal, held = tmp_path / "out/.child.partial/journal.jsonl", tmp_path / "models/held"
        child = terminal(n_lines, journal, held, *words, program=("-c", HELD))
        wait_for(child, held.exists)
        return child, words

    return start


@pytest.fixture
def slow_merge(held_merge, tmp_path):
    """A merge under way: its unfinished folder is there."""
    child, _ = held_merge(n_lines=1)
    assert list(tmp_path.glob("out/.child.partial/files/*.safetensors"))
    return child


def wait_for(child, happened):
    deadline = time.monotonic() + HANG_S
    while not happened():
        assert child.isalive(), child.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_ctrl_c_stops_a_merge_and_leaves_nothing(slow_merge, tmp_path):
    slow_merge.sendintr()
    output, code = ended(slow_merge)
    output = without_styles(output)
    assert code == 130
    assert "Stopped. Nothing was kept. out/child was not created." in output
    assert "To run it again:" in output
    assert "-t 0.5 --threads 1 -o out/child" in output.replace("\r\n", "")
    assert "Traceback" not in output
    assert "out" not in names_in(tmp_path)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_so_do_other_signals(number, expected, slow_merge, tmp_path):
    slow_merge.kill(number)
    output, code = ended(slow_merge)
    assert code == expected
    assert "Nothing was kept" in output
    assert "out" not in names_in(tmp_path)


def test_finished_files_are_kept_and_the_line_that_is_shown_goes_on(terminal, held_merge, tmp_path):
    child, words = held_merge("--max-shard-size", "9MB", n_lines=3)
    child.sendintr()
    output, code = ended(child)
    output = without_styles(output).replace("\r\n", "\n")
    assert code == 130
    assert "Stopped. out/child was not created.\nKept: " in output
    assert "To resume:\n  fusion_slerp merge" in output
    assert f"To remove it:\n  fusion_slerp clean {tmp_path / 'out/child'}" in output.replace(" \n", " ")
    output, code = ended(terminal(*words))
    assert code == 0
    assert " files from an interrupted run" in without_styles(output)
    assert names_in(tmp_path / "out") == ["child"]


# --- pictures and progress ------------------------------------------------------------------------------


def test_the_map_is_in_colour_in_a_terminal_and_in_numbers_without(terminal):
    models = (DEMO / "plays", DEMO / "code")
    in_colour, code = ended(terminal("inspect", *models, COLORTERM="truecolor"))
    assert code == 0
    assert re.search("\x1b\\[38;2;[0-9;]*;48;2;[0-9;]*m▀", in_colour)
    in_numbers, _ = ended(terminal("inspect", *models, NO_COLOR="1"))
    assert "▀" not in in_numbers
    for text in map(without_styles, (in_colour, in_numbers)):
        assert "q_proj" in text
        assert max(map(len, text.splitlines())) <= COLUMNS


def test_an_evaluation_says_how_far_it_is(terminal):
    text = DEMO / "texts" / "plays.txt"
    words = ("--text", f"t={text}", "--max-tokens", 3000, "--context-length", 64, "--batch-size", 1)
    output, code = ended(terminal("evaluate", DEMO / "plays", DEMO / "code", *words))
    assert code == 0
    shown = {
        name: re.findall(rf"evaluating {name} \({i} of 2\): t, (\d+)%", without_styles(output))
        for i, name in ((1, "plays"), (2, "code"))
    }
    assert all(each for each in shown.values())


# --- colours --------------------------------------------------------------------------------------------


def test_errors_are_red_in_a_terminal(terminal):
    output, code = ended(terminal("inspect", "./nothing"))
    assert code == 2
    assert f"{COLOUR}error: \x1b[0m{COLOUR}./nothing: model not found" in output


@pytest.mark.parametrize(
    ("words", "environment"), [(("--no-color",), {}), ((), {"NO_COLOR": "1"})], ids=["option", "variable"]
)
@pytest.mark.parametrize("arguments", [("inspect", "./nothing"), ("plan", "--treads"), ("--help",)])
def test_there_are_no_colours_if_they_are_not_wanted(terminal, arguments, words, environment):
    output, _ = ended(terminal(*arguments, *words, **environment))
    assert len(output) > 50
    assert "\x1b[3" not in output
    assert "\x1b[1;3" not in output
