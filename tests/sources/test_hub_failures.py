"""Servers that hang, refuse, break off or lie: each ends soon, with the cache or a clear error."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.hub import downloads as hub_downloads
from fusion_slerp.sources.hub import requests as hub_requests
from fusion_slerp.sources.opening import open_source, open_sources
from tests.models import write_checkpoint
from tests.sources.conftest import new_process
from tests.sources.hub_server import COMMIT

COMMAND = Path(sys.executable).with_name("fusion_slerp")
WEIGHTS = "model-00002-of-00002.safetensors"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """The library's time-outs, in fractions of a second."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)


@pytest.fixture
def silent():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def model(hub, tmp_path):
    """The folder of a model with two weight files, which the Hub has as `owner/name`."""
    folder = write_checkpoint(tmp_path / "x", n_shards=2)
    hub.add("owner/name", folder, **{"README.md": b"# x"})
    return folder


def message_of(source) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_source(source)
    return str(caught.value)


def our_warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("fusion_slerp")]


def environment_of(address: str, tmp_path: Path, **more: str) -> dict[str, str]:
    """The environment of a process of its own, as a user would set it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return kept | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), **more}


# --- the listing ----------------------------------------------------------------------------------------


def test_a_hub_that_never_answers_ends_the_command(silent, tmp_path):
    done = subprocess.run(
        [COMMAND, "inspect", "own/model"],
        env=environment_of(silent, tmp_path, HF_HUB_ETAG_TIMEOUT="1"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,  # where the library alone waits for several minutes
    )
    assert done.returncode == 2
    lines = " ".join(done.stderr.split())
    assert "not a local folder, and not available from the Hub model: own/model path:" in lines
    assert f"cache: {tmp_path / 'home/hub'}: not there" in lines
    assert f"hub: {silent}: no answer within 1 s" in lines
    assert "try again (a slow Hub has more time with HF_HUB_ETAG_TIMEOUT=60)" in lines


def test_a_hub_that_never_answers_leaves_the_cache(hub, model, silent, monkeypatch, caplog):
    first = open_source("owner/name")
    new_process(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", silent)
    assert open_source("owner/name") == first
    (warning,) = our_warnings(caplog)
    assert warning.startswith(
        "owner/name: using revision 0123456789ab from the local cache, because the Hub "
    )
    assert f"{silent}: no answer within 0.3 s" in warning


def test_an_answer_that_never_ends_is_given_up(hub, model, monkeypatch):
    """Each byte may come within the library's time-out."""
    ended = threading.Event()
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: ended.wait())
    assert f"  hub: {hub.url}: no answer within 0.3 s (given up after 0.9 s)\n" in message_of("owner/name")
    ended.set()


@pytest.mark.parametrize("statuses", [[503], [429, 500]])
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub, model, statuses):
    hub.statuses = statuses
    assert open_source("owner/name").revision == COMMIT


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_stays_busy_is_asked_three_times(hub, model, monkeypatch, status):
    waits = []
    monkeypatch.setattr(hub_requests, "sleep", waits.append)
    hub.statuses = [status] * 3
    assert f"{status}" in message_of("owner/name")
    assert waits == [1.0, 2.0]
    assert open_source("owner/name").revision == COMMIT


@pytest.mark.parametrize(("asked", "waits"), [("5", [5.0, 5.0]), ("3600", [])])
def test_the_wait_that_the_hub_asks_for_is_kept_if_it_is_short(hub, model, monkeypatch, asked, waits):
    waited = []
    monkeypatch.setattr(hub_requests, "sleep", waited.append)
    hub.statuses, hub.headers = [429] * 3, {"Retry-After": asked}
    assert "429" in message_of("owner/name")
    assert waited == waits


@pytest.mark.parametrize("commit", ["", "main", "../../../x"])
def test_an_answer_that_is_none_of_a_hub(hub, model, commit):
    hub.commits["main"] = commit
    assert f"  hub: {hub.url}: the answer names no commit: this is no Hub\n" in message_of("owner/name")


# --- a file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("hang at head", "no answer within 0.3 s"),
        ("hang", "no answer within 0.1 s"),
        ("hang in data", "no answer within 0.1 s"),
        ("close", ""),
        ("short", ""),
        ("500", "500"),
        ("503", "503"),
        ("429", "429"),
        ("403", "403"),
        ("moved to http://127.0.0.1:1/blob?signature=x", "http://127.0.0.1:1: "),
    ],
)
def test_a_download_that_fails_is_resumed_by_the_same_call(hub, model, fault, found):
    hub.faults[WEIGHTS] = fault
    lines = message_of("owner/name").splitlines()
    assert lines[:4] == [
        "a download from the Hub failed",
        "  model: owner/name",
        f"  revision: {COMMIT}",
        f"  missing: {WEIGHTS}",
    ]
    assert lines[4].startswith(f"  found: {WEIGHTS}: ")
    assert found in lines[4]
    assert (hub.url in lines[4]) or "moved" in fault
    assert "signature" not in lines[4]
    assert lines[5] == "Fix: check the network, and run this again: finished files are kept"
    hub.faults.clear()
    hub.downloads.clear()
    assert open_source("owner/name").tensors.keys() == open_source(model).tensors.keys()
    assert hub.downloaded("owner/name") == [WEIGHTS]


def test_a_small_file_that_fails_is_named_before_any_weights(hub, model):
    hub.faults["tokenizer.json"] = "hang"
    text = message_of("owner/name")
    assert "  missing: tokenizer.json\n" in text
    assert WEIGHTS not in hub.downloaded("owner/name")


def test_a_model_is_complete_without_its_readme(hub, model, caplog):
    hub.faults["README.md"] = "hang in data"
    assert open_source("owner/name").tensors.keys() == open_source(model).tensors.keys()
    (warning,) = our_warnings(caplog)
    assert warning.startswith(
        f"owner/name: without README.md, because a download failed: {hub.url}: no answer"
    )


def test_other_content_of_the_same_size_is_noticed(hub, model):
    data = hub.repos["owner/name"][COMMIT][WEIGHTS]
    hub.repos["owner/name"][COMMIT][WEIGHTS] = b"<html>".ljust(len(data))
    assert WEIGHTS in message_of("owner/name")


def test_a_download_without_any_data_is_given_up(hub, model, monkeypatch, caplog):
    ended = threading.Event()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: ended.wait())
    for name, value in (("TICK_S", 0.01), ("WARN_AFTER_S", 0.02), ("LIMIT_S", 0.2)):
        monkeypatch.setattr(hub_downloads, name, value)
    assert f"  found: {hub.url}: no data for 0 s\n" in message_of("owner/name")
    ended.set()
    (warning,) = our_warnings(caplog)
    assert warning == f"owner/name: no data from {hub.url} for 0 s; still waiting"


def test_failures_of_two_models_are_reported_with_the_faults_of_local_ones(hub, model):
    hub.faults["config.json"] = "500"
    with pytest.raises(CheckpointError, match="2 problems") as caught:
        open_sources({"a": "./missing", "b": "owner/name"})
    assert [problem.headline for problem in caught.value.problems] == [
        "./missing: model not found",
        "a download from the Hub failed",
    ]


@pytest.mark.long
def test_an_interrupt_does_not_wait_for_the_hub(hub, model, tmp_path):
    hub.faults[WEIGHTS] = "hang in data"
    process = subprocess.Popen(
        [COMMAND, "merge", "owner/name", "owner/name", "-o", "child"],
        env=environment_of(hub.url, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="600"),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    while WEIGHTS not in hub.downloaded("owner/name") and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Traceback" not in stderr
    assert not (tmp_path / "child").exists()
