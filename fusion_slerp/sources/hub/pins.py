"""Which commit each revision of a model of the Hub stands for in this process.

A process asks once, and stays with the answer: whatever is pushed meanwhile, all uses of one name have the
same files. `owner/name` is `owner/name@main`.
"""

from __future__ import annotations

MAIN = "main"

_commits: dict[tuple[str, str, str], str] = {}
"""The commits by endpoint, model and revision."""


def split(name: str) -> tuple[str, str]:
    """Returns the two parts of a hub id, model and revision."""
    repo, _, revision = name.partition("@")
    return repo, revision or MAIN


def pinned_commit(name: str) -> str | None:
    """Returns the commit for which a hub id stands; None if this process has not used it yet."""
    return _commits.get(_key(name)) if _commits else None


def pin(name: str, commit: str) -> None:
    """Lets a hub id stand for a commit from now on."""
    _commits[_key(name)] = commit


def pinned(name: str) -> str:
    """Returns a hub id with the commit for which it stands, or unchanged if this process has not used it."""
    commit = pinned_commit(name)
    return f"{split(name)[0]}@{commit}" if commit else name


def _key(name: str) -> tuple[str, str, str]:
    from huggingface_hub import constants

    return constants.ENDPOINT, *split(name)
