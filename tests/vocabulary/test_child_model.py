"""The child as transformers runs it: no warning, and the loss of a merge of equal vocabularies.

Both parents are trained in name only: what matters is that each vocabulary is a change of one common
one, so that the merge without the change tells what the merge with it must give.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fusion_bench.modelpool import CausalLMPool
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from fusion_slerp import SlerpForCausalLM, merge
from tests.models import contents, write_json
from tests.tokenizer_kinds import tokenizer

WORDS = ["hello", "world", "tree", "river", "apple", "bread", "hearth"]
ENDS = ["<|end|>", "<s>"]
CONTENT = tokenizer("WordLevel", [*ENDS, *WORDS], special=ENDS)
TOKENS = list(CONTENT["model"]["vocab"])
TEXTS = ("hello world tree<s> river<|end|>", "apple tree bread hello river hearth bread<|end|>")
FOLLOWING = ("lm_head.weight", "model.embed_tokens.weight")
T = 0.3


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """The warnings of transformers, whose logger has its own handlers and does not propagate."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.fixture(scope="module")
def common(tmp_path_factory) -> tuple[Path, Path]:
    """Two models with one vocabulary; not to be written to."""
    root = tmp_path_factory.mktemp("common")
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        ids = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": None}
        config = LlamaConfig(vocab_size=len(TOKENS), max_position_embeddings=32, **sizes, **ids)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        model.save_pretrained(root / name)
        write_json(root / name / "tokenizer.json", CONTENT)
        names = {"eos_token": "<|end|>", "bos_token": "<s>", "tokenizer_class": "PreTrainedTokenizerFast"}
        write_json(root / name / "tokenizer_config.json", names)
    return root / "a", root / "b"


def changed(
    model: Path, out: Path, order: Sequence[int] | None = None, added: Sequence[str] = (), n_rows: int = 0
) -> Path:
    """The same model with its rows in another order, added tokens, and padding."""
    out.mkdir(parents=True)
    order = range(len(TOKENS)) if order is None else order
    for name, data in contents(model).items():
        (out / name).write_bytes(data)
    tensors, n_tokens = load_file(model / "model.safetensors"), len(TOKENS) + len(added)
    for name in FOLLOWING:  # the same ones, whatever their number
        rng = np.random.default_rng(ord(model.name))
        more = rng.standard_normal((max(n_rows, n_tokens) - len(TOKENS), 16)).astype("f4")
        tensors[name] = np.concatenate([tensors[name][list(order)], more])
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    content = tokenizer("WordLevel", [], added=())
    tokens = [TOKENS[row] for row in order]
    content["model"]["vocab"] = {token: row for row, token in enumerate(tokens)}
    flags = CONTENT["added_tokens"][0]
    listed = [*ENDS, *added]
    rows = {token: row for row, token in enumerate([*tokens, *added])}
    content["added_tokens"] = [{**flags, "id": rows[token], "content": token} for token in listed]
    write_json(out / "tokenizer.json", content)
    config = json.loads((model / "config.json").read_text()) | {"vocab_size": max(n_rows, n_tokens)}
    ids = {"bos_token_id": rows["<s>"], "eos_token_id": rows["<|end|>"]}
    write_json(out / "config.json", config | ids)
    generation = json.loads((model / "generation_config.json").read_text())
    write_json(out / "generation_config.json", generation | ids)
    return out


def loaded(folder: Path, warned: list[str]):
    """Model and tokenizer, after what every child must come up to."""
    warned.clear()
    config = AutoConfig.from_pretrained(folder)
    tokens, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert warned == []
    n_rows = model.get_input_embeddings().weight.shape[0]
    assert len(tokens) <= n_rows == config.vocab_size == model.lm_head.weight.shape[0]
    assert config.eos_token_id == model.generation_config.eos_token_id == tokens.eos_token_id
    assert config.bos_token_id == model.generation_config.bos_token_id == tokens.bos_token_id
    assert set(tokens.get_vocab().values()) <= set(range(n_rows))
    return model, tokens


