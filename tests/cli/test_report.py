"""`fusion_slerp report` and `inspect --html`."""

from __future__ import annotations

from fusion_slerp import merge
from tests.models import names_in


def test_the_report_of_a_merged_model(command, parents, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    merge(*parents, out="child", show_pbar=False)
    ended = command("report", "child")
    assert ended.code == 0
    assert "child-report.html" in ended.out
    assert "<h1>child</h1>" in (tmp_path / "child-report.html").read_text(encoding="utf-8")
    again = command("report", "child")
    assert again.code == 2
    assert "Fix: use --overwrite" in again.err
    found = command("report", "child", "--overwrite", "--figures", "figures", "--json").json
    assert found["out"] == "child-report.html"
    assert found["figures"] == names_in(tmp_path / "figures")
    assert "angles.svg" in found["figures"]


def test_the_report_of_models(command, parents, tmp_path):
    file = tmp_path / "page.html"
    assert command("report", *parents, "-o", file).code == 0
    assert "<h1>a and b</h1>" in file.read_text(encoding="utf-8")


def test_one_model_alone_is_no_subject(command, parents):
    ended = command("report", parents[0])
    assert ended.code == 2
    assert "not a merged model" in ended.err
    assert f"fusion_slerp report {parents[0]} OTHER" in ended.err


def test_inspect_writes_the_same_page(command, parents, tmp_path):
    one, other = tmp_path / "one.html", tmp_path / "other.html"
    ended = command("inspect", *parents, "--html", one)
    assert ended.code == 0
    assert str(one) in ended.out
    command("report", *parents, "-o", other)
    assert one.read_bytes() == other.read_bytes()
    assert command("inspect", *parents, "--html", one).code == 2
    alone = command("inspect", parents[0], "--html", tmp_path / "new.html")
    assert alone.code == 2
    assert "a page compares models" in alone.err
