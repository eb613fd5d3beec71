"""How messages show what strangers wrote: on one line, escaped and shortened."""

import difflib

import pytest

from fusion_slerp.cli.options import flag, long_flag
from fusion_slerp.errors import (
    COMPARISONS,
    SHOWN_LINE,
    SWITCHES_OR_NAMES,
    CheckpointError,
    FusionSlerpError,
    Problem,
    listed,
    nearest,
    printable,
    quoted,
    raise_all,
    setting,
    spelled,
)
from fusion_slerp.settings.merge_settings import option_fields


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("ä😀 x", "ä😀 x"),
        ("a\nb\r\tc\0", r"a\nb\r\tc\x00"),
        ("\x1b[31m\x9b", r"\x1b[31m\x9b"),
        ("\u202etxt\u200b\ufeff", r"\u202etxt\u200b\ufeff"),
        ("\ud800", r"\ud800"),
        (b"\xff", r"b'\xff'"),
        (3, "3"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize("n", [10, 11, 10**7])
def test_printable_leaves_out_the_middle(n):
    text = "a" * (n - 5) + "b" * 5
    shown = printable(text, 10)
    assert shown == (text if n == 10 else f"aaaaa... ({n - 10} characters) ...bbbbb")


def test_quoted():
    assert quoted("it's\n") == '''"it's\\n"'''
    assert quoted("x" * 200) == f"'{'x' * 200}'"
    assert quoted("x" * 10**7 + "y") == f"'{'x' * 100}...{'x' * 99}y'"


def test_listed_shortens_each_name():
    assert listed(["a\n", "b" * 1000], 1) == r"a\n, ... and 1 more"
    assert len(listed(["b" * 10**6] * 20)) < 3000


def test_every_line_of_a_problem_is_one_line():
    problem = Problem(
        CheckpointError, "head\nline", (("file", "\x1b" * 10**6), ("found", "a\rb")), "do\nthis"
    )
    lines = str(problem).split("\n")
    assert lines[0] == r"head\nline"
    assert lines[1].startswith(r"  file: \x1b\x1b")
    assert len(lines[1]) < 5 * SHOWN_LINE
    assert lines[2:] == [r"  found: a\rb", r"Fix: do\nthis"]


@pytest.mark.parametrize("letters", ["a", "ab", "abcdefgh"])
@pytest.mark.parametrize("n", [40, 199, 10**6])
def test_looking_for_the_nearest_name_compares_few_characters(monkeypatch, letters, n):
    """Comparing two names of n characters that repeat a few letters takes n² steps."""
    known = [(letters * n)[i : i + n] + str(i) for i in range(300 if n > 1000 else 2000)]
    real, steps = difflib.SequenceMatcher.set_seq1, []

    def counting(matcher, candidate):
        steps.append(len(candidate) * len(matcher.b or ""))
        real(matcher, candidate)

    monkeypatch.setattr(difflib.SequenceMatcher, "set_seq1", counting)
    nearest((letters * n)[:n], known)
    assert (sum(steps) > 0) == (n < 1000)
    assert sum(steps) < 1.2 * COMPARISONS


# --- dialects -------------------------------------------------------------------------------------------

SPELLINGS = [
    ("dtype", "bfloat16", "dtype='bfloat16'", "--dtype bfloat16", "method.dtype=bfloat16"),
    ("overwrite", "any", "overwrite='any'", "--overwrite=any", "method.overwrite=any"),
    ("overwrite", True, "overwrite=True", "--overwrite", "method.overwrite=true"),
    ("strict", False, "strict=False", "--no-strict", "method.strict=false"),
    ("t", [0, 0.5, 1], "t=[0, 0.5, 1]", "-t '[0, 0.5, 1]'", "'method.t=[0, 0.5, 1]'"),
    ("out", "other", "out='other'", "-o other", "method.model_save_path=other"),
    ("tokenizer", "a", "tokenizer='a'", "--tokenizer a", "modelpool.tokenizer=a"),
    ("method", "linear", "method='linear'", "--method linear", "method=fusion_slerp/linear_lm"),
    ("max_shard_size", "5GB", "max_shard_size='5GB'", "--max-shard-size 5GB", "method.max_shard_size=5GB"),
    (
        "slices",
        [{"a": [0, 2]}],
        "slices=[{'a': [0, 2]}]",
        """--slices '[{"a": [0, 2]}]'""",
        'slices: [{"a": [0, 2]}] (in YAML, under method:)',
    ),
    (
        "tokens",
        {"<s>": {"source": "a"}},
        "tokens={'<s>': {'source': 'a'}}",
        """--tokens '{"<s>": {"source": "a"}}'""",
        'tokens: {"<s>": {"source": "a"}} (in YAML, under method:)',
    ),
]


@pytest.mark.parametrize(
    ("name", "value", "python", "command", "hydra"), SPELLINGS, ids=lambda each: str(each)[:9]
)
def test_a_fix_spells_settings_as_the_user_would(name, value, python, command, hydra):
    error = Problem(CheckpointError, "wrong", (), f"use {setting(name, value)}, or stop").error()
    for dialect, text in (("python", python), ("command", command), ("hydra", hydra)):
        assert error.message(dialect) == f"wrong\nFix: use {text}, or stop"
    assert str(error) == error.message("python")


def test_options_of_the_command_are_spelled_as_it_takes_them():
    for name in option_fields():
        between = "=" if name in SWITCHES_OR_NAMES else " "
        assert spelled(setting(name, 1), "command") == f"{flag(name)}{between}1"
        assert spelled(setting(name, False), "command") == f"{long_flag(name, False)}" or flag(
            name
        ) != long_flag(name)


def test_several_problems_keep_their_dialect_and_their_state():
    problems = [Problem(CheckpointError, str(i), (), f"use {setting('strict', True)}") for i in range(12)]
    with pytest.raises(CheckpointError) as caught:
        raise_all(problems, so="nothing was read")
    lines = caught.value.message("command").splitlines()
    assert lines[0] == "12 problems, nothing was read:"
    assert lines[2:4] == ["[1] 0", "Fix: use --strict"]
    assert lines[-1] == "... and 2 more"
    assert caught.value.message("command", limit=None).splitlines()[-2:] == ["[12] 11", "Fix: use --strict"]
    assert "use strict=True" in str(caught.value)
    assert FusionSlerpError("plain").message("hydra") == "plain"


@pytest.mark.parametrize(
    "text", ["\x02a\x1f{\x03", "\x02a\x1f" + "[" * 10**5 + "\x03", "\x02a b\x1f1\x03", "\x02"]
)
def test_names_that_look_like_settings_are_shown_escaped(text):
    error = Problem(CheckpointError, "wrong", (("file", text),), f"remove {text}").error()
    assert "\x02" not in error.message("command")
    assert r"\x02" in error.message("command")
