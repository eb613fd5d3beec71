"""Values that another rank measures: received when the tensor's turn comes, and then forgotten."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, MutableMapping
from typing import Any

from fusion_slerp.engine.steps import Key


class SharedMeasures(MutableMapping[Key, Any]):
    """What is measured of the tensors of one rank, some of them by other ranks.

    Args:
        elsewhere: Names of the tensors that others measure.
        receive: Waits for the values of such a tensor, and returns them.
    """

    def __init__(self, elsewhere: Collection[str], receive: Callable[[str], dict[Key, Any]]) -> None:
        self._elsewhere, self._receive = elsewhere, receive
        self._name: str | None = None
        self._values: dict[Key, Any] = {}

    def __contains__(self, key: object) -> bool:
        """Whether the value is measured elsewhere; waits for it."""
        assert isinstance(key, tuple)
        name = key[0]
        if name not in self._elsewhere:
            return False
        if name != self._name:  # measured one after the other
            self._name, self._values = name, self._receive(name)
        return key in self._values

    def __getitem__(self, key: Key) -> Any:
        """Returns the value; its presence is asked before."""
        return self._values[key]

    def __setitem__(self, key: Key, value: Any) -> None:
        """Forgets what this rank measures itself: nobody asks for it again."""

    def __delitem__(self, key: Key) -> None:
        """Forgets a value."""
        del self._values[key]

    def __iter__(self) -> Iterator[Key]:
        """Iterates over what is known now."""
        return iter(self._values)

    def __len__(self) -> int:
        """The number of values that are known now."""
        return len(self._values)
