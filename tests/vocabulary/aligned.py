"""Models with a tokenizer and hardly any weights, and the alignment of their tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusion_slerp.settings.merge_settings import make_settings
from fusion_slerp.sources.folder import Checkpoint, open_checkpoint
from fusion_slerp.vocabulary.alignment import Alignment, align_vocabularies
from tests.models import tokenizer_json, write_checkpoint, write_json

NO_TOKENIZER = ()


def model_with(
    folder: Path,
    tokens: Sequence[str] | Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    template: str | None = None,
) -> Checkpoint:
    """A checkpoint with these tokens in their order, or this tokenizer.json; with none if there are none."""
    write_checkpoint(folder, tensors={"model.norm.weight": np.ones(4, "f4")}, config=config, tokens=None)
    if tokens:
        write_json(folder / "tokenizer.json", tokens if isinstance(tokens, Mapping) else words(tokens))
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    if generation is not None:
        write_json(folder / "generation_config.json", generation)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return open_checkpoint(folder)


def words(tokens: Sequence[str]) -> dict[str, Any]:
    """The content of a tokenizer.json with these tokens, that differs from others in nothing else."""
    content = tokenizer_json(tokens)
    return {**content, "model": {**content["model"], "unk_token": "<unk>"}}


def models_with(root: Path, **tokens: Sequence[str] | Mapping[str, Any]) -> dict[str, Checkpoint]:
    """Such checkpoints by label, each in a folder of that name."""
    return {label: model_with(root / label, each) for label, each in tokens.items()}


def aligned(models: Mapping[str, Checkpoint], **options: Any) -> Alignment:
    """The alignment of their tokens with these options."""
    return align_vocabularies(models, make_settings(method="linear", **options))


def counts_of(alignment: Alignment) -> dict[str, int]:
    """Matrices with a row for each token, by label."""
    return {label: max(rows.values()) + 1 for label, rows in alignment.vocabularies.items()}


def files_of(alignment: Alignment, folder: Path) -> Path:
    """Writes the child's tokenizer files to a folder, and returns it."""
    folder.mkdir()
    for name, file in alignment.tokenizer.files.items():
        (folder / name).write_bytes(file if isinstance(file, bytes) else file.read_bytes())
    return folder
