"""Texts cut into tokens: how far, what they cover, and when two models read the same."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fusion_slerp.evaluation.tokens import cut


class Letters:
    """A slow tokenizer: one token a letter."""

    def __call__(self, text: str, verbose: bool) -> dict[str, list[int]]:
        assert not verbose
        return {"input_ids": [ord(letter) - ord("a") for letter in text]}

    def convert_ids_to_tokens(self, ids) -> list[str]:
        return [chr(i + ord("a")) for i in ids]

    def decode(self, ids, skip_special_tokens: bool) -> str:
        return "".join(self.convert_ids_to_tokens(ids))


def byte_level(bos: bool = False, merges=()) -> PreTrainedTokenizerFast:
    """A fast tokenizer of bytes and some pairs of them, with or without a token at the start."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *map("".join, merges), "<s>"]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", len(tokens) - 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>" if bos else None)


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [
        (None, [[0, 1, 2], [], [3, 4]]),
        (5, [[0, 1, 2], [], [3, 4]]),
        (4, [[0, 1, 2], [], [3]]),
        (3, [[0, 1, 2]]),
        (2, [[0, 1]]),
    ],
)
def test_max_tokens_cuts_the_text_not_each_document(max_tokens, expected):
    tokens = cut(Letters(), ["abc", "", "de"], max_tokens)
    assert [ids.tolist() for ids in tokens.ids] == expected
    assert tokens.stops == [len(ids) for ids in expected]
    assert tokens.n_bytes == sum(max(len(ids) - 1, 0) for ids in expected)


def test_documents_are_read_no_further_than_needed():
    def documents():
        yield "abc"
        raise AssertionError

    assert cut(Letters(), documents(), 3).stops == [3]


@pytest.mark.parametrize(("bos", "n_bytes"), [(False, 7), (True, 8)])
def test_the_bytes_are_those_of_the_scored_tokens(bos, n_bytes):
    tokens = cut(byte_level(bos), ["größe."])  # 6 characters, 8 bytes
    assert len(tokens.ids[0]) == 8 + bos
    assert tokens.n_bytes == n_bytes
    assert tokens.stops == [6]


def test_a_cut_document_ends_with_its_last_token():
    tokens = cut(byte_level(merges=[("a", "b")]), ["abab", "ab"], 1)
    assert (tokens.stops, tokens.n_bytes) == ([2], 0)


def test_equal_digests_are_equal_tokens():
    plain, merging = byte_level(), byte_level(merges=[("a", "b")])
    assert cut(plain, ["abc"]).digest == cut(byte_level(), ["abc"]).digest
    assert cut(plain, ["abc"]).digest != cut(merging, ["abc"]).digest
    assert cut(plain, ["cab", "a"]).digest != cut(plain, ["ca", "ba"]).digest
    assert cut(plain, ["ca"]).digest == cut(merging, ["ca"]).digest
