"""The study of a search: `study.db`, Optuna's storage in SQLite, which its own tools read.

Only finished trials are written, each in one transaction. So whenever the process dies, the study is that of
a search with fewer trials.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.errors import FusionSlerpError, OutputError, Problem, setting
from fusion_slerp.searches.record import COMPLETE, FAILED, Trial, differing, trial_fields, trial_from
from fusion_slerp.searches.sampling import OURS, Direction, Suggestion, distributions, params_of
from fusion_slerp.searches.space import Space

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.study import Study as OptunaStudy
    from optuna.trial import FrozenTrial

FILE, NEW = "study.db", ".study.db.new"
NAME = "fusion_slerp"
"""The name of the study in its storage."""


@dataclass(frozen=True, slots=True)
class Study:
    """An open study.

    Attributes:
        inner: The study as Optuna has it.
        space: What is chosen from.
    """

    inner: OptunaStudy
    space: Space

    @property
    def finished(self) -> list[FrozenTrial]:
        """All trials as Optuna has them, in their order."""
        return self.inner.get_trials(deepcopy=False)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, in their order."""
        return tuple(trial_from(trial.user_attrs[OURS]) for trial in self.finished)

    def add(self, trial: Trial, suggestion: Suggestion) -> None:
        """Adds a finished trial."""
        from optuna.trial import TrialState, create_trial

        states = {COMPLETE: TrialState.COMPLETE, FAILED: TrialState.FAIL}
        is_stopped = trial.state not in states
        assert trial.loss is not None or trial.state == FAILED
        self.inner.add_trial(
            create_trial(
                state=states.get(trial.state, TrialState.PRUNED),
                value=trial.loss if trial.state == COMPLETE else None,
                params=params_of(self.space, trial.values),
                distributions=distributions(self.space),
                user_attrs={OURS: trial_fields(trial)},
                system_attrs=dict(suggestion.attributes),
                # All trials see the parts in one order, so those that stop after equally many compare.
                intermediate_values={trial.n_parts: trial.loss} if is_stopped and trial.loss else {},
            )
        )


@contextmanager
def opened(
    folder: Path | None, space: Space, identity: Mapping[str, Any], direction: Direction
) -> Iterator[Study]:
    """Opens the study in a folder, or makes it.

    Args:
        folder: The folder of the search, which exists; None keeps the study in memory.
        space: What is chosen from.
        identity: What decides the sequence of trials.
        direction: `minimize` or `maximize`.

    Raises:
        OutputError: The file is another search's, another version's, or no study.
    """
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it reports every study that it makes
    try:
        if folder is None:
            yield Study(optuna.create_study(direction=direction), space)
            return
        if not (folder / FILE).exists():
            _make(folder, identity, direction)
        with _storage(folder / FILE) as storage:
            yield Study(_load(storage, folder, identity), space)
    finally:
        optuna.logging.set_verbosity(before)


def _make(folder: Path, identity: Mapping[str, Any], direction: Direction) -> None:
    """Makes an empty study under another name, and then gives it its own: it is never half there."""
    import optuna

    part = folder / NEW
    part.unlink(missing_ok=True)
    with _storage(part) as storage:
        study = optuna.create_study(storage=storage, study_name=NAME, direction=direction)
        study.set_user_attr(OURS, dict(identity))
    os.replace(part, folder / FILE)


@contextmanager
def _storage(file: Path) -> Iterator[RDBStorage]:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    # The path is not part of the URL, where some characters of a path would mean something else.
    engine = {"creator": lambda: sqlite3.connect(file), "poolclass": NullPool}
    try:
        storage = RDBStorage("sqlite:///study.db", engine_kwargs=engine)
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise _unreadable(file, getattr(error, "orig", error)) from None
    except RuntimeError as error:
        raise _other_version(file, error) from None
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _load(storage: RDBStorage, folder: Path, identity: Mapping[str, Any]) -> OptunaStudy:
    import optuna

    try:
        study = optuna.load_study(study_name=NAME, storage=storage)
    except KeyError:
        raise _unreadable(folder / FILE, "no study of fusion_slerp") from None
    for problem in differing(folder, study.user_attrs.get(OURS, {}), identity):
        raise problem.error()
    return study


def _unreadable(file: Path, found: object) -> FusionSlerpError:
    fields = (("file", file), ("found", found))
    fix = f"use {setting('out', f'{file.parent.name}-2')}, or move the file away: known results are kept"
    return Problem(OutputError, "the study of the search is not readable", fields, fix).error()


def _other_version(file: Path, error: RuntimeError) -> FusionSlerpError:
    import shlex

    found = str(error).partition(" Please ")[0]
    is_newer = "upgrade" not in str(error)
    upgrade = f"optuna storage upgrade --storage {shlex.quote(f'sqlite:///{file}')}"
    fix = "pip install --upgrade optuna" if is_newer else upgrade
    fields = (("file", file), ("found", found))
    return Problem(OutputError, "another version of Optuna wrote the study", fields, fix).error()
