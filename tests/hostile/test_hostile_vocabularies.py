"""Attacks by tokenizers, configs and cards that a merged model would inherit: refused fast and cheaply."""

import json
import struct

import numpy as np
import pytest

from fusion_slerp import CheckpointError, MismatchError, plan_merge
from fusion_slerp.output.model_card import card_parent
from fusion_slerp.sources.folder import open_checkpoint
from fusion_slerp.sources.json_files import SMALL
from fusion_slerp.sources.json_files import TOKENIZER as LARGE
from fusion_slerp.vocabulary.chat_templates import chat_template
from fusion_slerp.vocabulary.tokens import MAX_NBYTES, read_tokens
from tests.hostile.bounds import bounded, parse_file_s
from tests.models import TOKENS, tiny_tensors, tokenizer_json, write_checkpoint, write_json

LARGE_NBYTES = 400_000_000
"""Megabytes that the largest accepted tokenizer.json may take: real ones of 33 MB take 320."""


# --- vocabularies ---------------------------------------------------------------------------------------


def holding(nbytes: int):
    """Writes a sparse file of that size, which takes no disk space."""

    def write(path) -> None:
        with path.open("wb") as stream:
            stream.truncate(nbytes)

    return write


def text(content: str | bytes):
    """Writes a file."""
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return lambda path: path.write_bytes(raw)


