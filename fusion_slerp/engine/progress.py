"""The progress bar of a merge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fusion_slerp.planning.plan import MergePlan


@contextmanager
def progress(plan: MergePlan, nbytes_done: int = 0) -> Iterator[Callable[[int], object]]:
    """Shows bytes done, rate and time left on standard error, if `show_pbar` asks for it.

    Args:
        plan: What is to be done.
        nbytes_done: What of it is done already.
    """
    if not plan.settings.show_pbar:
        yield lambda nbytes: None
        return
    from tqdm import tqdm

    total = sum(tensor.out.nbytes for tensor in plan.tensors)
    with tqdm(
        total=total, initial=nbytes_done, unit="B", unit_scale=True, desc="merging", mininterval=0.2
    ) as bar:
        yield bar.update
