"""What is tried with the models of an architecture; each check returns a remark, or raises what is wrong."""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fusion_slerp
from fusion_slerp.errors import FusionSlerpError
from tests.architectures.building import build, save, tiny_config, words
from tests.architectures.running import inputs_for, logits_of
from tests.architectures.shrinking import VOCABULARY
from tests.architectures.subjects import Subject, T, Wrong, in_a_line, same, same_as_files
from tests.architectures.tokens import move_ids, other_order, reorder, token_dimensions
from tests.architectures.weights import WHOLE, is_slerp, unit_of, weights

IDS = list(range(30, 40))


def merged(subject: Subject, name: str, a: Path, b: Path, **settings: Any) -> Path:
    """Merges two folders at `T` into a new one, and returns it."""
    fusion_slerp.merge(a, b, out=subject.folder / name, t=T, **settings)
    return subject.folder / name


def loaded(subject: Subject, folder: Path, ids: Sequence[int] = IDS, **how: Any) -> Any:
    """Loads a merged model, compares it with its files, and runs it; returns the model.

    Keyword arguments say how its files were saved, as arguments of save_pretrained.

    Raises:
        Wrong: It is not what the files hold, it does not run, or its logits are not finite.
    """
    model = subject.load(folder)
    same_as_files(model, folder, **how)
    if subject.inputs is not None:
        _run(subject, model, list(ids), subject.inputs)
    return model


def _run(subject: Subject, model: Any, ids: list[int], inputs: Mapping[str, Any]) -> None:
    """Runs a model; one that does not run either when transformers builds it from its config is remarked."""
    try:
        is_finite = bool(logits_of(model, ids, inputs).isfinite().all())
    except Exception as error:
        fresh = build(subject.architecture.kind, model.config, seed=6)
        if inputs_for(fresh, ids)[0] is not None:
            raise
        subject.remarks.append(f"loaded, but transformers runs no model with this config: {in_a_line(error)}")
    else:
        if not is_finite:
            raise Wrong("the logits are not finite")


def check_equal(subject: Subject) -> str:
    """Two models with equal vocabularies: every tensor is the SLERP of its parents, or copied."""
    subject.inputs, subject.reason = inputs_for(subject.model, IDS)
    child = merged(subject, "equal", subject.a, subject.b)
    loaded(subject, child)
    a, b, c = weights(subject.a), weights(subject.b), weights(child)
    if a.keys() != c.keys():
        raise Wrong(f"other tensors than a has: {', '.join(sorted(a.keys() ^ c.keys())[:3])}")
    units = {name: _unit(name, a[name], b[name], c[name]) for name in c}
    divided = {unit for unit in units.values() if unit != WHOLE}
    return f"angle of {' and of '.join(sorted(divided))}" if divided else ""


