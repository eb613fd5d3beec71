"""The progress of long work: a bar for people, JSON lines for programs, or nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from fusion_slerp.engine.event_lines import progress_fields, write_event
from fusion_slerp.engine.tally import Tally
from fusion_slerp.planning.amounts import MEASURING, nbytes_by_pass
from fusion_slerp.planning.plan import MergePlan, TensorPlan
from fusion_slerp.settings.merge_settings import MergeSettings, ShowPbar
from fusion_slerp.tensor_names import layer_of

if TYPE_CHECKING:
    from tqdm import tqdm

INTERVAL_S = 0.25
"""Seconds between two JSON lines of progress, at least."""

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {speed}{postfix}]"


class Progress:
    """Is told of bytes that are done, from any thread, and shows them. This one shows nothing."""

    def __call__(self, nbytes: int, doing: str, subject: str = "") -> None:
        """Adds bytes.

        Args:
            nbytes: The number of bytes that were just done.
            doing: The pass that they belong to: `"measuring"`, `"merging"`, `"copying"`, `"verifying"`, ...
            subject: The tensor or file.
        """

    def file(self, name: str, nbytes: int) -> None:
        """Says that a file is finished.

        Args:
            name: Its name.
            nbytes: Its size.
        """


class _View(Protocol):
    def show(self, tally: Tally) -> None: ...

    def file(self, name: str, nbytes: int) -> None: ...

    def end(self, tally: Tally) -> None: ...

    def stop(self) -> None: ...


class _Shown(Progress):
    def __init__(self, tally: Tally, view: _View) -> None:
        self._tally, self._view, self._lock = tally, view, threading.Lock()

    def __call__(self, nbytes: int, doing: str, subject: str = "") -> None:
        with self._lock:
            self._tally.add(nbytes, doing, subject)
            self._view.show(self._tally)

    def file(self, name: str, nbytes: int) -> None:
        with self._lock:
            self._view.file(name, nbytes)

    def end(self) -> None:
        with self._lock:
            self._tally.end()
            self._view.end(self._tally)


@contextmanager
def following(
    task: str,
    totals: Mapping[str, int],
    shown: ShowPbar,
    *,
    done: Mapping[str, int] | None = None,
    files: Sequence[str] = (),
    leave: bool = True,
) -> Iterator[Progress]:
    """Shows the progress of what runs inside on standard error.

    Args:
        task: What runs, for programs: `"merge"`, `"verify"`, ...
        totals: The bytes of each pass. A pass that needs more increases its total; what is not needed is left
            out at the end.
        shown: True for a bar, `"json"` for JSON lines, False for nothing.
        done: The bytes of each pass that were done before.
        files: The files that will be finished, for programs.
        leave: Whether the bar stays when it is full.
    """
    if not shown or not sum(totals.values()):
        yield Progress()
        return
    tally = Tally({name: nbytes for name, nbytes in totals.items() if nbytes}, done)
    view = _Lines(task, tally, files) if shown == "json" else _Bar(tally, leave)
    progress = _Shown(tally, view)
    try:
        yield progress
    except BaseException:
        view.stop()
        raise
    progress.end()


@contextmanager
def progress(plans: Sequence[MergePlan], done: Sequence[Collection[int]] = ((),)) -> Iterator[Progress]:
    """Shows the progress of merges that are made together, if `show_pbar` is set; see `following`.

    Args:
        plans: The merges, as a rule one. The first one's measures are everybody's.
        done: Of each, the indexes of shards that are already finished; they count as done.
    """
    first = plans[0].settings
    if not first.show_pbar:
        yield Progress()
        return
    totals, before, files = Counter[str](), Counter[str](), list[str]()
    for k, (plan, finished) in enumerate(zip(plans, done, strict=True)):
        of_it = _totals(plan.tensors, plan.settings)
        of_them = _totals([t for t in plan.tensors if t.out.shard in finished], plan.settings)
        if k:
            of_it, of_them = ({n: v for n, v in each.items() if n != MEASURING} for each in (of_it, of_them))
        totals.update(of_it)
        before.update(of_them)
        files += [shard.file_name for i, shard in enumerate(plan.shards) if i not in finished]
    with following("merge", totals, first.show_pbar, done=before, files=files) as shown:
        yield shown


def _totals(tensors: Sequence[TensorPlan], settings: MergeSettings) -> dict[str, int]:
    totals: dict[str, int] = {}
    for tensor in tensors:
        for name, nbytes in nbytes_by_pass(tensor, settings).items():
            totals[name] = totals.get(name, 0) + nbytes
    return totals


class _Lines:
    """One JSON object a line, at most one of progress every `INTERVAL_S`."""

    def __init__(self, task: str, tally: Tally, files: Sequence[str]) -> None:
        self._last = time.monotonic()
        fields = {"task": task, "files": list(files)}
        write_event("start", **fields, **progress_fields(tally))

    def show(self, tally: Tally) -> None:
        if time.monotonic() - self._last >= INTERVAL_S:
            self._last = time.monotonic()
            write_event("progress", **progress_fields(tally))

    def file(self, name: str, nbytes: int) -> None:
        write_event("file", name=name, bytes=nbytes)

    def end(self, tally: Tally) -> None:
        write_event("progress", **progress_fields(tally))

    def stop(self) -> None:
        pass


class _Bar:
    """A bar that names the pass, the bytes, the rate, the time left, and the layer."""

    def __init__(self, tally: Tally, leave: bool) -> None:
        self._bar: tqdm[Any] = _bar_class()(
            tally=tally,
            total=tally.total,
            initial=tally.done,
            unit="B",
            unit_scale=True,
            desc=tally.doing,
            mininterval=0.2,
            leave=leave,
            bar_format=BAR,
            dynamic_ncols=True,
        )

    def show(self, tally: Tally) -> None:
        bar = self._bar
        bar.desc, bar.total = tally.doing, tally.total
        bar.postfix = _short(tally.subject)
        bar.update(tally.done - bar.n)

    def file(self, name: str, nbytes: int) -> None:
        pass

    def end(self, tally: Tally) -> None:
        self._bar.total, self._bar.postfix = tally.total, ""
        self._bar.update(tally.done - self._bar.n)
        self._bar.close()

    def stop(self) -> None:
        self._bar.close()


def _bar_class() -> Any:
    """Tqdm with our rate and time left; it is imported where a bar is shown."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, tally: Tally, **kwargs: Any) -> None:
            self.tally = tally
            super().__init__(*args, **kwargs)

        @property
        def format_dict(self) -> Any:
            left_s, rate = self.tally.left_s, self.tally.rate
            left = "?" if left_s is None else self.format_interval(round(left_s))
            speed = "?" if rate is None else f"{self.format_sizeof(rate)}B/s"
            return {**super().format_dict, "left": left, "speed": speed}

    return Bar


def _short(subject: str) -> str:
    """What fits next to a bar: the layer, or the name without `model.` and `.weight`."""
    layer = layer_of(subject)
    return f"layer {layer[1]}" if layer else subject.removeprefix("model.").removesuffix(".weight")
