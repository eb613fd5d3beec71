"""Vocabularies that differ: every row beside mergekit's union and beside zero padding.

What each program should give is computed here in float64 from the parents alone, so a row that
differs is explained, not only found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fusion_slerp import merge
from tests.peer import mergekit_command as mergekit
from tests.peer.parents import CODE, EMBEDDING, END, HEAD, PLAY, Model, read, save, tokenizer_json
from tests.reference import BF16, F32, FORMATS, expect, last_place, round_to, ulp_error

pytestmark = pytest.mark.peer

T = 0.4
VOCABULARY = (EMBEDDING, HEAD)
DOCS = Path(__file__).resolve().parents[2] / "docs/vocabularies.md"


def coefficients(a: np.ndarray, b: np.ndarray, t: float = T) -> tuple[float, float, float]:
    """SLERP's s0 and s1 of two matrices, each as one vector, and the angle in degrees."""
    cosine = float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    angle = np.arccos(cosine)
    return np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle), np.degrees(angle)


def assert_close(found: np.ndarray, a: np.ndarray, b: np.ndarray, s: Sequence[float], dtype: str) -> None:
    """`s[0]·a + s[1]·b` as mergekit computes it: with the noise of float32, then rounded to the type."""
    exact, noise = s[0] * a + s[1] * b, 1e-6 * (abs(s[0] * a) + abs(s[1] * b))
    half = np.ldexp(0.5, last_place(exact, FORMATS[dtype]))
    assert (abs(found - exact) <= half + noise).all()


