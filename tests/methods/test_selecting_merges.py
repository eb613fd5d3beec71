"""Merges of folders by methods that select elements: chunks, threads, rows, experts, faults, resuming."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import CheckpointError, SettingsError, merge, verify
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.methods import METHODS
from fusion_slerp.methods.method import Unit
from tests.expert_layouts import LAYOUTS, write_experts
from tests.methods.selection_reference import decided, fine_tunes, written
from tests.models import TOKENS, contents, names_in, write_checkpoint
from tests.reference import F16, F32

named = pytest.mark.parametrize

LARGE, NORM, SCALAR, EMPTY = "model.layers.0.mlp.up_proj.weight", "model.norm.weight", "scalar", "empty"
WIDTH = 1024
ROWS = 2 * CHUNK_ELEMENTS // WIDTH + 100
"""Two chunks and a part of one."""

WEIGHT = {"a": 1.0, "b": 0.5, "c": -0.3}
DENSITY = {"a": 0.5, "b": 0.3, "c": 0.29}
OPTIONS: dict[str, dict[str, Any]] = {
    "ties": {"weight": WEIGHT, "density": DENSITY},
    "breadcrumbs": {"weight": WEIGHT, "density": DENSITY, "gamma": {"a": 0.1, "b": 0.4, "c": 0.01}},
    "breadcrumbs_ties": {"weight": WEIGHT, "density": DENSITY, "gamma": 0.05, "rescale": True},
    "sce": {"select_topk": 0.3},
    "ram": {"epsilon": 1e-3},
    "ramplus": {"epsilon": 1e-3, "r": 0.5},
    "nearswap": {"t": 1e-3},
}


def models_of(method: str) -> str:
    return "a" if METHODS[method].n_models == (1, 1) else "abc"


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> dict[str, Path]:
    """Three models and their base, in float16: a tensor of three chunks, and small ones."""
    folder, shapes = (
        tmp_path_factory.mktemp("family"),
        {LARGE: (ROWS, WIDTH), NORM: (700,), SCALAR: (), EMPTY: (0, 4)},
    )
    of = {
        name: fine_tunes(F16, 3, int(np.prod(shape)), seed=i)
        for i, (name, shape) in enumerate(shapes.items())
    }
    return {
        label: write_checkpoint(
            folder / label,
            tensors={name: of[name][i].view(np.float16).reshape(shape) for name, shape in shapes.items()},
        )
        for i, label in enumerate(("a", "b", "c", "base"))
    }


def merged(family: dict[str, Path], out: Path, method: str, labels: str | None = None, **more: Any) -> bytes:
    """The weights of a merge, whose models may come in another order, with their own values."""
    labels = labels or models_of(method)
    options = {
        name: {"abc"[i]: value[label] for i, label in enumerate(labels)} if isinstance(value, dict) else value
        for name, value in OPTIONS[method].items()
    }
    models = [family[label] for label in labels]
    merge(*models, base=family["base"], out=out, method=method, **options, **more)
    return (out / "model.safetensors").read_bytes()


@pytest.mark.long
@named("method", OPTIONS)
def test_threads_and_the_order_of_the_models_change_no_byte(tmp_path, family, method):
    expected = merged(family, tmp_path / "one", method, threads=1)
    orders = {models_of(method), models_of(method)[::-1], models_of(method)[1:] + models_of(method)[:1]}
    for threads in (2, 3):
        for order in orders:
            out = tmp_path / f"{threads}{order}"
            assert merged(family, out, method, order, threads=threads) == expected
    models = {label: family[label] for label in (*models_of(method), "base")}
    assert verify(tmp_path / "one", models=models, inputs=True, recompute="all").ok


@pytest.mark.long
@named("method", OPTIONS)
def test_a_tensor_in_chunks_is_that_of_one_piece(tmp_path, family, method):
    """The pieces of the engine, and those of the tests that compare with sorting and exact fractions."""
    merged(family, tmp_path / "child", method)
    child = load_file(tmp_path / "child/model.safetensors")
    labels = (*models_of(method), "base")
    how = METHODS[method]
    options = dict(OPTIONS[method])
    schedules = {name: options[name] for name in ("weight", "density", "gamma", "t") if name in options}
    schedules = {
        name: value if isinstance(value, dict) or name == "t" else dict.fromkeys(labels, value)
        for name, value in schedules.items()
    }
    rest = {name: value for name, value in options.items() if name not in schedules}
    p = how.parameters(how.options(**rest), schedules, labels)
    for name in (LARGE, NORM, SCALAR):
        words = [load_file(family[label] / "model.safetensors")[name] for label in labels]
        flat = [each.reshape(-1).view(np.int16) for each in words]
        made = decided(how.steps(p, Unit(name, flat[0].size, WIDTH)), flat, 10**9)
        result, n_bad = written(made, flat, 10**9, F16)
        assert n_bad == 0
        np.testing.assert_array_equal(child[name].reshape(-1).view(np.int16), result.view(np.int16), name)
    assert child[EMPTY].shape == (0, 4)


SPOILT = [*(("ties", name, label) for name in (LARGE, NORM) for label in ("a", "base"))]
SPOILT += [(method, LARGE if i % 2 else NORM, "a") for i, method in enumerate(OPTIONS) if method != "ties"]


@named(("method", "name", "label"), SPOILT)
def test_what_is_not_finite_is_refused_with_file_and_tensor(tmp_path, family, method, name, label):
    """Density 0.29 keeps few elements; one that is not selected is named all the same."""
    tensors = load_file(family[label] / "model.safetensors")
    position = tensors[name].size - 7
    tensors[name].reshape(-1)[position] = np.inf
    spoilt = write_checkpoint(tmp_path / "spoilt", tensors=tensors)
    with pytest.raises(CheckpointError, match="NaN or infinity in a weight") as caught:
        merged(family | {label: spoilt}, tmp_path / "child", method)
    text = str(caught.value)
    assert f"tensor: {name}" in text
    assert f"{label}: 1 of {tensors[name].size} elements, first at {position}" in text
    assert str(spoilt / "model.safetensors") in text
    assert not (tmp_path / "child").exists()


# Vocabularies and experts.

WORDS = {"a": [*TOKENS, "apple", "ab"], "b": ["ab", *TOKENS[::-1]], "base": [*TOKENS[1:], "<unk>", "apple"]}


@named("method", ["ties", "breadcrumbs", "sce", "ramplus"])
def test_rows_of_differing_vocabularies_are_units_of_their_own(tmp_path, method):
    """Rows that all models have are merged as a tensor of these rows alone would be."""
    name, folders, of = "model.embed_tokens.weight", {}, {}
    values = dict(zip(("a", "b", "base"), fine_tunes(F32, 2, 9 * 4, seed=1), strict=True))
    everything = [*TOKENS, "apple", "ab"]
    for label, words in WORDS.items():
        rows = {token: values[label].reshape(9, 4)[i] for i, token in enumerate([*everything, "none"])}
        of[label] = rows
        tensor = np.stack([rows[token] for token in words])
        tensors = {name: tensor, "lm_head.weight": tensor, NORM: np.ones(4, np.float32)}
        config = {"vocab_size": len(words)}
        folders[label] = write_checkpoint(tmp_path / label, tensors=tensors, tokens=words, config=config)
    options = {
        key: {"weight": {"a": 1, "b": 0.5}, "density": 0.4, "gamma": 0.1}[key]
        for key in OPTIONS[method]
        if key in ("weight", "density", "gamma")
    }
    merge(folders["a"], folders["b"], base=folders["base"], out=tmp_path / "child", method=method, **options)
    vocab = json.loads((tmp_path / "child/tokenizer.json").read_text())["model"]["vocab"]
    found = load_file(tmp_path / "child/model.safetensors")[name]
    shared = sorted(TOKENS, key=vocab.__getitem__)
    how = METHODS[method]
    labels = ("a", "b", "base")
    schedules = {
        key: value if isinstance(value, dict) else dict.fromkeys(labels, value)
        for key, value in options.items()
    }
    p = how.parameters(how.options(), schedules, labels)
    words = [np.concatenate([of[label][token] for token in shared]) for label in labels]
    n = words[0].size
    expected, _ = written(decided(how.steps(p, Unit(name, n, 4)), words, n), words, n, F32)
    for i, token in enumerate(shared):
        np.testing.assert_array_equal(found[vocab[token]], expected[4 * i : 4 * i + 4], token)
    # The base lacks this one: without it there are no task vectors.
    average = (of["a"]["ab"].astype(float) + of["b"]["ab"]) / 2
    np.testing.assert_array_equal(found[vocab["ab"]], average.astype(np.float32))
    assert verify(tmp_path / "child", inputs=True, recompute="all").ok


@named("method", ["ties", "breadcrumbs_ties", "sce"])
@named(("kind", "layout"), [("gpt_oss", 1), ("dbrx", 1), ("inkling_text", 2), ("qwen3_vl_moe_text", 2)])
def test_each_matrix_of_an_expert_is_a_unit_whatever_the_layout(tmp_path, kind, layout, method):
    """Transposed or in turn, the elements count in the order of the matrix."""
    options = {key: value for key, value in OPTIONS[method].items() if not isinstance(value, dict)}
    options |= {"density": 0.4} if "density" in OPTIONS[method] else {}
    results = []
    for number in (0, layout):
        folders = [
            write_experts(tmp_path / f"{number}{label}", seed, kind, LAYOUTS[kind][number])
            for seed, label in enumerate(("a", "b", "base"), 1)
        ]
        out = tmp_path / f"child{number}"
        merge(*folders[:2], base=folders[2], out=out, method=method, **options)
        results.append(out)
    separate, other = results
    # Merged again into the layout of the first, which puts the elements in order and changes none.
    again = tmp_path / "again"
    merge(separate, other, out=again, t=1.0)
    assert weights(again) == weights(separate)


def weights(folder: Path) -> dict[str, bytes]:
    return {name: x.tobytes() for name, x in load_file(folder / "model.safetensors").items()}


# Options, and resuming.


@named(
    ("options", "message"),
    [
        ({"density": 1.5}, "density"),
        ({"density": {"a": -0.1}}, "density"),
        ({"gamma": 2}, "gamma"),
        ({"weight": {"a": 1, "b": -1, "c": 0}, "normalize": True}, "weights that sum to zero: a 1, b -1"),
        ({"weight": {"base": 1}}, "base"),
    ],
    ids=str,
)
def test_bad_options_are_refused_before_anything_is_read(tmp_path, family, options, message):
    folders = [family[label] for label in "abc"]
    with pytest.raises(SettingsError, match=message) as caught:
        merge(*folders, base=family["base"], out=tmp_path / "child", method="breadcrumbs", **options)
    assert "\nFix: " in str(caught.value)
    assert names_in(tmp_path) == []


KILLED = """
import json, os, signal, sys
from fusion_slerp.output.staging import Staging
real = Staging.add
def add(self, file):
    real(self, file)
    if len(self.finished) >= 2:
        os.kill(os.getpid(), signal.SIGKILL)
Staging.add = add
from fusion_slerp import merge
*models, base = sys.argv[2:]
merge(*models, base=base, out=sys.argv[1], threads=1, **json.loads(input()))
"""


@named("method", OPTIONS)
def test_killed_and_resumed_it_has_the_same_bytes(tmp_path, method):
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (8, 5) for i in range(5)}
    of = {name: fine_tunes(F32, 3, 40, seed=i) for i, name in enumerate(shapes)}
    labels = (*models_of(method), "base")
    folders = [
        write_checkpoint(
            tmp_path / "models" / label,
            tensors={name: of[name]["abc".find(label)].reshape(shape) for name, shape in shapes.items()},
            config={"num_hidden_layers": 5},
        )
        for label in labels
    ]
    child = tmp_path / "models/child"
    options = {"method": method, "max_shard_size": 200, **OPTIONS[method]}
    words = [sys.executable, "-c", KILLED, str(child), *map(str, folders)]
    done = subprocess.run(words, input=json.dumps(options), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    *models, base = folders
    assert merge(*models, base=base, out=child, **options).n_resumed >= 2
    merge(*models, base=base, out=tmp_path / "expected/child", **options)
    assert contents(child) == contents(tmp_path / "expected/child")
    assert verify(child, recompute="all").ok
