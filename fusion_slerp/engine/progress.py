"""The progress bar of a merge."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from fusion_slerp.planning.amounts import nbytes_processed
from fusion_slerp.planning.plan import MergePlan


@contextmanager
def progress(plan: MergePlan, done: Collection[int] = ()) -> Iterator[Callable[[int], object]]:
    """Shows bytes measured and written, rate and time left on standard error, if `show_pbar` is set.

    A further pass that the values require increases the total; one that they do not require is left out at
    the end.

    Args:
        plan: The merge.
        done: Indexes of shards that are already finished; they count as done.
    """
    if not plan.settings.show_pbar:
        yield lambda nbytes: None
        return
    from tqdm import tqdm

    work = [(tensor.out.shard in done, nbytes_processed(tensor, plan.settings)) for tensor in plan.tensors]
    with tqdm(
        total=sum(nbytes for _, nbytes in work),
        initial=sum(nbytes for is_done, nbytes in work if is_done),
        unit="B",
        unit_scale=True,
        desc="merging",
        mininterval=0.2,
    ) as bar:

        def on_bytes(nbytes: int) -> None:
            bar.total = max(bar.total, bar.n + nbytes)
            bar.update(nbytes)

        yield on_bytes
        bar.total = bar.n
