"""Processes of one machine make the same bytes as one alone, whatever is merged."""

import shutil

import numpy as np
import pytest

from fusion_slerp import merge
from tests.every_method import write_family
from tests.models import as_torch_files, contents, names_in, write_checkpoint
from tests.processes import context
from tests.rank_processes import Job, Ranks

pytestmark = pytest.mark.long

COUNTS = (1, 2, 3, 4, 8)

MORE = {f"model.layers.{i % 2}.mlp.up_proj.weight": (1100, 1000) for i in range(2)}


@pytest.fixture(scope="module")
def processes():
    return context()


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("family"), more=MORE, dtype="float16")


def of_slerp(folder, family):
    return family.models[:2], {"t": 0.3}


def of_linear(folder, family):
    return family.models, {"method": "linear", "weight": {"a": 0.5, "b": 0.3, "c": 0.2}}


def of_ties(folder, family):
    return family.models, {"method": "ties", "density": 0.5, "base": family.base}


def of_a_permuted_vocabulary(folder, family):
    tokens = [f"t{i}" for i in range(1500)]
    order = np.random.default_rng(3).permutation(len(tokens))
    shapes = {"model.embed_tokens.weight": (1500, 1000), "lm_head.weight": (1500, 1000)}
    rng = np.random.default_rng(4)
    tensors = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}
    config = {"vocab_size": 1500, "hidden_size": 1000}
    tensors["model.norm.weight"] = np.ones(1000, np.float16)
    a = write_checkpoint(folder / "a", tensors=tensors, config=config, tokens=tokens)
    permuted = {name: x[order] if x.ndim == 2 else x for name, x in tensors.items()}
    b = write_checkpoint(folder / "b", tensors=permuted, config=config, tokens=[tokens[i] for i in order])
    return (a, b), {"t": 0.5}


def of_a_bin_parent(folder, family):
    a, b = (shutil.copytree(each, folder / each.name) for each in family.models[:2])
    return (a, as_torch_files(b)), {"t": 0.5}


@pytest.mark.parametrize(
    "case",
    [of_slerp, of_linear, of_ties, of_a_permuted_vocabulary, of_a_bin_parent],
    ids=lambda c: c.__name__,
)
def test_any_number_of_processes_makes_the_same_bytes(processes, tmp_path, family, case):
    models, options = case(tmp_path / "models", family)
    options = {**options, "max_shard_size": "1MB", "threads": 1}
    merge(*models, out=tmp_path / "alone" / "child", **options)
    expected = contents(tmp_path / "alone" / "child")
    assert len([name for name in expected if name.endswith(".safetensors")]) > 1
    for count in COUNTS:
        out = tmp_path / f"by {count}" / "child"
        ranks = Ranks(processes, Job(models, out, options), count)
        ranks.join()
        assert ranks.outcomes() == dict.fromkeys(range(count), "")
        assert contents(out) == expected
        assert names_in(out.parent) == ["child"]
