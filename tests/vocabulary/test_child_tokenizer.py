"""The child's tokenizer, of every kind, judged by the libraries that will load it."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from fusion_slerp import MismatchError, plan_merge
from fusion_slerp.output.side_files import write_side_files
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.side_files import side_files
from tests.hostile.bounds import cpu_s
from tests.models import sentencepiece_model, write_checkpoint, write_json
from tests.tokenizer_kinds import KINDS, added_token, tokenizer

HEAD = "lm_head.weight"
BOTH = ["hello", "world", "tree", "river"]
ONLY_A, ONLY_B = ["apple", "aphid"], ["bread", "brown", "hearth"]
ADDED_A, ADDED_B = ["<a1>", "<both>"], ["<b1>", "<both>", "<b2>"]

TEXT_A = "hello apple world<both> tree aphid river<a1> hello zoo"
TEXT_B = "hello bread world<b2> brown tree<both><b1> hearth zoo"


def parent(folder: Path, content: dict | None = None, config: dict | None = None, n_rows: int = 0) -> Path:
    """A checkpoint with this tokenizer.json and a row for every token."""
    if content:
        n_rows = n_rows or Tokenizer.from_str(json.dumps(content)).get_vocab_size()
    rng = np.random.default_rng(ord(folder.name[0]))
    tensors = {
        name: rng.standard_normal((n_rows, 4)).astype("f4") for name in (HEAD, "model.embed_tokens.weight")
    }
    tensors["model.norm.weight"] = np.ones(1, "f4")
    write_checkpoint(folder, tensors=tensors, config={"vocab_size": n_rows}, tokens=None)
    if content:
        write_json(folder / "tokenizer.json", content)
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"} | (config or {})
    )
    return folder


def child_of(a: Path, b: Path, **options) -> tuple[MergePlan, Path]:
    """The plan, and a folder with all of the child but its weights."""
    plan = plan_merge(a, b, t=0.3, **options)
    folder = a.parent / "child"
    folder.mkdir()
    write_side_files(side_files(plan.parents["a"], plan.tokenizer, plan.configs), folder)
    return plan, folder


def load(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def encode(folder: Path, text: str) -> list[int]:
    return load(folder).encode(text, add_special_tokens=False).ids


def rows_of(plan: MergePlan) -> tuple[np.ndarray, np.ndarray]:
    """From row of the child to row of either parent."""
    (rows,) = (tensor.rows for tensor in plan.tensors if tensor.out.name == HEAD)
    assert rows is not None
    return rows.of["a"], rows.of["b"]


def assert_libraries_agree(plan: MergePlan, folder: Path) -> None:
    """Both libraries number the tokens as the child's rows are."""
    assert load(folder).get_vocab(with_added_tokens=True) == plan.tokenizer.rows
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.get_vocab() == plan.tokenizer.rows
    (head,) = (tensor for tensor in plan.tensors if tensor.out.name == HEAD)
    assert len(loaded) <= head.out.shape[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_union_cuts_texts_as_their_parents_do(tmp_path, kind):
    """Token for token the row of the right parent's token, b's words and added tokens included."""
    a = parent(tmp_path / "a", tokenizer(kind, [*BOTH, *ONLY_A], ADDED_A))
    b = parent(tmp_path / "b", tokenizer(kind, [*BOTH[::-1], *ONLY_B], ADDED_B))
    plan, child = child_of(a, b)
    assert_libraries_agree(plan, child)
    of_a, of_b = rows_of(plan)
    assert of_a[encode(child, TEXT_A)].tolist() == encode(a, TEXT_A)
    assert of_b[encode(child, TEXT_B)].tolist() == encode(b, TEXT_B)
    loaded = AutoTokenizer.from_pretrained(child)
    assert loaded(TEXT_A, add_special_tokens=False)["input_ids"] == encode(a, TEXT_A)
    cut = load(child).encode("zoo<b1>zoo<b2>", add_special_tokens=False).tokens
    assert cut.count("<b1>") == cut.count("<b2>") == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("larger", ["a", "b"])
def test_the_larger_of_two_serves_as_it_is(tmp_path, kind, larger):
    contents = {
        larger: tokenizer(kind, [*BOTH[::-1], *ONLY_B], ADDED_B),
        {"a": "b", "b": "a"}[larger]: tokenizer(kind, BOTH, ["<both>"]),
    }
    a, b = (parent(tmp_path / name, contents[name]) for name in "ab")
    plan, child = child_of(a, b)
    assert (child / "tokenizer.json").read_bytes() == (tmp_path / larger / "tokenizer.json").read_bytes()
    assert_libraries_agree(plan, child)
    text = "hello world<both> tree river zoo"
    for folder, rows in zip((a, b), rows_of(plan), strict=True):
        assert rows[encode(child, text)].tolist() == encode(folder, text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_permuted_tokenizer_needs_no_union(tmp_path, kind):
    a = parent(tmp_path / "a", tokenizer(kind, BOTH, ADDED_A))
    b = parent(tmp_path / "b", tokenizer(kind, BOTH[::-1], ADDED_A[::-1]))
    plan, child = child_of(a, b)
    assert plan.tokenizer.written == {}
    assert_libraries_agree(plan, child)
    text = "hello river<a1> tree<both> zoo"
    assert rows_of(plan)[1][encode(child, text)].tolist() == encode(b, text)


@pytest.mark.parametrize("kind", KINDS)
def test_added_tokens_only(tmp_path, kind):
    """Two fine-tunes of one base: nothing but added tokens differs, and their flags come along."""
    flags = {"<b1>": {"special": True, "lstrip": True}, "<b2>": {"rstrip": True, "normalized": True}}
    flags |= {"word": {"single_word": True}, "<both>": {}}
    a = parent(tmp_path / "a", tokenizer(kind, BOTH, {"<both>": {"special": True}, "<a1>": {"rstrip": True}}))
    b = parent(tmp_path / "b", tokenizer(kind, BOTH, flags))
    plan, child = child_of(a, b)
    assert_libraries_agree(plan, child)
    listed = {t["content"]: t for t in json.loads((child / "tokenizer.json").read_text())["added_tokens"]}
    wanted = {"<both>": {"special": True}, "<a1>": {"rstrip": True}, **{t: flags[t] for t in list(flags)[:3]}}
    rows = plan.tokenizer.rows or {}
    assert listed == {token: added_token(token, rows[token], **wanted[token]) for token in wanted}
    loaded = AutoTokenizer.from_pretrained(child).added_tokens_decoder
    for token, row in rows.items():
        if token in wanted:
            assert {f: getattr(loaded[row], f) for f in ("special", "lstrip", "rstrip", "single_word")} == {
                f: wanted[token].get(f, False) for f in ("special", "lstrip", "rstrip", "single_word")
            }
    assert encode(child, "zoo <b1>zoo").count(rows["<b1>"]) == 1


def test_a_union_takes_time_in_proportion_to_its_tokens(tmp_path):
    """Real vocabularies lack 100,000 of each other's tokens: with a pass for each, it took minutes."""
    a, b = (parent(tmp_path / n, tokenizer("WordLevel", [f"{n}{i}" for i in range(20_000)])) for n in "ab")
    plans = []
    union_s = cpu_s(lambda: plans.append(plan_merge(a, b)))
    parse_s = cpu_s(lambda: [json.loads((folder / "tokenizer.json").read_bytes()) for folder in (a, b)])
    assert union_s < 80 * parse_s  # 6 times; in proportion to the square, 900 times
    plan = plans[0]
    assert len(plan.tokenizer.rows or {}) == 40_001


def test_merges_as_texts_or_pairs_or_without_a_type(tmp_path):
    """tokenizer.json as gpt2's, which names no type; and b writes merges in the other way."""
    of_a = tokenizer("byte-level BPE", [*BOTH, *ONLY_A])
    del of_a["model"]["type"]
    a = parent(tmp_path / "a", of_a)
    b = parent(tmp_path / "b", tokenizer("byte-level BPE, pairs", [*BOTH, *ONLY_B]))
    plan, child = child_of(a, b)
    assert_libraries_agree(plan, child)
    text = " hello bread hearth"
    assert rows_of(plan)[1][encode(child, text)].tolist() == encode(b, text)


def test_merges_of_tokens_with_spaces(tmp_path):
    """A merge written as a string cannot name a token with a space in it; a's are then rewritten."""
    of_a, of_b = ({"type": "BPE", "vocab": {"a": 0, " ": 1, "b": 2}, "merges": []} for _ in "ab")
    of_a["vocab"] |= {"ab": 3}
    of_a["merges"] = ["a b"]
    of_b["vocab"] |= {" a": 3, "b a": 4}
    of_b["merges"] = [[" ", "a"], ["b", " a"]]
    shell = {"pre_tokenizer": None, "added_tokens": []}
    a = parent(tmp_path / "a", tokenizer("WordLevel", []) | shell | {"model": of_a})
    b = parent(tmp_path / "b", tokenizer("WordLevel", []) | shell | {"model": of_b})
    plan, child = child_of(a, b)
    assert_libraries_agree(plan, child)
    assert load(child).encode("b aab").tokens == ["b a", "ab"]


def test_merges_with_a_prefix_inside_words(tmp_path):
    """BPE may write the pieces inside a word with a prefix, which merges drop."""
    vocab = {"a": 0, "##b": 1, "##c": 2}
    of_a = {"type": "BPE", "continuing_subword_prefix": "##", "vocab": vocab | {"ab": 3}, "merges": ["a ##b"]}
    of_b = of_a | {"vocab": vocab | {"ac": 3}, "merges": ["a ##c"]}
    a = parent(tmp_path / "a", tokenizer("WordLevel", []) | {"added_tokens": [], "model": of_a})
    b = parent(tmp_path / "b", tokenizer("WordLevel", []) | {"added_tokens": [], "model": of_b})
    plan, child = child_of(a, b)
    assert_libraries_agree(plan, child)
    assert load(child).encode("ac ab").tokens == ["ac", "ab"]


# --- rows as the library counts them --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_words", [True, False])
def test_added_tokens_that_are_not_numbered_consecutively(tmp_path, kind, with_words):
    """The library closes gaps when it loads the file, so that is what the parent's rows mean."""
    of_a = tokenizer(kind, BOTH, ADDED_A)
    of_a["added_tokens"][-1]["id"] += 5
    a = parent(tmp_path / "a", of_a)
    b = parent(tmp_path / "b", tokenizer(kind, [*BOTH, *(ONLY_B if with_words else [])], ADDED_B))
    plan, child = child_of(a, b)
    assert_libraries_agree(plan, child)
    text = "hello<both> world<a1> tree"
    assert rows_of(plan)[0][encode(child, text)].tolist() == encode(a, text)
    assert [w for w in plan.warnings if "'<both>'" in w and "numbers" in w]


def test_a_vocabulary_with_gaps(tmp_path):
    """Its tokens keep their rows, and what is added lies where the library puts it: at its length."""
    of_a = tokenizer("WordLevel", BOTH)
    of_a["model"]["vocab"]["far"] = 9
    a = parent(tmp_path / "a", of_a, n_rows=12)
    b = parent(tmp_path / "b", tokenizer("WordLevel", BOTH, ["<b1>", "<b2>"]))
    plan, child = child_of(a, b)
    assert_libraries_agree(plan, child)
    assert (plan.tokenizer.rows or {})["far"] == 9
    assert load(child).encode("far<b2>").tokens == ["far", "<b2>"]


def test_tokens_that_only_the_other_files_name(tmp_path):
    """transformers adds what tokenizer_config.json lists to what tokenizer.json has."""
    decoder = {
        "5": {
            "content": "<late>",
            **dict.fromkeys(("lstrip", "rstrip", "normalized"), False),
            "special": True,
        }
    }
    a = parent(tmp_path / "a", tokenizer("WordLevel", BOTH), {"added_tokens_decoder": decoder}, n_rows=6)
    b = parent(tmp_path / "b", tokenizer("WordLevel", BOTH, ["<b1>"]))
    plan, child = child_of(a, b)
    assert_libraries_agree(plan, child)
    assert dict(plan.tokenizer.rows or {}) == {
        "<unk>": 0, **{word: 1 + i for i, word in enumerate(BOTH)}, "<late>": 5, "<b1>": 6
    }  # fmt: skip
    assert AutoTokenizer.from_pretrained(child)("hello<late><b1>")["input_ids"] == [1, 5, 6]


def test_the_list_in_the_tokenizers_config_grows(tmp_path):
    decoder = {"5": added_token("<a1>", 5, special=True)}
    del decoder["5"]["id"]
    config = {"added_tokens_decoder": decoder, "tokenizer_class": "LlamaTokenizer"}
    a = parent(tmp_path / "a", tokenizer("WordLevel", BOTH, {"<a1>": {"special": True}}), config)
    b = parent(tmp_path / "b", tokenizer("WordLevel", BOTH, {"<b1>": {"lstrip": True}}))
    _, child = child_of(a, b)
    written = json.loads((child / "tokenizer_config.json").read_text())
    assert written == config | {
        "added_tokens_decoder": decoder | {"6": {"content": "<b1>", **flags_of("<b1>", child)}}
    }


def flags_of(token: str, child: Path) -> dict[str, bool]:
    found = next(
        t for t in json.loads((child / "tokenizer.json").read_text())["added_tokens"] if t["content"] == token
    )
    return {flag: value for flag, value in found.items() if flag not in ("id", "content")}


# --- the older files ------------------------------------------------------------------------------------

OLDER = {
    "vocab.json": lambda tokens: json.dumps({token: row for row, token in enumerate(tokens)}).encode(),
    "vocab.txt": lambda tokens: ("\n".join(tokens) + "\n").encode(),
    "tokenizer.model": sentencepiece_model,
}
CLASSES = {"vocab.json": "GPT2Tokenizer", "vocab.txt": "BertTokenizer"}
SPECIAL = {
    "vocab.json": ["<|endoftext|>"],
    "vocab.txt": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "tokenizer.model": ["<unk>", "<s>", "</s>"],
}


def older(folder: Path, name: str, words: list[str], added: list[str]) -> Path:
    """A checkpoint with a tokenizer in one of the formats before tokenizer.json."""
    tokens = [*SPECIAL[name], *words]
    parent(folder, None, {"tokenizer_class": CLASSES.get(name, "LlamaTokenizer")}, len(tokens) + len(added))
    (folder / name).write_bytes(OLDER[name](tokens))
    if name == "vocab.json":
        (folder / "merges.txt").write_text("#version: 0.2\n")
    if added:
        write_json(folder / "added_tokens.json", {token: len(tokens) + i for i, token in enumerate(added)})
    return folder


@pytest.mark.parametrize("name", OLDER)
@pytest.mark.parametrize("added", [[], ADDED_A], ids=["none of a's", "some of a's"])
def test_added_tokens_of_older_files_are_united(tmp_path, name, added):
    a = older(tmp_path / "a", name, list("abcd"), added or ["<a1>"])
    b = older(tmp_path / "b", name, list("dcba"), ADDED_B)
    plan, child = child_of(a, b)
    rows = plan.tokenizer.rows or {}
    assert sorted(rows.values()) == list(range(len(rows)))
    listed = json.loads((child / "added_tokens.json").read_text())
    assert listed == {token: row for token, row in rows.items() if token in (*ADDED_A, *ADDED_B)}
    assert (child / name).read_bytes() == (a / name).read_bytes()
    if name in CLASSES:
        loaded = AutoTokenizer.from_pretrained(child)
        assert loaded.get_vocab() == rows
        assert loaded("a<b1>b", add_special_tokens=False)["input_ids"] == [rows["a"], rows["<b1>"], rows["b"]]


@pytest.mark.parametrize("name", OLDER)
def test_older_files_with_other_words_are_not_united(tmp_path, name):
    a = older(tmp_path / "a", name, ["a", "b", "x"], [])
    b = older(tmp_path / "b", name, ["a", "b", "y"], [])
    with pytest.raises(
        MismatchError,
        match=r"cannot be united(.|\n)*1 only in b: 'y'(.|\n)*Fix: use tokenizer='a' or tokenizer='b'",
    ):
        plan_merge(a, b)
    assert plan_merge(a, b, tokenizer="b").tokenizer.rows == {
        token: row for row, token in enumerate([*SPECIAL[name], "a", "b", "y"])
    }


@pytest.mark.parametrize("name", OLDER)
def test_the_larger_of_two_older_ones_serves_as_it_is(tmp_path, name):
    a = older(tmp_path / "a", name, list("abcd"), [])
    b = older(tmp_path / "b", name, list("dcba"), ADDED_B)
    plan, child = child_of(a, b)
    for file in (name, "added_tokens.json"):
        assert (child / file).read_bytes() == (b / file).read_bytes()
    assert plan.tokenizer.written == {}


@pytest.mark.parametrize("name", OLDER)
def test_older_files_in_a_and_tokenizer_json_in_b(tmp_path, name):
    """The same words, and added tokens of either: no ordinary token has to go into a's files."""
    a = older(tmp_path / "a", name, list("abcd"), ["<a1>"])
    b = parent(tmp_path / "b", tokenizer("WordLevel", []) | {"added_tokens": []}, n_rows=12)
    tokens = {token: row for row, token in enumerate([*SPECIAL[name], *"abcd"])}
    model = {"type": "WordLevel", "vocab": tokens, "unk_token": "a"}
    write_json(
        b / "tokenizer.json",
        tokenizer("WordLevel", []) | {"model": model, "added_tokens": [added_token("<b1>", len(tokens))]},
    )
    plan, child = child_of(a, b)
    assert json.loads((child / "added_tokens.json").read_text()) == {
        "<a1>": len(tokens),
        "<b1>": len(tokens) + 1,
    }
    assert not (child / "tokenizer.json").exists()
    assert (plan.tokenizer.rows or {}).keys() == tokens.keys() | {"<a1>", "<b1>"}
