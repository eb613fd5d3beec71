"""Why a model of the Hub is not available, in the words of our messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fusion_slerp.errors import CheckpointError, Problem, listed
from fusion_slerp.paths import absolute_text
from fusion_slerp.sources.hub.cache import (
    HubModel,
    cache_folder,
    cached_commit,
    missing_for_merge,
    snapshot,
)
from fusion_slerp.sources.hub.downloads import DownloadFailure
from fusion_slerp.sources.hub.requests import REFUSED, endpoint, is_offline, is_timeout, reason, status_of
from fusion_slerp.sources.missing_folder import nearest_folder, no_such_folder

GO_ONLINE = "unset HF_HUB_OFFLINE"
LOG_IN = "for a gated or private model, run `hf auth login` first"


def answer_of_hub(error: Exception) -> str:
    """Returns why the Hub did not provide a model, with its address."""
    found = reason(error)
    return found if endpoint() in found or is_offline(error) else f"{endpoint()}: {found}"


def not_available(name: str, error: Exception) -> Problem:
    """Returns the problem with a name that no folder has, nor a model in the cache, nor one of the Hub."""
    folder = Path(name)
    fields = (
        ("model", name),
        ("path", f"{absolute_text(folder)}: {no_such_folder(nearest_folder(folder))}"),
        ("cache", f"{cache_folder()}: not there"),
        ("hub", answer_of_hub(error)),
    )
    if is_offline(error):
        fix = f"correct the path; or, for a model of the Hub, {GO_ONLINE}"
    elif status_of(error) in REFUSED:
        fix = f"correct the path or id; {LOG_IN}"
    else:
        fix = f"correct the path; or, for a model of the Hub, {_try_again(error)}"
    return Problem(CheckpointError, "not a local folder, and not available from the Hub", fields, fix)


def incomplete(model: HubModel, missing: Sequence[str], error: Exception) -> Problem:
    """Returns the problem with a model that the cache has in part, while the Hub provides nothing."""
    fields = (
        ("model", model.name),
        ("cache", model.folder),
        ("missing", listed(missing)),
        ("hub", answer_of_hub(error)),
    )
    if is_offline(error):
        fix = f"{GO_ONLINE} to download them"
    else:
        fix = LOG_IN if status_of(error) in REFUSED else _try_again(error)
    return Problem(CheckpointError, "the Hub's cache lacks files of the model", fields, fix)


def failed_download(model: HubModel, failure: DownloadFailure, missing: Sequence[str]) -> Problem:
    """Returns the problem with a model whose download failed."""
    fields = (
        ("model", model.name),
        ("revision", model.commit),
        ("missing", listed(missing)),
        ("found", str(failure)),
    )
    fix = "check the network, and run this again: finished files are kept"
    older = _complete_in_cache(model)
    if older:
        fix += f"; or name the revision that is in the cache: {model.repo}@{older}"
    return Problem(CheckpointError, "a download from the Hub failed", fields, fix)


def no_space(needed: int, free: int) -> Problem:
    """Returns the problem with a disk that cannot hold what is to be downloaded, in bytes."""
    fields = (("cache", cache_folder()), ("needed", f"{needed} bytes"), ("free", f"{free} bytes"))
    fix = "free space, or choose a cache on another disk: export HF_HUB_CACHE=FOLDER"
    return Problem(CheckpointError, "not enough disk space for the download", fields, fix)


def _try_again(error: Exception) -> str:
    more = " (a slow Hub has more time with HF_HUB_ETAG_TIMEOUT=60)" if is_timeout(error) else ""
    return f"check the network and HF_ENDPOINT, and try again{more}"


def _complete_in_cache(model: HubModel) -> str | None:
    """The commit for which the model's revision stood before, if the cache has all of it."""
    commit = cached_commit(model.repo, model.revision)
    if commit is None or commit == model.commit:
        return None
    folder = snapshot(model.repo, commit)
    return commit if folder.is_dir() and not missing_for_merge(folder) else None
