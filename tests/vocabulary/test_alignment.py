"""The rows of three models and more: which models own them, and the warnings about them."""

import ast
import shlex

import pytest
import yaml

from fusion_slerp import CheckpointError, MismatchError
from fusion_slerp.settings.labels import labels
from fusion_slerp.vocabulary.alignment import MAX_ROWS
from fusion_slerp.vocabulary.rows import MOST_MODELS, NOBODY, ZERO, RowCounts
from tests.models import write_json
from tests.vocabulary.aligned import NO_TOKENIZER, aligned, counts_of, models_with

TOKENS = {  # the child's, and the row of each in a, b and c
    "all": (0, 2, 1),
    "ab": (1, 1, NOBODY),
    "ac": (2, NOBODY, 3),
    "a": (3, NOBODY, NOBODY),
    "bc": (NOBODY, 0, 2),
    "b": (NOBODY, 3, NOBODY),
    "c": (NOBODY, NOBODY, 0),
}
GROUPS = {("a", "b", "c"): ["all"], ("a", "b"): ["ab"], ("a", "c"): ["ac"], ("b", "c"): ["bc"]}


@pytest.fixture
def three(tmp_path):
    """Four tokens each; each set of them has one token."""
    lists = {
        label: sorted((t for t in TOKENS if TOKENS[t][i] >= 0), key=lambda t: TOKENS[t][i])
        for i, label in enumerate("abc")
    }
    return models_with(tmp_path, **lists)


def found(rows):
    """The rows of a, b and c by token of the child."""
    columns = zip(*(rows.of[label].tolist() for label in "abc"), strict=True)
    return dict(zip(TOKENS, columns, strict=False))


def changed(**tokens):
    return {**TOKENS, **tokens}


def test_every_set_of_owners(three):
    alignment = aligned(three)
    counts = {"a": 4, "b": 4, "c": 4}
    assert alignment.is_certain
    assert not alignment.are_equal
    assert dict(alignment.child) == {token: row for row, token in enumerate(TOKENS)}
    rows = alignment.rows(counts)
    assert rows is not None
    assert found(rows) == TOKENS
    assert rows.counts == RowCounts(4, {"a": 1, "b": 1, "c": 1}, 0)
    tokens = list(TOKENS)
    groups = {owners: [tokens[row] for row in where.nonzero()[0]] for owners, where in rows.groups().items()}
    assert groups == GROUPS
    a, b, c = (model.source for model in three.values())
    assert alignment.remarks == (
        f"the merged model's tokenizer is that of {a} with 2 tokens of {b} and 1 token of {c}",
    )
    assert alignment.describe(rows, counts) == [
        f"vocabularies of 4, 4 and 4 rows, 7 in the merged model: 4 merged, 1 copied from {a}, "
        f"1 copied from {b}, 1 copied from {c}",
        "the models share only 1 of 4 tokens; are they from one family?",
    ]


@pytest.mark.parametrize("setting", ["a", "b", "c"])
def test_the_tokenizer_of_one(three, setting):
    """By its label or its source; the other models' additional tokens are left out and named."""
    own = [token for token in TOKENS if setting in (token if token != "all" else "abc")]
    for name in (setting, three[setting].source):
        alignment = aligned(three, tokenizer=name)
        assert alignment.tokenizer.giver == setting
        assert alignment.child.keys() == set(own)
        rows = alignment.rows({"a": 5, "b": 6, "c": 7})
        assert rows is not None
        assert len(rows) == {"a": 5, "b": 6, "c": 7}[setting], "its padding stays"
        lost = [f"the merged model lacks 2 tokens of {three[o].source}" for o in "abc" if o != setting]
        assert [remark.split(":")[0] for remark in alignment.remarks] == lost
        note = alignment.describe(rows, {"a": 5, "b": 6, "c": 7})[0]
        assert [f"of {three[o].source} left out" in note for o in "abc"] == [o != setting for o in "abc"]


def test_the_folder_of_a_tokenizer_of_none(three, tmp_path):
    """Rows between its own are model a's."""
    other = models_with(tmp_path, other=["c", "all", "new"])["other"]
    alignment = aligned(three, tokenizer=str(other.folder))
    assert alignment.tokenizer.giver is None
    assert dict(alignment.child) == {"c": 0, "all": 1, "new": 2, "a": 3}
    rows = alignment.rows({"a": 4, "b": 4, "c": 4})
    assert rows is not None
    assert [rows.of[label].tolist() for label in "abc"] == [[-1, 0, -1, 3], [-1, 2, -1, -1], [0, 1, -1, -1]]


