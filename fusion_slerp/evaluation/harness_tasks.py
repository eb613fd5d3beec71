"""Finds tasks of lm-evaluation-harness by name and opens their data, before any model runs.

Source: https://github.com/EleutherAI/lm-evaluation-harness, an optional package (`lm-eval`).
"""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fusion_slerp.errors import Problem, SettingsError, nearest, quoted, raise_all
from fusion_slerp.evaluation.settings import SO, check_number, is_usable, wrong

SHIPPED_TASKS = Path(__file__).parent / "tasks"
"""The folder of the tasks that ship: `fusion_slerp_demo`."""

SEED = 1234
"""Of numpy, torch and the choice of examples, as in the harness's command; Python's own seed is 0 there."""


@dataclass(frozen=True, slots=True)
class OpenTasks:
    """Tasks with their data, ready to run on any number of models.

    Attributes:
        tasks: The harness's tasks by name.
        groups: Its groups of tasks by name, for those that have a mean of their own.
    """

    tasks: Mapping[str, Any]
    groups: Mapping[str, Any]


def harness() -> Any:
    """Returns the package `lm_eval` with all that is used of it imported.

    Raises:
        SettingsError: It is not installed, or a package that it needs is broken.
    """
    try:
        for name in ("lm_eval.tasks", "lm_eval.models.huggingface"):
            import_module(name)
        return import_module("lm_eval")
    except ImportError as error:
        fields = (("found", str(error)), ("needed", "lm-eval, an optional package"))
        fix = "pip install 'fusion-slerp[lm-eval]'"
        raise Problem(
            SettingsError, "lm-evaluation-harness cannot be imported", fields, fix
        ).error() from error


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Seeds the global generators as the harness's command does, then restores those of the CPU."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def quiet(show_pbar: bool = False) -> Iterator[None]:
    """Keeps away what the harness logs and prints for the users of its own command, except errors.

    Args:
        show_pbar: Whether its progress bars are shown nevertheless, on standard error.
    """
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    modules = [] if show_pbar else _modules_with_bars()
    for module in modules:
        module.tqdm = _HiddenBar
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logger.setLevel(level)
        for module in modules:
            module.tqdm = tqdm


def _modules_with_bars() -> list[Any]:
    """The modules of the harness that make bars, and the one from which its functions import them."""
    names = [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]
    return [module for name in (*names, "tqdm") if getattr(module := sys.modules[name], "tqdm", None) is tqdm]


