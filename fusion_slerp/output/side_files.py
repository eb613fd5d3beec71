"""Which files come along with the weights: byte for byte, or with what the merge changes in them.

Nothing is re-serialised without need: today's transformers rewrites config.json so that older readers
get a wrong rope_theta, and tokenizers that they refuse.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.vocabulary.child_tokenizer import ChildTokenizer, matching_files

SideFile = Path | bytes
"""Where a file is copied from, or its content."""

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


def side_files(
    a: Checkpoint, tokenizer: ChildTokenizer, configs: Mapping[str, SideFile]
) -> dict[str, SideFile]:
    """Returns the files next to the weights, by their path in the merged model.

    Args:
        a: Model a; gives everything but tokenizer and configs.
        tokenizer: The merged model's.
        configs: config.json and generation_config.json.
    """
    patterns = MODEL_FILES + (("*.py",) if needs_code(a, tokenizer) else ())
    chosen: dict[str, SideFile] = {**matching_files(a.folder, patterns), **tokenizer.files, **configs}
    return dict(sorted(chosen.items()))


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
