"""The union of three tokenizers, judged by the library that will load it."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from fusion_slerp import MismatchError
from tests.models import write_json
from tests.tokenizer_kinds import KINDS, added_token, tokenizer
from tests.vocabulary.aligned import aligned, counts_of, files_of, model_with, models_with

ALL = ["hello", "world", "tree", "river"]
WORDS = {  # "brook" is b's and c's
    "a": [*ALL, "apple", "aphid"],
    "b": [*ALL[::-1], "bread", "brook"],
    "c": ["crumb", *ALL, "cloud", "brook"],
}
ADDED = {"a": ["<a1>", "<all>"], "b": ["<b1>", "<all>", "<bc>"], "c": ["<bc>", "<c1>", "<all>"]}
TEXTS = {
    "a": "hello apple world<all> tree aphid river<a1> hello zoo",
    "b": "hello bread world<bc> brook tree<all><b1> zoo brook",
    "c": "hello crumb world<bc> brook tree<all><c1> cloud zoo brook",
}


def encode(folder: Path, text: str) -> list[int]:
    loaded = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return loaded.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_cut_as_each_model_cuts_them(tmp_path, kind):
    """Token for token the row of the right model's token, words and added tokens of all included."""
    models = models_with(tmp_path, **{label: tokenizer(kind, WORDS[label], ADDED[label]) for label in "abc"})
    alignment = aligned(models)
    child = files_of(alignment, tmp_path / "child")
    loaded = Tokenizer.from_file(str(child / "tokenizer.json")).get_vocab(with_added_tokens=True)
    assert loaded == alignment.child
    assert AutoTokenizer.from_pretrained(child).get_vocab() == alignment.child
    rows = alignment.rows(counts_of(alignment))
    assert rows is not None
    for label, model in models.items():
        assert rows.of[label][encode(child, TEXTS[label])].tolist() == encode(model.folder, TEXTS[label])
    owners = {
        token: "".join(label for label in "abc" if rows.of[label][row] >= 0) for token, row in loaded.items()
    }
    added = {token: owners[token] for token in ("<all>", "<a1>", "<b1>", "<bc>", "<c1>")}
    assert added == {"<all>": "abc", "<a1>": "a", "<b1>": "b", "<bc>": "bc", "<c1>": "c"}
    ends = {
        word: next(found for t, found in owners.items() if t.endswith(word))
        for word in ("brook", "cloud", "apple")
    }
    assert ends == {"brook": "bc", "cloud": "c", "apple": "a"}


@pytest.mark.parametrize("kind", ["byte-level BPE", "Unigram"])
def test_the_rows_after_its_own(tmp_path, kind):
    """Ordinary tokens first, b's before c's, then added ones, each in its model's order."""
    models = models_with(tmp_path, **{label: tokenizer(kind, WORDS[label], ADDED[label]) for label in "abc"})
    alignment = aligned(models)
    first = len(alignment.vocabularies["a"])
    added = sorted((t for t, row in alignment.child.items() if row >= first), key=alignment.child.__getitem__)
    assert added[-3:] == ["<b1>", "<bc>", "<c1>"]
    words = [token[1:] for token in added if token[1:] in ("bread", "brook", "crumb", "cloud")]
    assert words == ["bread", "brook", "crumb", "cloud"]
    b, c = (models[label].source for label in "bc")
    assert alignment.remarks[0].startswith(
        f"the merged model's tokenizer is that of {models['a'].source} with "
    )
    assert f" tokens of {b} and " in alignment.remarks[0]
    assert alignment.remarks[0].endswith(f" tokens of {c}")


def test_scores_are_those_of_the_first_that_has_the_token(tmp_path):
    contents = {label: tokenizer("Unigram", WORDS[label]) for label in "abc"}
    scores = {label: dict(contents[label]["model"]["vocab"]) for label in "abc"}
    models = models_with(tmp_path, **contents)
    child = files_of(aligned(models), tmp_path / "child")
    found = dict(json.loads((child / "tokenizer.json").read_text())["model"]["vocab"])
    assert scores["b"]["▁brook"] != scores["c"]["▁brook"]
    assert found == {**scores["c"], **scores["b"], **scores["a"]}


def test_merges_are_those_of_the_first_that_has_the_token(tmp_path):
    """b and c make "xyz" of other pieces; c's way would need a token that b lacks."""

    def bpe(tokens: list[str], merges: list[str]):
        model = {
            "type": "BPE",
            "vocab": {t: i for i, t in enumerate(["x", "y", "z", *tokens])},
            "merges": merges,
        }
        return tokenizer("WordLevel", []) | {"added_tokens": [], "model": model}

    models = models_with(
        tmp_path,
        a=bpe(["zz"], ["z z"]),
        b=bpe(["xy", "xyz"], ["x y", "xy z"]),
        c=bpe(["yz", "xyz", "zz", "zzx"], ["y z", "x yz", "z z", "zz x"]),
    )
    child = files_of(aligned(models), tmp_path / "child")
    model = json.loads((child / "tokenizer.json").read_text())["model"]
    assert model["merges"] == ["z z", "x y", "xy z", "y z", "zz x"]
    assert Tokenizer.from_file(str(child / "tokenizer.json")).encode("xyz zzx yz").tokens == [
        "xyz",
        "zzx",
        "yz",
    ]


