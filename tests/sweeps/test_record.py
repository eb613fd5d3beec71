"""The format of the record, frozen, and what is not one."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from fusion_slerp import SettingsError
from fusion_slerp.sweeps.best import within_noise
from fusion_slerp.sweeps.record import FILE, SweepPoint, SweepRecord, as_fields, read_record
from fusion_slerp.sweeps.results import Results

SAMPLE = Path(__file__).parent / "samples/format1"


def test_the_frozen_sample_of_format_1():
    record = read_record(SAMPLE)
    assert (record.format, record.method, record.version) == (1, "slerp", "0.5.0")
    assert record.models == {"a": {"source": "plays"}, "b": {"source": "code"}}
    assert record.vary == {"t": (0.0, 0.5, 1.0)}
    assert record.metric == {"name": "average.loss", "better": "lower"}
    assert record.parents["a"]["average"]["loss"] == 4.25
    assert math.isnan(record.points[2].scores["average"]["loss_stderr"])
    assert record.best_point is record.points[1]
    assert record.points[1].name == "t=0.5"
    assert record.points[1].samples == ({"prompt": "To be", "text": " or not"},)
    assert within_noise(record) == (0,)
    assert str(record) == (
        "best t = 0.5: 3.750 ± 0.125; not distinguishable from 0; 0.250 ± 0.031 below the better parent, b"
    )


def test_the_sample_is_written_as_it_was_read(tmp_path):
    content = json.loads((SAMPLE / FILE).read_text())
    assert as_fields(read_record(SAMPLE)) == content
    shutil.copytree(SAMPLE, tmp_path / "sweep")
    results = Results(read_record(SAMPLE), tmp_path / "sweep")
    with results.open():
        pass
    assert (tmp_path / "sweep" / FILE).read_bytes() == (SAMPLE / FILE).read_bytes()


def test_numbers_that_json_lacks_are_null():
    point = SweepPoint({"t": [0, 1]}, {"average": {"loss": math.nan, "perplexity": math.inf}})
    record = SweepRecord("slerp", {}, {}, {"t": ([0, 1],)}, {"name": "x", "better": "lower"}, {}, (point,))
    text = json.dumps(as_fields(record), allow_nan=False)
    assert json.loads(text)["points"][0]["scores"] == {"average": {"loss": None, "perplexity": None}}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "there is none"),
        ("{", "not readable"),
        ("[]", "format None, not 1"),
        ('{"format": 2}', "format 2, not 1: a newer version"),
        ('{"format": 1}', "damaged: KeyError"),
        ('{"format": "1"}', "format '1', not 1"),
        ("[" * 10_000, "not readable"),
    ],
)
def test_what_is_no_record(content, part, tmp_path):
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(SettingsError, match=r"no readable sweep\.json") as raised:
        read_record(tmp_path)
    assert part in str(raised.value)


@pytest.mark.parametrize("key", sorted(json.loads((SAMPLE / FILE).read_text())))
def test_a_record_that_lacks_something_or_has_nonsense_is_refused(key, tmp_path):
    content = json.loads((SAMPLE / FILE).read_text())
    for broken in ({k: v for k, v in content.items() if k != key}, {**content, key: 7}):
        (tmp_path / FILE).write_text(json.dumps(broken))
        if broken.get(key) == 7 and key in ("method", "version"):
            continue
        with pytest.raises(SettingsError):
            read_record(tmp_path)
