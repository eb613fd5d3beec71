"""Which layers of a model are of which kind, if its config says it by a number or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LEADING, TRAILING, EVERY, EVERY_FROM_0, WINDOW = "leading", "trailing", "every", "every from 0", "window"
"""What a number n says of layer i: i < n; i is one of the last n; i + 1, or i, is a multiple of n; i >= n
and the config has a sliding window.
"""


@dataclass(frozen=True, slots=True)
class Pattern:
    """How transformers fills a list with a value a layer that a config lacks.

    Attributes:
        start: The first layers' values, if no key is set.
        cycle: The values that repeat after them; empty if nothing simple is known.
        last: The last layer's value, if it is an exception.
        from_end: Whether `cycle` is counted from the last layer backwards.
        key: The key with a number that changes the list.
        form: What that number means.
        kinds: The values of layers of which it says so, and of others.
        default: The number, if the key is not set.
        others: Keys that change the list in other ways, each with its default.
        of_list: Another list, from which this one follows layer by layer if it is set.
        indices: Whether the list is one of indices; the values above then are whether a layer is in it.
        last_stays: Whether transformers refuses or replaces another last value in a list that a config has.
        needs_all: Whether it refuses or replaces a list without one of the usual values.
    """

    start: tuple[Any, ...] = ()
    cycle: tuple[Any, ...] = ()
    last: Any = None
    from_end: bool = False
    key: str = ""
    form: str = ""
    kinds: tuple[Any, Any] = (True, False)
    default: int | None = None
    others: Mapping[str, Any] = field(default_factory=dict)
    of_list: str = ""
    indices: bool = False
    last_stays: bool = False
    needs_all: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that do nothing but fill the list."""
        return tuple(filter(None, (self.key, *self.others)))

    def of(self, config: Mapping[str, Any], n: int) -> list[Any] | None:
        """Returns the values of `n` layers under a config; None if they are not known."""
        if any(config.get(key, default) != default for key, default in self.others.items()):
            return None
        number = config.get(self.key) if self.key else None
        if self.form == WINDOW:
            if not config.get("use_sliding_window") or config.get("sliding_window", 1) is None:
                return [self.kinds[1]] * n
            number = self.default if number is None else number
        if number is None:
            return self._by_default(n)
        holds = layers_where(self.form, number, n)
        return None if holds is None else [self.kinds[not each] for each in holds]

    def allows(self, values: Sequence[Any]) -> bool:
        """Whether transformers takes a list as it is."""
        if self.last_stays and [*values[-1:]] != [self.last]:
            return False
        return not self.needs_all or all(each in values for each in (*self.start, *self.cycle))

    def _by_default(self, n: int) -> list[Any] | None:
        if not self.cycle:
            return None
        if self.from_end:
            return [self.cycle[(n - 1 - i) % len(self.cycle)] for i in range(n)]
        values = [*self.start, *(self.cycle[i % len(self.cycle)] for i in range(n - len(self.start)))][:n]
        return values if self.last is None or not n else [*values[:-1], self.last]


def layers_where(form: str, number: object, n: int) -> list[bool] | None:
    """Returns for each of `n` layers whether a number means it; None if the number is impossible."""
    if type(number) is not int or number < (form in (EVERY, EVERY_FROM_0)):
        return None
    if form == LEADING:
        return [i < number for i in range(n)]
    if form == WINDOW:
        return [i >= number for i in range(n)]
    if form == TRAILING:
        return [i >= n - number for i in range(n)]
    return [(i + (form == EVERY)) % number == 0 for i in range(n)]


def number_for(form: str, old: int, kinds: Sequence[bool]) -> int | None:
    """Returns a number that means these layers of `len(kinds)`, the old one if it does; None if none does."""
    n, meant = len(kinds), [i for i, each in enumerate(kinds) if each]
    if form == EVERY:
        other = meant[0] + 1 if meant else n + 1
    elif form == EVERY_FROM_0:
        other = meant[1] if len(meant) > 1 else n
    else:
        other = len(meant)
    return next((each for each in (old, other) if layers_where(form, each, n) == list(kinds)), None)


def period_for(period: int, offset: int, kinds: Sequence[bool]) -> tuple[int, int] | None:
    """Returns a period and an offset that mean these layers, the old ones if they do; None if none do.

    They mean layer i if `i % period == offset`.
    """
    n, meant = len(kinds), [i for i, each in enumerate(kinds) if each]
    if len(meant) > 1:
        other = meant[1] - meant[0], meant[0]
    else:  # a period that does not return within the layers
        first = meant[0] if meant else n
        other = max(first + 1, n - first), first
    for p, o in ((period, offset), other):
        if p > 0 and [i % p == o for i in range(n)] == list(kinds):
            return p, o
    return None