FILLED = {token: TOKENS[token] if len(token) > 1 else (NOBODY,) * 3 for token in TOKENS}


@pytest.mark.parametrize("fill", ["owner", "mean", "gradient", "zeros"])
def test_rows_of_one_model_are_kept_or_filled(three, fill):
    """A row that two models have is merged, whatever becomes of those of one."""
    rows = aligned(three, vocab_fill=fill).rows({"a": 4, "b": 4, "c": 4})
    assert rows is not None
    assert found(rows) == (TOKENS if fill == "owner" else FILLED)
    assert str(rows.counts) == (
        "4 merged, 1 copied from a, 1 copied from b, 1 copied from c"
        if fill == "owner"
        else "4 merged, 3 filled"
    )


def test_rows_of_one_model_are_refused(three):
    message = (
        r"rows that only one model has\n  found: 4 merged, 1 copied from a, .*\n  tokens: 'a', 'b', 'c'\n"
    )
    with pytest.raises(MismatchError, match=message):
        aligned(three, vocab_fill="error").rows({"a": 4, "b": 4, "c": 4})
    named = {token: token for token in "abc"}
    rows = aligned(three, vocab_fill="error", tokens=named).rows({"a": 4, "b": 4, "c": 4})
    assert rows is not None
    assert found(rows) == TOKENS


def test_padding_and_matrices_of_different_lengths(three):
    """Row 7 holds no token: it is merged of those that have it; row 8 is c's, and all beyond is filled."""
    alignment = aligned(three, pad_vocab_to_multiple_of=5)
    counts = {"a": 8, "b": 3, "c": 9}
    rows = alignment.rows(counts)
    assert rows is not None
    assert len(rows) == alignment.padded(alignment.n_rows(counts)) == 10
    assert [rows.of[label].tolist()[7:] for label in "abc"] == [[7, -1, -1], [-1, -1, -1], [7, 8, -1]]
    assert found(rows) == changed(b=(NOBODY,) * 3)
    assert alignment.describe(rows, counts)[1] == f"{three['b'].source}: 1 token with an id beyond its 3 rows"


def test_the_labels_of_the_rows_are_those_of_the_counts(three):
    """A tensor that only two models have; rows of neither are left over."""
    rows = aligned(three).rows({"a": 4, "c": 4})
    assert rows is not None
    assert list(rows.of) == ["a", "c"]
    assert str(rows.counts) == "2 merged, 2 copied from a, 2 copied from c, 1 filled"


@pytest.mark.parametrize("n_models", [1, 2, 3])
def test_equal_vocabularies_need_no_map(tmp_path, n_models):
    models = models_with(tmp_path, **{label: ["x", "y", "z"] for label in labels(n_models)})
    alignment = aligned(models)
    assert alignment.are_equal
    assert alignment.rows(dict.fromkeys(models, 3)) is None
    assert alignment.rows(dict.fromkeys(models, 4)) is None, "all are padded alike"
    assert alignment.remarks == ()
    padded = alignment.rows({**dict.fromkeys(models, 3), "a": 4})
    assert (padded is None) == (n_models == 1)


def test_too_many_models(tmp_path):
    """Sets of owners are bits of an integer; models with one vocabulary have no sets."""
    names = labels(MOST_MODELS + 1)
    models = models_with(tmp_path, **{label: ["x", "y"] for label in names})
    counts = dict.fromkeys(names, 2)
    assert aligned(models).rows(counts) is None
    write_json(models["b"].folder / "tokenizer.json", {"model": {"vocab": {"x": 1, "y": 0}}})
    with pytest.raises(
        MismatchError, match=r"too many models(.|\n)*found: 63 models\n  needed: at most 62\nFix"
    ):
        aligned(models).rows(counts)
    del models[names[-1]], counts[names[-1]]
    rows = aligned(models).rows(counts)
    assert rows is not None
    assert list(rows.groups()) == [tuple(models)]


# --- single tokens ------------------------------------------------------------------------------------------

