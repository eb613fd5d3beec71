"""Several processes evaluate a model together: the losses are those of one, and all have the same."""

from __future__ import annotations

import copy
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from fusion_slerp.cluster import evaluating
from fusion_slerp.cluster.dealing import dealt
from fusion_slerp.cluster.evaluating import each_once, evaluate_shared, samples_shared
from fusion_slerp.errors import MismatchError
from fusion_slerp.evaluation.evaluator import PreparedEvaluation, Prompts, WindowSettings
from fusion_slerp.evaluation.tokens import Tokens
from tests.cluster.ranks_in_threads import run_ranks

LENGTHS = {"short": [0, 1, 2, 7], "long": [41], "many": [5, 9, 9, 3, 12, 9], "host": [6]}
"""Tokens of each document of each text. The last name is that of a message between processes."""


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config)


def prepared(prompts=(), digest=""):
    random = torch.Generator().manual_seed(1)

    def tokens(text, lengths):
        ids = [torch.randint(20, (n,), generator=random) for n in lengths]
        return Tokens(ids, f"digest of {text}{digest}", 3 * sum(lengths), list(lengths))

    texts = {text: tokens(text, lengths) for text, lengths in LENGTHS.items()}
    return PreparedEvaluation(
        {"model": texts}, {"model": TOKENIZER}, WindowSettings(8, 4, 2), Prompts(prompts, 3, False), "cpu"
    )


class Words:
    """A tokenizer of words that are numbers."""

    pad_token_id = 0

    def __call__(self, text, **options):
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids, **options):
        return " ".join(map(str, ids.tolist()))


TOKENIZER = Words()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_losses_are_those_of_one_process(model, count):
    alone = prepared().evaluate("model", model)
    ends = run_ranks(count, lambda ranks: evaluate_shared(prepared(), "model", model, ranks))
    for end in ends:
        assert end.value.texts.keys() == alone.texts.keys()
        for text, expected in alone.texts.items():
            found = end.value.texts[text]
            assert [each.dtype for each in found.losses] == [np.float64] * len(expected.losses)
            assert [each.tobytes() for each in found.losses] == [each.tobytes() for each in expected.losses]
            assert (found.tokens_digest, found.n_bytes) == (expected.tokens_digest, expected.n_bytes)
    assert all(end.value.scores == ends[0].value.scores for end in ends)  # also the speed


def test_each_batch_goes_through_the_model_once(model, monkeypatch):
    of_threads = Counter()
    real = evaluating.batch_losses

    def counted(model, documents, batch):
        of_threads[str(batch)] += 1
        return real(model, documents, batch)

    monkeypatch.setattr(evaluating, "batch_losses", counted)
    run_ranks(3, lambda ranks: evaluate_shared(prepared(), "model", model, ranks))
    assert set(of_threads.values()) == {1}
    assert len(of_threads) > 5


def test_broken_weights_give_nan_everywhere(model):
    broken = copy.deepcopy(model)
    torch.nn.init.constant_(broken.model.norm.weight, torch.nan)
    ends = run_ranks(2, lambda ranks: evaluate_shared(prepared(), "model", broken, ranks))
    assert all(np.isnan(end.value.texts["long"].losses[0]).all() for end in ends)


def test_a_process_with_other_texts_is_named(model):
    def work(ranks):
        return evaluate_shared(prepared(digest=" of rank 1" * ranks.rank), "model", model, ranks)

    for end in run_ranks(2, work, ("first", "second")):
        assert isinstance(end.error, MismatchError)
        assert "differs in: short, long, many, host" in str(end.error)
        assert "rank: 1, on second" in str(end.error)


def test_an_error_in_one_process_ends_all(model):
    def work(ranks):
        own = (
            model
            if ranks.is_first
            else SimpleNamespace(parameters=model.parameters, modules=model.modules, eval=model.eval)
        )
        return evaluate_shared(prepared(), "model", own, ranks)

    first, second = run_ranks(2, work, ("first", "second"))
    assert "rank: 1, on second\n  found: AttributeError" in str(first.error)
    assert isinstance(second.error, AttributeError)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_prompts_are_shared(model, count, monkeypatch):
    prompts = ("1 2 3", "4", "5 6", "7 8 9")
    alone = prepared(prompts).samples("model", model)
    done = Counter()
    real = model.generate
    monkeypatch.setattr(model, "generate", lambda ids, **how: done.update([str(ids)]) or real(ids, **how))
    ends = run_ranks(count, lambda ranks: samples_shared(prepared(prompts), "model", model, ranks))
    assert [end.value for end in ends] == [alone] * count
    assert sorted(done.values()) == [1] * 4


def test_without_prompts_nothing_is_shared(model):
    assert [e.value for e in run_ranks(2, lambda r: samples_shared(prepared(), "model", model, r))] == [
        [],
        [],
    ]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_item_is_done_once_and_all_have_all_results(count):
    done = Counter()

    def work(ranks):
        return each_once("abc", lambda item: done.update([item]) or (item, ranks.rank), ranks)

    results = [(item, i % count) for i, item in enumerate("abc")]
    assert [end.value for end in run_ranks(count, work)] == [results] * count
    assert done == {"a": 1, "b": 1, "c": 1}


@given(st.lists(st.integers(0, 100), max_size=30), st.integers(1, 9))
def test_no_rank_has_more_than_an_even_share_and_one_piece(costs, count):
    owners = dealt(costs, count)
    assert len(owners) == len(costs)
    loads = [sum(c for c, owner in zip(costs, owners, strict=True) if owner == k) for k in range(count)]
    assert sum(loads) == sum(costs)
    assert max(loads) <= sum(costs) / count + max(costs, default=0)
