"""The options of the command `search` that are neither those of a merge nor those of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from fusion_slerp.cli.sweep_arguments import Evaluated, words_of

Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary",
        metavar="NAME=RANGE",
        help="An option and what to choose from: t=0:1 (any number), t=0:1:0.05 (steps), t=0.3,0.5 (values), "
        "weight.b=0:1 (of model b), t.self_attn=0:1 (of tensors with that in their name). May be repeated. "
        "-t LOW:HIGH is short for --vary t=LOW:HIGH.",
        show_default=False,
    ),
]
Holdout = Annotated[
    list[str] | None,
    typer.Option(
        "--holdout",
        metavar="NAME=FILE",
        help="A text that the search does not see: the best is evaluated on it at the end. May be repeated.",
        show_default=False,
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        "--trials",
        help="End after this many trials in all; default: 30, without another budget.",
        show_default=False,
    ),
]
Evaluations = Annotated[
    float | None,
    typer.Option(
        "--evaluations",
        help="Begin no trial after trials at the cost of this many evaluations.",
        show_default=False,
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", help="Begin no trial after this many minutes of trials.", show_default=False),
]
Sampler = Annotated[
    str,
    typer.Option("--sampler", metavar="NAME", help="How points are chosen: tpe, gp, cmaes, random or grid."),
]
SamplerSeed = Annotated[
    int, typer.Option("--sampler-seed", help="Decides all that is random in the choice of points.")
]
Prune = Annotated[
    float,
    typer.Option(
        "--prune",
        metavar="ERRORS",
        help="Stop a trial whose loss is worse than the best by more than this many standard errors.",
    ),
]
NoPrune = Annotated[bool, typer.Option("--no-prune", help="Evaluate every trial in full.")]


@dataclass(frozen=True, slots=True)
class SearchArguments:
    """The command's own arguments, as typed.

    Attributes:
        vary: `NAME=RANGE`, each.
        evaluated: What the trials are evaluated on.
        holdout: `NAME=FILE` or `FILE`, each held-out text.
        out: The folder of the search.
        save_best: The folder of the best merged model.
        chosen: Arguments of `searches.preparing.Chosen`.
    """

    vary: Sequence[str]
    evaluated: Evaluated
    holdout: Sequence[str]
    out: str | None
    save_best: str | None
    chosen: Mapping[str, Any]

    @property
    def words(self) -> list[str]:
        """The arguments as words of a command line, without those that have their default."""
        from fusion_slerp.searches.preparing import Chosen

        usual = Chosen()
        names = {"seed": "--sampler-seed"}
        chosen = [
            (names.get(name, f"--{name}"), value)
            for name, value in self.chosen.items()
            if value != getattr(usual, name)
        ]
        words = words_of([("--vary", each) for each in self.vary]) + self.evaluated.words
        words += words_of([*(("--holdout", each) for each in self.holdout), *chosen])
        words += ["--no-prune"] if self.chosen.get("prune") is None else []
        return words + words_of([("--save-best", self.save_best), ("-o", self.out)])
