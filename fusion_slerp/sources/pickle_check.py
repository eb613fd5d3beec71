"""Follows the steps of a pickle before torch does, so that none of them can take much memory or time.

Torch's `weights_only` unpickler runs no code from a file, but it makes whatever the steps request: a
bytearray of a terabyte, a string that doubles with every step, a tuple that contains itself a thousand times
and takes forever as a key. Here the steps are counted, and only the kinds of their results are followed.
Steps that torch itself refuses are left to it: its message is better, and it goes no further.

Source: torch/_weights_only_unpickler.py, `Unpickler.load`, which knows no other steps than these; their
meaning: Lib/pickletools.py of Python.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

MAX_STEPS = 640_000
MAX_CALLS = 60_000
"""Enough for 20,000 tensors in one file: torch.save writes 32 steps for each, three of them calls."""

MAX_DEPTH = 16
"""Levels of nested lists, dicts and tuples; a tensor's description has three."""

MAX_NAME, MAX_TEXT = 500, 10_000
"""Bytes of a function's name and of a string. Torch repeats them in its messages, which take time that grows
with the square of the name's length.
"""

FUNCTION = -1
"""In place of a value's depth: it has no parts, and can be called."""

MAKERS = {"bytearray", "Counter", "encode", "set", "complex"}
"""Python's own functions that torch would call: tensors do not need them, and their results can be large."""

LEAVES = {
    pickle.NONE: 0,
    pickle.NEWFALSE: 0,
    pickle.NEWTRUE: 0,
    pickle.EMPTY_TUPLE: 0,
    pickle.BININT: 4,
    pickle.BININT1: 1,
    pickle.BININT2: 2,
    pickle.BINFLOAT: 8,
}
"""Steps that make a value without parts, and the number of bytes that follow."""

COUNTED = {pickle.BINUNICODE: 4, pickle.SHORT_BINSTRING: 1, pickle.LONG1: 1}
"""Steps that make a value of a given number of bytes, and the size of that number, which follows."""

PUTS = {pickle.BINPUT: 1, pickle.LONG_BINPUT: 4}
GETS = {pickle.BINGET: 1, pickle.LONG_BINGET: 4}
CALLS = {pickle.REDUCE, pickle.NEWOBJ, pickle.BINPERSID, pickle.BUILD}


_DEEP = f"values nested more than {MAX_DEPTH} deep"


class PickleCallsError(Exception):
    """The function that a pickle calls although weights do not need it."""


class PickleLimitError(Exception):
    """Describes a part of a pickle that exceeds what weights need."""


class _TorchRefuses(Exception):
    """Torch also stops at this step."""


def check_pickle(raw: bytes) -> None:
    """Returns if the pickle is safe for torch to read.

    Raises:
        PickleCallsError: It calls one of `MAKERS`.
        PickleLimitError: It has more steps, calls or levels than the weights of a model need, uses a
            list, tuple or dict twice, has too long a string, or calls a non-function.
    """
    try:
        _Steps(raw).follow()
    except (_TorchRefuses, LookupError, ValueError):  # an empty stack, a truncated pickle
        return


