"""The type of every tensor in the merged model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fusion_slerp.dtypes import BY_NAME, F32, DType
from fusion_slerp.planning.float32_tensors import float32_pattern
from fusion_slerp.planning.matching import Match


class OutputTypes:
    """The types that a setting and the first model's config give the tensors of the merged model.

    Args:
        wanted: The setting `dtype`; None keeps the type of the first model that has a tensor.
        config: The first model's config.
    """

    def __init__(self, wanted: str | None, config: Mapping[str, Any]) -> None:
        self._wanted = None if wanted is None else BY_NAME[wanted]
        self._config = config
        self._kept: dict[str, re.Pattern[str] | None] = {}

    def of(self, match: Match, own: DType) -> DType:
        """Returns a tensor's type: float32 if transformers keeps it so and a model stores it so.

        Args:
            match: The tensor.
            own: Its type in the first model that has it.
        """
        dtype = self._wanted if self._wanted is not None and own.is_mergeable else own
        if dtype.itemsize == 2 and any(source.dtype is F32 for source in match.of.values()):
            return F32 if self._is_kept(match.name, dtype) else dtype
        return dtype

    def _is_kept(self, name: str, dtype: DType) -> bool:
        if dtype.name not in self._kept:
            self._kept[dtype.name] = float32_pattern(self._config, dtype.name)
        pattern = self._kept[dtype.name]
        return pattern is not None and pattern.search(name) is not None
