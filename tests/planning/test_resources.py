"""The machine's resources are checked before a merge begins."""

import resource

import pytest

from fusion_slerp import OutputError, SettingsError, merge, plan_merge
from fusion_slerp.planning import resources
from fusion_slerp.planning.resources import available_memory, check_resources
from tests.models import names_in, tiny_tensors, write_checkpoint


def written(folder, **files):
    paths = {}
    for name, text in files.items():
        paths[name] = folder / name
        paths[name].write_text(text)
    return paths


def test_this_machine_has_enough(parents):
    assert check_resources(plan_merge(*parents)) == []
    assert (available_memory() or 10**9) > 10**8


@pytest.mark.parametrize(
    ("limit", "current", "cache", "expected"),
    [
        ("max", "5000000", "0", 4_096_000),
        ("3000000", "1000000", "0", 2_000_000),
        ("3000000", "2500000", "1000000", 1_500_000),
        ("2000000", "2500000", "0", 0),
    ],
)
def test_the_container_counts_and_the_page_cache_does_not(
    tmp_path, monkeypatch, limit, current, cache, expected
):
    meminfo = written(tmp_path, meminfo="MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")["meminfo"]
    stat = f"anon 1\ninactive_file {cache}\n"
    group = written(tmp_path, **{"memory.max": limit, "memory.current": current, "memory.stat": stat})
    monkeypatch.setattr(resources, "MEMINFO", meminfo)
    monkeypatch.setattr(resources, "GROUPS", ((group["memory.max"], group["memory.current"]),))
    assert available_memory() == expected


def test_a_system_that_does_not_tell(tmp_path, monkeypatch, parents):
    monkeypatch.setattr(resources, "MEMINFO", tmp_path / "nothing")
    monkeypatch.setattr(resources, "GROUPS", ())
    assert available_memory() is None
    assert check_resources(plan_merge(*parents)) == []


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"threads": 2}, "Fix: close other programs, or use threads=1"),
        ({"threads": 1}, "Fix: close other programs"),
        ({"memory_budget": "300MB"}, "Fix: close other programs, or use threads=1 without memory_budget"),
    ],
)
def test_too_little_memory(tmp_path, parents, monkeypatch, options, fix):
    monkeypatch.setattr(resources, "available_memory", lambda: 1000)
    with pytest.raises(SettingsError) as caught:
        merge(*parents, out=tmp_path / "child", **options)
    lines = str(caught.value).splitlines()
    assert lines[0] == "not enough memory"
    assert lines[2:] == ["  free: 1000 bytes", fix]
    assert names_in(tmp_path) == ["models"]


def test_too_few_open_files(tmp_path, monkeypatch):
    tensors = {str(i): each for i, each in enumerate(tiny_tensors(0).values())} | tiny_tensors(1)
    folders = [write_checkpoint(tmp_path / "models" / n, tensors=tensors, n_shards=8) for n in "ab"]
    monkeypatch.setattr(resource, "getrlimit", lambda which: (40, 4096))
    with pytest.raises(SettingsError) as caught:
        merge(*folders, out=tmp_path / "child")
    lines = str(caught.value).splitlines()
    assert lines[0] == "the limit on open files is too low"
    assert ", 16 of them weight files of the models" in lines[1]
    needed = int(lines[1].split()[1].rstrip(","))
    assert lines[2:] == ["  limit: 40", f"Fix: ulimit -n {needed}"]
    assert names_in(tmp_path) == ["models"]
    monkeypatch.setattr(resource, "getrlimit", lambda which: (needed, 4096))
    merge(*folders, out=tmp_path / "child")


def test_all_that_is_missing_is_told_at_once(tmp_path, parents, monkeypatch):
    (tmp_path / "child").mkdir()
    monkeypatch.setattr(resources, "available_memory", lambda: 1000)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (10, 4096))
    monkeypatch.setattr(
        "fusion_slerp.output.target.shutil.disk_usage", lambda folder: type("Usage", (), {"free": 5})()
    )
    with pytest.raises(OutputError) as caught:
        merge(*parents, out=tmp_path / "child")
    assert [problem.headline for problem in caught.value.problems] == [
        "the output exists",
        "not enough disk space",
        "not enough memory",
        "the limit on open files is too low",
    ]
