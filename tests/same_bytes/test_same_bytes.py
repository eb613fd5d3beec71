"""Every case gives the recorded bytes: restructuring the code changes no merged model.

The digests in digests.json are those of the C library that they were recorded with (glibc on x86-64,
named there): sine, arccosine and arctangent come from it, and another may round their last digit
differently, as may this one on a processor without FMA (which affects one case). There, a failure
is not a fault of the package; compare two versions on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.same_bytes.case import run_case
from tests.same_bytes.cases import CASES
from tests.same_bytes.record import recorded

pytestmark = pytest.mark.recorded

RECORDED = recorded()

ON_OTHER_THREADS = (
    "t: filters",
    "types: every pair to bfloat16",
    "directions: chords, float64",
    "granularity: row, several chunks",
    "granularity: column, several chunks",
    "granularity: column, several chunks, float64",
    "sizes: long",
    "sizes: long, float64",
    "sizes: long, little memory",
    "sizes: long, chords",
    "sizes: many small",
    "sizes: many small, types in turn",
    "extremes: long",
    "vocabulary: union, gradient",
    "vocabulary: large",
    "vocabulary: large, float64, mean",
    "vocabulary: large, mean",
    "files: a tensor each",
    "integers, several chunks",
    "torch: views",
    "slices: of other layers of b",
    "recipe: filters",
    "method: streamed",
)
"""Some cases of each kind; the others use the two threads that they were recorded with."""


def flat(found: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested digests as one mapping from a path such as `files/config.json`."""
    flattened = {}
    for name, value in found.items():
        inner = flat(value, f"{before}{name}/") if isinstance(value, Mapping) else {before + name: value}
        flattened |= inner
    return flattened


def assert_recorded(name: str, found: Mapping[str, Any]) -> None:
    """Fails with the names of all differing digests."""
    now, then = flat(found), flat(RECORDED[name])
    differing = [
        f"{key}: {then.get(key, 'not there')} recorded, {now.get(key, 'not there')} now"
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key)
    ]
    if differing:
        pytest.fail("\n  ".join([f"{name!r} is not what was recorded", *differing]), pytrace=False)


@pytest.mark.parametrize("name", CASES)
def test_the_bytes_are_those_recorded(tmp_path, name):
    assert_recorded(name, run_case(CASES[name], tmp_path))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ON_OTHER_THREADS)
def test_threads_change_no_byte(tmp_path, name, threads):
    assert_recorded(name, run_case(CASES[name], tmp_path, threads))


def test_every_case_is_recorded_and_nothing_else():
    assert RECORDED.keys() == CASES.keys()
