"""Fixtures that several tests of sources share."""

from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.file_download
import huggingface_hub.utils._http
import pytest

from fusion_slerp.sources.hub import models as models_of_the_hub
from fusion_slerp.sources.hub import pins as hub_pins
from fusion_slerp.sources.hub import requests as hub_requests
from tests.sources.hub_server import Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running hub that huggingface_hub talks to, with an empty cache and no waiting between attempts."""
    server = Hub()
    server.start()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    no_time = SimpleNamespace(sleep=lambda seconds: None)
    monkeypatch.setattr(huggingface_hub.utils._http, "time", no_time)
    monkeypatch.setattr(huggingface_hub.file_download, "time", no_time)
    monkeypatch.setattr(hub_requests, "sleep", no_time.sleep)
    monkeypatch.chdir(tmp_path)
    new_process(monkeypatch)
    huggingface_hub.utils.disable_progress_bars()
    yield server
    huggingface_hub.utils.enable_progress_bars()
    server.stop()


def new_process(monkeypatch) -> None:
    """Forgets what a process remembers of the Hub."""
    for module, name in (
        (hub_requests, "_silent"),
        (hub_pins, "_commits"),
        (models_of_the_hub, "_listings"),
    ):
        monkeypatch.setattr(module, name, {})
