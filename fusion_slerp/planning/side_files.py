"""Which files accompany the weights: byte for byte, or with the values that the merge changes.

Nothing is re-serialised without need: transformers 5 rewrites config.json so that older readers get a wrong
rope_theta, and tokenizers that they refuse. The one exception is privacy; see `private_paths`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from fusion_slerp.errors import Problem, listed
from fusion_slerp.planning.child_config import GENERATION_CONFIG
from fusion_slerp.planning.embedding_model import embedding_files, other_settings
from fusion_slerp.planning.private_paths import SideFile, remaining_paths, without_paths
from fusion_slerp.sources.conversions import is_pointer, pointer
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.vocabulary.child_tokenizer import TOKENIZER_FILES, ChildTokenizer, matching_files

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
"""Of the model, generation, tokenizer, preprocessors and modules."""

POINTER_NBYTES = 1024
"""A pointer of Git LFS is smaller, by its specification."""


def side_files(
    a: Checkpoint, tokenizer: ChildTokenizer, configs: Mapping[str, SideFile]
) -> dict[str, SideFile]:
    """Returns the files next to the weights, by their path in the merged model.

    Args:
        a: Model a, which provides everything but tokenizer and configs.
        tokenizer: The merged model's tokenizer.
        configs: config.json and generation_config.json.
    """
    return {
        name: without_paths(file) if fnmatchcase(name, CONFIGS) else file
        for name, file in _chosen(a, tokenizer, configs).items()
    }


def _chosen(a: Checkpoint, tokenizer: ChildTokenizer, configs: Mapping[str, SideFile]) -> dict[str, SideFile]:
    patterns = MODEL_FILES + (("*.py",) if needs_code(a, tokenizer) else ())
    chosen = {
        **matching_files(a.folder, patterns),
        **embedding_files(a.folder)[0],
        **tokenizer.files,
        **configs,
    }
    return dict(sorted(chosen.items()))


def needs_code(a: Checkpoint, tokenizer: ChildTokenizer) -> bool:
    """Whether the config or the tokenizer names classes in the folder's own Python files."""
    return "auto_map" in a.config or "auto_map" in tokenizer.config


def check_side_files(
    parents: Sequence[Checkpoint], tokenizer: ChildTokenizer, configs: Mapping[str, SideFile]
) -> tuple[list[Problem], list[str]]:
    """Returns the problems with the files next to the weights, and remarks.

    Args:
        parents: The models, model a first.
        tokenizer: As for `side_files`.
        configs: As for `side_files`.
    """
    a, *others = parents
    chosen = _chosen(a, tokenizer, configs)
    remarks = [
        *embedding_files(a.folder)[1],
        *other_settings(a.folder, [(other.source, other.folder) for other in others]),
    ]
    for name, file in chosen.items():
        keys = remaining_paths(file) if fnmatchcase(name, CONFIGS) else []
        if keys:
            are = "is a path" if len(keys) == 1 else "are paths"
            remarks.append(
                f"{a.source}: {listed(keys, 3)} in {name} {are} of one machine, kept in the merged model"
            )
    return pointers(file for file in chosen.values() if isinstance(file, Path)), remarks


def pointers_in(parents: Iterable[Checkpoint]) -> list[Problem]:
    """Returns the problems with small files of models that Git LFS has not downloaded."""
    patterns = (*TOKENIZER_FILES, GENERATION_CONFIG)
    return [each for parent in parents for each in pointers(matching_files(parent.folder, patterns).values())]


def pointers(files: Iterable[Path]) -> list[Problem]:
    """Returns the problems with files that Git LFS has not downloaded."""
    small = (file for file in files if file.stat().st_size < POINTER_NBYTES)
    return [pointer(file) for file in small if is_pointer(file)]
