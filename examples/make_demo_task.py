"""Makes the questions of the task `fusion_slerp_demo`: which of four lines continues a passage?

    python examples/make_demo_task.py

Passages come from the held-out texts of the demo models, an equal share from each. Of the wrong lines, one is
from elsewhere in the same text and one from each of the other two; all are about as long as the right one. A
model that prefers one kind of text after any passage is penalised. Nothing is drawn at random: hashes decide,
so every machine makes the same file.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "fusion_slerp"
TEXTS = PACKAGE / "demo/texts"
QUESTIONS = PACKAGE / "evaluation/tasks/fusion_slerp_demo.jsonl"

NAMES = ("plays", "code", "manual")
QUESTIONS_PER_TEXT = 32
PASSAGE_LINES = 4
SHORTEST, LONGEST = 20, 72
"""Characters of a line to choose: shorter ones say little, longer ones would not fit the demo's context."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=QUESTIONS, help="the file to write")
    parser.parse_args().out.write_text(questions_text(), encoding="utf-8")


def questions_text() -> str:
    """Returns the questions of all texts, one JSON object per line."""
    texts = {name: (TEXTS / f"{name}.txt").read_text("utf-8").splitlines() for name in NAMES}
    records = [record for name in NAMES for record in questions(name, texts)]
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def questions(name: str, texts: dict[str, list[str]]) -> Iterator[dict[str, object]]:
    """Yields the questions of one text, in reading order; `texts` has the lines of all."""
    lines = texts[name]
    candidates = {each: _candidates(its_lines) for each, its_lines in texts.items()}
    usable = [i for i in candidates[name] if i >= PASSAGE_LINES and lines[i - 1].strip()]
    for number, i in enumerate(sorted(_shuffled(usable, f"{name}, passages")[:QUESTIONS_PER_TEXT]), start=1):
        far = {**candidates, name: [j for j in candidates[name] if abs(j - i) > 2 * PASSAGE_LINES]}
        wrong = [_like(lines[i], texts[each], far[each], f"{name} {i}, {each}") for each in NAMES]
        choices = sorted([lines[i], *wrong], key=lambda line: _digest(f"{name} {i}: {line}"))
        yield {
            "id": f"{name}-{number:02}",
            "passage": "\n".join(lines[i - PASSAGE_LINES : i]).strip("\n"),
            "choices": choices,
            "answer": choices.index(lines[i]),
        }


def _candidates(lines: list[str]) -> list[int]:
    """Indices of the lines that occur once and are neither short nor long."""
    counts = Counter(line.strip() for line in lines)
    return [
        i
        for i, line in enumerate(lines)
        if SHORTEST <= len(line.strip()) <= LONGEST and counts[line.strip()] == 1
    ]


def _like(answer: str, lines: list[str], candidates: list[int], purpose: str) -> str:
    """The line among the candidates that is most like the answer in indentation and length."""

    def unlikeness(i: int) -> tuple[bool, int]:
        return _indent(lines[i]) != _indent(answer), abs(len(lines[i]) - len(answer))

    return lines[min(_shuffled(candidates, purpose), key=unlikeness)]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _shuffled(numbers: list[int], purpose: str) -> list[int]:
    return sorted(numbers, key=lambda i: _digest(f"{purpose}: {i}"))


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()


if __name__ == "__main__":
    main()
