"""Makes the table of the tensors that transformers keeps in float32 in a 16-bit model."""

from __future__ import annotations

import re

from tests.tables.model_classes import model_classes
from tests.tables.written import module, table, write

NAME = "float32_tensors"


def text() -> str:
    """Returns the text of the module."""
    always: dict[str, set[str]] = {}
    in_float16: dict[str, set[str]] = {}
    for each in model_classes():
        types = {each.model_type, each.config_class.model_type}
        kept = {*each.strict}
        kept |= {end for name in each.in_float32 if not _matches(end := _end(name), kept)}
        for content, patterns in ((always, kept), (in_float16, {*each.halves})):
            for model_type in types if patterns else ():
                content.setdefault(model_type, set()).update(patterns)
    return module(
        "Tensors that transformers keeps in float32 where a model is loaded in 16 bits, by model type.",
        NAME,
        table("ALWAYS", {key: sorted(value) for key, value in always.items()}, "In bfloat16 and float16."),
        table("IN_FLOAT16", {key: sorted(value) for key, value in in_float16.items()}, "In float16 only."),
    )


def _end(name: str) -> str:
    """A name from its layer on; a single word there would match other tensors as well."""
    end = name.rpartition("*.")[2]
    return end if "." in end else name


def _matches(name: str, patterns: set[str]) -> bool:
    return any(re.search(pattern.replace("*", ".*"), name) for pattern in patterns)


if __name__ == "__main__":
    write(NAME, text())
