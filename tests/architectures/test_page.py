"""The page about architectures agrees with the recorded outcomes, and these leave nothing unexplained."""

import re

import pytest

from tests.architectures.page import PAGE, counts, page, reason_of, verdict
from tests.architectures.results import not_built, recorded
from tests.architectures.texts import TRIALS

RECORDED = recorded()
BUILT = {name: each for name, each in RECORDED["architectures"].items() if not not_built(each)}
BUILT_BEFORE = 203
"""Architectures that an earlier, hand-written list built: fewer would mean that the rules for sizes broke."""


def test_page_is_made_of_the_recorded_outcomes():
    assert PAGE.read_text(encoding="utf-8") == page(RECORDED)


def test_counts_at_the_top_agree_with_the_tables():
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `[^`]+` \| `\w+` \| (.*) \|$", text, re.MULTILINE)
    columns = list(zip(*(row.split(" | ") for row in rows), strict=True))
    assert len(rows) == len(BUILT)
    for cells, trial in zip(columns, TRIALS.values(), strict=True):
        tried, right, refused = len(cells) - cells.count("–"), cells.count("yes"), cells.count("refused")
        assert f"\n| {trial.column} | {tried} | {right} | {refused} | " in text
        assert tried == right + refused


def test_as_many_architectures_are_built_as_before():
    assert len(BUILT) >= BUILT_BEFORE
    assert counts(BUILT)["equal"]["ok"] == len(BUILT)


@pytest.mark.parametrize("check", TRIALS)
def test_no_outcome_is_wrong_and_every_refusal_has_a_reason(check: str):
    outcomes = {name: record[check] for name, record in BUILT.items() if check in record}
    assert {name for name, outcome in outcomes.items() if verdict(outcome) not in ("ok", "refused")} == set()
    refused = {name: outcome for name, outcome in outcomes.items() if verdict(outcome) == "refused"}
    assert {name: outcome for name, outcome in refused.items() if reason_of(check, outcome) is None} == {}
