"""The results of a verification."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Deviation:
    """One difference from the manifest, or from what the source models make.

    Attributes:
        file: The file's path in the merged model; or a source model's file, as `a: config.json`.
        tensor: The tensor; None if the difference is not in a tensor.
        found: The difference, in words.
    """

    file: str
    tensor: str | None
    found: str

    def __str__(self) -> str:
        where = self.file if self.tensor is None else f"{self.file}: {self.tensor}"
        return f"{where}: {self.found}"


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification.

    Attributes:
        folder: The merged model's folder.
        deviations: The differences; empty if there are none.
        n_files: Files of the merged model that were read.
        n_tensors: Tensors whose digests were compared.
        nbytes: Bytes of the merged model that were read.
        inputs: Whether the weights of the source models were compared.
        models: Source models that were opened; 0 if they were not asked for.
        hashed: Weight files of source models whose SHA-256 was computed and compared with the manifest's.
        measured: Tensors whose norms and angles were measured again in the source models.
        left_out: Tensors that could be compared with the source models only by the rules of an older version.
        recomputed: Names of the tensors that were merged again and compared bit by bit.
        elapsed_s: Wall time in seconds.
    """

    folder: Path
    deviations: tuple[Deviation, ...]
    n_files: int
    n_tensors: int
    nbytes: int
    inputs: bool = False
    models: int = 0
    hashed: int = 0
    measured: int = 0
    left_out: int = 0
    recomputed: tuple[str, ...] = ()
    elapsed_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there is no deviation."""
        return not self.deviations

    @property
    def verdict(self) -> str:
        """The result in a few words."""
        if self.ok:
            return "OK: matches its manifest"
        n_files = len({deviation.file for deviation in self.deviations})
        return f"{n_files} file{'s deviate' if n_files > 1 else ' deviates'}"

    @property
    def compared(self) -> tuple[str, ...]:
        """What was compared of the source models, and in what way; empty if nothing was."""
        if not self.models:
            return ()
        lines = [f"{_count(self.models, 'source model')}: configs, tokenizers and headers of weight files"]
        if self.inputs:
            by_digest = f"{_count(self.hashed, 'weight file')}: SHA-256 computed and compared"
            none = "no SHA-256 of weight files compared: the manifest has none (merge with hash_inputs)"
            lines += [by_digest if self.hashed else none]
        if self.measured:
            lines.append(f"{_count(self.measured, 'tensor')}: norms and angles measured again and compared")
        if self.recomputed:
            lines.append(f"{_count(len(self.recomputed), 'tensor')}: merged again and compared bit by bit")
        if self.left_out:
            lines.append(f"{_count(self.left_out, 'tensor')}: not compared, as an older version merged them")
        return tuple(lines)

    def __str__(self) -> str:
        read = f"{self.n_files} files, {self.n_tensors} tensors"
        return "\n".join(
            [f"{self.folder}: {self.verdict} ({read})", *self.compared, *map(str, self.deviations)]
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
