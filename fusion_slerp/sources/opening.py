"""Turns what the user calls a model (a folder, or a hub id with `@revision`) into a checkpoint."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from fusion_slerp.errors import CheckpointError, Problem, nearest
from fusion_slerp.sources.folder import CONFIG, Checkpoint, no_weights, open_checkpoint
from fusion_slerp.sources.formats import choose, files_listed, read_index
from fusion_slerp.sources.links import check_links

log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?(?:@[\w./-]+)?")
# What a hub folder may hold and a merge never reads.
_UNREAD = re.compile(
    r".*\.(?:safetensors|index\.json|bin|pt|pth|ckpt|h5|msgpack|gguf|ggml|onnx|onnx_data|ot|tflite|mlmodel|npz|zip|gz)"
    r"|(?:training_args|optimizer|scheduler|rng_state).*"
    r"|.*\.(?:png|jpe?g|gif|webp|svg|pdf|mp4|ipynb)"
)


def open_source(source: str | os.PathLike[str], follow_links: bool = False) -> Checkpoint:
    """Opens a parent from a local folder or a hub id; see `resolve`.

    Raises:
        CheckpointError: There is no such folder, the hub does not give it, links lead out of it, or it
            is damaged.
    """
    folder, revision = resolve(source, follow_links=follow_links)
    return open_checkpoint(folder, os.fspath(source), revision)


def resolve(
    source: str | os.PathLike[str], weights: bool = True, follow_links: bool = False
) -> tuple[Path, str | None]:
    """Returns the local folder of a model, downloading it if need be, and its hub commit.

    An existing folder always wins. A hub id (`name`, `owner/name`, each with `@revision`) is
    downloaded to the Hugging Face cache by huggingface_hub (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`
    hold as usual): only the weights that will be read, and the small files beside.

    Args:
        source: What the user calls the model.
        weights: Whether the weights are needed, or only the files beside them.
        follow_links: Whether files may be links that lead out of the folder.

    Raises:
        CheckpointError: There is no such folder, and the hub does not give it; or links lead out of it.
    """
    folder, revision = _found(source, weights)
    if not follow_links:
        check_links(folder)
    return folder, revision


def _found(source: str | os.PathLike[str], weights: bool) -> tuple[Path, str | None]:
    text = os.fspath(source)
    folder = Path(text).expanduser()
    if os.path.isdir(folder):  # pathlib's own raises where a folder on the way is closed to us
        return folder, None
    if os.path.exists(folder):
        fields = (("path", folder), ("found", "a file"))
        raise Problem(CheckpointError, "a model must be a folder", fields, "name its folder").error()
    if not is_hub_id(text):
        raise _no_such_folder(text, folder).error()
    return _download(text, weights)


def is_hub_id(text: str) -> bool:
    """Whether the text has the form of a hub id; `models/x` is a path if `models/` exists here."""
    first, slash, _ = text.partition("/")
    return bool(_HUB_ID.fullmatch(text)) and not (slash and os.path.isdir(first))


def _no_such_folder(text: str, folder: Path) -> Problem:
    try:
        beside = [entry.name for entry in os.scandir(folder.parent) if entry.is_dir()]
    except OSError:
        beside = []
    found = f"no such folder{nearest(folder.name, beside)}"
    fields = (("path", os.path.abspath(folder)), ("found", found))
    return Problem(CheckpointError, f"{text}: model not found", fields, "correct the path")


def _download(text: str, weights: bool) -> tuple[Path, str | None]:
    """Downloads what a merge reads; returns the snapshot folder and its commit."""
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError

    repo, _, revision = text.partition("@")
    pin = revision or None
    wanted = [CONFIG]  # until the hub has told its files
    # A failed connection is an error of the HTTP library below, which hub releases have replaced
    # twice; the base of HfHubHTTPError is that library's own class, whichever it is.
    failures: Any = (OSError, ValueError, HfHubHTTPError.__mro__[1])
    try:
        files = hub.HfApi().list_repo_files(repo, revision=pin)
        wanted = _beside(files) + (_weights(hub, text, pin, files) if weights else [])
        folder = hub.snapshot_download(repo, revision=pin, allow_patterns=wanted)
    except failures as error:  # what an earlier run has downloaded still serves
        try:
            folder = hub.snapshot_download(repo, revision=pin, allow_patterns=wanted, local_files_only=True)
        except failures:
            raise _not_on_hub(text, error).error() from error
        log.warning("%s: taken from the local cache, as the hub fails: %s", text, _reason(error))
    return Path(folder), Path(folder).name


def _weights(hub: Any, text: str, revision: str | None, files: list[str]) -> list[str]:
    """The weight files that will be read: the single file, else those that the index names."""
    repo, there = text.partition("@")[0], set(files)

    def files_in(index: str) -> tuple[str, ...]:
        return files_listed(read_index(Path(hub.hf_hub_download(repo, index, revision=revision))))

    choice = choose(there.__contains__, files_in)
    if choice is None:
        raise no_weights(("model", text), [name for name in files if "/" not in name]).error()
    return list(dict.fromkeys([*choice.stale, choice.start, *choice.files]))


def _beside(files: list[str]) -> list[str]:
    """The files of the top folder that are not weights, in any format, nor pictures."""
    return [
        name
        for name in files
        if not _UNREAD.fullmatch(name.lower()) and "/" not in name.removeprefix("additional_chat_templates/")
    ]


def _not_on_hub(text: str, error: Exception) -> Problem:
    here = [entry.name for entry in Path.cwd().iterdir() if entry.is_dir()]
    fields = (("model", f"{text}{nearest(text, here)}"), ("hub", _reason(error)))
    fix = (
        "check the id and the network, run `hf auth login` for a gated or private model, "
        "or name a local folder (./folder)"
    )
    return Problem(CheckpointError, "neither a local folder nor to be had from the hub", fields, fix)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
