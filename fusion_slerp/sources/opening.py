"""Turns the user's name for a model (a folder, or a Hub id with `@revision`) into a checkpoint."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fusion_slerp.errors import CheckpointError, Problem, nearest_name
from fusion_slerp.sources.conversions import ADAPTER
from fusion_slerp.sources.folder import CONFIG, Checkpoint, no_weights, open_checkpoint
from fusion_slerp.sources.formats import choose, files_listed, read_index
from fusion_slerp.sources.json_files import SMALL, read_json
from fusion_slerp.sources.links import check_links

log = logging.getLogger(__name__)

PAUSE_S = 10
"""A Hub that did not answer is not asked again for this long, so that several models wait for it once."""

REFUSED = (401, 403, 404)
"""How the Hub answers where a model does not exist, or not for everyone."""

_HUB_ID = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?(?:@[\w./-]+)?")
# Files that a repository may hold and a merge never reads.
_UNREAD = re.compile(
    r".*\.(?:safetensors|index\.json|bin|pt|pth|ckpt|h5|msgpack|gguf|ggml|onnx|onnx_data|ot|tflite|mlmodel|npz|zip|gz)"
    r"|(?:training_args|optimizer|scheduler|rng_state).*"
    r"|.*\.(?:png|jpe?g|gif|webp|svg|pdf|mp4|ipynb)"
)

_silent: dict[str, tuple[float, Exception]] = {}
"""Endpoints that did not answer: when, by the monotonic clock, and the error."""


def open_source(source: str | os.PathLike[str], follow_links: bool = False) -> Checkpoint:
    """Opens a source model from a local folder or a Hub id; see `resolve`.

    Raises:
        CheckpointError: There is no such folder, the Hub does not provide it, links lead out of it, or it
            is damaged.
    """
    folder, revision = resolve(source, follow_links=follow_links)
    return open_checkpoint(folder, os.fspath(source), revision)


def resolve(
    source: str | os.PathLike[str], weights: bool = True, follow_links: bool = False
) -> tuple[Path, str | None]:
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
    folder, revision = _located(source, weights)
    if not follow_links:
        check_links(folder)
    return folder, revision


def _located(source: str | os.PathLike[str], weights: bool) -> tuple[Path, str | None]:
    name = os.fspath(source)
    folder = Path(name).expanduser()
    if os.path.isdir(folder):  # pathlib's own raises where a folder on the way is closed to us
        return folder, None
    if os.path.exists(folder):
        fields = (("path", folder), ("found", "a file"))
        fix = "pass the folder that contains it"
        raise Problem(CheckpointError, "a model must be a folder", fields, fix).error()
    if not is_hub_id(name):
        near = _nearest_folder(folder)
        fields = (("path", os.path.abspath(folder)), ("found", _no_such_folder(near)))
        fix = f"correct the path: {near}" if near else "correct the path"
        raise Problem(CheckpointError, f"{name}: model not found", fields, fix).error()
    return _download(name, weights)


def is_hub_id(name: str) -> bool:
    """Whether a string has the form of a Hub id; `models/x` is a path if `models/` exists here."""
    first, slash, _ = name.partition("/")
    return bool(_HUB_ID.fullmatch(name)) and not (slash and os.path.isdir(first))


def _no_such_folder(near: Path | None) -> str:
    return f"no such folder (did you mean {near.name!r}?)" if near else "no such folder"


def _nearest_folder(folder: Path) -> Path | None:
    """The folder next to a missing one whose name is most like its own, if any is."""
    try:
        names = [entry.name for entry in os.scandir(folder.parent) if entry.is_dir()]
    except OSError:
        names = []
    name = nearest_name(folder.name, names)
    return folder.parent / name if name else None


def _download(model: str, weights: bool) -> tuple[Path, str | None]:
    """Downloads the files that a merge reads; returns the snapshot folder and its commit."""
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError

    repo, _, revision = model.partition("@")
    pin = revision or None
    wanted = [CONFIG]  # until the Hub has listed its files
    # A failed connection is an error of the HTTP library below, which Hub releases have replaced
    # twice; the base of HfHubHTTPError is that library's own class, whichever it is.
    failures: Any = (OSError, ValueError, HfHubHTTPError.__mro__[1])
    with _quiet(hub):
        try:
            files = _listed(hub, repo, pin)
            wanted = _small_files(files) + (_weights(hub, model, pin, files) if weights else [])
            folder = hub.snapshot_download(repo, revision=pin, allow_patterns=wanted)
        except failures as error:  # files that an earlier run has downloaded are still good
            try:
                folder = hub.snapshot_download(
                    repo, revision=pin, allow_patterns=wanted, local_files_only=True
                )
            except failures:
                raise _not_available(model, error).error() from error
            log.warning("%s: using the local cache, because the Hub failed: %s", model, _reason(error))
    return Path(folder), Path(folder).name


@contextmanager
def _quiet(hub: Any) -> Iterator[None]:
    """Hides the library's warnings ("Retrying in 8s"), unless the user has asked it for more of them."""
    verbosity = hub.logging.get_verbosity()
    if verbosity == logging.WARNING:
        hub.logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub.logging.set_verbosity(verbosity)


def _listed(hub: Any, repo: str, revision: str | None) -> list[str]:
    """The files of a repository, by a request that the library does not retry."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    when, error = _silent.get(constants.ENDPOINT, (0.0, None))
    if error is not None and time.monotonic() - when < PAUSE_S:
        raise error
    try:
        info = hub.HfApi().model_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (HfHubHTTPError, OfflineModeIsEnabled, ValueError):
        raise
    except Exception as failure:  # no answer
        _silent[constants.ENDPOINT] = time.monotonic(), failure
        raise
    return [file.rfilename for file in info.siblings or []]


def _weights(hub: Any, model: str, revision: str | None, files: Sequence[str]) -> list[str]:
    """The weight files that will be read: the single file, else those that the index lists."""
    repo, names = model.partition("@")[0], set(files)

    def downloaded(name: str) -> Path:
        return Path(hub.hf_hub_download(repo, name, revision=revision))

    choice = choose(names.__contains__, lambda index: files_listed(read_index(downloaded(index))))
    if choice is None:
        top = sorted(name for name in files if "/" not in name)
        config = None
        if ADAPTER in names:
            with suppress(ValueError):  # not JSON
                config = read_json(downloaded(ADAPTER), SMALL)
        raise no_weights(("model", model), top, config).error()
    return list(dict.fromkeys([*choice.stale, choice.start, *choice.files]))


def _small_files(files: Sequence[str]) -> list[str]:
    """The files of the top folder that are not weights, in any format, nor pictures."""
    return [
        name
        for name in files
        if not _UNREAD.fullmatch(name.lower()) and "/" not in name.removeprefix("additional_chat_templates/")
    ]


def _not_available(model: str, error: Exception) -> Problem:
    """The problem with a name that neither a folder nor a model of the Hub has."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    folder = Path(model)
    fields = (
        ("model", model),
        ("path", f"{os.path.abspath(folder)}: {_no_such_folder(_nearest_folder(folder))}"),
        ("hub", _reason(error)),
    )
    if isinstance(error, OfflineModeIsEnabled):
        fix = "correct the path; or, for a model of the Hub, unset HF_HUB_OFFLINE"
    elif getattr(getattr(error, "response", None), "status_code", 0) in REFUSED:
        fix = "correct the path or id; for a gated or private model, run `hf auth login` first"
    else:
        fix = "correct the path; or, for a model of the Hub, check the network and HF_ENDPOINT, and try again"
    return Problem(CheckpointError, "not a local folder, and not available from the Hub", fields, fix)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
