"""The source of one tensor's elements.

Planning makes sources and the engine reads them; no other code depends on how a tensor is made. A tensor
stored in a file is its own source (`header.TensorEntry`): its bytes are delivered as they are read. A
computed source (a low-rank update, scaled blocks, joined parts) names the stored elements that it needs as
extents, so that they can be counted and read together with their neighbours, and then decodes them.
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
"""The destination of some elements, their number, and their position in the flattened tensor."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Elements of one stored tensor.

    Attributes:
        entry: The tensor.
        pieces: Which elements, and the destination of each in memory for this extent alone.
    """

    entry: TensorEntry
    pieces: Sequence[Piece]


class Source(Protocol):
    """One tensor of one model.

    Attributes:
        name: Its name in the model's files.
        dtype: The type that the merged model inherits.
        words: The type that is delivered: the stored type, or float64 for a computed source, so that nothing
            is rounded twice.
        shape: Its dimensions.
        n_elements: Their product.
        nbytes: Bytes that are delivered.
        entries: The stored tensors that it is made from.
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
        """Returns the stored elements that some pieces of the tensor are made from."""
        ...

    def decode(self, raw: Sequence[np.ndarray], pieces: Sequence[Piece], out: np.ndarray) -> None:
        """Writes the pieces to `out`, uint8, from the bytes of each extent; for a stored tensor, raw is
        out.
        """
        ...
