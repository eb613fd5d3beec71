"""The front door: merge two checkpoints to a folder, or into memory."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.checkpoint.folder import Checkpoint
from fusion_slerp.checkpoint.shards import ShardWriter
from fusion_slerp.checkpoint.source import open_source
from fusion_slerp.errors import FusionSlerpError, raise_all
from fusion_slerp.execute.memory_sink import MemorySink
from fusion_slerp.execute.pipeline import execute
from fusion_slerp.plan import MergePlan
from fusion_slerp.planning import make_plan
from fusion_slerp.publish.model_card import card_parent, model_card
from fusion_slerp.publish.side_files import SideFile, nbytes_of, side_files, write_side_files
from fusion_slerp.publish.staging import check_apart, check_place, check_room, staging
from fusion_slerp.report import TensorReport, count_rules
from fusion_slerp.settings import settings_from

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge made.

    Attributes:
        out: The child's folder.
        plan: What was decided before any weight was read.
        report: What happened to each tensor, in the order of the child's files.
        elapsed_s: Wall time in seconds, reading headers to the published folder.
    """

    out: Path
    plan: MergePlan
    report: tuple[TensorReport, ...]
    elapsed_s: float

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors were made by each rule."""
        return count_rules(self.report)

    def __str__(self) -> str:
        rules = ", ".join(f"{count} {rule}" for rule, count in self.counts.items())
        size = self.plan.nbytes_written / 1e9
        return f"{self.out}: {len(self.report)} tensors ({rules}), {size:.2f} GB in {self.elapsed_s:.1f} s"


def plan_merge(a: str | os.PathLike[str], b: str | os.PathLike[str], **options: Any) -> MergePlan:
    """Returns what `merge` would do, from headers and configs alone; writes nothing.

    Args:
        a: Parent a (t = 0): a folder, or a hub id, with `@revision` if wanted.
        b: Parent b (t = 1).
        **options: The fields of `MergeSettings`.

    Raises:
        FusionSlerpError: As `merge`.
    """
    settings = settings_from(options)
    return make_plan(*_open_both(a, b), settings)


def _open_both(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> tuple[Checkpoint, Checkpoint]:
    """Opens both parents; what is wrong with either is raised together."""
    opened, failures = [], []
    for source in (a, b):
        try:
            opened.append(open_source(source))
        except FusionSlerpError as error:
            failures.append(error)
    raise_all(failures)
    return opened[0], opened[1]


def merge(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    **options: Any,
) -> MergeResult:
    """Merges two causal language models into the folder `out`, streaming.

    The folder appears complete or not at all. Memory use depends neither on the size of the
    models nor on that of their largest tensor.

    Args:
        a: Parent a (t = 0): a folder, or a hub id, with `@revision` if wanted.
        b: Parent b (t = 1).
        out: The child's folder; must not exist unless `overwrite=True`.
        **options: The fields of `MergeSettings`.

    Raises:
        SettingsError: An option is unknown or has no usable value.
        CheckpointError: A parent is missing, damaged, quantised, or holds NaN or infinity.
        MismatchError: The parents do not belong together.
        OutputError: The child cannot be written at `out`.
    """
    return run_merge(prepare_merge(a, b, out, **options))


@dataclass(frozen=True, slots=True)
class PreparedMerge:
    """A merge of which everything is decided and checked, and nothing is written.

    Attributes:
        target: The child's folder, an absolute real path.
        plan: What happens to every tensor.
        files: The files beside the weights.
        started: When the preparation began, on `time.perf_counter`.
    """

    target: Path
    plan: MergePlan
    files: Mapping[str, SideFile]
    started: float

    @property
    def nbytes_written(self) -> int:
        """Bytes of all files of the child but its card and index."""
        return self.plan.nbytes_written + sum(map(nbytes_of, self.files.values()))


def prepare_merge(
    a: str | os.PathLike[str], b: str | os.PathLike[str], out: str | os.PathLike[str], **options: Any
) -> PreparedMerge:
    """Does all of `merge` that comes before the first weight; arguments and errors are the same."""
    started = time.perf_counter()
    settings = settings_from(options)
    target = Path(out).expanduser().resolve()
    parent_a, parent_b = _open_both(a, b)
    apart = check_apart(target, {parent_b.folder: "model b", parent_a.folder: "model a"})
    plan = make_plan(parent_a, parent_b, settings, also=apart + check_place(target, settings.overwrite))
    prepared = PreparedMerge(target, plan, side_files(plan.a, plan.tokenizer, plan.configs), started)
    apart = check_apart(target, {plan.tokenizer.folder: "the tokenizer"})
    raise_all(apart + check_room(target, prepared.nbytes_written))
    return prepared


def run_merge(prepared: PreparedMerge) -> MergeResult:
    """Does the rest of `merge`: reads, merges, writes and publishes."""
    plan, target = prepared.plan, prepared.target
    _announce(plan)
    with staging(target) as folder:
        report = _write_weights(plan, folder)
        write_side_files(prepared.files, folder)
        parents = [card_parent(plan.a), card_parent(plan.b)]
        card = model_card(parents, plan.settings, report, target.name)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return MergeResult(target, plan, report, time.perf_counter() - prepared.started)


def merge_into_memory(
    a: str | os.PathLike[str], b: str | os.PathLike[str], **options: Any
) -> tuple[dict[str, torch.Tensor], tuple[TensorReport, ...]]:
    """Merges two causal language models into a state dict; needs the child's size in memory.

    Args:
        a: Parent a (t = 0): a folder, or a hub id, with `@revision` if wanted.
        b: Parent b (t = 1).
        **options: The fields of `MergeSettings`.

    Returns:
        The child's tensors by name, on the CPU, and what happened to each.

    Raises:
        FusionSlerpError: As `merge`, except for the output.
    """
    return run_in_memory(plan_merge(a, b, **options))


def run_in_memory(plan: MergePlan) -> tuple[dict[str, torch.Tensor], tuple[TensorReport, ...]]:
    """Runs a plan as `merge_into_memory` does."""
    _announce(plan)
    sink = MemorySink(plan)
    with progress(plan) as on_bytes:
        report = tuple(execute(plan, sink, on_bytes))
    return sink.state_dict(), report


def _announce(plan: MergePlan) -> None:
    a, b, t = plan.a.source, plan.b.source, plan.settings.t
    log.info("merging %s (a, t = 0) and %s (b, t = 1) at t = %s", a, b, t)
    for warning in plan.warnings:
        log.warning("%s", warning)


def _write_weights(plan: MergePlan, folder: Path) -> tuple[TensorReport, ...]:
    writer = ShardWriter(folder, plan.slots, plan.shards, plan.settings.direct_io)
    with writer, progress(plan) as on_bytes:
        return tuple(execute(plan, writer, on_bytes))


@contextmanager
def progress(plan: MergePlan) -> Iterator[Callable[[int], object]]:
    """Shows bytes done, rate and time left on standard error, if `show_pbar` asks for it."""
    if not plan.settings.show_pbar:
        yield lambda nbytes: None
        return
    from tqdm import tqdm

    total = sum(tensor.out.nbytes for tensor in plan.tensors)
    with tqdm(total=total, unit="B", unit_scale=True, desc="merging", mininterval=0.2) as bar:
        yield bar.update
