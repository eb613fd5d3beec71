"""One of two processes that meet as those of Fabric do; prints what it gets from each case as a line of JSON.

    python ranks_script.py RANK PORT CASE...

Rank 0 keeps the store, as it does for Fabric.
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

from fusion_slerp.cluster.failures import is_shown_by_rank_0
from fusion_slerp.cluster.joining import ranks_of_fabric
from fusion_slerp.cluster.ranks import Ranks
from fusion_slerp.errors import CheckpointError

RANK, PORT, CASES = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]

TIMEOUT_S = 6.0


def work(ranks: Ranks) -> object:
    return [ranks.on_first(lambda: RANK + 7), ranks.on_all(lambda: RANK)]


def fail(ranks: Ranks) -> object:
    return ranks.on_first(raise_error)


def raise_error() -> None:
    raise CheckpointError("damaged")


def die(ranks: Ranks) -> object:
    return ranks.on_first(lambda: os.kill(os.getpid(), signal.SIGKILL), TIMEOUT_S)


def wait_to_be_interrupted(ranks: Ranks) -> object:
    """Rank 0 takes its time, and rank 1 waits for it, until that is interrupted."""
    return ranks.on_all(lambda: time.sleep(600) if ranks.is_first else print("ready", flush=True), TIMEOUT_S)


def result(case: Callable[[Ranks], object], ranks: Ranks) -> dict[str, object]:
    """What a case returns, or the error that it raises."""
    try:
        return {"value": case(ranks)}
    except BaseException as error:
        return {"error": [type(error).__name__, str(error)], "is_shown": is_shown_by_rank_0(error)}


def main() -> None:
    """Joins, and runs the cases."""
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{PORT}", rank=RANK, world_size=2)
    ranks = ranks_of_fabric(SimpleNamespace(world_size=2, global_rank=RANK))
    for case in CASES:
        print(json.dumps(result(globals()[case], ranks)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
