"""Writes generated tables as modules: `python -m tests.tables.float32_tensors` and the like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import transformers

FOLDER = Path(__file__).resolve().parents[2] / "fusion_slerp/planning/tables"
WIDTH = 110


def module(docstring: str, script: str, *parts: str) -> str:
    """Returns a module's text, which says by what it was made."""
    made = f"Made by `python -m tests.tables.{script}` from transformers {transformers.__version__}."
    return (
        "\n\n".join([f'"""{docstring}\n\n{made}\n"""', "from __future__ import annotations", *parts]) + "\n"
    )


def table(name: str, content: Mapping[str, Iterable[str]], docstring: str) -> str:
    """Returns the text of a mapping of tuples, a line each."""
    lines = [f"    {key!r}: {tuple(values)!r}," for key, values in sorted(content.items())]
    plain = "\n".join(lines).replace("'", '"')
    return f'{name}: dict[str, tuple[str, ...]] = {{\n{plain}\n}}\n"""{docstring}"""'


def names(name: str, content: Iterable[str], docstring: str) -> str:
    """Returns the text of a set of names, as many a line as fit."""
    lines, line = [], ""
    for each in sorted(set(content)):
        if len(line) + len(each) + 5 > WIDTH:
            lines.append(line)
            line = ""
        line += f"{each} "
    body = "\n".join(f"    {each.strip()}" for each in [*lines, line] if each)
    return f'{name} = frozenset(\n    """\n{body}\n    """.split()\n)\n"""{docstring}"""'


def write(name: str, text: str) -> None:
    """Writes a module of the package."""
    (FOLDER / f"{name}.py").write_text(text, encoding="utf-8")
