"""Format 2: every finished child is made again, and the unfinished merge is resumed to the same bytes."""

from __future__ import annotations

import json
import re

import pytest

from fusion_slerp import OutputError, clean, verify
from tests.models import contents, names_in
from tests.samples.merges import FORMAT2

N_TENSORS = 23


@pytest.fixture
def samples():
    return FORMAT2


@pytest.fixture(autouse=True)
def version_of_then(monkeypatch):
    """Merges are made, and resumed, as by the version that made the samples."""
    for module in ("identity", "manifest", "model_card"):
        monkeypatch.setattr(f"fusion_slerp.output.{module}.__version__", FORMAT2.made_by)
    for module in ("identity", "manifest"):
        monkeypatch.setattr(f"fusion_slerp.output.{module}.RULES", 2)


def without_versions(folder) -> dict[str, bytes]:
    """All files of a child but its card, whose words change; of its manifest all that no version changes."""
    files = contents(folder)
    text = files["merge_manifest.json"].decode()
    assert json.loads(text)["made_by"]["fusion_slerp"] == FORMAT2.made_by
    of_versions = re.compile(r'^ +"(?:made_by|sha256|README\.md)": .*$', re.MULTILINE)
    assert "# united\n" in files.pop("README.md").decode()
    return files | {"merge_manifest.json": of_versions.sub("", text).encode()}


@pytest.mark.parametrize("name", FORMAT2.merges)
def test_a_child_is_what_its_parents_make(copies, name):
    result = verify(copies.models / name, inputs=True, recompute="all")
    assert result.ok, str(result)
    assert (result.measured > 0) == (name == "merged")  # linear measures nothing
    assert len(result.recomputed) == N_TENSORS


def test_a_changed_model_is_found_by_making_again(copies):
    file = copies.models / "tales/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    assert verify(copies.models / "summed").ok
    result = verify(copies.models / "summed", inputs=True)
    assert len(result.deviations) == 1
    assert result.deviations[0].found == "not what its source models make"


# --- the unfinished merge ---------------------------------------------------------------------------------


def test_it_is_resumed(copies):
    copies.models_are_here()
    result = copies.merge_again()
    assert result.n_resumed == 2
    assert names_in(copies.out.parent) == [copies.out.name]
    assert without_versions(copies.out) == without_versions(copies.finished)


def test_finished_files_are_taken_as_they_are(copies):
    """Those that the journal notes, if their bytes are still what it says; the others are made again."""
    copies.models_are_here()
    first, second, *rest = sorted(copies.journal.with_name("files").iterdir())
    second.write_bytes(first.read_bytes())
    for file in rest:
        file.write_bytes(b"half")
    assert copies.merge_again().n_resumed == 1
    assert without_versions(copies.out) == without_versions(copies.finished)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weight": {"a": 0.5, "b": 0.3, "c": 0.8}}, "settings.weight.c: 0.9 before, 0.8 now"),
        ({"normalize": False}, "settings.normalize: True before, False now"),
        ({"checksum": "xxh3_128"}, "settings.checksum: 'blake3' before, 'xxh3_128' now"),
    ],
)
def test_another_merge_leaves_it_in_peace(copies, changes, told):
    copies.models_are_here()
    before = contents(copies.out.parent)
    with pytest.raises(OutputError) as caught:
        copies.merge_again(**changes)
    assert "a different unfinished merge is in the way" in str(caught.value)
    assert "2 finished weight files" in str(caught.value)
    assert told in str(caught.value)
    assert contents(copies.out.parent) == before


def test_models_elsewhere_are_other_models(copies):
    with pytest.raises(OutputError, match=r"places\.a\.folder: '/models/plays' before"):
        copies.merge_again()


def test_another_version_does_not_resume_it(copies, monkeypatch):
    copies.models_are_here()
    monkeypatch.setattr("fusion_slerp.output.identity.__version__", "99.0")
    before = contents(copies.out.parent)
    with pytest.raises(OutputError, match="an unfinished merge of another version is in the way") as caught:
        copies.merge_again()
    assert f"found: fusion_slerp {FORMAT2.made_by}, journal format 2" in str(caught.value)
    assert contents(copies.out.parent) == before


def test_it_is_cleaned_up(copies):
    left = clean(copies.out)
    assert left is not None
    assert sorted(left.finished) == ["model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"]
    assert left.n_files == 4
    assert names_in(copies.out.parent) == []
    assert clean(copies.out) is None


def test_a_cut_line_counts_as_not_written(copies):
    copies.put_damaged("journal_cut.jsonl", copies.journal)
    copies.models_are_here()
    assert copies.merge_again().n_resumed == 1
    assert without_versions(copies.out) == without_versions(copies.finished)


def test_a_cut_line_is_cleaned_up(copies):
    copies.put_damaged("journal_cut.jsonl", copies.journal)
    left = clean(copies.out)
    assert left is not None
    first = json.loads((FORMAT2.folder / "damaged/journal_cut.jsonl").read_bytes().splitlines()[1])
    assert left.finished == (first["file"],)


def test_a_journal_of_nonsense_is_no_journal(copies):
    copies.put_damaged("journal_nonsense.jsonl", copies.journal)
    assert copies.merge_again().n_resumed == 0
    assert without_versions(copies.out) == without_versions(copies.finished)


def test_a_journal_of_nonsense_is_cleaned_up(copies):
    copies.put_damaged("journal_nonsense.jsonl", copies.journal)
    left = clean(copies.out)
    assert left is not None
    assert (left.finished, left.n_files) == ((), 0)
    assert names_in(copies.out.parent) == []
