"""One of two processes that meet as those of Fabric do; prints what it gets from each case as a line of JSON.

    python ranks_script.py RANK FILE CASE...

The file is where the processes meet; it does not exist yet.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

from torch import distributed

from fusion_slerp.errors import CheckpointError, Problem
from fusion_slerp.fusion_bench_plugin.ranks import Ranks, is_of_first

RANK, FILE, CASES = int(sys.argv[1]), sys.argv[2], sys.argv[3:]


def one_after_the_other(ranks: Ranks) -> object:
    """Rank 0 alone works, and all know the result; twice, as nothing may be left over."""
    done = []

    def work() -> dict[str, int]:
        done.append(os.getpid())
        time.sleep(0.2)
        return {"value": 7}

    return [ranks.on_first(work), ranks.on_first(lambda: 8), len(done)]


def all_at_once(ranks: Ranks) -> object:
    return ranks.on_all(lambda: RANK)


def fail_as_planned(ranks: Ranks) -> object:
    problem = Problem(CheckpointError, "damaged", (("file", "x"),), "download it again")
    return ranks.on_first(lambda: fail(problem.error()))


def fail_unforeseen(ranks: Ranks) -> object:
    return ranks.on_first(lambda: fail(ValueError("two\nlines")))


def fail_on_rank_0_of_all(ranks: Ranks) -> object:
    return ranks.on_all(lambda: fail(CheckpointError("first")) if ranks.is_first else RANK)


def fail_on_rank_1_of_all(ranks: Ranks) -> object:
    return ranks.on_all(lambda: RANK if ranks.is_first else fail(CheckpointError("second")))


def fail_to_be_sent(ranks: Ranks) -> object:
    problem = Problem(CheckpointError, "odd", (("value", lambda: None),), "")
    return ranks.on_first(lambda: fail(problem.error()))


def die(ranks: Ranks) -> object:
    return ranks.on_first(lambda: os.kill(os.getpid(), signal.SIGKILL))


def wait_to_be_interrupted(ranks: Ranks) -> object:
    """Rank 0 takes its time, until the test ends it."""
    print("ready", flush=True)
    return ranks.on_first(lambda: time.sleep(600))


def fail(error: BaseException) -> None:
    raise error


def result(case: Callable[[Ranks], object], ranks: Ranks) -> dict[str, object]:
    """What a case returns, or the error that it raises."""
    try:
        return {"value": case(ranks)}
    except BaseException as error:
        return {"error": [type(error).__name__, str(error)], "is_of_first": is_of_first(error)}


def main() -> None:
    """Joins, and runs the cases."""
    distributed.init_process_group("gloo", init_method=f"file://{FILE}", rank=RANK, world_size=2)
    ranks = Ranks(SimpleNamespace(world_size=2, global_rank=RANK))
    for case in CASES:
        print(json.dumps(result(globals()[case], ranks)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
