"""Turns the user's name for a model (a folder, or a Hub id with `@revision`) into a checkpoint."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_slerp.errors import CheckpointError, FusionSlerpError, Problem, raise_all
from fusion_slerp.paths import absolute_text, refusal, user_path
from fusion_slerp.sources.folder import Checkpoint, open_checkpoint
from fusion_slerp.sources.links import check_links
from fusion_slerp.sources.missing_folder import nearest_folder, no_such_folder

if TYPE_CHECKING:
    from fusion_slerp.sources.hub.cache import HubModel

Source = str | os.PathLike[str]
"""The user's name for a model: a local folder, or a Hub id."""

_HUB_ID = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?(?:@[\w./-]+)?")


def open_source(source: Source, follow_links: bool = False) -> Checkpoint:
    """Opens a source model from a local folder or a Hub id; see `open_sources`.

    Raises:
        CheckpointError: There is no such folder, the Hub does not provide it, links lead out of it, or it
            is damaged or quantised.
    """
    return open_sources({"": source}, follow_links)[""]


def open_sources(sources: Mapping[str, Source], follow_links: bool = False) -> dict[str, Checkpoint]:
    """Opens source models, by label.

    Weights are downloaded when all models are found and the configs of those of the Hub allow a merge.

    Args:
        sources: The user's names for them: a folder, or a Hub id with `@revision` if wanted.
        follow_links: Whether files may be links that lead out of their folder.

    Raises:
        CheckpointError: As `open_source`, for all models together.
    """
    failures: dict[str, FusionSlerpError] = {}
    found: dict[str, Path | HubModel] = {}
    opened: dict[str, Checkpoint] = {}
    for label, source in sources.items():
        try:
            found[label] = _found(source, weights=True)
            _check_config(found[label])
        except FusionSlerpError as error:
            failures[label] = error
    if failures:  # nothing is downloaded, and the faults of local folders are reported with these
        found = {label: model for label, model in found.items() if isinstance(model, Path)}
    _fetch(*found.values())
    for label, model in found.items():
        try:
            folder, revision = _folder(model, follow_links)
            opened[label] = open_checkpoint(folder, os.fspath(sources[label]), revision)
        except FusionSlerpError as error:
            failures[label] = error
    raise_all([failures[label] for label in sources if label in failures])
    return opened


def resolve(source: Source, weights: bool = True, follow_links: bool = False) -> tuple[Path, str | None]:
    """Returns the local folder of a model, downloading it if necessary, and its Hub commit.

    An existing folder always wins. A Hub id (`name`, `owner/name`, each with `@revision`) is
    downloaded to the Hugging Face cache by huggingface_hub (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`
    apply as usual): only the weights that will be read, and the small files next to them.

    Args:
        source: The user's name for the model.
        weights: Whether the weights are needed, or only the files next to them.
        follow_links: Whether files may be links that lead out of the folder.

    Raises:
        CheckpointError: There is no such folder, and the Hub does not provide it; or links lead out of it.
    """
    found = _found(source, weights)
    _fetch(found)
    return _folder(found, follow_links)


def _folder(found: Path | HubModel, follow_links: bool) -> tuple[Path, str | None]:
    folder, revision = (found, None) if isinstance(found, Path) else (found.folder, found.commit)
    if not follow_links:
        check_links(folder)
    return folder, revision


def _check_config(found: Path | HubModel) -> None:
    if not isinstance(found, Path):
        from fusion_slerp.sources.hub.models import check

        check(found)


def _fetch(*found: Path | HubModel) -> None:
    """Downloads what is lacking of the weights."""
    models = [each for each in found if not isinstance(each, Path)]
    if models:
        from fusion_slerp.sources.hub.models import fetch

        fetch(models)


def _found(source: Source, weights: bool) -> Path | HubModel:
    """The folder, or else the model of the Hub, without its weights."""
    if not isinstance(source, (str, os.PathLike)):
        raise _no_name(source).error()
    name = os.fspath(source)
    folder = user_path(name, CheckpointError)
    if os.path.isdir(folder):  # pathlib's own raises where a folder on the way is closed to us
        return folder
    if os.path.exists(folder):
        fields = (("path", folder), ("found", "a file"))
        fix = "pass the folder that contains it"
        raise Problem(CheckpointError, "a model must be a folder", fields, fix).error()
    refused = _refused(folder)
    if refused or not is_hub_id(name):
        near = None if refused else nearest_folder(folder)
        fields = (("path", absolute_text(folder)), ("found", refused or no_such_folder(near)))
        fix = f"correct the path: {near}" if near else "correct the path"
        raise Problem(CheckpointError, f"{name}: model not found", fields, fix).error()
    from fusion_slerp.sources.hub.models import find  # rarely needed

    return find(name, weights)


def _no_name(source: object) -> Problem:
    fields = (("found", f"{type(source).__name__}: {source!r:.100}"), ("needed", "a folder or a Hub id"))
    fix = "name the models one by one: merge('folder/a', 'owner/b', out='folder/child')"
    return Problem(CheckpointError, "no name of a model", fields, fix)


def is_hub_id(name: str) -> bool:
    """Whether a string has the form of a Hub id; `models/x` is a path if `models/` exists here."""
    first, slash, _ = name.partition("/")
    return bool(_HUB_ID.fullmatch(name)) and not (slash and os.path.isdir(first))


def _refused(folder: Path) -> str | None:
    """Why a path leads to no folder, although something has its name; None if nothing has."""
    error = refusal(folder)
    if error is not None:
        return error.strerror
    return f"a link to {os.readlink(folder)}, which does not exist" if os.path.islink(folder) else None
