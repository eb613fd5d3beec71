"""One merge by all processes of a job: each makes its share of the weight files.

Rank 0 holds the lock and the journal, records the files of all ranks, and publishes. The merged model's
bytes, and those of its manifest, do not depend on the number of ranks. An interrupted merge resumes with any
number.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from fusion_slerp.api import Model, prepare_merge
from fusion_slerp.cluster.collecting import Sent, collecting
from fusion_slerp.cluster.comparing import compare
from fusion_slerp.cluster.joining import ranks_of_fabric, ranks_of_launcher
from fusion_slerp.cluster.ranks import Ranks
from fusion_slerp.cluster.shared_measures import SharedMeasures
from fusion_slerp.cluster.sharing import Share, shares
from fusion_slerp.cluster.together import Together
from fusion_slerp.engine.measuring import values
from fusion_slerp.engine.progress import progress
from fusion_slerp.engine.report import TensorReport, WeightFile
from fusion_slerp.garbage import rare_searches
from fusion_slerp.interruption import deferred_signals, dies_by_signals
from fusion_slerp.merging import MergeResult, PreparedMerge, announce, publish, run_merge
from fusion_slerp.output.child_files import recording, write_files
from fusion_slerp.output.input_digests import hashed, input_files
from fusion_slerp.output.ranks_folder import invite, joined
from fusion_slerp.output.staging import Staging, staging
from fusion_slerp.planning.plan import MergePlan

log = logging.getLogger(__name__)

WORD_NBYTES = 16


class Begin(NamedTuple):
    """What rank 0 says when the partial folder is ready.

    Attributes:
        word: By which the others recognise the folder.
        shares: What each rank does.
    """

    word: str
    shares: list[Share]


class Done(NamedTuple):
    """What rank 0 says at the end.

    Attributes:
        report: What happened to each tensor.
        n_resumed: Weight files of an interrupted run.
        nbytes_read: By all ranks.
        nbytes_made: Likewise.
    """

    report: tuple[TensorReport, ...]
    n_resumed: int
    nbytes_read: int
    nbytes_made: int


def merge_together(
    *models: Model, out: Model, base: Model | None = None, fabric: Any = None, **options: Any
) -> MergeResult:
    """Does the same as `merge` with all processes of a job; each calls it with the same arguments.

    Args:
        *models: As for `merge`.
        out: As for `merge`: on a file system that all machines share.
        base: As for `merge`.
        fabric: A launched `lightning.Fabric`, whose processes take part; None takes those that torchrun has
            started. A process alone does what `merge` does.
        **options: As for `merge`; `threads` are those of this process, None takes its part of the machine's.

    Raises:
        FusionSlerpError: As `merge`; of a failure elsewhere, with the rank and machine.
        OutputError: A process is lost, or the machines do not share the output's file system.
        MismatchError: The processes have different models, settings or versions.
    """
    ranks = ranks_of_launcher() if fabric is None else ranks_of_fabric(fabric)
    options = ranks.with_threads(options)
    return run_shared_merge(ranks.on_all(lambda: prepare_merge(models, out, base, **options)), ranks)


@rare_searches()
def run_shared_merge(prepared: PreparedMerge, ranks: Ranks, made_with: str | None = None) -> MergeResult:
    """Does the same as `run_merge` with all processes of a job; each calls it with the same merge.

    Args:
        prepared: The merge.
        ranks: The processes.
        made_with: As for `run_merge`; that of rank 0 counts.

    Returns:
        The same result on every rank, apart from the time.

    Raises:
        FusionSlerpError: As `merge`; of a failure elsewhere, with the rank and machine.
        OutputError: A process is lost, or the machines do not share the output's file system.
        MismatchError: The processes have different models, settings or versions.
    """
    if ranks.count == 1:
        return run_merge(prepared, made_with)
    started = time.perf_counter()
    with dies_by_signals(), deferred_signals(), ranks.work(prepared.plan.settings.rank_timeout) as together:
        compare(prepared.identity, together)
        if ranks.is_first:
            done = _lead(prepared, together, made_with)
        else:
            _follow(prepared, together)
            done = together.wait_for("done")
    elapsed_s = prepared.elapsed_s + time.perf_counter() - started
    return MergeResult(prepared.target, prepared.plan, done.report, elapsed_s, *done[1:])


def _lead(prepared: PreparedMerge, together: Together, made_with: str | None) -> Done:
    """The part of rank 0."""
    plan, settings = prepared.plan, prepared.plan.settings
    inputs = input_files(plan.parents, prepared.fingerprints)
    announce(plan)
    with (
        hashed(inputs, settings.hash_inputs) as digests,
        staging(prepared.target, prepared.identity, settings.checksum) as staged,
    ):
        resumed = dict(staged.finished)
        with together.reporting():  # before the staging folder is left: it says what is kept
            nbytes_read = _write_all(plan, staged, together)
            report = publish(prepared, staged, digests(), made_with)
        nbytes_made = sum(file.nbytes for name, file in staged.finished.items() if name not in resumed)
        done = Done(report, len(resumed), nbytes_read, nbytes_made)
        with suppress(Exception):  # the model is published: nothing undoes that
            together.put("done", done)
    return done


def _write_all(plan: MergePlan, staged: Staging, together: Together) -> int:
    """Makes the share of rank 0, and records the files of all; returns the bytes read by all."""
    finished = {i for i, shard in enumerate(plan.shards) if shard.file_name in staged.finished}
    begin = Begin(secrets.token_hex(WORD_NBYTES), shares(plan, together.ranks.hosts, finished))
    invite(staged.target, begin.word)
    together.put("begin", begin)
    with progress([plan], [finished]) as shown:
        record = recording(staged.add, shown)
        with collecting(together, record, shown) as nbytes_elsewhere:

            def on_bytes(nbytes: int, doing: str, subject: str = "") -> None:
                shown(nbytes, doing, subject)
                together.check()

            nbytes_read = _make(plan, begin.shares[0], staged.files, record, on_bytes, together)
            names = {shard.file_name for shard in plan.shards}
            together.wait_until(lambda: names <= staged.finished.keys() and nbytes_elsewhere() is not None)
        return nbytes_read + (nbytes_elsewhere() or 0)


def _follow(prepared: PreparedMerge, together: Together) -> None:
    """The part of the other ranks."""
    plan, rank = prepared.plan, together.ranks.rank
    begin: Begin = together.wait_for("begin")
    until = time.monotonic() + together.timeout_s / 2

    def wait(condition: Callable[[], bool]) -> bool:
        together.wait_until(lambda: condition() or time.monotonic() > until)
        return condition()

    sent, amounts = Sent(together), Counter[str]()

    def on_bytes(nbytes: int, doing: str, subject: str = "") -> None:
        amounts[doing] += nbytes
        together.show((dict(amounts), subject))
        together.check()

    with joined(prepared.target, begin.word, rank, wait) as folder:
        nbytes_read = _make(plan, begin.shares[rank], folder, sent, on_bytes, together)
    together.put(f"read {rank}", nbytes_read)


def _make(
    plan: MergePlan,
    share: Share,
    folder: Path,
    on_file: Callable[[WeightFile], object],
    on_bytes: Callable[..., object],
    together: Together,
) -> int:
    """Measures for others, and makes the files of a share; returns the bytes read."""
    nbytes_read = 0
    tensors = [tensor for tensor in plan.tensors if tensor.out.name in set(share.measured)]

    def counted(nbytes: int, doing: str, subject: str = "") -> None:
        nonlocal nbytes_read
        nbytes_read += nbytes
        on_bytes(nbytes, doing, subject)

    if tensors:
        with closing(values(plan, tensors, counted)) as found:
            for name, measured in found:
                together.put(f"measured {name}", measured)
    measured = SharedMeasures(share.elsewhere, lambda name: together.take(f"measured {name}"))
    return nbytes_read + write_files(plan, folder, share.files, on_file, on_bytes, measured)