def logits_by_token(model, tokens, text: str) -> tuple[torch.Tensor, float]:
    """The logits of the common tokens in their common order, and the loss among those tokens."""
    ids = tokens(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert tokens.convert_ids_to_tokens(ids[0].tolist()) == [
        token for token in text.replace("<", " <").split() if token in TOKENS
    ]
    with torch.no_grad():
        logits = model(ids).logits[0, :, tokens.convert_tokens_to_ids(TOKENS)]
    row_of = {row: i for i, row in enumerate(tokens.convert_tokens_to_ids(TOKENS))}
    wanted = torch.tensor([row_of[row] for row in ids[0, 1:].tolist()])
    return logits, float(torch.nn.functional.cross_entropy(logits[:-1], wanted))


def test_the_fixture_hears_warnings(common, tmp_path, warned):
    """Else the silence that the other tests ask for would mean nothing."""
    broken = changed(common[0], tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    write_json(broken / "config.json", config | {"num_hidden_layers": 2})
    AutoModelForCausalLM.from_pretrained(broken)
    assert any("MISSING" in message for message in warned)


SHUFFLED = np.random.default_rng(3).permutation(len(TOKENS)).tolist()

CHANGES = {  # of a, of b: order, added tokens, rows
    "b permuted": ({}, {"order": SHUFFLED}),
    "a permuted": ({"order": SHUFFLED}, {}),
    "b with more tokens": ({}, {"added": ["<b1>", "<b2>"]}),
    "a with more tokens": ({"added": ["<a1>"]}, {}),
    "each with its own": ({"added": ["<a1>"]}, {"added": ["<b1>", "<b2>"]}),
    "each with its own, b permuted": ({"added": ["<a1>"]}, {"order": SHUFFLED, "added": ["<b1>"]}),
    "a padded to 32": ({"n_rows": 32}, {}),
    "b padded to 32": ({}, {"n_rows": 32}),
    "both padded otherwise": ({"n_rows": 32}, {"n_rows": 18, "order": SHUFFLED}),
    "b's tokens in a's padding": ({"n_rows": 32}, {"added": ["<b1>"]}),
}


def merged(common: tuple[Path, Path], root: Path, case: str) -> tuple[Path, Path]:
    """The children without and with the change; padding that both have is merged in either."""
    of_a, of_b = CHANGES[case]
    n_both = min(of_a.get("n_rows", 0), of_b.get("n_rows", 0))
    equal = [changed(model, root / "equal" / model.name, n_rows=n_both) for model in common]
    a, b = changed(common[0], root / "a", **of_a), changed(common[1], root / "b", **of_b)
    return merge(*equal, out=root / "wanted", t=T).out, merge(a, b, out=root / "child", t=T).out


@pytest.mark.parametrize("case", CHANGES)
def test_the_loss_is_that_of_equal_vocabularies(common, tmp_path, warned, case):
    wanted, child = (loaded(folder, warned) for folder in merged(common, tmp_path, case))
    for text in TEXTS:
        logits, loss = logits_by_token(*wanted, text)
        found, loss_found = logits_by_token(*child, text)
        assert torch.allclose(found, logits, rtol=1e-5, atol=1e-6)
        assert loss_found == pytest.approx(loss, rel=1e-6)
    if case in ("a permuted", "b permuted"):  # no more rows: the models' own loss is the same as well
        for text in TEXTS:
            assert own_loss(*child, text) == pytest.approx(own_loss(*wanted, text), rel=1e-6)


def own_loss(model, tokens, text: str) -> float:
    ids = tokens(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        return float(model(ids, labels=ids).loss)


@pytest.mark.parametrize("case", CHANGES)
def test_the_rows_of_common_tokens_are_the_same_bits(common, tmp_path, case):
    """Where a's order is kept, so is the order of all sums."""
    folders = merged(common, tmp_path, case)
    wanted, child = (load_file(folder / "model.safetensors") for folder in folders)
    rows = json.loads((folders[1] / "tokenizer.json").read_text())["model"]["vocab"]
    for name, tensor in wanted.items():
        found = child[name]
        if name in FOLLOWING:
            found, tensor = found[[rows[token] for token in TOKENS]], tensor[: len(TOKENS)]
        if case == "a permuted":
            assert np.allclose(found, tensor, rtol=1e-5, atol=1e-6), name
        else:
            assert np.array_equal(found, tensor), name


def test_a_permuted_parent_gives_the_same_child_to_the_byte(common, tmp_path):
    b = changed(common[1], tmp_path / "b", SHUFFLED)
    merge(*common, out=tmp_path / "wanted", t=T)
    merge(common[0], b, out=tmp_path / "child", t=T)
    wanted, child = contents(tmp_path / "wanted"), contents(tmp_path / "child")
    for name in ("README.md", "merge_manifest.json", "merge_report.json"):  # they tell of the parents
        del wanted[name], child[name]
    assert child == wanted


def test_a_permuted_child_is_the_childs_permutation(common, tmp_path):
    """Both permuted alike, as by another release of one base."""
    a, b = (changed(model, tmp_path / model.name, SHUFFLED) for model in common)
    merge(*common, out=tmp_path / "wanted", t=T)
    merge(a, b, out=tmp_path / "child", t=T)
    wanted, child = (load_file(tmp_path / name / "model.safetensors") for name in ("wanted", "child"))
    for name, tensor in wanted.items():
        expected = tensor[SHUFFLED] if name in FOLLOWING else tensor
        assert np.allclose(child[name], expected, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize(("multiple", "n_rows"), [(None, 13), (8, 16), (32, 32)])
def test_padding_for_a_union(common, tmp_path, warned, multiple, n_rows):
    a = changed(common[0], tmp_path / "a", added=["<a1>"])
    b = changed(common[1], tmp_path / "b", added=["<b1>", "<b2>"])
    merge(a, b, out=tmp_path / "child", t=T, pad_vocab_to_multiple_of=multiple)
    model, tokens = loaded(tmp_path / "child", warned)
    assert (model.config.vocab_size, len(tokens)) == (n_rows, 13)
    rows = model.get_input_embeddings().weight.detach().numpy()
    for token, parent in (("<a1>", a), ("<b1>", b), ("<b2>", b)):
        there = AutoTokenizer.from_pretrained(parent).convert_tokens_to_ids(token)
        given = load_file(parent / "model.safetensors")[FOLLOWING[1]][there]
        assert np.array_equal(rows[tokens.convert_tokens_to_ids(token)], given)


# --- in FusionBench, without a file ---------------------------------------------------------------------


@pytest.mark.parametrize("case", ["each with its own", "b with more tokens", "b permuted", "a padded to 32"])
def test_the_child_in_memory_is_the_child_on_disk(common, tmp_path, warned, case):
    of_a, of_b = CHANGES[case]
    a = changed(common[0], tmp_path / "a", **of_a)
    b = changed(common[1], tmp_path / "b", **of_b)
    merge(a, b, out=tmp_path / "child", t=T)
    on_disk, _ = loaded(tmp_path / "child", warned)
    pool = CausalLMPool({"x": str(a), "y": str(b)}, tokenizer=None, enable_lazy_loading=True)
    child = SlerpForCausalLM(t=T).run(pool)
    assert warned == []
    assert isinstance(child, LlamaForCausalLM)
    n_rows = on_disk.config.vocab_size
    assert child.get_input_embeddings().weight.shape == child.lm_head.weight.shape == (n_rows, 16)
    assert child.config.vocab_size == n_rows
    assert child.generation_config.eos_token_id == on_disk.generation_config.eos_token_id
    state, wanted = child.state_dict(), on_disk.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("whose", ["a", "b"])
def test_the_pools_tokenizer_decides_on_the_rows(common, tmp_path, whose):
    a = changed(common[0], tmp_path / "a", added=["<a1>"])
    b = changed(common[1], tmp_path / "b", SHUFFLED, added=["<b1>", "<b2>"])
    folder = {"a": a, "b": b}[whose]
    pool = CausalLMPool({"x": str(a), "y": str(b)}, tokenizer=str(folder), enable_lazy_loading=True)
    child = SlerpForCausalLM(t=T).run(pool)
    assert isinstance(child, LlamaForCausalLM)
    tokens = AutoTokenizer.from_pretrained(folder)
    assert child.config.vocab_size == len(child.lm_head.weight) == len(tokens)
    assert child.config.eos_token_id == child.generation_config.eos_token_id == tokens.eos_token_id
