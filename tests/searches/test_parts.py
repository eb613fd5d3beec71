"""Parts of an evaluation: together they are all of it, and each is a part of every text."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fusion_slerp.evaluation.evaluator import Candidate, Evaluator
from fusion_slerp.searches.parts import deal, evaluate_parts

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prepared(family, tmp_path_factory):
    lines = tmp_path_factory.mktemp("texts") / "lines.jsonl"
    lines.write_text("\n".join(f'{{"text": "{"to be or not " * n}"}}' for n in (40, 1, 30)))
    model = AutoModelForCausalLM.from_pretrained(family.a, dtype=torch.float32)
    evaluator = Evaluator({"words": family.text, "lines": lines}, context_length=16, max_tokens=400)
    tokenizer = AutoTokenizer.from_pretrained(family.a)
    return evaluator.prepare({"m": Candidate(model.config, tokenizer)}), model


def parts_of(evaluation, n_parts):
    return deal(evaluation.tokens["m"], evaluation.windows.context_length, evaluation.windows.stride, n_parts)


def test_every_window_is_in_one_part_and_the_parts_are_alike(prepared):
    parts = parts_of(prepared[0], 4)
    for text in ("words", "lines"):
        sizes = [len(part[text]) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert len(frozenset().union(*(part[text] for part in parts))) == sum(sizes)
    assert parts == parts_of(prepared[0], 4)


def test_a_short_text_makes_fewer_parts(prepared):
    (whole,) = parts_of(prepared[0], 1)
    assert len(parts_of(prepared[0], 10_000)) == min(len(whole["words"]), len(whole["lines"]))


def test_all_parts_together_are_the_evaluation(prepared):
    evaluation, model = prepared
    whole = evaluation.evaluate("m", model)
    seen = list(evaluate_parts(evaluation, "m", model, parts_of(evaluation, 4)))
    assert [each.n_parts for each in seen] == [1, 2, 3, 4]
    assert [each.is_whole for each in seen] == [False, False, False, True]
    assert [each.share for each in seen] == pytest.approx([0.25, 0.5, 0.75, 1], abs=0.02)
    for name, text in seen[-1].evaluation.texts.items():
        assert text.tokens_digest == whole.texts[name].tokens_digest
        for ours, theirs in zip(text.losses, whole.texts[name].losses, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_is_seen_of_another_model_are_the_same_tokens(prepared):
    evaluation, model = prepared
    whole = evaluation.evaluate("m", model)
    first = next(evaluate_parts(evaluation, "m", model, parts_of(evaluation, 4)))
    own, other = first.of(first.evaluation), first.of(whole)
    for name, text in own.texts.items():
        assert text.tokens_digest == other.texts[name].tokens_digest != whole.texts[name].tokens_digest
        assert 0 < text.n_tokens == other.texts[name].n_tokens < whole.texts[name].n_tokens
        assert len(text.losses) == len(parts_of(evaluation, 4)[0][name])
        ours, theirs = (np.concatenate(each.losses) for each in (text, other.texts[name]))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_an_evaluation_of_some_windows_leaves_the_other_losses_open(prepared):
    from fusion_slerp.evaluation.losses import token_losses

    evaluation, model = prepared
    ids = evaluation.tokens["m"]["words"].ids
    (losses,) = token_losses(model, ids, context_length=16, stride=8, batch_size=4, only={(0, 1), (0, 24)})
    assert torch.isfinite(losses).nonzero().flatten().tolist() == [*range(15), *range(23, 31)]
