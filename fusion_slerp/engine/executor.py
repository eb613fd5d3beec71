"""Runs a plan's tensors in the order of the files, and finishes each file after its last tensor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from fusion_slerp import kernels
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.engine.output_digests import OutputDigests
from fusion_slerp.engine.report import TensorReport, WeightFile
from fusion_slerp.engine.steps import Batch, InEach, Large, Measured, OnBytes
from fusion_slerp.engine.threads import BEFORE_ALL, Sink, Threads
from fusion_slerp.engine.units import unit_of
from fusion_slerp.kernels import Kernel, loops
from fusion_slerp.methods.method import BASE
from fusion_slerp.passes.protocols import drive
from fusion_slerp.passes.weighted_sum import WeightedSum
from fusion_slerp.planning.memory import MAX_BATCH, STEPS_UNDER_WAY
from fusion_slerp.planning.plan import Merge, MergePlan, TensorPlan
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.open_files import OpenFiles
from fusion_slerp.waiting import result_of


class Child(NamedTuple):
    """One of the merged models that are made from one reading.

    Attributes:
        plan: Its merge.
        sink: Receives the results.
        on_file: Called from another thread after the sink has finished a file.
        tensors: The tensors of the plan that are made, in its order.
    """

    plan: MergePlan
    sink: Sink
    on_file: Callable[[WeightFile], object]
    tensors: Sequence[TensorPlan]


def execute(
    plan: MergePlan,
    sink: Sink,
    on_file: Callable[[WeightFile], object] = lambda file: None,
    *,
    on_bytes: OnBytes = lambda *done: None,
    digests: OutputDigests | None = None,
    tensors: Sequence[TensorPlan] | None = None,
    measured: Measured | None = None,
) -> int:
    """Merges tensors of a plan into the sink.

    Memory: the buffers of `plan.memory`, regardless of the size of the model or its tensors.

    Args:
        plan: The merge.
        sink: Receives the results.
        on_file: Called from another thread after the sink has finished a file.
        on_bytes: Called in the calling thread with the number of bytes just measured or written, the pass and
            the tensor; see `OnBytes`.
        digests: Computes the digests of everything that is written; None for no digests.
        tensors: The tensors of the plan that are made, in its order; None for all.
        measured: What earlier merges of the same models measured, and this one adds to; None to measure
            everything.

    Returns:
        The number of bytes of weights that were read.

    Raises:
        FusionSlerpError: A weight is not finite, a file cannot be read or written, a result does not
            fit its type, or a model changed meanwhile. Work in progress is finished or cancelled
            before it is raised.
    """
    child = Child(plan, sink, on_file, plan.tensors if tensors is None else tensors)
    return execute_all([child], on_bytes=on_bytes, digests=digests, measured=measured)


def execute_all(
    children: Sequence[Child],
    *,
    on_bytes: OnBytes = lambda *done: None,
    digests: OutputDigests | None = None,
    measured: Measured | None = None,
) -> int:
    """Makes several merged models from one reading of the source models; see `execute`.

    Args:
        children: The merged models: plans for the same source models that differ in the values of the
            method's options, see `are_alike`.
        on_bytes: As for `execute`.
        digests: The digests of all of them, see `engine.many.all_digests`; None for no digests.
        measured: As for `execute`.
    """
    first = children[0].plan
    if len(children) == 1:
        tensors: list[InEach] = [(tensor,) for tensor in children[0].tensors]
        memory, sink = first.memory, children[0].sink
    else:
        from fusion_slerp.engine import many

        tensors, memory, sink = many.tensors_of(children), many.memory_of(children), many.sink_of(children)
    with (
        open_files(first, [tensor for each in tensors for tensor in each]) as files,
        Threads(memory, files, sink, digests) as threads,
    ):
        finishing = [_Finishing(child, k, threads, sink, digests) for k, child in enumerate(children)]
        steps = _run(first.settings, tensors, threads, on_bytes, measured)
        for in_each, reports in zip(tensors, steps, strict=True):
            for tensor, report in zip(in_each, reports, strict=True):
                finishing[tensor.out.shard // len(first.shards)].take(tensor, report)
        for each in finishing:
            each.end()
        files.check_unchanged()
    return files.nbytes_read


def open_files(plan: MergePlan, tensors: Sequence[TensorPlan]) -> OpenFiles:
    """Returns the files that tensors of a plan are made from, as a context manager that opens them."""
    states = {file: state for parent in plan.parents.values() for file, state in parent.files.items()}
    used = {entry.file for t in tensors for source in t.sources.values() for entry in source.entries}
    return OpenFiles({file: states[file] for file in used})


def prepare(tensors: Sequence[TensorPlan], settings: MergeSettings) -> None:
    """Compiles the kernels of a merge, which takes a few hundredths of a second, while other threads read."""
    measured: dict[tuple[Kernel, tuple[str, ...]], None] = {}
    combined: dict[tuple[Kernel, tuple[str, ...]], None] = {}
    if not settings.how.is_in_span:
        return  # kernels of their own, compiled at their first use
    for tensor in _unlike(tensors):
        assert isinstance(tensor.work, Merge), tensor.out.name
        for owners, parameters in tensor.work.units.items():
            words = tuple(tensor.sources[label].words.word for label in owners)
            dtypes = (*words, tensor.out.dtype.word)
            n = CHUNK_ELEMENTS if tensor.is_large else 0
            factors = _known_factors(tensor, parameters, settings)
            combined[kernels.weighted_sum_kernel(dtypes, n, factors), dtypes] = None
            if settings.how.n_passes(parameters)[0]:
                measured[loops.gram_of_differences if BASE in owners else loops.gram, words] = None
    for kernel, dtypes in measured | combined:
        kernels.prepare(kernel, *dtypes)


def _known_factors(tensor: TensorPlan, parameters: Any, settings: MergeSettings) -> Sequence[float]:
    """The coefficients of a unit for which nothing is measured; else none."""
    if settings.how.n_passes(parameters)[1]:
        return ()
    made = drive(settings.how.start(parameters, unit_of(tensor)), lambda: ())
    return made.combine.coefficients if isinstance(made.combine, WeightedSum) else ()


def _unlike(tensors: Sequence[TensorPlan]) -> Iterable[TensorPlan]:
    """One tensor of each kind that is merged, in the plan's order."""
    kinds: dict[tuple[object, ...], TensorPlan] = {}
    for tensor in tensors:
        if isinstance(tensor.work, Merge):
            words = [source.words.word for source in tensor.sources.values()]
            kinds.setdefault((id(tensor.work), tensor.is_large, tensor.out.dtype.word, *words), tensor)
    return kinds.values()


