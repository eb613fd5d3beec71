"""The files that make a folder a model of sentence-transformers: how the merged model's outputs are pooled.

Source: https://sbert.net (modules.json, a list of modules with the folders of their settings), tried with
sentence-transformers 6.2. Modules with weights of their own are not merged, so their model is not copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fusion_slerp.errors import SHOWN_NAME, listed, printable
from fusion_slerp.sources.folder import CONFIG
from fusion_slerp.sources.json_files import SMALL, read_json
from fusion_slerp.sources.links import MODULE_FOLDER
from fusion_slerp.vocabulary.child_tokenizer import matching_files

MODULES = "modules.json"

SETTINGS = ("config_sentence_transformers.json", "sentence_*_config.json")
"""Of the whole, and of the module that is merged."""

MERGED = "Transformer"
WEIGHTLESS = frozenset({"Pooling", "SpladePooling", "Normalize", "Dropout"})
"""Names of the classes of modules that have settings and no weights."""


def embedding_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Returns the files to copy, by their path in the folder, and a remark if they are left out.

    Args:
        folder: The source model's.
    """
    if not (folder / MODULES).is_file():
        return {}, []
    modules = _modules(folder / MODULES)
    wrong = [name for module in modules if (name := _not_copied(*module))]
    if wrong or not modules:
        reason = (
            f"{listed(wrong, 3)}: neither merged nor copied" if wrong else f"no list of modules in {MODULES}"
        )
        return {}, [f"{folder}: the merged model is no sentence-transformers model as this one is: {reason}"]
    settings = [f"{path}/{CONFIG}" for path, _ in modules if path]
    return {
        **matching_files(folder, (MODULES, *SETTINGS)),
        **{name: folder / name for name in settings if (folder / name).is_file()},
    }, []


def other_settings(folder: Path, others: Iterable[tuple[str, Path]]) -> list[str]:
    """Returns a remark for each other model whose modules have other settings than the ones that are copied.

    Args:
        folder: The model whose files are copied.
        others: The user's names of the others, and their folders.
    """
    own = _settings(folder)
    remarks = []
    for source, other in others:
        theirs = _settings(other)
        differing = sorted(name for name in own.keys() | theirs.keys() if own.get(name) != theirs.get(name))
        if own and theirs and differing:
            remarks.append(
                f"{source} has other {listed(differing, 3)}; the merged model has those of {folder}"
            )
    return remarks


def _settings(folder: Path) -> dict[str, Any]:
    names = [name for name in embedding_files(folder)[0] if name not in (MODULES, SETTINGS[0])]
    settings = {}
    for name in names:
        with suppress(ValueError):
            settings[name] = read_json(folder / name, SMALL)
    return settings


def _modules(file: Path) -> list[tuple[str, str]]:
    """The modules' paths and classes; none if the file is not a list of modules."""
    with suppress(ValueError, LookupError, TypeError):
        modules = [(module["path"], module["type"]) for module in read_json(file, SMALL)]
        if all(isinstance(value, str) for module in modules for value in module):
            return modules
    return []


def _not_copied(path: str, kind: str) -> str | None:
    """The name of a module that the merged model cannot have; None if it can."""
    package, _, name = kind.rpartition(".")
    is_copied = name == MERGED if not path else name in WEIGHTLESS and MODULE_FOLDER.fullmatch(path)
    if package.startswith("sentence_transformers.") and is_copied:
        return None
    return printable(f"{name} ({path})" if path else kind, SHOWN_NAME)
