"""A model as a merge sees it: its tensors and config, with the layers of the slices alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.source import Source


@dataclass(frozen=True, slots=True)
class View:
    """One of the models.

    Attributes:
        label: What it is called in settings and messages.
        checkpoint: The model as its files are.
        tensors: Its tensors under the names that they have in the merged model's layers.
        config: Its config, of these layers.
    """

    label: str
    checkpoint: Checkpoint
    tensors: Mapping[str, Source]
    config: Mapping[str, Any]

    @property
    def source(self) -> str:
        """What the user called it."""
        return self.checkpoint.source

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.checkpoint.folder


def whole(label: str, checkpoint: Checkpoint) -> View:
    """Returns a model with all its layers."""
    return View(label, checkpoint, checkpoint.tensors, checkpoint.config)
