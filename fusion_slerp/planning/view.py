"""A model as seen by a merge: its tensors and config, restricted to the layers of the slices."""

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
        label: Its label in settings and messages.
        checkpoint: The model as stored.
        tensors: Its tensors under their names in the merged model's layers.
        config: Its config, restricted to these layers.
    """

    label: str
    checkpoint: Checkpoint
    tensors: Mapping[str, Source]
    config: Mapping[str, Any]

    @property
    def source(self) -> str:
        """Its path or hub id as the user gave it."""
        return self.checkpoint.source

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.checkpoint.folder


def whole(label: str, checkpoint: Checkpoint) -> View:
    """Returns a model with all its layers."""
    return View(label, checkpoint, checkpoint.tensors, checkpoint.config)
