"""Reports of searches: all trials, the stopped ones with marks of their own, and what limits conclusions."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from fusion_slerp import SettingsError
from fusion_slerp.reports import figures
from fusion_slerp.reports.data import Subject, gather
from fusion_slerp.reports.page import page
from fusion_slerp.reports.sections import search, sweep
from fusion_slerp.searches.record import COMPLETE, PRUNED, Trial
from tests.reports.made import difference, grid_record, scores, search_trials, sweep_record, write_search


@pytest.fixture
def data(search_folder):
    return gather(Subject((str(search_folder),)))


def rows_of(drawn):
    """The texts of the table's rows."""
    table = re.search(r'<table class="plain points">.*?</table>', drawn)[0]
    return [["".join(cell.itertext()) for cell in row] for row in ET.fromstring(table).iter("tr")]


def test_the_summary_counts_the_trials(data):
    assert data["kind"] == "search"
    first, verdict, warning = data["summary"]
    assert first == (
        "A search of plays (a) and code (b) over t, judged by average.loss (lower is better): "
        "14 trials, 2 of them stopped early, at the cost of 12.4 evaluations."
    )
    assert verdict.startswith("Best t = 0.6: ")
    assert "owes part of its lead to chance" in warning


def test_a_stopped_trial_is_drawn_at_the_best_loss_until_then_plus_its_difference(data):
    (series,) = search.stopped(data["sweep"], "t")
    first = (3.815 + 3.492) / 2
    assert [point.x for point in series.points] == [0.03, 0.97]
    assert [point.y for point in series.points] == pytest.approx([first + 0.5, first + 0.25], abs=1e-4)
    assert series.points[0].low == pytest.approx(first + 0.5 - 1.96 * 0.05, abs=1e-4)
    wide, _ = sweep.curves(data, "t")
    assert wide.count('class="stroke"') == 2
    assert "stopped early: 4.154" in wide


def test_the_table_has_every_trial_in_order_with_its_state(data):
    head, *rows = rows_of(page(data))
    assert head[0] == "trial"
    assert [row[0] for row in rows] == [*map(str, range(14)), "plays (a)", "code (b)"]
    assert [row[1] for row in rows[:4]] == ["0.5", "0.03", "0.97", "0.6"]
    assert rows[1][-2:] == ["+0.5000 ± 0.0500", "stopped at 12.5 %"]
    assert rows[3][-2:] == ["–", "best"]
    assert rows[13][-2:] == ["–", "failed"]
    assert rows[1][2:5] == ["–"] * 3


def test_the_page_says_what_crosses_are(data):
    drawn = page(data)
    assert "Report on a search" in drawn
    assert search.NOTE in drawn


def test_several_options_have_a_chart_each(tmp_path):
    record = grid_record()
    trials = [Trial(point.values, COMPLETE, point.scores["average"]["loss"]) for point in record.points]
    trials.append(Trial({"t.self_attn": 0.9, "t.mlp": 0.9}, PRUNED, 5.0, 0.125, 1, difference(0.3, 0.1)))
    data = gather(Subject((str(write_search(tmp_path / "s", record, trials)),)))
    names = [name for name, _ in figures.pictures(data)]
    assert names[:2] == ["search-t-self_attn", "search-t-mlp"]
    charts = dict(search.slices(data["sweep"], ["t.self_attn", "t.mlp"]))
    assert [chart.count('class="stroke"') for chart in charts.values()] == [1, 1]
    assert all('class="line"' not in chart for chart in charts.values())
    page(data)


def test_values_that_are_no_numbers_are_in_the_table_only(tmp_path):
    record, names = sweep_record(), ("tensor", "row")
    points = tuple(replace(record.points[i], values={"granularity": name}) for i, name in enumerate(names))
    record = replace(record, vary={"granularity": names}, points=points, best=0)
    trials = [Trial(point.values, COMPLETE, 3.0) for point in points]
    trials.append(Trial({"granularity": [0, {"x": 1}]}, PRUNED, 5.0, 0.125, 1, difference(0.3, 0.1)))
    data = gather(Subject((str(write_search(tmp_path / "s", record, trials)),)))
    assert [row[1] for row in rows_of(page(data))[1:4]] == ["tensor", "row", '[0, {"x": 1}]']
    assert not list(search.slices(data["sweep"], ["granularity"]))


def test_a_search_in_which_nothing_was_stopped(tmp_path):
    trials = [each for each in search_trials() if each.state == COMPLETE]
    data = gather(Subject((str(write_search(tmp_path / "s", sweep_record(), trials)),)))
    assert search.stopped(data["sweep"], "t") == []
    assert search.NOTE not in page(data)


def test_a_search_without_a_point_yet(tmp_path):
    record = replace(sweep_record(), points=(), best=None, vary={"t": ()})
    data = gather(Subject((str(write_search(tmp_path / "s", record, ())),)))
    assert "0 trials" in data["summary"][0]
    page(data)


def test_a_damaged_record_is_an_error(tmp_path):
    folder = write_search(tmp_path / "s", sweep_record(), search_trials())
    (folder / "search.json").write_text("{")
    with pytest.raises(SettingsError, match=r"no readable search\.json"):
        gather(Subject((str(folder),)))


def test_names_of_points_are_not_markup(tmp_path):
    hostile = "<script>alert(1)</script>"
    record = sweep_record()
    point = replace(record.points[0], values={"x": hostile}, scores=scores(3.0, 3.0))
    record = replace(record, vary={"x": (hostile,)}, points=(point,), best=0)
    trials = [Trial({"x": hostile}, COMPLETE, 3.0), Trial({"x": hostile + "2"}, PRUNED, 4.0)]
    drawn = page(gather(Subject((str(write_search(tmp_path / "s", record, trials)),))))
    assert hostile not in drawn
