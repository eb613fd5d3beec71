"""Several merged models from one reading: the bytes of merges one by one, each input read at most twice."""

from pathlib import Path

import numpy as np
import pytest

from fusion_slerp import OutputError, merge, verify
from fusion_slerp.api import prepare_merge
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.engine import executor, many
from fusion_slerp.engine.memory_sink import MemorySink
from fusion_slerp.merging import PreparedMerge, run_merges
from tests.every_method import each_way, write_family
from tests.models import TOKENS, contents, save_transformers_model, write_checkpoint

LARGE = {"model.layers.0.mlp.up_proj.weight": (1025, 2050)}
"""Two chunks and a piece."""


def weights(folder: Path) -> dict[str, bytes]:
    """All files but the card, which names the folder, and the manifest, which has the card's digest."""
    named = ("README.md", "merge_manifest.json")
    return {name: content for name, content in contents(folder).items() if name not in named}


def points(tmp_path, models, varied, **options) -> list[PreparedMerge]:
    return [
        prepare_merge(models, tmp_path / f"child-{i}", **{**options, **each}) for i, each in enumerate(varied)
    ]


def compared_with_single_merges(tmp_path, models, varied, **options) -> int:
    """Makes the models together and one by one; returns the bytes that were read together."""
    results = run_merges(points(tmp_path, models, varied, **options))
    for i, each in enumerate(varied):
        merge(*models, out=tmp_path / f"alone-{i}", **{**options, **each})
        assert weights(tmp_path / f"child-{i}") == weights(tmp_path / f"alone-{i}")
        assert verify(tmp_path / f"child-{i}").ok
    return results[0].nbytes_read


@each_way
def test_every_method(tmp_path, way):
    family = write_family(tmp_path / "models", more=LARGE)
    call = family.call(way)
    base = call.options.pop("base", None)
    options = {} if base is None else {"base": base}
    other = {**call.options, **({"scaling_factor": 0.5} if "scaling_factor" in call.options else {})}
    compared_with_single_merges(tmp_path, call.models, [call.options, other], **options)


def test_a_sweep_reads_each_input_at_most_twice(tmp_path):
    family = write_family(tmp_path / "models", n=2, more=LARGE)
    nbytes = sum(f.stat().st_size for model in family.models for f in model.glob("*.safetensors"))
    varied = [{"t": i / 10} for i in range(11)]
    assert compared_with_single_merges(tmp_path, family.models, varied, memory_budget="150MB") <= 2 * nbytes


def test_ends_copy_one_model_and_values_may_differ_by_tensor(tmp_path):
    family = write_family(tmp_path / "models", n=2, more=LARGE)
    schedule = [{"filter": "mlp", "value": [0, 1]}, {"value": 1}]
    compared_with_single_merges(tmp_path, family.models, [{"t": 0}, {"t": schedule}, {"t": 1}])


def test_only_copies(tmp_path):
    family = write_family(tmp_path / "models", n=2, more=LARGE)
    compared_with_single_merges(tmp_path, family.models, [{"t": 0}, {"t": 1}])


def test_differing_vocabularies(tmp_path):
    a = write_checkpoint(tmp_path / "a", 1)
    b = write_checkpoint(tmp_path / "b", 2, tokens=[TOKENS[0], *reversed(TOKENS[1:])])
    for fill in ("owner", "gradient"):
        compared_with_single_merges(tmp_path / fill, [a, b], [{"t": 0.2}, {"t": 0.7}], vocab_fill=fill)


@pytest.mark.parametrize("granularity", ["row", "column"])
def test_rows_and_columns(tmp_path, granularity):
    family = write_family(tmp_path / "models", n=2, more=LARGE)
    compared_with_single_merges(tmp_path, family.models, [{"t": 0.2}, {"t": 0.7}], granularity=granularity)


def test_experts(tmp_path):
    models = [save_transformers_model(tmp_path / name, "mixtral", seed) for seed, name in enumerate("ab")]
    compared_with_single_merges(tmp_path, models, [{"t": 0.2}, {"t": 0.7}])


def test_merges_that_are_not_alike_run_one_after_the_other(tmp_path):
    family = write_family(tmp_path / "models", n=2, more=LARGE)
    prepared = points(tmp_path, family.models, [{"t": 0.2}, {"t": 0.2, "dtype": "float16"}])
    assert not many.are_alike([each.plan for each in prepared])
    compared_with_single_merges(tmp_path / "x", family.models, [{"t": 0.2}, {"t": 0.2, "dtype": "float16"}])


def test_a_failure_leaves_nothing_half_written_and_the_same_call_resumes(tmp_path, monkeypatch):
    family = write_family(tmp_path / "models", n=2, more=LARGE)
    options = {"max_shard_size": "3MB"}
    prepared = points(tmp_path, family.models, [{"t": 0.2}, {"t": 0.7}], **options)
    assert len(prepared[0].plan.shards) > 2
    finished = []
    real = executor._Finishing._file

    def fails(self, shard, reports):
        if len(finished) == 3:
            raise OSError(28, "No space left on device")
        finished.append(shard)
        real(self, shard, reports)

    monkeypatch.setattr(executor._Finishing, "_file", fails)
    with pytest.raises(OutputError, match="could not be written"):
        run_merges(prepared)
    assert not (tmp_path / "child-0").exists()
    assert not (tmp_path / "child-1").exists()
    monkeypatch.setattr(executor._Finishing, "_file", real)
    results = run_merges(points(tmp_path, family.models, [{"t": 0.2}, {"t": 0.7}], **options))
    assert sum(result.n_resumed for result in results) == 3
    for i, t in enumerate((0.2, 0.7)):
        merge(*family.models, out=tmp_path / f"alone-{i}", t=t, **options)
        assert weights(tmp_path / f"child-{i}") == weights(tmp_path / f"alone-{i}")


def test_what_was_measured_is_not_measured_again(tmp_path):
    family = write_family(tmp_path / "models", n=2, more=LARGE)
    prepared = points(tmp_path, family.models, [{"t": 0.2}, {"t": 0.7}], memory_budget="150MB")
    measured, states, n_read = {}, [], []
    sink = MemorySink(prepared[0].plan)
    for each in prepared:
        n_read.append(executor.execute(each.plan, sink, measured=measured))
        states.append({name: tensor.clone() for name, tensor in sink.state_dict().items()})
    nbytes = prepared[0].plan.nbytes_in
    assert n_read[0] >= nbytes
    assert n_read[1] == nbytes
    for each, state in zip(prepared, states, strict=True):
        alone = MemorySink(each.plan)
        executor.execute(each.plan, alone)
        for name, tensor in alone.state_dict().items():
            assert np.array_equal(state[name].numpy(), tensor.numpy())


def test_large_is_larger_than_a_chunk():
    assert all(rows * columns > 2 * CHUNK_ELEMENTS for rows, columns in LARGE.values())
