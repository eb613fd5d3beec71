"""Which files accompany the weights: byte for byte, or with the values that the merge changes.

Nothing is re-serialised without need: transformers 5 rewrites config.json so that older readers get a wrong
rope_theta, and tokenizers that they refuse. The one exception is privacy: transformers 4 noted in its configs
the path that the model was loaded from, and a merged model is made to be published.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.json_files import SMALL, parse_json
from fusion_slerp.sources.regular_files import read_regular
from fusion_slerp.vocabulary.child_tokenizer import ChildTokenizer, matching_files
from fusion_slerp.vocabulary.tokens import dump

SideFile = Path | bytes
"""The file to copy, or the content."""

MODEL_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "*_preprocessor_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "COPYING*",
    "USE_POLICY*",
)

CONFIGS = "*config.json"
"""Of the model, generation, tokenizer and preprocessors."""

NAMES = ("_name_or_path", "name_or_path")
"""Keys of a path or hub id in configs. No reader needs them: transformers sets both when it loads."""


def side_files(
    a: Checkpoint, tokenizer: ChildTokenizer, configs: Mapping[str, SideFile]
) -> dict[str, SideFile]:
    """Returns the files next to the weights, by their path in the merged model.

    Args:
        a: Model a, which provides everything but tokenizer and configs.
        tokenizer: The merged model's tokenizer.
        configs: config.json and generation_config.json.
    """
    patterns = MODEL_FILES + (("*.py",) if needs_code(a, tokenizer) else ())
    chosen: dict[str, SideFile] = {**matching_files(a.folder, patterns), **tokenizer.files, **configs}
    return {
        name: without_paths(file) if fnmatchcase(name, CONFIGS) else file
        for name, file in sorted(chosen.items())
    }


def without_paths(file: SideFile) -> SideFile:
    """Returns a config without the keys of `NAMES`; unchanged if it has none, or is too large or not JSON.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        raw = file if isinstance(file, bytes) else read_regular(file, SMALL.nbytes)
        if NAMES[1].encode() not in raw:  # which the other key contains
            return file
        content = parse_json(raw, SMALL)
    except ValueError:
        return file
    kept = _without_names(content)
    return file if kept == content else dump(kept)


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_names(each) for key, each in value.items() if key not in NAMES}
    return [_without_names(each) for each in value] if isinstance(value, list) else value


def remove_paths(folder: Path) -> None:
    """Removes the keys of `NAMES` from the configs of a folder."""
    for file in folder.glob(CONFIGS):
        content = without_paths(file)
        if isinstance(content, bytes):
            file.write_bytes(content)


def needs_code(a: Checkpoint, tokenizer: ChildTokenizer) -> bool:
    """Whether the config or the tokenizer names classes in the folder's own Python files."""
    return "auto_map" in a.config or "auto_map" in tokenizer.config


def nbytes_of(file: SideFile) -> int:
    """The file's length in bytes."""
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def write_side_files(files: Mapping[str, SideFile], folder: Path) -> None:
    """Writes contents only: copies get the modes of new files, not those of the originals."""
    for name, file in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file, bytes):
            target.write_bytes(file)
        else:
            shutil.copyfile(file, target)