def groups_of(tensors: Sequence[InEach]) -> Iterator[list[InEach]]:
    """Yields runs of neighbours in one file that fill at most one chunk; each large tensor is its own run."""
    group: list[InEach] = []
    n_free, end = 0, None
    for in_each in tensors:
        out, large = in_each[0].out, is_large(in_each)
        n, are_neighbours = out.n_elements, bool(group) and len(in_each) == len(group[0])
        if group and (
            large or n > n_free or len(group) == MAX_BATCH or end != out.position() or not are_neighbours
        ):
            yield group
            group = []
        if not group:
            n_free = 0 if large else CHUNK_ELEMENTS
        group.append(in_each)
        n_free -= n
        end = out.shard, out.offset + out.nbytes
    if group:
        yield group


def is_large(in_each: InEach) -> bool:
    """Whether a tensor is processed in its own chunks in any of the merged models."""
    return any(tensor.is_large for tensor in in_each)


def _run(
    settings: MergeSettings,
    tensors: Sequence[InEach],
    threads: Threads,
    on_bytes: OnBytes,
    measured: Measured | None,
) -> Iterator[list[TensorReport]]:
    threads.submit(BEFORE_ALL, prepare, [tensor for each in tensors for tensor in each], settings)
    under_way: deque[Batch | Large] = deque()
    last: Large | None = None
    for group in groups_of(tensors):
        while len(under_way) >= STEPS_UNDER_WAY:
            yield from under_way.popleft().finish(on_bytes)
        if is_large(group[0]):
            step = Large(group[0], threads, settings, measured=measured)
            if step.is_measured:
                _wait_for(under_way)
                step.begin(threads.memory.threads)
            if last is not None:
                last.combine(on_bytes)
            step.begin()
            if not step.is_measured:
                step.combine(on_bytes)
            last = step
        else:
            if last is not None and under_way[-1] is not last:  # only one batch may overtake it
                last.combine(on_bytes)
            step = Batch(group, threads, settings)
        under_way.append(step)
    if last is not None:
        last.combine(on_bytes)
    while under_way:
        yield from under_way.popleft().finish(on_bytes)


def _wait_for(steps: Iterable[Batch | Large]) -> None:
    """Waits until the combining tasks that are submitted have ended."""
    for step in steps:
        if isinstance(step, Large):
            step.wait()


class _Finishing:
    """Finishes the files of one merged model on the writers' threads.

    Args:
        child: The merged model.
        k: Its index: its files are numbered after those of the models before it.
        threads: The threads.
        sink: Receives the results.
        digests: The digests, if any.
    """

    def __init__(
        self, child: Child, k: int, threads: Threads, sink: Sink, digests: OutputDigests | None
    ) -> None:
        self._shards, self._on_file = child.plan.shards, child.on_file
        self._before = k * len(self._shards)
        self._threads, self._sink, self._digests = threads, sink, digests
        self._under_way: list[Future[None]] = []
        self._shard: int | None = None
        self._reports: list[TensorReport] = []

    def take(self, tensor: TensorPlan, report: TensorReport) -> None:
        """Adds the report of a written tensor; the first tensor of another file finishes the one before."""
        if self._shard not in (None, tensor.out.shard):
            self._finish()
        self._shard = tensor.out.shard
        self._reports.append(report)

    def end(self) -> None:
        """Finishes the last file, and waits for all files."""
        if self._shard is not None:
            self._finish()
        for future in self._under_way:
            result_of(future)

    def _finish(self) -> None:
        assert self._shard is not None, "no file"
        for finished in filter(Future.done, self._under_way):
            finished.result()  # a failure ends the merge now, not at its end
        self._under_way.append(self._threads.writers.submit(self._file, self._shard, self._reports))
        self._shard, self._reports = None, []

    def _file(self, shard: int, reports: list[TensorReport]) -> None:
        self._sink.finish(shard)
        digest = ""
        if self._digests is not None:
            self._threads.files.check_unchanged()  # a file is recorded as finished only if no model changed
            digests = self._digests.tensors(shard)
            digest = self._digests.file(shard)
            reports = [report._replace(digest=digests[report.name]) for report in reports]
        made = self._shards[shard - self._before]
        self._on_file(WeightFile(made.file_name, made.nbytes, digest, tuple(reports)))