UNREADABLE = {
    "a giant": ("tokenizer.json", holding(10**12)),
    "a little too large": ("tokenizer.json", holding(LARGE.nbytes + 1)),
    "very many values": ("tokenizer.json", text("[" + "[]," * LARGE.n_marks + "[]]")),
    "much nesting": ("tokenizer.json", text('{"model":' + "[" * 900 + "]" * 900 + "}")),
    "a giant vocab.json": ("vocab.json", holding(10**12)),
    "a giant vocab.txt": ("vocab.txt", holding(MAX_NBYTES + 1)),
    "very many lines": ("vocab.txt", text("\n" * MAX_NBYTES)),
    "a giant model": ("tokenizer.model", holding(10**12)),
    "very many pieces": ("tokenizer.model", text(b"\x0a\x02\x0a\x00" * (MAX_NBYTES // 4))),
    "very many fields": ("tokenizer.model", text(b"\x10\x00" * (MAX_NBYTES // 2))),
    "a piece of very many fields": (
        "tokenizer.model", text(b"\x0a\x80\xb0\xc4\x04" + b"\x10\x00" * 4_560_000),
    ),
    "a piece beyond the file": ("tokenizer.model", text(b"\x0a\xff\xff\xff\xff\x0fx")),
    "an infinite row": ("tokenizer.json", text(json.dumps({**tokenizer_json(), "added_tokens": [
        {"content": "x", "id": float("inf")}, {"content": True, "id": 3}]}))),
    "a negative row": ("vocab.json", text('{"a": -1}')),
    "a row beyond all numbers": ("vocab.json", text(f'{{"a": {2**70}}}')),
}  # fmt: skip


@pytest.mark.trial
@pytest.mark.parametrize("case", UNREADABLE)
def test_vocabulary_that_is_not_read(tmp_path, case):
    name, write = UNREADABLE[case]
    write(tmp_path / name)
    with bounded():
        assert read_tokens(tmp_path) is None


@pytest.mark.parametrize("case", ["a giant", "an infinite row", "much nesting"])
def test_a_plan_says_that_it_could_not_compare(tmp_path, case):
    a, b = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b")
    name, write = UNREADABLE[case]
    write(b / name)
    with bounded():
        plan = plan_merge(a, b)
    assert any("the vocabularies could not be compared" in warning for warning in plan.warnings)


@pytest.mark.trial
def test_the_largest_tokenizer_is_read(tmp_path):
    """As large as the largest real ones: 262,000 tokens, characters of up to four bytes, 524,000 merges."""
    vocab = {f"▁tokeñn😀{i}": i for i in range(262_000)}
    merges = [[token[:3], token[3:]] for token in [*vocab, *vocab]]
    content = {"model": {"type": "BPE", "vocab": vocab, "merges": merges}}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    del content, vocab, merges
    with bounded(most=50, most_nbytes=LARGE_NBYTES, reference_s=lambda: parse_file_s(file)):
        tokens = read_tokens(tmp_path)
    assert tokens is not None
    assert tokens.n_rows == 262_000


def test_ids_beyond_both_models(tmp_path):
    a, b = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b", tokens=None)
    write_json(b / "vocab.json", {**dict(zip(TOKENS, range(6), strict=True)), "far": 10**15})
    with bounded(), pytest.raises(MismatchError) as caught:
        plan_merge(a, b)
    assert "tokens: 'far' 1000000000000000" in str(caught.value)


@pytest.mark.parametrize("n_rows", [2**40, 2**22 + 1])
def test_rows_that_take_no_bytes(tmp_path, n_rows):
    """An embedding without columns can claim any number of rows."""
    tensors = tiny_tensors(1)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        del tensors[name]
    a, b = (write_checkpoint(tmp_path / name, tensors=tensors) for name in "ab")
    write_json(b / "tokenizer.json", tokenizer_json([*TOKENS, "more"]))
    for folder in (a, b):
        add_empty(folder / "model.safetensors", "model.embed_tokens.weight", n_rows)
    with bounded(), pytest.raises(CheckpointError) as caught:
        plan_merge(a, b)
    lines = str(caught.value).split("\n")
    assert lines[0] == "an embedding with too many rows"
    assert lines[1] == f"  found: {n_rows} and {n_rows} rows"


def add_empty(file, name: str, n_rows: int) -> None:
    """Puts a tensor of many rows and no columns into a safetensors file."""
    raw = file.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header[name] = {"dtype": "F32", "shape": [n_rows, 0], "data_offsets": [0, 0]}
    text_ = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text_)) + text_ + raw[end:])


def test_a_giant_template_is_none(tmp_path):
    holding(10**12)(tmp_path / "chat_template.jinja")
    with bounded():
        assert chat_template(tmp_path) is None


# --- configs --------------------------------------------------------------------------------------------


def test_keys_that_would_be_repeated_below_them(tmp_path):
    """Joined by dots, each of the inner keys would begin with megabytes."""
    inner = {str(i): i for i in range(60_000)}
    a = write_checkpoint(tmp_path / "a", config={"k" * 1_000_000: inner, "deep": nested(15, inner)})
    b = write_checkpoint(tmp_path / "b", config={"k" * 1_000_000: {"0": 1}, "deep": nested(15, {"0": 1})})
    with bounded():
        plan = plan_merge(a, b)
    assert sum(map(len, plan.warnings)) < 3000


def nested(depth: int, value: object) -> object:
    for _ in range(depth):
        value = {"k": value}
    return value


def test_very_many_differences_are_counted(tmp_path):
    a, b = (write_checkpoint(tmp_path / c, config={f"x{i}": c for i in range(90_000)}) for c in "ab")
    with bounded():
        plan = plan_merge(a, b)
    assert "the configs differ in 89900 more keys" in plan.warnings
    assert len(plan.warnings) < 110


@pytest.mark.trial
def test_very_many_grave_differences_too(tmp_path):
    a, b = (
        write_checkpoint(tmp_path / c, config={f"x{i}": {"hidden_size": c} for i in range(90_000)})
        for c in "ab"
    )
    with bounded(), pytest.raises(MismatchError, match="100 problems"):
        plan_merge(a, b)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "added_tokens.json"])
def test_a_giant_next_to_a_tokenizer_is_not_read(tmp_path, name):
    a, b = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b")
    for folder in (a, b):
        holding(SMALL.nbytes + 1)(folder / name)
    with bounded(most_nbytes=20_000_000):
        plan_merge(a, b, tokenizer="b")


def test_layers_of_thousands_of_digits(tmp_path):
    name = f"model.layers.{'9' * 5000}.w"
    tensors = tiny_tensors(1) | {name: np.ones(2, "float32")}
    a, b = (write_checkpoint(tmp_path / folder, tensors=tensors) for folder in "ab")
    with bounded():
        plan = plan_merge(a, b, t=[0, 1])
    assert [tensor.values for tensor in plan.tensors if tensor.out.name == name] == [{"t": 0}]


# --- cards ----------------------------------------------------------------------------------------------

LAUGHS = "\n".join(f"  k{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 60))
CARDS = {
    "merges that double": f"license:\n  k0: &a0 {{k: 1}}\n{LAUGHS}\n",
    "merges that double, elsewhere": f"model:\n  k0: &a0 {{k: 1}}\n{LAUGHS}\n",
    "lists that double": "license: [" * 500,
    "a mapping": "license: {a: b}\n",
    "much of it": "license: " + "x" * 10**6 + "\n",
    "deep": "license: " + "[" * 900 + "]" * 900 + "\n",
    "no text": "license: [[1], {}]\n",
}


@pytest.mark.parametrize("case", CARDS)
def test_front_matter_that_is_not_taken_over(tmp_path, case):
    folder = write_checkpoint(tmp_path / "a")
    (folder / "README.md").write_text(f"---\n{CARDS[case]}---\n# Card\n")
    checkpoint = open_checkpoint(folder)
    with bounded():
        assert card_parent(checkpoint).metadata == {}


def test_front_matter_next_to_a_licence_is_not_read(tmp_path):
    folder = write_checkpoint(tmp_path / "a")
    bomb = CARDS["lists that double"].replace("license", "model")
    (folder / "README.md").write_text(f"---\nlicense: other\nlicense_name: x\n{bomb}\n---\n")
    assert card_parent(open_checkpoint(folder)).metadata == {"license": "other", "license_name": "x"}


def test_a_giant_card_is_not_read_whole(tmp_path):
    folder = write_checkpoint(tmp_path / "a")
    holding(10**12)(folder / "README.md")
    checkpoint = open_checkpoint(folder)
    with bounded(most_nbytes=20_000_000):
        assert card_parent(checkpoint).metadata == {}


def test_no_object_is_made_for_a_card(tmp_path):
    folder = write_checkpoint(tmp_path / "a")
    (folder / "README.md").write_text("---\nlicense: !!python/object/apply:os.mkdir [x]\n---\n")
    assert card_parent(open_checkpoint(folder)).metadata == {"license": ["x"]}
