"""Values that the processes of a job leave for each other under names, in torch's rendezvous store."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_NBYTES = 4 << 20
"""Of one entry of the store: torch's own ends the connection at more than twice that."""


class LostError(Exception):
    """The store cannot be reached: the process that keeps it has ended, or the network fails."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """Stands for a value that is larger than an entry may be.

    Attributes:
        count: Of the entries that it is in.
    """

    count: int


class Messages:
    """The named values of a job. No call waits for another process; any thread may call.

    Args:
        store: A `torch.distributed.Store`, as all processes of the job have it.
        prefix: Of all names.

    Raises (all methods):
        LostError: The store cannot be reached.
    """

    def __init__(self, store: Any, prefix: str = "fusion_slerp") -> None:
        self._store, self._prefix = store, prefix
        self._has_extended_api = store.has_extended_api()

    def under(self, prefix: str) -> Messages:
        """Returns values of the same job, apart from these."""
        return Messages(self._store, f"{self._prefix} {prefix}")

    def put(self, name: str, value: Any) -> None:
        """Leaves a value of any size; it replaces an earlier one, which then should be small."""
        content = pickle.dumps(value)
        n_parts = -(-len(content) // MAX_NBYTES)
        if n_parts > 1:
            for i in range(n_parts):
                part = content[i * MAX_NBYTES : (i + 1) * MAX_NBYTES]
                self._call(self._store.set, self._part(self._name(name), i), part)
            content = pickle.dumps(_Parts(n_parts))
        self._call(self._store.set, self._name(name), content)

    def put_first(self, name: str, value: Any) -> Any:
        """Leaves a value unless there is one; returns the one that is there afterwards."""
        return pickle.loads(self._call(self._store.compare_set, self._name(name), "", pickle.dumps(value)))

    def has(self, name: str) -> bool:
        """Whether there is a value."""
        return self._call(self._store.check, [self._name(name)])

    def get(self, name: str) -> Any:
        """Returns a value that is there."""
        return self._whole(name, self._call(self._store.get, self._name(name)))

    def take(self, name: str) -> Any:
        """Returns a value that is there, and removes it."""
        content = self._call(self._store.get, self._name(name))
        value = self._whole(name, content)
        for key in (self._name(name), *self._parts(name, pickle.loads(content))):
            self._call(self._store.delete_key, key)
        return value

    def get_all(self, names: Sequence[str]) -> list[Any]:
        """Returns values that are there."""
        if not self._has_extended_api:
            return [self.get(name) for name in names]
        contents = self._call(self._store.multi_get, list(map(self._name, names)))
        return [self._whole(name, content) for name, content in zip(names, contents, strict=True)]

    def _whole(self, name: str, content: bytes) -> Any:
        value = pickle.loads(content)
        if not isinstance(value, _Parts):
            return value
        parts = self._parts(name, value)
        return pickle.loads(b"".join(self._call(self._store.get, part) for part in parts))

    def _parts(self, name: str, value: Any) -> list[str]:
        """The entries that hold the value which an entry stands for; none if it is the value itself."""
        count = value.count if isinstance(value, _Parts) else 0
        return [self._part(self._name(name), i) for i in range(count)]

    def _part(self, name: str, i: int) -> str:
        return f"{name} part {i}"

    def _name(self, name: str) -> str:
        return f"{self._prefix} {name}"

    def _call(self, call: Any, *args: Any) -> Any:
        try:
            return call(*args)
        except RuntimeError as error:  # torch's DistError is one
            raise LostError(str(error).splitlines()[0]) from error