C_FORCE = {"source": "c", "force": True}
SOURCES = {
    "c force": ({"all": C_FORCE}, changed(all=(NOBODY, NOBODY, 1))),
    "c alone": ({"all": "c"}, TOKENS),
    "c where it is": ({"c": "c"}, TOKENS),
    "another of c": (
        {"ab": {"kind": "model_token", "model": "c", "token": "bc"}},
        changed(ab=(1, 1, 2)),
    ),
    "an id of c": ({"a": {"kind": "model_token", "model": "c", "token_id": 3}}, changed(a=(3, NOBODY, 3))),
    "zero": ({"c": {"kind": "zero"}}, TOKENS),
    "zero force": ({"bc": {"source": {"kind": "zero"}, "force": True}}, changed(bc=(ZERO,) * 3)),
}


@pytest.mark.parametrize("case", SOURCES)
def test_the_source_of_a_token(three, case):
    tokens, wanted = SOURCES[case]
    rows = aligned(three, tokens=tokens).rows({"a": 4, "b": 4, "c": 4})
    assert rows is not None
    assert found(rows) == wanted


def test_a_new_token_from_c_by_its_name(three):
    source = {"kind": "model_token", "model": three["c"].source, "token": "c"}
    alignment = aligned(three, tokens={"new": source})
    assert alignment.child["new"] == len(TOKENS)
    rows = alignment.rows({"a": 4, "b": 4, "c": 4})
    assert rows is not None
    assert [rows.of[label][-1] for label in "abc"] == [NOBODY, NOBODY, 0]


def test_of_models_with_one_name_the_first_is_meant(three):
    models = {**three, "c": three["b"]}
    source = {"source": three["b"].source, "force": True}
    rows = aligned(models, tokens={"all": source}).rows({"a": 4, "b": 4, "c": 4})
    assert rows is not None
    assert [rows.of[label][0] for label in "abc"] == [NOBODY, 2, NOBODY]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("d", r"found: 'd'\n  needed: a, b, c, or the path or id of a source model"),
        ({"kind": "model_token", "model": "c", "token": "no such"}, "found: 'no such' of c"),
        ({"kind": "model_token", "model": "c", "token_id": 4}, "found: 4 of c"),
    ],
)
def test_a_source_that_is_not_there(three, source, message):
    counts = {"a": 4, "b": 4, "c": 4}
    with pytest.raises(
        MismatchError, match=rf"`tokens` refers to a missing row\n  token: 'all'\n  {message}"
    ) as caught:
        aligned(three, tokens={"all": {"source": source, "force": True}}).rows(counts)
    label = "a" if source == "d" else "c"
    assert mended(caught.value) == {"all": {"source": label, "force": True}}
    assert aligned(three, tokens=mended(caught.value)).rows(counts) is not None


def mended(error) -> dict:
    """The value of `tokens` that the error proposes, the same in Python and in the command."""
    python = error.message("python").splitlines()[-1].removeprefix("Fix: use a row that there is: tokens=")
    command = error.message("command").splitlines()[-1].partition("there is: ")[2]
    option, value = shlex.split(command)
    assert option == "--tokens"
    assert yaml.safe_load(value) == ast.literal_eval(python)
    return ast.literal_eval(python)


def test_all_sources_that_are_not_there_are_named_and_mended_together(three):
    tokens = {
        "all": {"source": "d"},
        "ab": {"source": {"kind": "zero"}, "force": True},
        "bc": {"source": {"kind": "model_token", "model": "a", "token_id": 9}},
        "new": {"source": {"kind": "model_token", "model": "a", "token": "ab"}},
        "newer": {"source": "a"},
    }
    counts = {"a": 4, "b": 4, "c": 4}
    with pytest.raises(MismatchError) as caught:
        aligned(three, tokens=tokens).rows(counts)
    assert str(caught.value).startswith("3 problems, nothing was written:")
    assert "found: 9 of a" in str(caught.value)
    assert "found: 'newer' of a" in str(caught.value)
    changes = {"all": {"source": "a"}, "bc": {"source": "b"}, "newer": {"source": {"kind": "zero"}}}
    assert mended(caught.value) == tokens | changes
    assert aligned(three, tokens=mended(caught.value)).rows(counts) is not None


