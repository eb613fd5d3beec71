"""The options of the command `sweep` that are not those of a merge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fusion_slerp.errors import Problem, SettingsError, setting

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
        help="The score that decides: NAME.loss of one text, TASK.METRIC of one task. Default: average.loss, "
        "without texts average.score.",
        show_default=False,
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        "--mode",
        metavar="TEXT",
        help="Whether the metric's min or max is best. Default: min of a loss; of a task, what it says.",
        show_default=False,
    ),
]
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
    int | None,
    typer.Option(
        "--batch-size", help="Windows, or requests of a task, in one forward pass.", show_default=False
    ),
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
class Evaluated:
    """What the merged models are evaluated on, as typed after `sweep` and `search`.

    Attributes:
        texts: `NAME=FILE` or `FILE`, each.
        tasks: Names of tasks.
        include_path: The folder with more tasks.
        limit: The limit of documents of each task.
        metric: The path of the score that decides; None for the usual one.
        mode: `min` or `max`; None for whichever suits the metric.
        settings: Arguments of `Evaluator`; None for those that were not given.
    """

    texts: Sequence[str]
    tasks: Sequence[str]
    include_path: str | None
    limit: float | None
    metric: str | None
    mode: str | None
    settings: Mapping[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `prepare_sweep` and `prepare_search`.

        Raises:
            SettingsError: Two texts have one name.
        """
        from fusion_slerp.sweeps.tasks import make_tasks

        return {
            "texts": named_texts(self.texts),
            "tasks": make_tasks(self.tasks, self.include_path, self.limit),
            "metric": self.metric,
            "mode": self.mode,
            "evaluation": {name: value for name, value in self.settings.items() if value is not None},
        }

    @property
    def words(self) -> list[str]:
        """The arguments as words of a command line."""
        pairs: list[tuple[str, Any]] = [("--text", each) for each in self.texts]
        pairs += [("--task", each) for each in self.tasks]
        limit = int(self.limit) if self.limit is not None and self.limit >= 1 else self.limit
        pairs += [("--include-path", self.include_path), ("--limit", limit)]
        pairs += [("--metric", self.metric), ("--mode", self.mode)]
        settings = dict(self.settings)
        pairs += [("--prompt", prompt) for prompt in settings.pop("prompts", None) or ()]
        pairs += [(f"--{name.replace('_', '-')}", value) for name, value in settings.items()]
        return words_of(pairs)


@dataclass(frozen=True, slots=True)
class SweepArguments:
    """The command's own arguments, as typed.

    Attributes:
        vary: `NAME=VALUES`, each.
        evaluated: What the merged models are evaluated on.
        out: The folder of the sweep.
        children: The folder of the merged models.
        save_best: The folder of the best one.
        max_points: The limit of points; None for the usual one.
    """

    vary: Sequence[str]
    evaluated: Evaluated
    out: str | None
    children: str | None
    save_best: str | None
    max_points: int | None

    @property
    def words(self) -> list[str]:
        """The arguments as words of a command line, without those that have their default."""
        folders = [("--children", self.children), ("--save-best", self.save_best)]
        more = [*folders, ("--max-points", self.max_points), ("-o", self.out)]
        return words_of([("--vary", each) for each in self.vary]) + self.evaluated.words + words_of(more)


def words_of(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    """Returns options with their values as words of a command line; those without a value are left out."""
    return [str(word) for flag, value in pairs if value is not None for word in (flag, value)]


def named_texts(typed: Sequence[str]) -> dict[str, str]:
    """Returns the files of texts by name: `NAME=FILE`, or `FILE`, whose name is then that of the file.

    Raises:
        SettingsError: Two texts have one name.
    """
    texts: dict[str, str] = {}
    for text in typed:
        name, equals, file = text.partition("=")
        name, file = (name, file) if equals else (Path(text).stem, text)
        if name in texts:
            fields = (("found", f"{name}={texts[name]} and {name}={file}"), ("needed", "every name once"))
            fix = f"use {setting('texts', {f'{name}-2': file})}"
            raise Problem(SettingsError, "two texts have one name", fields, fix).error()
        texts[name] = file
    return texts
