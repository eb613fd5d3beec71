"""Where the words of one tensor come from.

Planning makes sources and the engine reads them; nobody else asks what a tensor is made of. A tensor stored
in a file is its own source (`header.TensorEntry`): what is read is what is delivered. A source that is
computed (a low-rank update, scaled blocks, parts that are joined) names the stored elements that it needs as
extents, so that they can be counted and read together with their neighbours, and decodes them afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fusion_slerp.dtypes import DType

if TYPE_CHECKING:
    from fusion_slerp.sources.header import TensorEntry

Piece = tuple[int, int, int]
"""Where some elements go, how many they are, and where they are in the flattened tensor."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Elements of one stored tensor.

    Attributes:
        entry: The tensor.
        pieces: Which elements, and where each goes in memory that holds this extent alone.
    """

    entry: TensorEntry
    pieces: Sequence[Piece]


class Source(Protocol):
    """One tensor of one model.

    Attributes:
        name: Its name in the model's files.
        dtype: What the merged model inherits.
        words: What is delivered: the stored type, or float64 where it is computed, so that nothing rounds
            twice.
        shape: Its dimensions.
        n_elements: Their product.
        nbytes: Of what is delivered.
        entries: The stored tensors that it is made of.
    """

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> DType: ...
    @property
    def words(self) -> DType: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def n_elements(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def entries(self) -> Sequence[TensorEntry]: ...

    def extents(self, pieces: Sequence[Piece]) -> Sequence[Extent]:
        """Returns which stored elements some pieces of the tensor are made of."""
        ...

    def decode(self, raw: Sequence[np.ndarray], pieces: Sequence[Piece], out: np.ndarray) -> None:
        """Writes the pieces to `out`, uint8, from the bytes of each extent; of a stored tensor, raw is
        out.
        """
        ...
