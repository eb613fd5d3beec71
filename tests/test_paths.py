"""Paths as users name them: expanded, or refused with an error of ours."""

import os
from pathlib import Path

import pytest

from fusion_slerp.errors import OutputError, SettingsError
from fusion_slerp.paths import absolute_text, real_path, refusal, user_path, utf8


def test_the_home_folder_takes_the_place_of_its_sign(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/x") == Path("/home/me/x")
    assert user_path(Path("x/~")) == Path("x/~")


@pytest.mark.parametrize(
    ("path", "headline", "fix"),
    [
        ("", "a path is empty", "./ is the current one"),
        ("a\0b", "a path holds a zero byte", "correct the path"),
        ("~nosuchuser/x", "no home folder for a path", "write ./~nosuchuser/x"),
        ("~nosuchuser", "no home folder for a path", "write ./~nosuchuser"),
    ],
)
def test_what_is_no_path(path, headline, fix):
    for function in (user_path, real_path):
        with pytest.raises(OutputError) as caught:
            function(path, OutputError)
        assert str(caught.value).startswith(headline)
        assert fix in str(caught.value)
        assert "\0" not in str(caught.value)


def test_a_process_without_a_home(monkeypatch):
    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(SettingsError, match="the home folder is not known"):
        user_path("~/x")


def test_links_are_resolved_and_circles_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert real_path(tmp_path / "link/new") == tmp_path / "folder/new"
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    for path in ("one", "one/x"):
        with pytest.raises(SettingsError, match="links lead in a circle"):
            real_path(tmp_path / path)


def test_a_working_folder_that_is_gone(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(SettingsError, match="the current folder does not exist any more"):
        real_path("x")
    assert real_path(tmp_path) == tmp_path
    assert absolute_text(Path("x")) == "x"


def test_what_the_system_refuses_is_told_from_what_is_missing(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file/x"):
        assert refusal(path) is None
    error = refusal(tmp_path / ("x" * 300))
    assert error is not None
    assert error.strerror == "File name too long"


def test_names_that_are_not_utf8_have_escapes():
    name = os.fsdecode(b"caf\xc3\xa9 \xff")
    assert utf8(name) == "café \\udcff".encode()