def _unit(name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> str:
    if c.dtype != a.dtype:
        raise Wrong(f"{name}: {c.dtype}, and {a.dtype} in a")
    if c.dtype.kind != "f":
        if not same(a, c):
            raise Wrong(f"{name}: not the integers of a")
        return WHOLE
    unit = unit_of(T, c, a, b)
    if unit is None:
        raise Wrong(f"{name}: not the SLERP of its parents")
    return unit


def check_permuted(subject: Subject) -> str:
    """b is a with its tokens in another order: the child is a."""
    b = _permuted(subject)
    follow = {name for name, *_ in token_dimensions(subject.model, VOCABULARY)}
    try:
        child = merged(subject, "from-permuted", subject.a, b)
    except FusionSlerpError as error:
        raise named_or_wrong(error, follow | weights(subject.a).keys(), "a tensor") from None
    a, c = weights(subject.a), weights(child)
    wrong = [name for name in a if name not in c or not same(a[name], c[name])]
    if wrong:
        raise Wrong(f"rows of different tokens are mixed: {', '.join(wrong[:4])}")
    loaded(subject, child)
    if changed := _other_values(config_of(subject.a), config_of(child)):
        raise Wrong(f"the config is not a's: {', '.join(changed)}")
    return ""


def _permuted(subject: Subject) -> Path:
    order = other_order(VOCABULARY)
    config = copy.deepcopy(subject.config)
    move_ids(config, order)
    model = build(subject.architecture.kind, config, seed=1)
    model.load_state_dict(subject.model.state_dict())
    reorder(model, order)
    _check_reordered(subject, model, order)
    tokens = words()
    return save(model, subject.folder / "permuted", [tokens[order.index(row)] for row in range(len(order))])


def _check_reordered(subject: Subject, model: Any, order: Sequence[int]) -> None:
    """Checks the reordering itself by logits, where a class runs and draws nothing at random."""
    if subject.inputs is None or "decoder_input_ids" in subject.inputs:
        return
    before, again = (logits_of(subject.model, IDS, subject.inputs) for _ in range(2))
    if before.equal(again):
        moved = logits_of(model, [order[token] for token in IDS], subject.inputs)
        assert moved[..., order].allclose(before[..., :VOCABULARY], atol=1e-4), (
            "not all rows are in the new order"
        )


def config_of(folder: Path) -> dict[str, Any]:
    """Returns the content of a folder's config.json."""
    return json.loads((folder / "config.json").read_text())


ADDED = {"_name_or_path", "dtype", "torch_dtype", "tie_word_embeddings", "transformers_version"}
"""Keys that a merge may add or leave out: a path, the type, and whether the head is tied."""


def _other_values(x: Any, y: Any, path: str = "") -> list[str]:
    """The paths of keys with another value."""
    if not isinstance(x, dict) or not isinstance(y, dict):
        return [] if x == y else [path]
    keys = sorted((x.keys() | y.keys()) - ADDED)
    pairs = {f"{path}.{key}".lstrip("."): (x.get(key), y.get(key)) for key in keys}
    return [found for inner, pair in pairs.items() for found in _other_values(*pair, inner)]


def named_or_wrong(error: FusionSlerpError, names: Iterable[str], what: str) -> Exception:
    """Returns the refusal itself if it names one of these, else that it does not."""
    if any(name in str(error) for name in names):
        return error
    return Wrong(f"refused without the name of {what}: {str(error).splitlines()[0]}")


def check_larger(subject: Subject) -> str:
    """b has one token more: the child has its row, and the config says so."""
    config = tiny_config(subject.architecture, VOCABULARY + 1)
    larger = build(subject.architecture.kind, config, seed=2)
    b = save(larger, subject.folder / "larger", words(VOCABULARY + 1))
    child = merged(subject, "from-larger", subject.a, b)
    ids = [*IDS[1:], VOCABULARY] if _n_rows(larger) > VOCABULARY else IDS
    loaded(subject, child, ids)
    of_a, of_b, of_c = weights(subject.a), weights(b), weights(child)
    for name, c in of_c.items():
        a_rows, b_rows = of_a[name], of_b[name]
        if c.shape != b_rows.shape:
            raise Wrong(f"{name} has the shape {c.shape}, and in b {b_rows.shape}")
        if c.dtype.kind == "f" and not _is_united(c, a_rows, b_rows):
            raise Wrong(f"{name}: not the SLERP of shared rows, and b's own row after them")
    return ""


def _n_rows(model: Any) -> int:
    found = token_dimensions(model, VOCABULARY + 1)
    return max((tensor.shape[0] for _, tensor, dimension in found if dimension == 0), default=0)


def _is_united(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape == b.shape:
        return unit_of(T, c, a, b) is not None
    axis = next(i for i, (x, y) in enumerate(zip(a.shape, b.shape, strict=True)) if x != y)
    a, b, c = (np.moveaxis(each, axis, 0) for each in (a, b, c))
    own = VOCABULARY  # rows after the tokens' own, such as Mllama's eight, move back by one
    shared = np.delete(c, own, 0), a, np.delete(b, own, 0)
    return same(c[own], b[own]) and is_slerp(T, *shared)