class _HiddenBar(tqdm):
    """A bar that is not shown: `lm_eval.evaluate` does not pass on the switch that the harness has for it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def open_tasks(tasks: str | Sequence[str], include_path: str | os.PathLike[str] | None = None) -> OpenTasks:
    """Returns the tasks of the given names with their data.

    Args:
        tasks: Names of tasks, groups or tags, patterns (`mmlu_*`), or paths of YAML files: a list, or one
            string with commas between them.
        include_path: A folder with more tasks. Python functions that their YAML files name are run.

    Raises:
        SettingsError: All at once: the harness is missing, there is no such folder, a name is unknown, a
            task's data is not available, or a task needs images, or runs code that the model writes.
    """
    problems: list[Problem] = []
    check_tasks(tasks, include_path, problems)
    raise_all(problems, SO)
    lm_eval, names = harness(), _names(tasks)
    opened: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    with quiet(), random_states_kept():
        manager = _manager(lm_eval, names, include_path)
        for name in names:
            specs = [name] if _is_file(name) else manager.match_tasks([name])
            if not specs:
                problems.append(_unknown(name, manager.all_tasks))
            for spec in specs:
                if _config(spec, manager).get("unsafe_code"):  # before its metrics are loaded, which are code
                    problems.append(_runs_code(spec))
                    continue
                try:
                    loaded = manager.load([spec])
                except Exception as error:  # loading runs code of tasks, which raises anything
                    problems.append(_cannot_open(spec, error, _config(spec, manager)))
                else:
                    opened |= loaded["tasks"]
                    groups |= loaded.get("groups", {})
    problems += [problem for task in opened.values() for problem in _refused(task)]
    raise_all(problems, SO)
    return OpenTasks(opened, groups)


def check_tasks(tasks: Any, include_path: Any, problems: list[Problem]) -> None:
    """Adds a problem unless tasks are named, and one unless the folder exists; see `open_tasks`."""
    names = _names(tasks) if isinstance(tasks, (str, Sequence)) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        needed = "at least one name; fusion_slerp_demo ships"
        problems.append(wrong("tasks", repr(tasks), needed, "fusion_slerp_demo"))
    if include_path is not None and not os.path.isdir(include_path):
        problems.append(
            wrong("include_path", f"no such folder: {include_path}", "a folder with tasks", "FOLDER")
        )


def check_run(
    limit: Any, num_fewshot: object, batch_size: object, device: object, problems: list[Problem]
) -> None:
    """Adds a problem for each setting of a run that is wrong; see `harness.run_tasks`."""
    check_limit(limit, problems)
    check_number("num_fewshot", num_fewshot, 0, 5, problems)
    check_number("batch_size", batch_size, 1, 1, problems, or_none=False)
    if not is_usable(device):
        problems.append(wrong("device", repr(device), "auto, or a device that this machine has", "auto"))


def check_limit(limit: Any, problems: list[Problem]) -> None:
    """Adds a problem unless it is a number of documents, a share of them, or None."""
    if limit is not None and not _is_limit(limit):
        needed = "a whole number of documents, a share between 0 and 1, or none for all"
        problems.append(wrong("limit", repr(limit), needed, 100))


def _is_limit(limit: Any) -> bool:
    is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
    return is_number and (0 < limit < 1 or (limit >= 1 and float(limit).is_integer()))


def _names(tasks: str | Sequence[str]) -> list[str]:
    return [name.strip() for name in tasks.split(",")] if isinstance(tasks, str) else list(tasks)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and os.path.isfile(name)


def _manager(lm_eval: Any, names: Sequence[str], include_path: Any) -> Any:
    """The index of tasks: of the local folders alone if it has all that the names stand for.

    The harness brings 14,000 tasks, and reading all their YAML files takes many seconds.
    """
    folders = [str(SHIPPED_TASKS)] + ([os.fspath(include_path)] if include_path is not None else [])
    local = lm_eval.tasks.TaskManager(include_path=folders, include_defaults=False)
    if all(_is_complete(name, local) or _is_file(name) for name in names):
        return local
    return lm_eval.tasks.TaskManager(include_path=folders)


def _is_complete(name: object, manager: Any) -> bool:
    """Whether an index has a task, or a group with all that is in it; a tag may stand for tasks elsewhere."""
    if name not in manager.all_groups:
        return name in manager.all_subtasks
    children = _config(str(name), manager)["task"]
    return isinstance(children, list) and all(
        _is_complete(child.get("task") if isinstance(child, dict) else child, manager) for child in children
    )


def _config(name: str, manager: Any) -> Mapping[str, Any]:
    """The YAML of a task or group; empty for a tag, a file, or a task that is a Python class."""
    entry = manager.task_index.get(name)
    return (entry.cfg if entry is not None else None) or {}


def _unknown(name: str, known: Sequence[str]) -> Problem:
    fields = (("needed", "a task, group or tag of lm-evaluation-harness, or one of include_path"),)
    fix = "choose one that this lists: lm_eval ls tasks"
    return Problem(SettingsError, f"no task {quoted(name)}{nearest(name, known)}", fields, fix)


def _cannot_open(name: str, error: Exception, config: Mapping[str, Any]) -> Problem:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    fields: list[tuple[str, object]] = [("found", reason)]
    fix = "correct the task's YAML file, or leave the task out"
    if dataset := config.get("dataset_path"):
        fields.insert(0, ("dataset", dataset))
        if isinstance(error, OSError):  # offline, or no such data set
            arguments = ", ".join(repr(each) for each in (dataset, config.get("dataset_name")) if each)
            fix = f'while online, run once: python -c "import datasets; datasets.load_dataset({arguments})"'
    return Problem(SettingsError, f"the task {quoted(name)} cannot be opened", tuple(fields), fix)


def _runs_code(name: str) -> Problem:
    fields = (("found", "it runs code that the model writes"), ("needed", "a task that runs no such code"))
    fix = f"lm_eval run --tasks {name} --confirm_run_unsafe_code --model_args pretrained=FOLDER"
    return Problem(SettingsError, f"the task {quoted(name)} is refused", fields, fix)


def _refused(task: Any) -> Iterator[Problem]:
    """Problems of a task that this program does not run."""
    name = task.config.task
    if getattr(task, "UNSAFE_CODE", False):
        yield _runs_code(name)
    if getattr(task, "MULTIMODAL", False):
        fields = (("found", "it needs images or sound"), ("needed", "a task of text alone"))
        yield Problem(SettingsError, f"the task {quoted(name)} is refused", fields, "leave the task out")