class _Steps:
    """The stack of the unpickler, with the depth of each value in place of the value: 0 has no parts."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._position = 0
        self._stack: list[int] = []
        self._outer: list[list[int]] = []
        self._memo: dict[int, int] = {}
        self._n_calls = 0
        self._others: dict[bytes, Callable[[], object]] = {
            pickle.GLOBAL: self._global,
            pickle.EMPTY_LIST: lambda: self._stack.append(1),
            pickle.EMPTY_DICT: lambda: self._stack.append(1),
            pickle.EMPTY_SET: self._set,
            pickle.MARK: self._mark,
            pickle.TUPLE: lambda: self._push_tuple(self._to_mark()),
            pickle.TUPLE1: lambda: self._push_tuple(self._pop(1)),
            pickle.TUPLE2: lambda: self._push_tuple(self._pop(2)),
            pickle.TUPLE3: lambda: self._push_tuple(self._pop(3)),
            pickle.APPEND: lambda: self._put_in(self._pop(1)),
            pickle.SETITEM: lambda: self._put_in(self._pop(2)),
            pickle.APPENDS: lambda: self._put_in(self._to_mark()),
            pickle.SETITEMS: lambda: self._put_in(self._to_mark()),
            pickle.REDUCE: self._call,
            pickle.NEWOBJ: self._call,
            pickle.BINPERSID: self._storage,
            pickle.BUILD: lambda: self._pop(1),
            pickle.PROTO: lambda: self._number(1),
        }

    def follow(self) -> None:
        for _ in range(MAX_STEPS):
            step = self._raw[self._position : self._position + 1]
            self._position += 1
            if step == pickle.STOP:
                return
            self._follow(step)
        raise PickleLimitError(f"more than {MAX_STEPS} steps")

    def _follow(self, step: bytes) -> None:
        if step in PUTS:
            self._memo[self._number(PUTS[step])] = self._stack[-1]
        elif step in GETS:
            self._stack.append(self._fetched(self._number(GETS[step])))
        elif step in LEAVES:
            self._position += LEAVES[step]
            self._stack.append(0)
        elif step in COUNTED:
            self._string(self._number(COUNTED[step]))
        elif step in self._others:
            self._count(step)
            self._others[step]()
        else:
            raise _TorchRefuses

    def _count(self, step: bytes) -> None:
        self._n_calls += step in CALLS
        if self._n_calls > MAX_CALLS:
            raise PickleLimitError(f"more than {MAX_CALLS} calls")

    def _number(self, nbytes: int) -> int:
        self._position += nbytes
        return int.from_bytes(self._raw[self._position - nbytes : self._position], "little")

    def _string(self, nbytes: int) -> None:
        if nbytes > MAX_TEXT:
            raise PickleLimitError(f"a string of {nbytes} bytes")
        self._position += nbytes
        self._stack.append(0)

    def _set(self) -> None:
        raise PickleCallsError("set")

    def _global(self) -> None:
        module, name = self._line(), self._line()
        if name in MAKERS and not module.startswith("torch"):
            raise PickleCallsError(f"{module}.{name}")
        self._stack.append(FUNCTION)

    def _line(self) -> str:
        end = self._raw.index(b"\n", self._position)
        line = self._raw[self._position : end]
        self._position = end + 1
        if len(line) > MAX_NAME:
            raise PickleLimitError(f"a name of {len(line)} bytes")
        return line.decode("utf-8")

    def _fetched(self, key: int) -> int:
        # Values with parts are never shared, so each is as large as its part of the pickle.
        if self._memo[key] > 0:
            raise PickleLimitError("a list, tuple or dict that is used twice")
        return self._memo[key]

    def _mark(self) -> None:
        if len(self._outer) >= 2 * MAX_DEPTH:  # each level opens at most two
            raise PickleLimitError(_DEEP)
        self._outer.append(self._stack)
        self._stack = []

    def _to_mark(self) -> list[int]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _pop(self, count: int) -> list[int]:
        return [self._stack.pop() for _ in range(count)]

    def _push_tuple(self, items: list[int]) -> None:
        self._stack.append(self._deeper(items))

    def _put_in(self, items: list[int]) -> None:
        self._stack[-1] = max(self._stack[-1], self._deeper(items))

    def _call(self) -> None:
        if self._pop(2)[-1] != FUNCTION:
            raise PickleLimitError("a call of a non-function")
        self._stack.append(0)

    def _storage(self) -> None:
        self._pop(1)
        self._stack.append(0)

    def _deeper(self, items: list[int]) -> int:
        depth = 1 + max((0, *items))
        if depth > MAX_DEPTH:
            raise PickleLimitError(_DEEP)
        return depth