@pytest.mark.parametrize("largest", ["a", "b", "c"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_one_that_has_the_tokens_of_all_serves_as_it_is(tmp_path, kind, largest):
    every = [*ALL, "apple", "bread", "brook"]
    words = {"a": [*ALL, "apple"], "b": [*ALL, "bread"], "c": [*ALL, "brook"]} | {largest: every[::-1]}
    models = models_with(tmp_path, **{label: tokenizer(kind, words[label]) for label in "abc"})
    tokenizer_ = aligned(models).tokenizer
    assert (tokenizer_.giver, tokenizer_.folder) == (largest, models[largest].folder)
    assert not tokenizer_.written


def test_of_two_that_have_the_tokens_of_all_the_first_serves(tmp_path):
    models = models_with(tmp_path, a=["x"], b=["y", "x"], c=["x", "y"])
    assert aligned(models).tokenizer.giver == "b"


def test_an_added_token_has_the_flags_of_the_first_that_has_it(tmp_path):
    flags = {
        "b": {"<bc>": {"lstrip": True}},
        "c": {"<bc>": {"rstrip": True}, "<c1>": {"special": True}},
        "a": {},
    }
    models = models_with(tmp_path, **{label: tokenizer("WordLevel", ALL, flags[label]) for label in "abc"})
    write_json(models["b"].folder / "tokenizer.json", tokenizer("WordLevel", [*ALL, "new"], flags["b"]))
    child = files_of(aligned(models), tmp_path / "child")
    listed = json.loads((child / "tokenizer.json").read_text())["added_tokens"]
    assert listed == [added_token("<bc>", 6, lstrip=True), added_token("<c1>", 7, special=True)]


def test_another_kind_is_named_by_its_label(tmp_path):
    models = models_with(
        tmp_path,
        a=tokenizer("WordLevel", ["x"]),
        b=tokenizer("WordLevel", ["y"]),
        c=tokenizer("WordPiece", ["crumb"]),
    )
    message = (
        rf"cannot be united\n  a: {models['a'].folder}\n  c: {models['c'].folder}\n"
        r"  tokens: 53 only in c: .*\n  found: WordPiece '##', not WordLevel\n"
        r"Fix: use tokenizer='a' or tokenizer='c', "
    )
    with pytest.raises(MismatchError, match=message):
        aligned(models)


def test_damage_names_all_that_take_part(tmp_path):
    models = models_with(tmp_path, a=["x"], b=["y"], c=["z"])
    model = {"type": "BPE", "vocab": {"x": 0}, "merges": 5}
    write_json(models["a"].folder / "tokenizer.json", {"model": model})
    write_json(models["b"].folder / "tokenizer.json", {"model": {**model, "vocab": {"y": 0}}})
    write_json(models["c"].folder / "tokenizer.json", {"model": {**model, "vocab": {"z": 0}}})
    with pytest.raises(MismatchError, match=r"2 only in b, c: 'y', 'z'\n  found: a damaged file"):
        aligned(models)


def test_a_new_token_for_a_damaged_tokenizer(tmp_path):
    models = models_with(tmp_path, a=["x"], b=["x"], c=["x"])
    write_json(models["a"].folder / "tokenizer_config.json", {"added_tokens_decoder": 5})
    message = (
        rf"cannot be added(.|\n)*tokens: new\n  tokenizer: {models['a'].folder}\n  found: a damaged file"
    )
    with pytest.raises(MismatchError, match=message):
        aligned(models, tokens={"new": {"kind": "zero"}})


@pytest.mark.parametrize("readable", ["", "c"])
def test_a_new_token_for_a_tokenizer_that_cannot_be_read(tmp_path, readable):
    models = models_with(tmp_path, a=["x"], b=["x"], c=["x"])
    for label, model in models.items():
        if label != readable:
            (model.folder / "tokenizer.json").write_text("{")
    with pytest.raises(MismatchError) as caught:
        aligned(models, tokens={"new": {"kind": "zero"}}, tokenizer="b")
    fix = "leave these tokens out of `tokens`"
    fix = f"use tokenizer='c', or {fix}" if readable else fix
    assert str(caught.value).splitlines()[1:] == [
        "  tokens: new",
        f"  tokenizer: {models['b'].folder}",
        "  found: no readable tokenizer",
        f"Fix: {fix}",
    ]
    if readable:
        assert "new" in aligned(models, tokens={"new": {"kind": "zero"}}, tokenizer="c").child


# --- chat templates -----------------------------------------------------------------------------------------


def with_templates(root: Path, tokens: dict[str, list[str]], having: str):
    return {
        label: model_with(
            root / label, tokens[label], template=f"{{{{ '{label}' }}}}" if label in having else None
        )
        for label in "abc"
    }


@pytest.mark.parametrize(("having", "whose"), [("abc", "a"), ("bc", "b"), ("c", "c"), ("", None)])
def test_a_union_has_the_first_chat_template(tmp_path, having, whose):
    models = with_templates(tmp_path, {"a": ["x"], "b": ["y"], "c": ["z"]}, having)
    assert aligned(models).tokenizer.chat_template == (whose and f"{{{{ '{whose}' }}}}")


@pytest.mark.parametrize("having", ["abc", "bc", "c", "b", ""])
def test_templates_that_are_left_out(tmp_path, having):
    models = with_templates(tmp_path, {"a": ["x", "y"], "b": ["y"], "c": ["x"]}, having)
    b, c = (models[label].source for label in "bc")
    a = models["a"].source
    assert aligned(models).remarks == {
        "abc": (
            f"the tokenizers of {b} and {c} differ from that of {a} in their chat template; "
            f"the merged model follows {a}",
        ),
        "bc": (
            f"{b} and {c} have chat templates, and the merged model has none; "
            f"tokenizer 'b' would include that of {b}",
        ),
        "b": (
            f"only {b} has a chat template, and the merged model has none; tokenizer 'b' would include it",
        ),
        "c": (
            f"only {c} has a chat template, and the merged model has none; tokenizer 'c' would include it",
        ),
    }.get(having, ())
