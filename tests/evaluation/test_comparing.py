"""`fusion_slerp.evaluate`: saved models, one after the other."""

import json
import shutil

import pytest

import fusion_slerp
from fusion_slerp.errors import CheckpointError, SettingsError
from tests.evaluation.demo import CODE, PLAYS, TEXTS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def evaluated():
    seen = []
    found = fusion_slerp.evaluate(PLAYS, CODE, texts=TEXTS, max_tokens=400, on_model=seen.append)
    assert seen == ["plays", "code"]
    return found


def test_the_first_model_is_compared_with_the_others(evaluated):
    assert list(evaluated.scores) == ["plays", "code"]
    gap = evaluated.differences["code"]
    assert gap["plays"]["high"] < 0 < gap["code"]["low"]
    for text in ("plays", "code", "average"):
        scores = evaluated.scores
        assert gap[text]["value"] == pytest.approx(
            scores["plays"][text]["loss"] - scores["code"][text]["loss"]
        )
    assert evaluated.verdict.startswith("plays: ")


def test_everything_is_plain_json(evaluated):
    fields = evaluated.as_fields()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert fields["models"]["code"] == {"source": str(CODE), "scores": evaluated.scores["code"]}
    assert fields["differences"] == {"plays": evaluated.differences}
    assert (fields["subject"], fields["dtype"]) == ("plays", "bfloat16")


def test_numbers_that_json_lacks_become_null(tmp_path):
    (tmp_path / "a.txt").write_text("To", encoding="utf-8")
    (tmp_path / "b.txt").write_text("To be", encoding="utf-8")
    found = fusion_slerp.evaluate(PLAYS, texts={"b": tmp_path / "b.txt"}).as_fields()
    assert found["models"]["plays"]["scores"]["b"]["loss_stderr"] is None
    with pytest.raises(SettingsError, match="the text a is too short"):
        fusion_slerp.evaluate(PLAYS, texts={"a": tmp_path / "a.txt"})


def test_models_of_one_name_are_told_apart(tmp_path):
    other = shutil.copytree(PLAYS, tmp_path / "plays")
    found = fusion_slerp.evaluate(PLAYS, other, PLAYS, prompts=["To be"], max_new_tokens=2)
    assert list(found.scores) == [f"{PLAYS} (1)", f"{other} (2)", f"{PLAYS} (3)"]
    assert found.verdict == ""
    two = fusion_slerp.evaluate(PLAYS, other, prompts=["To be"], max_new_tokens=2)
    assert list(two.samples) == [str(PLAYS), str(other)]


def test_a_model_without_a_tokenizer_uses_the_first_ones(tmp_path):
    bare = shutil.copytree(CODE, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    found = fusion_slerp.evaluate(PLAYS, bare, texts=TEXTS, max_tokens=50)
    assert "average" in found.differences["bare"]
    with pytest.raises(CheckpointError, match="bare has no tokenizer"):
        fusion_slerp.evaluate(bare, texts=TEXTS)


def test_all_problems_are_reported_before_a_model_is_loaded(tmp_path):
    def fail(name):
        raise AssertionError

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(CheckpointError) as caught:
        fusion_slerp.evaluate(
            tmp_path / "none", broken, texts={"a": tmp_path / "none.txt"}, stride=0, on_model=fail
        )
    message = str(caught.value)
    assert "4 problems, nothing was evaluated" in message
    for part in ("model not found", f"{broken} cannot be loaded", "cannot read the text a", "invalid stride"):
        assert part in message


@pytest.mark.parametrize("models", [(), (PLAYS,)])
def test_something_has_to_be_evaluated(models):
    texts = TEXTS if not models else {}
    with pytest.raises(SettingsError, match=r"no model to evaluate|nothing to evaluate on"):
        fusion_slerp.evaluate(*models, texts=texts)
