"""What is in a checkpoint, as facts: from its headers, config and tokenizer files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusion_slerp.errors import SHOWN_NAME, printable
from fusion_slerp.planning.matching import tied_flag
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import open_source
from fusion_slerp.sources.regular_files import reading_models
from fusion_slerp.tensor_names import follows_vocabulary, is_of_head, layer_of
from fusion_slerp.vocabulary.child_tokenizer import chat_template, read_config
from fusion_slerp.vocabulary.tokens import TOKENIZER, Tokens, load, model_type, read_tokens, vocabulary_file

SPECIAL = ("bos", "eos", "pad", "unk")
"""Special tokens that are looked for; others stand in the tokenizer's own files."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A checkpoint in numbers and names.

    Attributes:
        source: What the user called it.
        folder: Where it is.
        revision: Its hub commit; None for a local folder.
        architecture: The class that its config names, or its `model_type`.
        n_parameters: Elements of all tensors as they are stored.
        n_tensors: Number of tensors.
        dtypes: Parameters by type.
        n_layers: Layers of the deepest stack, by the tensors' names.
        files: Bytes of its weight files, by name.
        n_rows: Rows of the embedding; None if there is none that is known by its name.
        n_tokens: Tokens of the tokenizer; None if it cannot be read.
        tokenizer: What kind it is, and the file it was read from; None if it cannot be read.
        special: Special tokens, with their rows where they have one.
        has_chat_template: Whether there is one.
        is_tied: What the config says of the head and the embedding; None if nothing.
        stores_head: Whether there is a head among the tensors.
        warnings: What was odd.
    """

    source: str
    folder: str
    revision: str | None
    architecture: str
    n_parameters: int
    n_tensors: int
    dtypes: Mapping[str, int]
    n_layers: int
    files: Mapping[str, int]
    n_rows: int | None
    n_tokens: int | None
    tokenizer: str | None
    special: Mapping[str, str]
    has_chat_template: bool
    is_tied: bool | None
    stores_head: bool
    warnings: tuple[str, ...]


def inspect_source(source: str, follow_links: bool = True) -> tuple[Checkpoint, Facts]:
    """Opens a checkpoint and returns what is in it.

    Args:
        source: A folder or a hub id.
        follow_links: Whether files may be links that lead out of the folder: to be looked at, they may.

    Raises:
        CheckpointError: It cannot be opened.
    """
    with reading_models():
        checkpoint = open_source(source, follow_links)
        return checkpoint, facts_of(checkpoint)


def facts_of(checkpoint: Checkpoint) -> Facts:
    """Returns what is in an opened checkpoint."""
    tensors, config = checkpoint.tensors, checkpoint.config
    dtypes: Counter[str] = Counter()
    for entry in tensors.values():
        dtypes[entry.dtype.name] += entry.n_elements
    following = [entry for name, entry in tensors.items() if follows_vocabulary(name) and entry.shape]
    tokens = read_tokens(checkpoint.folder)
    files = sorted({entry.file for entry in tensors.values()})
    return Facts(
        source=checkpoint.source,
        folder=str(checkpoint.folder),
        revision=checkpoint.revision,
        architecture=printable(_architecture(config), SHOWN_NAME),
        n_parameters=dtypes.total(),
        n_tensors=len(tensors),
        dtypes=dict(dtypes.most_common()),
        n_layers=max((layer[1] + 1 for name in tensors if (layer := layer_of(name))), default=0),
        files={file.name: file.stat().st_size for file in files},
        n_rows=following[0].shape[0] if following else None,
        n_tokens=None if tokens is None else len(tokens.rows),
        tokenizer=_tokenizer(checkpoint, tokens),
        special=_special(checkpoint, tokens),
        has_chat_template=chat_template(checkpoint.folder) is not None,
        is_tied=tied_flag(config),
        stores_head=any(map(is_of_head, tensors)),
        warnings=checkpoint.warnings,
    )


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    kind = config.get("model_type")
    return f"{first} ({kind})" if first and kind else str(first or kind or "not named in config.json")


def _tokenizer(checkpoint: Checkpoint, tokens: Tokens | None) -> str | None:
    file = vocabulary_file(checkpoint.folder)
    if tokens is None or file is None:
        return None
    if file.name != TOKENIZER:
        return file.name
    return f"{printable(model_type(load(file)['model']), SHOWN_NAME)} in {file.name}"


def _special(checkpoint: Checkpoint, tokens: Tokens | None) -> dict[str, str]:
    try:
        older = load(checkpoint.folder / "special_tokens_map.json")
    except (OSError, ValueError, RecursionError):
        older = {}
    config = {**(older if isinstance(older, dict) else {}), **read_config(checkpoint.folder)}
    found = {}
    for kind in SPECIAL:
        token = config.get(f"{kind}_token")
        token = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(token, str):
            row = None if tokens is None else tokens.rows.get(token)
            found[kind] = printable(token if row is None else f"{token} ({row})", SHOWN_NAME)
    return found
