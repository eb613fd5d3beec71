"""The folder of a sweep: what it holds, resumes and refuses."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fusion_slerp import OutputError
from fusion_slerp.output.lock import FolderLock
from fusion_slerp.sweeps import results as results_module
from fusion_slerp.sweeps.axes import Axis
from fusion_slerp.sweeps.record import FILE, read_record
from fusion_slerp.sweeps.results import Results, check_folder
from tests.sweeps.fakes import Models, T, record_of, run

N_MODELS = 2 + len(T.values)


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_sweep_that_is_run_twice_is_evaluated_once(tmp_path):
    models = Models()
    first = run(tmp_path / "sweep", models)
    assert len(models.evaluated) == N_MODELS
    content = (tmp_path / "sweep" / FILE).read_bytes()
    assert run(tmp_path / "sweep", models) == first
    assert len(models.evaluated) == N_MODELS
    assert (tmp_path / "sweep" / FILE).read_bytes() == content
    losses = [f"losses/{name}.npz" for name in ("a", "b", *(point.name for point in first.points))]
    assert names_in(tmp_path / "sweep") == sorted([".lock", FILE, *losses])


def test_in_memory_it_has_the_same_results(tmp_path):
    one, other = run(tmp_path / "sweep", Models()), run(None, Models())
    assert [point.scores for point in one.points] == [point.scores for point in other.points]
    assert [point.differences for point in one.points] == [point.differences for point in other.points]


def test_more_values_are_added_to_those_that_are_known(tmp_path):
    models = Models()
    run(tmp_path / "sweep", models)
    record = run(tmp_path / "sweep", models, [Axis("t", (0.5, 0.6), "t")])
    assert models.evaluated[N_MODELS:] == ["merged 0.6"]
    assert record.vary == {"t": (0.0, 0.25, 0.5, 0.6, 0.75, 1.0)}
    assert [point.values["t"] for point in record.points] == [0.0, 0.25, 0.5, 0.6, 0.75, 1.0]
    assert record.best_point is not None
    assert all("best" in point.differences for point in record.points)
    assert record.best_point.differences["best"]["average"]["value"] == 0
    assert run(None, Models(), [Axis("t", record.vary["t"], "t")]).points[0].differences == (
        record.points[0].differences
    )


def test_losses_that_are_lost_are_evaluated_again(tmp_path):
    models = Models()
    run(tmp_path / "sweep", models)
    (tmp_path / "sweep/losses/t=0.25.npz").unlink()
    run(tmp_path / "sweep", models)
    assert models.evaluated[N_MODELS:] == ["merged 0.25"]


class Crash(BaseException):
    """Nothing catches it."""


def crash_at(moment: int, monkeypatch) -> None:
    """Raises at the so-manieth flush or rename of a file."""
    count = 0

    def counted(call):
        def replacement(*arguments):
            nonlocal count
            count += 1
            if count == moment:
                raise Crash
            return call(*arguments)

        return replacement

    monkeypatch.setattr(results_module.os, "replace", counted(os.replace))
    monkeypatch.setattr(results_module.os, "fsync", counted(os.fsync))


def test_wherever_it_crashes_it_resumes_with_one_evaluation_more_at_most(tmp_path, monkeypatch):
    whole = run(None, Models())
    n_crashes = 0
    for moment in range(1, 100):
        folder, models = tmp_path / str(moment), Models()
        with monkeypatch.context() as patch:
            crash_at(moment, patch)
            try:
                run(folder, models)
            except Crash:
                n_crashes += 1
            else:
                break
        if (folder / FILE).exists():
            read_record(folder)
        resumed = run(folder, models)
        assert [p.scores for p in resumed.points] == [p.scores for p in whole.points], moment
        assert [p.differences for p in resumed.points] == [p.differences for p in whole.points], moment
        assert len(models.evaluated) <= N_MODELS + 1, moment
    assert n_crashes >= 4 * N_MODELS  # a flush and a rename, of losses and of the record, for each


def test_another_sweep_is_refused_by_what_differs(tmp_path):
    run(tmp_path / "sweep", Models())
    before = (tmp_path / "sweep" / FILE).read_bytes()
    (problem,) = check_folder(tmp_path / "sweep", {"settings": {"dtype": "float32"}})
    assert "holds another sweep" in problem.headline
    assert ("differs in", "settings.dtype") in problem.fields
    assert problem.text("command").endswith("Fix: use -o sweep-2")
    results = Results(replace(record_of(), identity={"settings": {"dtype": "float32"}}), tmp_path / "sweep")
    with pytest.raises(OutputError, match="another sweep"), results.open():
        pass
    assert (tmp_path / "sweep" / FILE).read_bytes() == before


def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (problem,) = check_folder(tmp_path, {})
    assert ("found", "notes.txt") in problem.fields
    (tmp_path / FILE).write_text('{"format": 2}')
    (problem,) = check_folder(tmp_path, {})
    assert "a newer version of fusion_slerp wrote it" in str(problem)
    (problem,) = check_folder(tmp_path / "notes.txt", {})
    assert "is a file" in problem.headline
    assert names_in(tmp_path) == ["notes.txt", FILE]


def test_two_processes_do_not_share_a_folder(tmp_path):
    (tmp_path / "sweep").mkdir()
    lock = FolderLock(tmp_path / "sweep/.lock")
    lock.acquire()
    try:
        with pytest.raises(OutputError, match="another process runs this sweep"):
            run(tmp_path / "sweep", Models())
    finally:
        lock.release()
    assert run(tmp_path / "sweep", Models()).best is not None


def test_the_record_is_json_for_every_reader(tmp_path):
    run(tmp_path / "sweep", Models())
    content = json.loads((tmp_path / "sweep" / FILE).read_text(), parse_constant=pytest.fail)
    assert content["format"] == 1