def test_of_very_many_sources_only_the_wrong_ones_are_shown(three):
    tokens = {f"new{i}": {"source": {"kind": "zero"}} for i in range(20)}
    with pytest.raises(MismatchError) as caught:
        aligned(three, tokens=tokens | {"all": {"source": "d"}}).rows({"a": 4, "b": 4, "c": 4})
    assert str(caught.value).endswith(
        "Fix: use a row that there is: tokens={'all': {'source': 'a'}}, and the other tokens as they are"
    )


# --- tokenizers that cannot be read, and rows that no model has ---------------------------------------------


def test_a_tokenizer_that_cannot_be_read_is_taken_for_the_first(three):
    """c's rows are taken for a's; the union is that of the others."""
    (three["c"].folder / "tokenizer.json").write_text("{")
    alignment = aligned(three)
    assert not alignment.is_certain
    assert alignment.vocabularies["c"] == alignment.vocabularies["a"]
    assert alignment.remarks[0] == (
        f"the vocabularies could not be compared; no readable tokenizer in {three['c'].folder}; "
        f"rows are assumed to have the same tokens as in {three['a'].source}"
    )
    assert list(alignment.child) == ["all", "ab", "ac", "a", "bc", "b"]
    rows = alignment.rows({"a": 4, "b": 4, "c": 4})
    assert rows is not None
    assert rows.of["c"].tolist() == rows.of["a"].tolist() == [0, 1, 2, 3, -1, -1]


def test_the_first_without_a_tokenizer(tmp_path):
    models = models_with(tmp_path, a=NO_TOKENIZER, b=["x", "y"], c=["x", "z"])
    alignment = aligned(models)
    assert alignment.tokenizer.giver == "b"
    assert dict(alignment.child) == {"x": 0, "y": 1, "z": 2}
    a, b, c = (model.source for model in models.values())
    assert alignment.remarks == (
        f"the vocabularies could not be compared; no readable tokenizer in {a}; "
        f"rows are assumed to have the same tokens as in {b}",
        f"{a} has no tokenizer files; the merged model gets those of {b}",
        f"the merged model's tokenizer is that of {b} with 1 token of {c}",
    )


def test_only_the_last_has_a_tokenizer(tmp_path):
    models = models_with(tmp_path, a=NO_TOKENIZER, b=NO_TOKENIZER, c=["x", "y"])
    alignment = aligned(models)
    assert alignment.tokenizer.giver == "c"
    assert alignment.are_equal
    a, b, c = (model.source for model in models.values())
    assert alignment.remarks[1:] == (
        f"{a} and {b} have no tokenizer files; the merged model gets those of {c}",
    )


def test_none_has_a_tokenizer(tmp_path):
    models = models_with(tmp_path, a=NO_TOKENIZER, b=NO_TOKENIZER, c=NO_TOKENIZER)
    alignment = aligned(models)
    a, b, c = (model.source for model in models.values())
    none = f"none of {a}, {b} and {c} has tokenizer files, so the merged model has none"
    assert alignment.remarks == (none,)
    assert alignment.n_rows({"a": 3, "b": 5, "c": 4}) == 5, "they may be tokens"
    with pytest.raises(CheckpointError, match="no tokenizer there"):
        aligned(models, tokenizer="c")


def test_rows_that_are_too_many_or_too_far(three):
    counts = {"a": 4, "b": 4, "c": MAX_ROWS + 1}
    with pytest.raises(CheckpointError, match=rf"too many rows\n  found: 4, 4 and {MAX_ROWS + 1} rows"):
        aligned(three).rows(counts)
    write_json(three["c"].folder / "tokenizer.json", {"model": {"vocab": {"far": 10**9}}})
    message = r"far beyond(.|\n)*'far' 1000000000\n.* have 4, 4 and 4 rows\nFix: use tokenizer='a', or"
    with pytest.raises(MismatchError, match=message):
        aligned(three, tokenizer="c").rows({"a": 4, "b": 4, "c": 4})


def test_moved_tokens_are_reported_for_each(tmp_path):
    content = {"model": {"vocab": {"x": 0}}, "added_tokens": [{"content": "<m>", "id": 9}]}
    models = models_with(tmp_path, a=["x"], b=content, c=content)
    moved = [remark for remark in aligned(models).remarks if "numbers" in remark]
    assert [remark.split(": ")[0] for remark in moved] == [models["b"].source, models["c"].source]


def test_matrices_with_a_row_for_each_token(three):
    assert counts_of(aligned(three)) == {"a": 4, "b": 4, "c": 4}
