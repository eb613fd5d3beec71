"""The Hub's cache on this machine: which commit of a model it has, and which files of that commit.

Source: the layout is documented, https://huggingface.co/docs/huggingface_hub/guides/manage-cache:
`models--OWNER--NAME/refs/REVISION` holds a commit, `snapshots/COMMIT` its files, which are links to `blobs`.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fusion_slerp.sources.conversions import ADAPTER
from fusion_slerp.sources.folder import CONFIG
from fusion_slerp.sources.formats import choose, files_listed, named_weights, read_index
from fusion_slerp.sources.hub.requests import Listing
from fusion_slerp.sources.json_files import SMALL, TOKENIZER, read_json

BLOBS = "blobs"
"""The folder of the cache whose files are named by their content: large ones by their SHA-256."""

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the Hub at one commit; its small files are in the cache.

    Attributes:
        name: The user's name for it, `owner/name@revision`.
        repo: The part before the revision.
        revision: Branch, tag or commit.
        commit: The commit for which it stands.
        folder: The folder in the cache.
        weights: The weight files that will be read; empty if only others are.
        listing: The files of the commit; None if the cache has them all.
    """

    name: str
    repo: str
    revision: str
    commit: str
    folder: Path
    weights: tuple[str, ...] = ()
    listing: Listing | None = field(default=None, compare=False)

    @property
    def pinned(self) -> str:
        """The name with the commit."""
        return f"{self.repo}@{self.commit}"

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Returns those files that are not in the cache."""
        return [name for name in names if not os.path.exists(self.folder / name)]


def cache_folder() -> Path:
    """Returns the cache of all models: `HF_HUB_CACHE`, or a folder in `HF_HOME`."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def storage(repo: str) -> Path:
    """Returns the folder in the cache for a model, whether or not it exists."""
    return cache_folder() / "--".join(["models", *repo.split("/")])


def snapshot(repo: str, commit: str) -> Path:
    """Returns the folder with the files of a commit, whether or not it exists."""
    return storage(repo) / "snapshots" / commit


def cached_commit(repo: str, revision: str) -> str | None:
    """Returns the commit that a revision stood for when it was last downloaded; None if it never was."""
    if COMMIT.fullmatch(revision):
        return revision
    try:
        commit = _note(repo, revision).read_text("utf-8").strip()
    except (OSError, ValueError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def remember_commit(repo: str, revision: str, commit: str) -> None:
    """Notes in the cache what a revision stands for, for runs without the Hub, and for other programs.

    A cache that cannot be written to stays as it is.
    """
    if COMMIT.fullmatch(revision) or cached_commit(repo, revision) == commit:
        return
    file = _note(repo, revision)
    new = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(commit, "utf-8")
        os.replace(new, file)


def _note(repo: str, revision: str) -> Path:
    """The file that holds the commit for which a revision stands."""
    refs = storage(repo) / "refs"
    return refs / "/".join(part for part in revision.split("/") if part not in ("", ".", ".."))


def listed_files(repo: str, commit: str) -> tuple[str, ...]:
    """Returns the names of a commit's files, if the library has noted them; empty if it has not."""
    try:
        content = read_json(storage(repo) / "trees" / f"{commit}.json", TOKENIZER)
        return tuple(map(str, content["files"]))
    except (OSError, ValueError, LookupError, TypeError):
        return ()


def missing_for_merge(folder: Path) -> list[str]:
    """Returns the files without which a cached commit cannot be merged, as far as its own files tell."""
    named = named_in(folder)
    if named and not os.path.isfile(folder / named):
        return [named]
    config = [] if os.path.isfile(folder / CONFIG) else [CONFIG]
    choice = choose(
        lambda name: os.path.lexists(folder / name),
        lambda name: files_listed(read_index(folder / name)),
        named,
    )
    if choice is None:  # of other kinds are adapters and formats that are not read
        names = os.listdir(folder)
        is_other = any(name == ADAPTER or name.endswith(".gguf") for name in names)
        return [] if is_other else [*config, "the weights"]
    return [*config, *(name for name in choice.files if not os.path.isfile(folder / name))]


def named_in(folder: Path) -> str | None:
    """Returns the weights that the config.json in a folder names; None if it names none, or is not there."""
    try:
        config = read_json(folder / CONFIG, SMALL)
    except (OSError, ValueError):
        return None
    return named_weights(config) if isinstance(config, dict) else None


def nbytes_missing(repo: str, files: Mapping[str, int | None], blobs: Mapping[str, str]) -> int:
    """Returns the bytes that a download of these files takes; what the cache has of another commit is free.

    Args:
        repo: The model.
        files: Files that its commit lacks in the cache: the size of each, None if it is unknown.
        blobs: The SHA-256 of those that have one.
    """
    kept = storage(repo) / BLOBS
    return sum(
        nbytes or 0
        for name, nbytes in files.items()
        if not (name in blobs and os.path.isfile(kept / blobs[name]))
    )


def free_nbytes() -> int:
    """Returns the free bytes on the disk of the cache."""
    folder = cache_folder().expanduser().absolute()
    existing = next(each for each in (folder, *folder.parents) if each.is_dir())
    return shutil.disk_usage(existing).free


def content_name(file: Path) -> str | None:
    """Returns the name that the cache gives to a file's content: the digest that the Hub lists for it.

    A SHA-256 (64 characters), or for a small file the SHA-1 of git (40). Nothing was computed from the file.
    None for a file that is not in the cache.
    """
    target = Path(os.path.abspath(file.parent / os.readlink(file))) if file.is_symlink() else file
    is_digest = COMMIT.fullmatch(target.name) or SHA256.fullmatch(target.name)
    return target.name if target.parent.name == BLOBS and is_digest else None


def listed_sha256(file: Path) -> str | None:
    """Returns the SHA-256 that the Hub lists for a file in its cache, which was not computed from the file.

    None for a file elsewhere, and for a small one, which has another name.
    """
    name = content_name(file)
    return name if name and SHA256.fullmatch(name) else None
