"""Tasks of lm-evaluation-harness on which the points of a sweep are evaluated, before they are opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.errors import Problem, raise_all
from fusion_slerp.hashes import file_digest
from fusion_slerp.sweeps.scores import short

if TYPE_CHECKING:
    from fusion_slerp.evaluation.harness_tasks import OpenTasks

HASH = "blake3"

DEFINITIONS = (".yaml", ".yml", ".py")
"""Files that define tasks. Their data is recognised by the hashes of the documents."""

SO = "nothing was evaluated"


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks by name, and how much of them is run.

    Attributes:
        names: Names of tasks, groups or tags, patterns, or YAML files.
        include_path: A folder with more tasks; None without.
        limit: Only the first documents of each: how many, or a share if below 1; None runs all.
    """

    names: tuple[str, ...]
    include_path: str | None = None
    limit: float | None = None

    def identity(self) -> dict[str, Any]:
        """Returns what decides the scores, apart from the models: plain values.

        Raises:
            OSError: A file that defines tasks cannot be read.
        """
        try:
            of_harness = version("lm_eval")
        except PackageNotFoundError:
            of_harness = None
        files = {str(file): file_digest(path, HASH) for file, path in self._definitions()}
        return {"names": list(self.names), "limit": self.limit, "lm_eval": of_harness, "files": files}

    def open(self, batch_size: Any, device: Any) -> OpenTasks:
        """Returns the tasks with their data; imports the harness.

        Args:
            batch_size: Requests in one forward pass, to be checked as well.
            device: A torch device or `auto`, to be checked as well.

        Raises:
            SettingsError: All that is wrong, at once; as `harness_tasks.open_tasks`.
        """
        from fusion_slerp.evaluation.harness_tasks import check_run, check_tasks, open_tasks

        problems: list[Problem] = []
        check_tasks(self.names, self.include_path, problems)
        check_run(self.limit, None, batch_size, device, problems)
        raise_all(problems, SO)
        return open_tasks(self.names, self.include_path)

    def _definitions(self) -> Iterator[tuple[str, Path]]:
        """Yields the files that define tasks, each with a name that does not depend on where it is."""
        for name in self.names:
            if name.endswith(DEFINITIONS) and os.path.isfile(name):
                yield os.path.basename(name), Path(name)
        for folder, _, files in os.walk(self.include_path) if self.include_path is not None else ():
            for file in sorted(files):
                if file.endswith(DEFINITIONS):
                    path = Path(folder) / file
                    yield str(path.relative_to(self.include_path or "")), path


def make_tasks(
    names: str | Sequence[str] | None,
    include_path: str | os.PathLike[str] | None = None,
    limit: float | None = None,
) -> Tasks | None:
    """Returns the tasks of these names, a sequence or one string with commas; None without names."""
    if not names:
        return None
    listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
    folder = None if include_path is None else os.path.abspath(os.path.expanduser(include_path))
    return Tasks(tuple(map(str, listed)), folder, limit)


def higher_is_better(tasks: OpenTasks, path: str) -> bool | None:
    """Whether a higher score of a task or group is better; None if the path is none's, or it does not say."""
    path = short(path)
    for name in (*tasks.tasks, *tasks.groups):
        if path.startswith(f"{name}."):
            metric = path[len(name) + 1 :].partition(",")[0]
            own = [tasks.tasks[name]] if name in tasks.tasks else list(tasks.tasks.values())
            known: list[Mapping[str, bool]] = [each.higher_is_better() for each in own]
            return next((each[metric] for each in known if metric in each), None)
    return None
