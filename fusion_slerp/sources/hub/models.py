"""Models of the Hub: one commit for each, its small files first, and its weights if these allow a merge."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fusion_slerp.errors import listed, raise_all
from fusion_slerp.sources.conversions import ADAPTER
from fusion_slerp.sources.findings import Findings
from fusion_slerp.sources.folder import CONFIG
from fusion_slerp.sources.formats import choose, files_listed, read_index
from fusion_slerp.sources.hub.cache import (
    HubModel,
    cached_commit,
    free_nbytes,
    listed_files,
    missing_for_merge,
    named_in,
    nbytes_missing,
    remember_commit,
    snapshot,
)
from fusion_slerp.sources.hub.downloads import DownloadFailure, download
from fusion_slerp.sources.hub.pins import pin, pinned_commit, split
from fusion_slerp.sources.hub.problems import (
    answer_of_hub,
    failed_download,
    incomplete,
    no_space,
    not_available,
)
from fusion_slerp.sources.hub.requests import Listing, endpoint, is_offline, list_files, quiet
from fusion_slerp.sources.json_files import SMALL, read_json
from fusion_slerp.sources.links import MODULE_FOLDER, TEMPLATES
from fusion_slerp.sources.no_weights import no_weights
from fusion_slerp.sources.quantisation import quantisation

log = logging.getLogger(__name__)

# Files that a repository may hold and a merge never reads.
_UNREAD = re.compile(
    r".*\.(?:safetensors|index\.json|bin|pt|pth|ckpt|h5|msgpack|gguf|ggml|onnx|onnx_data|ot|tflite|mlmodel|npz|zip|gz)"
    r"|(?:training_args|optimizer|scheduler|rng_state).*"
    r"|.*\.(?:png|jpe?g|gif|webp|svg|pdf|mp4|ipynb)"
)
_DOCUMENTS = re.compile(r".*\.md|(?:licen[sc]e|notice|copying|use_policy).*|\.git.*")
"""Files without which a model is the same."""

_listings: dict[tuple[str, str, str], Listing] = {}
"""The files of commits, by endpoint, model and commit."""


def find(name: str, weights: bool) -> HubModel:
    """Returns a model of the Hub, with all its small files in the cache.

    All files are of one commit, and so are those of every later use of the name in this process.

    Args:
        name: The model.
        weights: Whether its weights will be read.

    Raises:
        CheckpointError: The Hub does not provide it, and its cache neither; or it has no readable weights.
    """
    repo, revision = split(name)
    with quiet():
        try:
            listing = _listed(repo, pinned_commit(name) or revision)
        except Exception as error:
            model = _cached(name, weights, error)
            pin(name, model.commit)
            return model
        pin(name, listing.commit)
        folder = snapshot(repo, listing.commit)
        model = HubModel(name, repo, revision, listing.commit, folder, (), listing)
        _fetch_small(model)
        return model if not weights else _with_weights(model)


def check(model: HubModel) -> None:
    """Returns if nothing in the config prevents a merge: weights are large, and not downloaded in vain.

    Raises:
        CheckpointError: There is no config, or it says that the weights are quantised.
    """
    if model.listing is None:  # there is nothing to download
        return
    findings = Findings()
    config = findings.object_in(model.folder / CONFIG, SMALL, "a checkpoint folder has a config.json") or {}
    if problem := quantisation(model.folder / CONFIG, config, (), model.pinned):
        findings.problems.append(problem)
    raise_all(findings.problems, so="no weights were downloaded")


def fetch(models: Iterable[HubModel]) -> None:
    """Downloads what the cache lacks of the models' weights.

    Raises:
        CheckpointError: A download fails, or the disk of the cache has too little space for all of them.
    """
    online = [model for model in models if model.listing is not None]
    _check_space({model.pinned: model for model in online}.values())
    for model in online:
        with quiet():
            try:
                download(model.repo, model.commit, model.lacking(model.weights), shows_progress=True)
            except DownloadFailure as failure:
                raise failed_download(model, failure, model.lacking(model.weights)).error() from failure
        remember_commit(model.repo, model.revision, model.commit)


def _listed(repo: str, revision: str) -> Listing:
    """The files of a repository; of a commit they never change."""
    known = _listings.get((endpoint(), repo, revision))
    listing = known or list_files(repo, revision)
    _listings[endpoint(), repo, listing.commit] = listing
    return listing


def _cached(name: str, weights: bool, error: Exception) -> HubModel:
    """The model in the cache, if it is complete there; a warning says so, unless the user is offline."""
    repo, revision = split(name)
    commit = pinned_commit(name) or cached_commit(repo, revision)
    folder = snapshot(repo, commit) if commit else None
    if commit is None or folder is None or not folder.is_dir():
        raise not_available(name, error).error() from error
    model = HubModel(name, repo, revision, commit, folder)
    missing = model.lacking(
        name for name in _small_files(listed_files(repo, commit)) if not _is_document(name)
    )
    if weights:
        missing += [name for name in missing_for_merge(folder) if name not in missing]
    if missing:
        raise incomplete(model, missing, error).error() from error
    if not is_offline(error):
        shown = f"{name}: using revision {commit[:12]} from the local cache, because the Hub failed: %s"
        log.warning(shown, answer_of_hub(error))
    return model


def _fetch_small(model: HubModel) -> None:
    """Downloads what the cache lacks of the files next to the weights."""
    assert model.listing is not None
    names = model.lacking(_small_files(model.listing.files))
    try:
        download(model.repo, model.commit, names, shows_progress=False)
    except DownloadFailure as failure:
        lacking = model.lacking(names)
        if not all(map(_is_document, lacking)):
            raise failed_download(model, failure, lacking).error() from failure
        log.warning(
            "%s: without %s, because a download failed: %s", model.name, listed(lacking), failure.found
        )


def _with_weights(model: HubModel) -> HubModel:
    """The model with the weight files that will be read: the single file, else those that the index lists."""
    assert model.listing is not None
    names = model.listing.files

    def downloaded(name: str) -> Path:
        try:
            download(model.repo, model.commit, model.lacking([name]), shows_progress=False)
        except DownloadFailure as failure:
            raise failed_download(model, failure, [name]).error() from failure
        return model.folder / name

    named = named_in(model.folder)
    if named and named not in names:
        return model  # opening it reports that
    choice = choose(names.__contains__, lambda index: files_listed(read_index(downloaded(index))), named)
    if choice is not None:
        listed_ones = [name for name in (*choice.stale, choice.start, *choice.files) if name in names]
        return replace(model, weights=tuple(dict.fromkeys(listed_ones)))
    config = None
    if ADAPTER in names:
        with suppress(OSError, ValueError):  # not JSON
            config = read_json(downloaded(ADAPTER), SMALL)
    top = sorted(name for name in names if "/" not in name)
    raise no_weights(("model", model.name), top, config).error()


def _small_files(names: Iterable[str]) -> list[str]:
    """The files next to the weights that are not weights, in any format, nor pictures."""
    return [name for name in names if not _UNREAD.fullmatch(name.lower()) and _is_near(name)]


def _is_near(name: str) -> bool:
    """Whether it is next to the weights, or in one of the folders whose files a merge reads."""
    folder, _, own = name.rpartition("/")
    return folder in ("", TEMPLATES) or (own == CONFIG and bool(MODULE_FOLDER.fullmatch(folder)))


def _is_document(name: str) -> bool:
    return bool(_DOCUMENTS.fullmatch(name.lower()))


def _check_space(models: Iterable[HubModel]) -> None:
    """Raises if the disk of the cache cannot hold what is to be downloaded."""
    needed = 0
    for model in models:
        assert model.listing is not None
        sizes = {name: model.listing.files.get(name) for name in model.lacking(model.weights)}
        needed += nbytes_missing(model.repo, sizes, model.listing.blobs)
    free = free_nbytes() if needed else 0
    if needed > free:
        raise no_space(needed, free).error()
