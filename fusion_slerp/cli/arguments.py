"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from fusion_slerp.cli.options import MODEL_HELP, base_help

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help=f"The models, labelled a, b, c, ... in this order: {MODEL_HELP}.",
        show_default=False,
    ),
]
ModelsOrRecipe = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help=f"The models, labelled a (t = 0), b, c, ... in this order: {MODEL_HELP}. "
        "Or one recipe (.yml, .yaml) that names them.",
        show_default=False,
    ),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="MODEL", help=base_help(), show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
JsonProgress = Annotated[
    bool,
    typer.Option("--json-progress", help="Print progress and messages as JSON lines on standard error."),
]
LogTo = Annotated[
    str | None,
    typer.Option(
        "--log-to",
        metavar="LOG[:PROJECT]",
        help="Log settings and results in trackio or wandb, if that package is installed.",
        show_default=False,
    ),
]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours, as with the variable NO_COLOR.")]
