"""The options of the command `evaluate` that `sweep` does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="NAME",
        help="A task of lm-evaluation-harness, or a pattern such as mmlu_*. May be repeated. Needs the extra "
        "lm-eval.",
        show_default=False,
    ),
]
IncludePath = Annotated[
    str | None,
    typer.Option("--include-path", metavar="FOLDER", help="A folder with more tasks.", show_default=False),
]
Limit = Annotated[
    float | None,
    typer.Option(
        "--limit", help="Only this many documents of each task, or this share if below 1.", show_default=False
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="A text that every model continues, always with the likeliest token. May be repeated.",
        show_default=False,
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens", help="How long a continuation may be. Default: 64 tokens.", show_default=False
    ),
]
Chat = Annotated[
    bool, typer.Option("--chat", help="Prompts are what a user says, by each tokenizer's chat template.")
]
Out = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        metavar="FILE",
        help="Write everything to this .json file as well, or to evaluation.json in this folder, which may "
        "be that of a merged model.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class EvaluateArguments:
    """What was typed after the models.

    Attributes:
        texts: Each `NAME=FILE`, or a file.
        settings: Arguments of `fusion_slerp.evaluate`; None for those that were not given.
        out: Where the result is written.
    """

    texts: Sequence[str]
    settings: Mapping[str, Any]
    out: str | None
