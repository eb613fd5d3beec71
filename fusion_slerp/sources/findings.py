"""What is found while a checkpoint's folder is read: faults and oddities, collected and reported together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion_slerp.errors import CheckpointError, FusionSlerpError, Problem
from fusion_slerp.sources.conversions import is_pointer, pointer
from fusion_slerp.sources.file_state import FileState, state_of
from fusion_slerp.sources.formats import Format
from fusion_slerp.sources.header import REDOWNLOAD, TensorEntry
from fusion_slerp.sources.json_files import Limits, read_json
from fusion_slerp.sources.regular_files import NotRegularError


@dataclass(slots=True)
class Findings:
    """What was found so far in one folder.

    Attributes:
        problems: What rules out a merge.
        warnings: Harmless oddities, one line each.
        files: The weight files that were read, and their states just before.
    """

    problems: list[Problem | FusionSlerpError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: dict[Path, FileState] = field(default_factory=dict)

    def object_in(
        self, file: Path, limits: Limits, needed: str, strict: bool = False
    ) -> dict[str, Any] | None:
        """Returns the JSON object in a file, or None after adding a problem; `strict` as for `read_json`."""
        try:
            value = read_json(file, limits, strict)
            if isinstance(value, dict):
                return value
            found = f"JSON, but a {type(value).__name__} instead of an object"
        except FileNotFoundError:
            found = "no such file"
        except NotRegularError as error:
            found = error.strerror
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) and is_pointer(file):
                self.problems.append(pointer(file))
                return None
            found = f"not readable as JSON: {error}"
        fix = "name a folder saved by save_pretrained, or download the model again"
        fields = (("file", file), ("found", found), ("needed", needed))
        self.problems.append(Problem(CheckpointError, f"no usable {file.name}", fields, fix))
        return None

    def tensors_in(self, file: Path, kind: Format) -> list[TensorEntry]:
        """Returns the tensors of a weight file, or none after adding a problem."""
        try:
            state = state_of(file)
            entries = kind.read(file)
        except CheckpointError as error:
            self.problems.append(error)
            return []
        except OSError as error:
            fields = (("file", file), ("found", error.strerror))
            self.problems.append(Problem(CheckpointError, "cannot read a weight file", fields, REDOWNLOAD))
            return []
        self.files[file] = state
        return entries