@dataclass(frozen=True)
class Case:
    name: str
    dtype: str
    a: Model
    b: Model
    ours: Model
    theirs: Model

    @property
    def tokens(self) -> list[str]:
        """All tokens of the child."""
        return [*self.a.row_of, *self.only(self.b, self.a)]

    @property
    def shared(self) -> list[str]:
        return [token for token in self.a.row_of if token in self.b.row_of]

    @staticmethod
    def only(one: Model, other: Model) -> list[str]:
        return [token for token in one.row_of if token not in other.row_of]

    def filled(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """What mergekit interpolates: over the child's tokens, a row that a parent lacks is the other's."""
        both = (self.a, self.b), (self.b, self.a)
        of_a, of_b = (
            [(own if token in own.row_of else other).rows(name, [token])[0] for token in self.tokens]
            for own, other in both
        )
        return np.array(of_a), np.array(of_b)


CASES = {
    "equal": ("float32", PLAY, None),
    "permuted": ("bfloat16", PLAY, np.random.default_rng(3)),
    "of another text": ("bfloat16", CODE, None),
}
"""Type of the weights, the text that b's ordinary tokens are from, and their order."""


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> Case:
    mergekit.command()
    folder: Path = tmp_path_factory.mktemp("case")
    dtype, text, order = CASES[request.param]
    a = save(folder / "a", tokenizer_json(PLAY, [END, "<a1>", "<a2>"]), dtype, seed=1)
    b = save(folder / "b", tokenizer_json(text, [END, "<b1>"], order), dtype, seed=2, ancestor=a)
    mergekit.slerp(a.folder, b.folder, folder / "mergekit", T, dtype, source="union")
    merge(a.folder, b.folder, out=folder / "ours", t=T)
    return Case(request.param, dtype, a, b, read(folder / "ours"), read(folder / "mergekit"))


def test_the_cases_are_what_they_say(case):
    counts = len(case.tokens), len(case.shared)
    assert counts == ((317, 263) if case.name == "of another text" else (294, 291))
    assert set(case.ours.row_of) == set(case.theirs.row_of) == set(case.tokens)


@pytest.mark.parametrize("name", VOCABULARY)
def test_shared_rows_are_blends_at_another_angle(case, name):
    """Ours at the angle of the shared rows; mergekit's at that of the whole matrices, lone rows in both."""
    of_a, of_b = (parent.rows(name, case.shared) for parent in (case.a, case.b))
    wanted = expect(T, of_a.ravel(), of_b.ravel())
    found = case.ours.rows(name, case.shared).ravel()
    assert not wanted.misrounded(found, of_a.ravel(), of_b.ravel(), FORMATS[case.dtype]).any()

    *theirs, angle = coefficients(*case.filled(name))
    assert_close(case.theirs.rows(name, case.shared), of_a, of_b, theirs, case.dtype)

    *own, own_angle = coefficients(of_a, of_b)
    assert np.allclose(own, (float(wanted.s0), float(wanted.s1)), rtol=1e-12)
    assert angle < own_angle - (5 if case.name == "of another text" else 0.3)  # equal rows make it smaller
    assert all(b < a for a, b in zip(own, theirs, strict=True))


@pytest.mark.parametrize("name", VOCABULARY)
def test_rows_of_one_parent(case, name):
    """Ours are its bytes; mergekit makes them longer, by the sum of the coefficients."""
    s0, s1, _ = coefficients(*case.filled(name))
    assert 1.1 < s0 + s1 < 1.16
    for owner, other in ((case.a, case.b), (case.b, case.a)):
        lone = case.only(owner, other)
        rows = owner.rows(name, lone)
        assert np.array_equal(case.ours.rows(name, lone), rows)
        assert_close(case.theirs.rows(name, lone), rows, rows, (s0, s1), case.dtype)
        lengths = [np.linalg.norm(model.rows(name, lone), axis=1) for model in (case.theirs, owner)]
        assert np.allclose(lengths[0] / lengths[1], s0 + s1, rtol=3e-3)


def test_all_other_tensors_are_alike(case):
    """Within one last place in bfloat16; float32 shows that mergekit's norms and angles are float32."""
    names = case.a.tensors.keys() - set(VOCABULARY)
    assert len(names) == 19
    assert case.ours.tensors.keys() == case.theirs.tensors.keys() == case.a.tensors.keys()
    for name in names:
        ours, theirs = case.ours.tensors[name], case.theirs.tensors[name]
        if case.dtype == "bfloat16":
            assert ulp_error(theirs, ours, BF16).max() <= 1, name
        else:
            size = np.maximum(abs(case.a.tensors[name]), abs(case.b.tensors[name]))
            assert (ulp_error(theirs, ours, F32) * np.minimum(1, abs(ours) / size) <= 4).all(), name


def test_both_children_load_and_generate(case):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for child in (case.ours, case.theirs):
        tokenizer = AutoTokenizer.from_pretrained(child.folder)
        model = AutoModelForCausalLM.from_pretrained(child.folder)
        n_rows = len(child.tensors[EMBEDDING])
        assert len(tokenizer) <= n_rows == model.config.vocab_size
        given = tokenizer("to be <a1><b1>", return_tensors="pt")["input_ids"]
        assert {child.row_of["<a1>"], child.row_of["<b1>"]} <= set(given[0].tolist())
        with torch.no_grad():
            logits = model(given).logits
        assert logits.shape == (*given.shape, n_rows)
        assert torch.isfinite(logits).all()
        out = model.generate(given, max_new_tokens=3, do_sample=False)
        assert int(out.max()) < n_rows
        assert model.config.eos_token_id == child.row_of[END]


@pytest.mark.parametrize("case", ["of another text"], indirect=True)
def test_ordinary_tokens_of_b_are_of_use(case):
    """mergekit adds them without merges, as texts to look for; byte-level texts never hold a `Ġ`."""
    from transformers import AutoTokenizer

    models = case.b, case.ours, case.theirs
    own, ours, theirs = (AutoTokenizer.from_pretrained(model.folder).tokenize(CODE) for model in models)
    begin_with_a_space = {token for token in case.only(case.b, case.a) if token.startswith("Ġ")}
    assert {"Ġreturn", "Ġif"} <= set(own) & begin_with_a_space
    assert ours == own
    assert not set(theirs) & begin_with_a_space
    assert (len(ours), len(theirs)) == (32, 54)  # in docs/vocabularies.md
    words = (
        AutoTokenizer.from_pretrained(model.folder).tokenize("mergers") for model in (case.ours, case.theirs)
    )
    assert list(words) == [["mer", "g", "er", "s"], ["mer", "ge", "r", "s"]]


# --- rows of zeros ----------------------------------------------------------------------------------------


def padded(rows: np.ndarray, n_rows: int) -> np.ndarray:
    """LLM-SLERP-Merge appends zeros to the smaller matrix, whatever the tokens."""
    return np.vstack([rows, np.zeros((n_rows - len(rows), rows.shape[1]))])


@pytest.fixture(scope="module")
def longer(tmp_path_factory) -> tuple[Model, Model, Model]:
    """A parent, one that has all its tokens in the same rows and 40 more, and our child at the middle."""
    folder = tmp_path_factory.mktemp("longer")
    more = [f"<b{i}>" for i in range(40)]
    a = save(folder / "a", tokenizer_json(PLAY, [END]), "float32", seed=1)
    b = save(folder / "b", tokenizer_json(PLAY, [END, *more]), "float32", seed=2, ancestor=a)
    merge(a.folder, b.folder, out=folder / "ours", t=0.5)
    return a, b, read(folder / "ours")


@pytest.mark.parametrize("name", VOCABULARY)
def test_zero_padding_changes_the_angle_and_shrinks_lone_rows(longer, name):
    a, b, ours = (model.tensors[name] for model in longer)
    n = len(a)
    s0, s1, angle = coefficients(padded(a, len(b)), b, 0.5)
    own0, own1, own_angle = coefficients(a, b[:n], 0.5)
    assert angle > own_angle + 1  # the longer norm of b makes the cosine smaller
    assert min(s0 - own0, s1 - own1) > 0.005
    assert np.array_equal(ours[:n], round_to(own0 * a + own1 * b[:n], F32))
    assert np.array_equal(ours[n:], b[n:])
    child = s0 * padded(a, len(b)) + s1 * b
    assert np.allclose(child[n:], s1 * b[n:])
    assert 0.5 < s1 < 0.6


def test_zero_padding_again_and_again(longer):
    """Lone rows shrink with every merge with a; nothing becomes NaN or infinite in float64."""
    a, b, _ = (model.tensors[HEAD] for model in longer)
    child, shares = b, []
    for _ in range(4):
        s0, s1, _ = coefficients(padded(a, len(b)), child, 0.5)
        child = s0 * padded(a, len(b)) + s1 * child
        shares.append(float(np.linalg.norm(child[len(a) :]) / np.linalg.norm(b[len(a) :])))
    assert np.isfinite(child).all()
    assert [round(share, 2) for share in shares] == [0.59, 0.3, 0.15, 0.08]  # in docs/vocabularies.md


def test_the_figures_of_the_docs(case):
    """One line for each case: angles, and what becomes of the length of a row that one parent has.

    Zero padding blends row by row, whatever the tokens: permuted parents seem to be strangers.
    """
    n_moved = sum(case.a.row_of[token] != case.b.row_of[token] for token in case.shared)
    n_rows = max(len(case.a.row_of), len(case.b.row_of))
    *_, own = coefficients(*(parent.rows(HEAD, case.shared) for parent in (case.a, case.b)))
    s0, s1, union = coefficients(*case.filled(HEAD))
    z0, z1, zeros = coefficients(*(padded(parent.tensors[HEAD], n_rows) for parent in (case.a, case.b)))
    counts = f"| {len(case.shared)} | {n_moved} | {len(case.tokens) - len(case.shared)} "
    angles = f"| {own:.1f}° | {union:.1f}° | {zeros:.1f}° "
    line = f"{counts}{angles}| 1 | {s0 + s1:.3f} | {z0:.2f} or {z1:.2f} |"
    assert line in DOCS.read_text(encoding="utf-8"), line
