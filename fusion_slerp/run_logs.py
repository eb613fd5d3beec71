"""Logs of merges and sweeps in trackio or Weights & Biases, through their own packages if installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fusion_slerp.engine.report import TensorReport
from fusion_slerp.errors import Problem, SettingsError
from fusion_slerp.settings.labels import BASE

if TYPE_CHECKING:
    from fusion_slerp.api import MergeResult
    from fusion_slerp.planning.plan import MergePlan

log = logging.getLogger(__name__)

OFFLINE = {
    "trackio": "trackio keeps its logs on this machine; check that its folder can be written to",
    "wandb": "run `wandb login`, or keep the log on this machine: export WANDB_MODE=offline",
}
"""The packages that keep logs, with the remedy where one cannot start."""

PROJECT = "fusion-slerp"
"""The project if none is named."""


class RunLog:
    """One run in a log. This one keeps nothing."""

    def log_merge(self, result: MergeResult) -> None:
        """Logs a finished merge: tensors by rule, mean angle, bytes and seconds."""
        self.log(merge_values(result))

    def log_point(self, values: Mapping[str, Any], scores: Mapping[str, Mapping[str, float]]) -> None:
        """Logs one point of a sweep or a trial of a search, as the run's next step.

        Args:
            values: The values of the options that vary, by name; those that are not numbers as strings.
            scores: The scores of each text or task by name, as `Evaluation.scores`.
        """
        named = {f"value/{name}": _plain(value) for name, value in values.items()}
        scored = {f"{text}/{name}": score for text, own in scores.items() for name, score in own.items()}
        self.log({**named, **scored})

    def log(self, values: Mapping[str, Any]) -> None:
        """Logs values by name, as the run's next step."""


class _PackageLog(RunLog):
    def __init__(self, package: Any, project: str, config: Mapping[str, Any], name: str | None) -> None:
        self._name, self._package = package.__name__, package
        self._run = package.init(project=project, name=name, config=dict(config))

    def log(self, values: Mapping[str, Any]) -> None:
        self._try(lambda: self._run.log(dict(values)))

    def finish(self) -> None:
        self._try(self._package.finish)  # the run's own method would leave one that ends again at exit

    def _try(self, work: Callable[[], object]) -> None:
        """Does it; a failure is a warning, since no log is worth a merge."""
        try:
            work()
        except Exception as error:  # whatever the package raises
            log.warning("cannot log to %s: %s", self._name, error)


def read_target(to: str) -> tuple[str, str]:
    """Returns the package and the project of `trackio`, `wandb:PROJECT` and the like.

    Raises:
        SettingsError: The package is unknown or not installed.
    """
    package, _, project = to.partition(":")
    if package not in OFFLINE:
        fields = (("found", to), ("needed", "trackio or wandb, with :PROJECT if wanted"))
        raise Problem(SettingsError, "unknown log", fields, "use --log-to trackio").error()
    if importlib.util.find_spec(package) is None:
        fields = (("needed", package), ("found", f"no such package for {sys.executable}"))
        raise Problem(SettingsError, f"{package} is not installed", fields, f"pip install {package}").error()
    return package, project or PROJECT


@contextmanager
def run_log(
    to: str | None, config: Mapping[str, Any], name: str | None = None, is_silent: bool = False
) -> Iterator[RunLog]:
    """Opens a run in a log, which ends with the block.

    Args:
        to: The package, and the project after a colon: `"trackio"`, `"wandb:merges"`. None logs nothing.
        config: The run's settings.
        name: The run's name; None lets the package choose.
        is_silent: Whether what the package prints is dropped; otherwise it goes to standard error.

    Raises:
        SettingsError: The package is unknown, not installed, or cannot start a run.
    """
    if to is None:
        yield RunLog()
        return
    package, project = read_target(to)
    with _printing(is_silent):
        try:
            run = _PackageLog(importlib.import_module(package), project, config, name)
        except Exception as error:  # whatever the package raises: no login, no network, a full disk
            raise _cannot_start(package, error).error() from error
    try:
        yield run
    finally:
        with _printing(is_silent):
            run.finish()


def _cannot_start(package: str, error: Exception) -> Problem:
    fields = (("because", f"{type(error).__name__}: {error}"),)
    return Problem(SettingsError, f"{package} cannot start a run", fields, OFFLINE[package])


@contextmanager
def _printing(is_silent: bool) -> Iterator[None]:
    """Keeps standard output for results: what the package prints goes to standard error, or nowhere."""
    nowhere = io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(nowhere if is_silent else sys.stderr))
        if is_silent:
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def merge_config(plan: MergePlan) -> dict[str, Any]:
    """Returns the settings of a merge for a log: the models by label, and every option by name."""
    models = {label: parent.source for label, parent in plan.parents.items()}
    options = {name: _plain(value) for name, value in plan.settings.options.items() if value is not None}
    named = {"base_model" if label == BASE else f"model_{label}": source for label, source in models.items()}
    return named | options


def merge_values(result: MergeResult) -> dict[str, float]:
    """Returns what a merge did as numbers by name: tensors by rule, mean angle, bytes, seconds."""
    values: dict[str, float] = {f"rule/{rule}": count for rule, count in result.counts.items()}
    angle = mean_angle_deg(result.report)
    values |= {} if angle is None else {"mean_angle_deg": angle}
    return values | {
        "tensors": len(result.report),
        "bytes_read": result.nbytes_read,
        "bytes_written": result.plan.nbytes_written,
        "seconds": result.elapsed_s,
    }


def mean_angle_deg(report: Sequence[TensorReport]) -> float | None:
    """Returns the mean angle in degrees, weighted by elements; None if no tensor has one."""
    measured = [row for row in report if row.angle_deg is not None and row.n_elements]
    n_elements = sum(row.n_elements for row in measured)
    return sum((row.angle_deg or 0.0) * row.n_elements for row in measured) / n_elements if measured else None


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else str(value)
