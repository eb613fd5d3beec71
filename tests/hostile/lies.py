"""Values that a config or a tokenizer may have in place of valid ones."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

CONTROL = "\x1b]0;owned\x07\x1b[2J\r\n\u202e"
"""Strings that a terminal would obey."""

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 10**18, -(10**18), 2**62, 2**64, 10**400, 0.5, float("nan"),
    float("inf"), -float("inf"), "", "x", "1", "a", CONTROL, "\ud800", "é" * 3000, [], [[]], [[1, [2]]],
    [None], ["a", 1], [-1], [10**18] * 3, ["<unk>"], list(range(3000)), {}, {"a": {"b": []}}, {"": ""},
    {"type": "BPE"}, {"vocab": 3}, {CONTROL: CONTROL}, {"content": "to", "id": 10**18}, {"id": None},
    [{"content": "x", "id": -5}], [{"content": "x", "id": 2**63}], [{"content": [], "id": 1}],
    [{"content": "or", "id": float("inf")}], [["a", 0.5], ["b"]], [["a", 0.5], ["b", "x"]], "[[[",
)  # fmt: skip


def lying(rng: random.Random, content: Any) -> str:
    """The text of a JSON file in which one to three values, keys or lengths are not what they were."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(content))
        if not places:
            break
        holder, key = rng.choice(places)
        change = rng.randrange(10)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[rng.choice(("a", "", CONTROL, "k" * 5000, "9" * 5000, "text_config"))] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    if rng.random() < 0.05:
        content = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(content)
    if rng.random() < 0.1:
        depth = rng.choice((40, 500, 3000))
        text = text.replace("null", "[" * depth + "]" * depth, 1)
    return text


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or object within a value, with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
