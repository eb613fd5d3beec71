"""Scores as the Hub reads them: what is written, what is left out and why, and whose files stay."""

import copy
from pathlib import Path

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from fusion_slerp import merge, verify
from fusion_slerp.errors import OutputError
from fusion_slerp.evaluation.eval_results import write_eval_results

DATE = "2026-01-02T03:04:05+00:00"


def task(dataset: dict[str, str | None] | None, **metrics: float) -> dict[str, object]:
    scores = {
        name: {"value": value, "stderr": 0.0123, "higher_is_better": True} for name, value in metrics.items()
    }
    return {"version": 1.0, "num_fewshot": 5, "n": 100, "dataset": dataset, "metrics": scores}


SCORES = {
    "lm_eval": "0.4.13",
    "limit": None,
    "batch_size": 1,
    "tasks": {
        "gpqa_diamond_zeroshot": task(
            {"path": "Idavidrein/gpqa", "name": "gpqa_diamond"}, acc=0.4, acc_norm=0.5
        ),
        "gsm8k": task({"path": "openai/gsm8k", "name": None}, exact_match=0.25),
        "mine": task({"path": "json", "name": None}, acc=0.3),
        "fusion_slerp_demo": task(None, acc=0.5),
    },
}


def test_files_are_what_the_hub_reads(tmp_path):
    results = write_eval_results(tmp_path, SCORES, date=DATE, metrics={"gpqa_diamond_zeroshot": "acc_norm"})
    assert list(results.files) == ["gpqa_diamond_zeroshot", "gsm8k"]
    path = tmp_path / ".eval_results/gpqa_diamond_zeroshot.yaml"
    assert results.files["gpqa_diamond_zeroshot"] == path
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("Idavidrein/gpqa", "gpqa_diamond", 0.5)
    assert entry.date == DATE
    assert entry.notes == "lm-evaluation-harness 0.4.13, gpqa_diamond_zeroshot 1.0, acc_norm ± 0.012, 5-shot"


def test_the_hubs_name_of_a_task_may_be_given(tmp_path):
    files = write_eval_results(tmp_path, SCORES, task_ids={"gsm8k": "main"}).files
    assert yaml.safe_load(files["gsm8k"].read_text())[0]["dataset"] == {
        "id": "openai/gsm8k",
        "task_id": "main",
    }


def test_what_has_no_data_set_on_the_hub_is_left_out_with_the_reason(tmp_path):
    assert write_eval_results(tmp_path, SCORES).left_out == {
        "mine": "its data set is not one of the Hub: json",
        "fusion_slerp_demo": "its data set is not on the Hub",
    }


def test_a_score_on_some_documents_only_is_left_out(tmp_path):
    results = write_eval_results(tmp_path, {**SCORES, "limit": 100})
    assert not results.files
    assert results.left_out["gsm8k"] == "it was measured on 100 documents only (limit=100)"
    assert not (tmp_path / ".eval_results").exists()


def test_a_metric_that_was_not_measured_is_left_out(tmp_path):
    left_out = write_eval_results(tmp_path, SCORES, metrics={"gsm8k": "acc"}).left_out
    assert left_out["gsm8k"] == "it has no metric 'acc', but exact_match"


def test_own_files_are_replaced_and_those_of_others_stay(tmp_path):
    path = write_eval_results(tmp_path, SCORES).files["gsm8k"]
    better = copy.deepcopy(SCORES)
    better["tasks"]["gsm8k"]["metrics"]["exact_match"]["value"] = 0.75
    assert "gsm8k" in write_eval_results(tmp_path, better).files
    assert yaml.safe_load(path.read_text())[0]["value"] == 0.75
    edited = path.read_text(encoding="utf-8") + "  verifyToken: abc\n"
    path.write_text(edited, encoding="utf-8")
    results = write_eval_results(tmp_path, SCORES)
    assert results.left_out["gsm8k"] == ".eval_results/gsm8k.yaml was written or edited by others"
    assert path.read_text(encoding="utf-8") == edited
    assert not list(path.parent.glob("*.partial"))


def test_a_folder_is_needed(tmp_path):
    with pytest.raises(OutputError, match="evaluation results cannot be written"):
        write_eval_results(tmp_path / "none", SCORES)
    (tmp_path / ".eval_results").write_text("")
    with pytest.raises(OutputError) as caught:
        write_eval_results(tmp_path, SCORES)
    assert str(caught.value).splitlines()[-1].startswith("Fix: mv ")


def test_the_merged_model_still_verifies(parents: tuple[Path, Path], tmp_path):
    child = tmp_path / "child"
    merge(*parents, t=0.5, out=child)
    assert write_eval_results(child, SCORES).files
    assert verify(child).ok
