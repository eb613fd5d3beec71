"""Format 1: finished children are made again where the rules allow it; unfinished merges are left alone."""

from __future__ import annotations

import shutil

import pytest

from fusion_slerp import CheckpointError, OutputError, __version__, clean, verify
from fusion_slerp.output.journal import FORMAT
from fusion_slerp.planning.rules import RULES
from tests.models import contents, names_in
from tests.samples.merges import FORMAT1

N_TENSORS = 23
RECORDS = {"README.md", "merge_report.json", "merge_manifest.json"}
"""Files that are of the format of their time, like the card's pictures, which there were none of."""


@pytest.fixture
def samples():
    return FORMAT1


def model_of(folder) -> dict[str, bytes]:
    """What is the same in every format."""
    every = contents(folder).items()
    return {name: data for name, data in every if name not in RECORDS and not name.startswith("images/")}


@pytest.mark.parametrize("name", ["merged", "sharded"])
def test_a_child_is_what_its_parents_make(copies, name):
    result = verify(copies.models / name, inputs=True, recompute="all")
    assert result.ok, str(result)
    assert result.measured > 0
    assert len(result.recomputed) == N_TENSORS


@pytest.mark.parametrize("count", [1, "all"])
def test_rows_filled_with_a_mean_are_not_made_again(copies, count):
    """By the rules of then their last digits may be others."""
    with pytest.raises(CheckpointError) as caught:
        verify(copies.models / "united", recompute=count)
    assert str(caught.value).splitlines() == [
        "the model was merged by other rules",
        f"  found: rules 1; this version merges by rules {RULES}",
        "  differs in: the last digits of rows that are filled with a mean",
        "  tensors: lm_head.weight, and 1 more",
        "Fix: recompute with the version that made it, or use inputs=True alone",
    ]
    result = verify(copies.models / "united", inputs=True)
    assert result.ok, str(result)
    assert result.measured == 22  # all but the integers
    assert not {"lm_head.weight", "model.embed_tokens.weight"} & set(result.recomputed)


# --- the unfinished merge ---------------------------------------------------------------------------------


def refusal(copies, **changes) -> list[str]:
    """What the same merge says, which changes nothing."""
    before = contents(copies.out.parent)
    with pytest.raises(OutputError) as caught:
        copies.merge_again(**changes)
    assert contents(copies.out.parent) == before
    return str(caught.value).splitlines()


@pytest.mark.parametrize("changes", [{}, {"t": 0.4}, {"checksum": "xxh3_128"}, {"overwrite": True}], ids=str)
@pytest.mark.parametrize("are_here", [True, False], ids=["same models", "models elsewhere"])
def test_an_unfinished_merge_cannot_be_resumed_and_says_why(copies, changes, are_here):
    if are_here:
        copies.models_are_here()
    assert refusal(copies, **changes) == [
        "an unfinished merge of another version is in the way",
        f"  out: {copies.out}",
        f"  unfinished: 2 finished weight files in {copies.journal.parent}",
        f"  found: fusion_slerp {FORMAT1.made_by}, journal format 1",
        f"  needed: fusion_slerp {__version__}, journal format {FORMAT}",
        f"Fix: finish it with fusion_slerp {FORMAT1.made_by}, or remove it: fusion_slerp clean {copies.out}",
    ]
    assert FORMAT > 1


def test_it_is_cleaned_up(copies):
    left = clean(copies.out)
    assert left is not None
    assert sorted(left.finished) == ["model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"]
    assert left.n_files == 4
    assert names_in(copies.out.parent) == []
    assert clean(copies.out) is None


def test_cleaned_up_the_same_merge_makes_the_model_of_then(copies):
    clean(copies.out)
    assert copies.merge_again().n_resumed == 0
    assert names_in(copies.out.parent) == [copies.out.name]
    assert model_of(copies.out) == model_of(copies.finished)


def test_a_cut_line_counts_as_not_written(copies):
    copies.put_damaged("journal_cut.jsonl", copies.journal)
    assert refusal(copies)[2] == f"  unfinished: 1 finished weight files in {copies.journal.parent}"


def test_a_cut_line_is_cleaned_up(copies):
    copies.put_damaged("journal_cut.jsonl", copies.journal)
    left = clean(copies.out)
    assert left is not None
    assert left.finished == ("model-00001-of-00004.safetensors",)


def test_a_journal_of_nonsense_is_no_journal(copies):
    copies.put_damaged("journal_nonsense.jsonl", copies.journal)
    assert copies.merge_again().n_resumed == 0
    assert model_of(copies.out) == model_of(copies.finished)


def test_a_journal_of_nonsense_is_cleaned_up(copies):
    copies.put_damaged("journal_nonsense.jsonl", copies.journal)
    left = clean(copies.out)
    assert left is not None
    assert (left.finished, left.n_files) == ((), 0)
    assert names_in(copies.out.parent) == []


def test_without_a_finished_file_nothing_is_in_the_way(copies):
    first = copies.journal.read_bytes().splitlines(keepends=True)[0]
    copies.journal.write_bytes(first)
    assert copies.merge_again().n_resumed == 0
    assert model_of(copies.out) == model_of(copies.finished)


def test_a_published_child_of_then_is_replaced_only_if_asked(copies):
    shutil.rmtree(copies.out.parent)
    shutil.copytree(copies.finished, copies.out)
    with pytest.raises(OutputError, match="the output exists"):
        copies.merge_again()
    copies.merge_again(overwrite=True)
    assert verify(copies.out).ok
    assert model_of(copies.out) == model_of(copies.finished)
