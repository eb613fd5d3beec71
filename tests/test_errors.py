"""How messages show what strangers wrote: on one line, escaped and shortened."""

import difflib

import pytest

from fusion_slerp.errors import (
    COMPARISONS,
    SHOWN_LINE,
    CheckpointError,
    Problem,
    listed,
    nearest,
    printable,
    quoted,
)


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
