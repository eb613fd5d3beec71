"""The options of the command `sweep` that are not those of a merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary",
        metavar="NAME=VALUES",
        help="An option and its values: t=0:1:0.1 (start, stop, step, ends included), t=0.3,0.5, "
        "weight.b=0:1:0.25 (of model b), t.self_attn=0:1:0.5 (of tensors with that in their name). "
        "Repeat it for a grid. -t with several values is short for --vary t=VALUES.",
        show_default=False,
    ),
]
Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="NAME=FILE",
        help="A text to evaluate on: .txt, .jsonl, .parquet, or a folder of datasets. May be repeated.",
        show_default=False,
    ),
]
Out = Annotated[
    str | None,
    typer.Option("-o", "--out", metavar="FOLDER", help="The folder that keeps the results. Required."),
]
SaveBest = Annotated[
    str | None,
    typer.Option("--save-best", metavar="FOLDER", help="Write the best merged model here, as merge would."),
]
Children = Annotated[
    str | None,
    typer.Option(
        "--children",
        metavar="FOLDER",
        help="Write every point's merged model to a folder of its own in this one; the evaluation is then "
        "optional.",
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="PATH",
        help="The score that decides. Default: average.loss; NAME.loss for one text.",
        show_default=False,
    ),
]
Mode = Annotated[str, typer.Option("--mode", metavar="TEXT", help="Whether the metric's min or max is best.")]
MaxPoints = Annotated[
    int | None,
    typer.Option(
        "--max-points", min=1, help="Refuse more points than this; default: 200.", show_default=False
    ),
]
ContextLength = Annotated[
    int | None, typer.Option("--context-length", help="Tokens that a model sees at once.", show_default=False)
]
Stride = Annotated[
    int | None,
    typer.Option("--stride", help="Tokens from one window to the next.", show_default=False),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Windows in one forward pass.", show_default=False)
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", help="Read at most this many tokens of each text.", show_default=False),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="TEXT", help="Where the models run, such as cuda:1.")
]
OnlyPlan = Annotated[
    bool, typer.Option("--plan", help="Show the points, bytes and memory; evaluate nothing.")
]


@dataclass(frozen=True, slots=True)
class SweepArguments:
    """The command's own arguments, as typed.

    Attributes:
        vary: `NAME=VALUES`, each.
        texts: `NAME=FILE` or `FILE`, each.
        out: The folder of the sweep.
        children: The folder of the merged models.
        save_best: The folder of the best one.
        metric: The path of the score that decides; None for the average loss.
        mode: `min` or `max`.
        max_points: The limit of points; None for the usual one.
        evaluation: The other settings of the evaluation; None for those that were not given.
    """

    vary: Sequence[str]
    texts: Sequence[str]
    out: str | None
    children: str | None
    save_best: str | None
    metric: str | None
    mode: str
    max_points: int | None
    evaluation: Mapping[str, Any]

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings of the evaluation that were given."""
        return {name: value for name, value in self.evaluation.items() if value is not None}
