"""Runs a plan's tensors in the order of the files, and finishes each file after its last tensor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future

from fusion_slerp import kernels
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.engine.output_digests import OutputDigests
from fusion_slerp.engine.report import TensorReport, WeightFile
from fusion_slerp.engine.steps import Batch, Large, OnBytes
from fusion_slerp.engine.threads import BEFORE_ALL, Sink, Threads
from fusion_slerp.kernels import Kernel, loops
from fusion_slerp.methods.method import BASE
from fusion_slerp.planning.memory import MAX_BATCH, STEPS_UNDER_WAY
from fusion_slerp.planning.plan import Merge, MergePlan, TensorPlan
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.open_files import OpenFiles


def execute(
    plan: MergePlan,
    sink: Sink,
    on_file: Callable[[WeightFile], object] = lambda file: None,
    *,
    on_bytes: OnBytes = lambda nbytes: None,
    digests: OutputDigests | None = None,
    tensors: Sequence[TensorPlan] | None = None,
) -> int:
    """Merges tensors of a plan into the sink.

    Memory: the buffers of `plan.memory`, regardless of the size of the model or its tensors.

    Args:
        plan: The merge.
        sink: Receives the results.
        on_file: Called from another thread after the sink has finished a file.
        on_bytes: Called in the calling thread with the number of bytes just measured or written.
        digests: Computes the digests of everything that is written; None for no digests.
        tensors: The tensors of the plan that are made, in its order; None for all.

    Returns:
        The number of bytes of weights that were read.

    Raises:
        FusionSlerpError: A weight is not finite, a file cannot be read or written, a result does not
            fit its type, or a model changed meanwhile. Work in progress is finished or cancelled
            before it is raised.
    """
    tensors = plan.tensors if tensors is None else tensors
    with (
        open_files(plan, tensors) as files,
        Threads(plan.memory, files, sink, digests) as threads,
    ):
        finishing = _Finishing(plan, threads, sink, digests, on_file)
        for tensor, report in zip(tensors, _run(plan.settings, tensors, threads, on_bytes), strict=True):
            finishing.take(tensor, report)
        finishing.end()
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
            combined[kernels.weighted_sum_kernel(dtypes, n), dtypes] = None
            if settings.how.n_passes(parameters)[0]:
                measured[loops.gram_of_differences if BASE in owners else loops.gram, words] = None
    for kernel, dtypes in measured | combined:
        kernels.prepare(kernel, *dtypes)


def _unlike(tensors: Sequence[TensorPlan]) -> Iterable[TensorPlan]:
    """One tensor of each kind that is merged, in the plan's order."""
    kinds: dict[tuple[object, ...], TensorPlan] = {}
    for tensor in tensors:
        if isinstance(tensor.work, Merge):
            words = [source.words.word for source in tensor.sources.values()]
            kinds.setdefault((id(tensor.work), tensor.is_large, tensor.out.dtype.word, *words), tensor)
    return kinds.values()


def groups_of(tensors: Sequence[TensorPlan]) -> Iterator[list[TensorPlan]]:
    """Yields runs of neighbours in one file that fill at most one chunk; each large tensor is its own run."""
    group: list[TensorPlan] = []
    n_free, end = 0, None
    for tensor in tensors:
        out, n, is_large = tensor.out, tensor.out.n_elements, tensor.is_large
        if group and (is_large or n > n_free or len(group) == MAX_BATCH or end != out.position()):
            yield group
            group = []
        if not group:
            n_free = 0 if is_large else CHUNK_ELEMENTS
        group.append(tensor)
        n_free -= n
        end = out.shard, out.offset + out.nbytes
    if group:
        yield group


def _run(
    settings: MergeSettings, tensors: Sequence[TensorPlan], threads: Threads, on_bytes: OnBytes
) -> Iterator[TensorReport]:
    threads.submit(BEFORE_ALL, prepare, tensors, settings)
    under_way: deque[Batch | Large] = deque()
    for group in groups_of(tensors):
        if under_way:
            under_way[-1].combine(on_bytes)
        while len(under_way) >= STEPS_UNDER_WAY:
            yield from under_way.popleft().finish(on_bytes)
        is_large = group[0].is_large
        step = Large(group[0], threads, settings) if is_large else Batch(group, threads, settings)
        under_way.append(step)
    if under_way:
        under_way[-1].combine(on_bytes)
    while under_way:
        yield from under_way.popleft().finish(on_bytes)


class _Finishing:
    """Finishes files on the writers' threads."""

    def __init__(
        self,
        plan: MergePlan,
        threads: Threads,
        sink: Sink,
        digests: OutputDigests | None,
        on_file: Callable[[WeightFile], object],
    ) -> None:
        self._shards, self._threads, self._sink = plan.shards, threads, sink
        self._digests, self._on_file = digests, on_file
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
            future.result()

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
        self._on_file(
            WeightFile(self._shards[shard].file_name, self._shards[shard].nbytes, digest, tuple(reports))
        )
