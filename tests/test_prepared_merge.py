"""A merge in two steps, prepared and then run; and one whose result must fit into memory."""

import pytest

from fusion_slerp import SettingsError, api, merging, plan_merge
from fusion_slerp.api import merge_into_memory, prepare_merge, run_in_memory, run_merge
from tests.models import SHAPES, contents, tiny_tensors


@pytest.fixture
def clock(monkeypatch):
    """A clock for the front door that stands still unless it is set forward."""

    class Clock:
        now = 100.0

    monkeypatch.setattr("fusion_slerp.api.time.perf_counter", lambda: Clock.now)
    return Clock


def test_the_time_between_preparation_and_merge_does_not_count(tmp_path, parents, clock, monkeypatch):
    def takes(seconds, module, name):
        real = getattr(module, name)

        def slow(*args, **kwargs):
            clock.now += seconds
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, slow)

    takes(2, api, "make_plan")
    takes(5, merging, "write_weights")
    prepared = prepare_merge(parents, tmp_path / "child")
    assert prepared.elapsed_s == 2
    clock.now += 3600  # somebody reads the plan and thinks about it
    result = run_merge(prepared)
    assert result.elapsed_s == 7
    assert str(result).endswith(" in 7.0 s")


def test_a_merge_that_is_prepared_has_written_nothing(tmp_path, parents):
    before = contents(tmp_path)
    prepared = prepare_merge(parents, tmp_path / "child", t=0.3, max_shard_size=100)
    assert contents(tmp_path) == before
    assert prepared.target == tmp_path / "child"
    assert list(prepared.parents) == list(prepared.fingerprints) == ["a", "b"]
    result = run_merge(prepared)
    beside = sum((result.out / name).stat().st_size for name in prepared.files)
    weights = sum(file.stat().st_size for file in result.out.glob("*.safetensors"))
    assert prepared.nbytes_written == weights + beside
    assert result.nbytes_made == weights
    nbytes = sum(tensor.nbytes for tensor in tiny_tensors(1).values())
    assert result.nbytes_read == result.plan.nbytes_read == 2 * nbytes


def planned_before(*models, **options):
    """As `merge_into_memory`, in two steps."""
    return run_in_memory(plan_merge(*models, **options))


@pytest.mark.parametrize("call", [merge_into_memory, planned_before])
@pytest.mark.parametrize(("method", "n"), [("slerp", 2), ("linear", 3)])
def test_a_merge_into_memory_that_does_not_fit_is_refused(parents, monkeypatch, call, method, n):
    models = [*parents, parents[0]][:n]
    plan = plan_merge(*models, method=method)
    free = plan.memory.nbytes + plan.nbytes_written - 1
    monkeypatch.setattr("fusion_slerp.planning.resources.available_memory", lambda: free)
    monkeypatch.setattr("fusion_slerp.api.execute", None)  # nothing is read
    with pytest.raises(SettingsError) as caught:
        call(*models, method=method)
    assert str(caught.value).splitlines() == [
        "not enough memory",
        f"  needed: {plan.memory.nbytes} bytes for buffers, {plan.nbytes_written} bytes for the merged model",
        f"  free: {free} bytes",
        "Fix: close other programs, or write the merged model to a folder: out='merged'",
    ]


def test_a_merge_into_memory_that_just_fits(parents, monkeypatch):
    plan = plan_merge(*parents)
    free = plan.memory.nbytes + plan.nbytes_written
    monkeypatch.setattr("fusion_slerp.planning.resources.available_memory", lambda: free)
    assert merge_into_memory(*parents)[0].keys() == SHAPES.keys()
