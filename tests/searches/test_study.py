"""The study in SQLite: it keeps everything, and refuses what is not its own."""

import sqlite3
from contextlib import closing

import optuna
import pytest

from fusion_slerp import OutputError
from fusion_slerp.searches import study as study_module
from fusion_slerp.searches.record import COMPLETE, FAILED, PRUNED, Trial
from fusion_slerp.searches.sampling import Suggestion
from fusion_slerp.searches.space import parse_space
from fusion_slerp.searches.study import FILE, NAME, NEW, opened
from tests.searches.fakes import run

SPACE = parse_space({"t": "0:1", "granularity": "tensor,row"})
IDENTITY = {"format": 1, "sampler_seed": 0}
VALUES = {"t": 0.5, "granularity": "row"}
TRIALS = (
    Trial(VALUES, COMPLETE, 2.5, seconds=1.5),
    Trial(VALUES, PRUNED, 3.5, 0.25, 2, {"value": 1.0, "stderr": 0.1}),
    Trial(VALUES, FAILED, None),
)


def test_trials_of_every_state_are_kept(tmp_path):
    for trial in TRIALS:
        with opened(tmp_path, SPACE, IDENTITY, "minimize") as study:
            study.add(trial, Suggestion(VALUES, {"key": "value"}))
    with opened(tmp_path, SPACE, IDENTITY, "minimize") as study:
        assert study.trials == TRIALS
        assert [trial.state.name for trial in study.finished] == ["COMPLETE", "PRUNED", "FAIL"]
        assert study.finished[1].intermediate_values == {2: 3.5}
        assert study.finished[0].system_attrs == {"key": "value"}


def test_optuna_reads_it(tmp_path):
    with opened(tmp_path, parse_space({"t": "0:1"}), IDENTITY, "minimize") as study:
        run(study, 8)
        best = min(trial.loss for trial in study.trials)
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / FILE}")
    study = optuna.load_study(study_name=NAME, storage=storage)
    assert study.best_value == best
    assert study.best_params == {"t": study.best_params["t"]}
    storage.remove_session()
    storage.engine.dispose()


def test_any_path(tmp_path):
    folder = tmp_path / "a b?c#d%20é=&"
    folder.mkdir()
    for _ in range(2):
        with opened(folder, SPACE, IDENTITY, "minimize") as study:
            study.add(TRIALS[0], Suggestion(VALUES))
    assert [path.name for path in folder.iterdir()] == [FILE]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_what_a_killed_run_left_half_made_is_made_again(tmp_path):
    (tmp_path / NEW).write_bytes(b"half a database")
    with opened(tmp_path, SPACE, IDENTITY, "minimize") as study:
        assert study.trials == ()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_another_identity_or_format_is_refused(tmp_path):
    with opened(tmp_path, SPACE, IDENTITY, "minimize"):
        pass
    for change, parts in (
        ({"sampler_seed": 1}, ["the folder holds another search", "differs in: sampler_seed", "out='"]),
        ({"format": 2}, ["the folder holds another search", "format"]),
    ):
        with pytest.raises(OutputError) as raised, opened(tmp_path, SPACE, IDENTITY | change, "minimize"):
            pass
        assert all(part in str(raised.value) for part in parts), str(raised.value)


def test_a_study_of_another_format_is_refused(tmp_path):
    study_module._make(tmp_path, IDENTITY | {"format": 99}, "minimize")
    with (
        pytest.raises(OutputError, match="another version of fusion_slerp made this search"),
        opened(tmp_path, SPACE, IDENTITY, "minimize"),
    ):
        pass


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with (
        pytest.raises(OutputError, match=r"(?s)the study of the search is not readable.*Fix: use out="),
        opened(tmp_path, SPACE, IDENTITY, "minimize"),
    ):
        pass


@pytest.mark.parametrize(
    ("revision", "fix"),
    [("v2.4.0.a", "optuna storage upgrade --storage"), ("v9.9.9", "pip install --upgrade optuna")],
)
def test_a_study_of_another_version_of_optuna_is_refused(tmp_path, revision, fix):
    with opened(tmp_path, SPACE, IDENTITY, "minimize"):
        pass
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    with pytest.raises(OutputError) as raised, opened(tmp_path, SPACE, IDENTITY, "minimize"):
        pass
    assert "another version of Optuna wrote the study" in str(raised.value)
    assert f"Fix: {fix}" in str(raised.value)
