"""Every architecture that transformers maps to causal and image-text models, as small as it goes.

The outcomes are recorded in `results.json`, from which `docs/architectures.md` is made. With another version
of transformers than the recorded one, the outcomes may differ, but nothing may be wrong.
"""

from pathlib import Path

import pytest
import transformers

from tests.architectures.building import architectures
from tests.architectures.page import verdict
from tests.architectures.quiet import quiet
from tests.architectures.results import Record, recorded
from tests.architectures.trying import tried

pytestmark = pytest.mark.architectures
RECORDED = recorded()
IS_SAME_VERSION = RECORDED["transformers"] == transformers.__version__


@pytest.mark.parametrize("name", RECORDED["architectures"])
def test_outcomes_are_the_recorded_ones(name: str, tmp_path: Path):
    architecture = next((each for each in architectures() if str(each) == name), None)
    if architecture is None:
        pytest.skip("this transformers does not have it")
    with quiet():
        outcomes = tried(architecture, tmp_path / name)
    assert not {check: outcome for check, outcome in outcomes.items() if outcome.startswith("wrong")}
    if IS_SAME_VERSION:
        assert without_messages(outcomes) == without_messages(RECORDED["architectures"][name])


def without_messages(record: Record) -> Record:
    """The outcomes, without the messages of refusals and of transformers: their wording may change."""
    said = {check: outcome for check, outcome in record.items() if verdict(outcome) not in ("refused", "ok")}
    refused = {check: "refused" for check, outcome in record.items() if verdict(outcome) == "refused"}
    return record | dict.fromkeys(said, "") | refused


@pytest.mark.skipif(not IS_SAME_VERSION, reason="another transformers than the recorded one")
def test_all_architectures_are_recorded():
    assert {str(each) for each in architectures()} == RECORDED["architectures"].keys()
