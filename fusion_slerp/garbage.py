"""Python's search for reference cycles, made rarer while many objects are made that have none.

A plan of 20,000 tensors is some 300,000 objects. The search that Python begins after every 700 new ones
takes a sixth of the whole time of such a merge, and finds nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

NEW_OBJECTS = 50_000
"""After which a search begins."""


@contextmanager
def rare_searches() -> Iterator[None]:
    """Lets Python search for cycles less often, for a while; leaves it alone where somebody set it so
    already.
    """
    before = gc.get_threshold()
    if not 0 < before[0] < NEW_OBJECTS:
        yield
        return
    gc.set_threshold(NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
