"""The journal: what was written is read again, of any number of models and in every format."""

import json
from pathlib import Path

import pytest

from fusion_slerp.engine.report import TensorReport, WeightFile
from fusion_slerp.output.journal import FORMAT, Journal, read_journal
from fusion_slerp.vocabulary.rows import RowCounts
from tests.samples.merges import FORMAT1

IDENTITY = {
    "fusion_slerp": "1.2.3",
    "rules": 2,
    "parents": {"a": {"model": "a"}, "b": {"model": "b"}, "c": {"model": "c"}},
    "files": {"model-00001-of-00002.safetensors": "0"},
}

FILE = WeightFile(
    "model-00001-of-00002.safetensors",
    4096,
    "ab",
    (
        TensorReport("x", "linear", 4, {"weight": {"a": 0.5, "b": 0.25, "c": 0.25}}, digest="01"),
        TensorReport("y", "copy c", 4, {"weight": {"c": 1.0}}, why="owner", digest="02"),
        TensorReport("z", "linear", 8, {}, rows=RowCounts(1, {"a": 2, "c": 3}, 4), digest="03"),
        TensorReport("w", "slerp", 8, {"t": 0.3}, angle_deg=90.0, norms={"a": 1.0, "b": 2.0}, digest="04"),
    ),
)


@pytest.fixture
def journal(tmp_path) -> Path:
    """A journal with one finished file of a merge of three models."""
    file = tmp_path / "journal.jsonl"
    journal = Journal(file, None)
    journal.begin(IDENTITY)
    journal.add(FILE)
    journal.close()
    return file


def test_what_was_written_is_read(journal):
    content = read_journal(journal)
    assert content is not None
    assert (content.format, content.version) == (FORMAT, "1.2.3")
    assert content.identity == IDENTITY
    assert content.files == {FILE.name: FILE}
    assert (content.published, content.nbytes) == (None, journal.stat().st_size)
    assert content.is_of(IDENTITY)
    assert not content.is_of({**IDENTITY, "rules": 3})


def test_the_next_line_replaces_one_that_was_cut_off(journal):
    with journal.open("ab") as stream:
        stream.write(b'{"publi')
    again = Journal(journal, read_journal(journal))
    again.publish("cd")
    again.close()
    content = read_journal(journal)
    assert content is not None
    assert (list(content.files), content.published) == ([FILE.name], "cd")
    assert content.nbytes == journal.stat().st_size


def test_format_1_names_its_finished_files():
    content = read_journal(FORMAT1.folder / "unfinished/.sharded.partial/journal.jsonl")
    assert content is not None
    assert (content.format, content.version, len(content.identity["files"])) == (1, "0.1.0", 4)
    assert sorted(content.files) == [f"model-0000{i}-of-00004.safetensors" for i in (1, 2)]
    assert not content.is_of(content.identity)


@pytest.mark.parametrize("first", [{"journal": 3}, {"journal": None, "identity": 1}, {"journal": "x"}])
def test_a_format_to_come_is_read_as_far_as_files(tmp_path, first):
    lines = [first, {"unheard": "of"}, {"file": 1}, {"published": "ab"}]
    (tmp_path / "journal").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = read_journal(tmp_path / "journal")
    assert content is not None
    assert (list(content.files), content.published) == (["1"], "ab")
    assert content.version == "unknown"
    assert not content.is_of({})
