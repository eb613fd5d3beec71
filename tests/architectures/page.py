"""Writes `docs/architectures.md` from the recorded outcomes."""

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.architectures.building import CAUSAL, IMAGE_TEXT
from tests.architectures.results import Record, not_built
from tests.architectures.texts import REASONS, TRIALS, Reason

PAGE = Path(__file__).resolve().parents[2] / "docs/architectures.md"

Records = Mapping[str, Record]

SIGNS = {"ok": "yes", "refused": "refused", "wrong": "**wrong**", None: "–"}

KINDS = {CAUSAL: "Language models", IMAGE_TEXT: "Models of images and text"}


def page(content: Mapping[str, Any]) -> str:
    """Returns the page's Markdown."""
    records: Records = content["architectures"]
    built = {name: record for name, record in records.items() if not not_built(record)}
    blocks = [
        *_head(content, built),
        *(block for kind in KINDS for block in _table(kind, built)),
        *_refused(built),
        *_experts(built),
        *_left_out(records),
        *_again(),
    ]
    return "\n\n".join(blocks) + "\n"


def verdict(outcome: str | None) -> str | None:
    """Returns `ok`, `refused` or `wrong`, without the details; None for what was not tried."""
    return outcome.partition(":")[0] if outcome is not None else None


def counts(records: Records) -> dict[str, Counter[str | None]]:
    """Returns how often each check had each outcome."""
    return {check: Counter(verdict(each.get(check)) for each in records.values()) for check in TRIALS}


def reason_of(check: str, outcome: str) -> Reason | None:
    """Returns the entry of `REASONS` for a refusal."""
    fitting = (reason for reason in REASONS if check in reason.checks or not reason.checks)
    return next((each for each in fitting if any(phrase in outcome for phrase in each.phrases)), None)


def _head(content: Mapping[str, Any], built: Records) -> Iterator[str]:
    yield "# Architectures"
    yield "<!-- Made by `make architectures-page` from tests/architectures/results.json. -->"
    yield _paragraph(
        f"transformers {content['transformers']} maps {len(content['architectures'])} architectures to "
        f"`AutoModelForCausalLM` and `AutoModelForImageTextToText`. {len(built)} of them were built as small "
        "as they go, with random weights, and merged by SLERP at t = 0.3. Every merged model was loaded with "
        "its own class, run, and saved again: no tensor may be missing, unexpected or made at random. "
        f"torch was {content['torch']}, on a CPU, in float32."
    )
    yield "\n".join(_summary(built))
    yield _paragraph(
        "A refusal is an error before anything is written: see [what is refused, and why]"
        "(#what-is-refused-and-why). A dash means that there is nothing of the kind to try."
    )


def _summary(built: Records) -> Iterator[str]:
    yield "| column | tried | right | refused | what is tried |"
    yield "|---|---:|---:|---:|---|"
    for check, found in counts(built).items():
        trial = TRIALS[check]
        n = sum(found.values()) - found[None]
        yield f"| {trial.column} | {n} | {found['ok']} | {found['refused']} | {trial.text} |"


def _table(kind: str, built: Records) -> Iterator[str]:
    yield f"## {KINDS[kind]}"
    lines = ["| model type | class | " + " | ".join(trial.column for trial in TRIALS.values()) + " |"]
    lines.append("|---" * (len(TRIALS) + 2) + "|")
    for name, record in built.items():
        if name.endswith(f"-{kind}"):
            cells = " | ".join(SIGNS[verdict(record.get(check))] for check in TRIALS)
            lines.append(f"| `{name.removesuffix(f'-{kind}')}` | `{record['class']}` | {cells} |")
    yield "\n".join(lines)


def _refused(built: Records) -> Iterator[str]:
    yield "## What is refused, and why"
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, record in built.items():
        for check, trial in TRIALS.items():
            if verdict(record.get(check)) == "refused" and (reason := reason_of(check, record[check])):
                found[reason.title][trial.column].append(name)
    for reason in REASONS:
        if reason.title in found:
            yield f"### {reason.title}"
            yield _paragraph(f"{reason.why} **What would help:** {reason.help}")
            yield "\n".join(_item(f"{column}:", names) for column, names in found[reason.title].items())


def _experts(built: Records) -> Iterator[str]:
    divided: dict[str, list[str]] = defaultdict(list)
    for name, record in built.items():
        if remark := record.get("equal", "").partition("ok: ")[2]:
            divided[remark].append(name)
    if not divided:
        return
    yield "## Tensors with several angles"
    yield _paragraph(
        "SLERP takes one angle for each tensor. In a tensor that holds the matrices of all experts, each "
        "matrix that another layout stores alone has its own angle, so that the merged model does not depend "
        "on how its source models were saved."
    )
    yield "\n".join(_item(f"{remark}:", names) for remark, names in sorted(divided.items()))


def _left_out(records: Records) -> Iterator[str]:
    yield "## What was not tried"
    lines = []
    for name, record in records.items():
        if reason := not_built(record):
            lines.append(f"- `{name}` is not built: {_quoted(reason)}")
        elif reason := record.get("not run"):
            lines.append(f"- `{name}` is merged, loaded and compared, but not run: {_quoted(reason)}")
    yield "\n".join(lines)


def _again() -> Iterator[str]:
    yield "## Run it again"
    yield "\n".join(
        [
            "<!-- not run: takes minutes, in a clone of the repository -->",
            "```bash",
            "make architectures        # compares with the recorded outcomes",
            "make architectures-page   # records them, and writes this page",
            "```",
        ]
    )
    yield _paragraph(
        "The code is in `tests/architectures/`. It finds the rows that follow the tokens by the modules of "
        "each model, not by the names of tensors, and checks that a reordered model gives the same logits."
    )


def _quoted(message: str) -> str:
    plain = message.replace("`", "'")
    return f"`{plain}`"


def _item(head: str, names: list[str]) -> str:
    text = f"- {head} {', '.join(f'`{name}`' for name in names)}"
    return textwrap.fill(text, 118, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 118, break_on_hyphens=False, break_long_words=False)
