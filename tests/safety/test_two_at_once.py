"""Two processes on one target: one writes the merged model, the other gets a clear error."""

import shutil

import pytest

from fusion_slerp import OutputError, merge, verify
from tests.models import names_in
from tests.processes import HANG_S, context, wait_for_end
from tests.safety.trials import SHARD_SIZE, many_shards, trials

pytestmark = pytest.mark.trial


def run(together, answers, a, b, out, t):
    together.wait(HANG_S)
    try:
        result = merge(a, b, out=out, t=t, max_shard_size=SHARD_SIZE, threads=1)
        answers.put(str(result.plan.settings.parameters.t))
    except OutputError as error:
        answers.put(str(error).splitlines()[0])


@pytest.mark.parametrize("other_t", [0.5, 0.3], ids=["same merge", "another merge"])
def test_two_at_once(tmp_path, figure, other_t):
    parents, n = many_shards(tmp_path / "models"), trials(25, 3)
    processes = context()
    messages: list[str] = []
    for _ in range(n):
        together, answers = processes.Barrier(2), processes.Queue()
        target = tmp_path / "place/child"
        both = [
            processes.Process(target=run, args=(together, answers, *parents, target, t))
            for t in (0.5, other_t)
        ]
        for process in both:
            process.start()
        outcomes = [answers.get(timeout=HANG_S) for _ in both]
        for process in both:
            wait_for_end(process)
        won = [answer for answer in outcomes if answer in ("0.5", "0.3")]
        assert len(won) == 1, outcomes
        messages += [answer for answer in outcomes if answer not in won]
        assert verify(target).ok
        assert names_in(tmp_path / "place") == ["child"]
        shutil.rmtree(tmp_path / "place")
    assert set(messages) <= {"another process is merging to this folder", "the output exists"}
    figure(
        f"two at once ({'same' if other_t == 0.5 else 'another'} merge): {n} times one child and one error; "
        f"{messages.count('another process is merging to this folder')} times while the other was merging"
    )
