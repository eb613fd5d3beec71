"""The commands that measure, compare and show models, with their arguments and options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fusion_slerp.cli import evaluate_arguments, search_arguments, sweep_arguments
from fusion_slerp.cli.arguments import Base, Json, JsonProgress, Models, ModelsOrRecipe, NoColor, Quiet
from fusion_slerp.cli.options import MODEL_HELP, with_settings
from fusion_slerp.cli.output import Output


def inspect(
    models: Models,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="The models' common ancestor: compare their differences from it.",
            show_default=False,
        ),
    ] = None,
    all: Annotated[
        bool, typer.Option("--all", help="List every layer's angles and norms instead of a map.")
    ] = False,
    html: Annotated[
        str | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write the comparison as a page with pictures as well, as `report` does.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    json_progress: JsonProgress = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Show the contents of checkpoints, and the angles between them.

    For two models: a map of the angles by layer and module, and everything that prevents a merge or is
    doubtful. For more: the mean angles of A with each of the others, and their maps. With a base, angles and
    norms are those of the models' differences from it, their task vectors. Weights are read only to compare
    models. The exit code is 0 even for models that are damaged or cannot be merged.
    """
    from fusion_slerp.cli.inspecting import inspect_models

    inspect_models(models, base, Output(json, quiet, json_progress), every=all, html=html)


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help=f"The model in question, then others to compare it with: {MODEL_HELP}.",
            show_default=False,
        ),
    ],
    text: sweep_arguments.Texts = None,
    task: evaluate_arguments.Tasks = None,
    prompt: evaluate_arguments.Prompts = None,
    out: evaluate_arguments.Out = None,
    max_tokens: sweep_arguments.MaxTokens = None,
    context_length: sweep_arguments.ContextLength = None,
    stride: sweep_arguments.Stride = None,
    batch_size: sweep_arguments.BatchSize = None,
    device: sweep_arguments.Device = None,
    include_path: evaluate_arguments.IncludePath = None,
    limit: evaluate_arguments.Limit = None,
    max_new_tokens: evaluate_arguments.MaxNewTokens = None,
    chat: evaluate_arguments.Chat = False,
    json: Json = False,
    json_progress: JsonProgress = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Measure models on texts and tasks, and show which differences are more than noise.

    fusion_slerp evaluate child path/to/A owner/B --text chat=chat.jsonl --text notes.txt

    fusion_slerp evaluate child A B --text notes.txt --prompt "Once upon a time" -o child

    The first model is compared with the others, token by token, so the error of a difference is much smaller
    than those of the losses. Needs torch and transformers.
    """
    from fusion_slerp.cli.evaluating import evaluate_models

    settings = {
        "tasks": task,
        "prompts": prompt,
        "max_tokens": max_tokens,
        "context_length": context_length,
        "stride": stride,
        "batch_size": batch_size,
        "device": device,
        "include_path": include_path,
        "limit": limit,
        "max_new_tokens": max_new_tokens,
        "chat": chat or None,
    }
    given = evaluate_arguments.EvaluateArguments(text or (), settings, out)
    evaluate_models(models, given, Output(json, quiet, json_progress))


@with_settings
def sweep(
    models: ModelsOrRecipe,
    options: dict[str, Any],
    vary: sweep_arguments.Vary = None,
    text: sweep_arguments.Texts = None,
    task: evaluate_arguments.Tasks = None,
    out: sweep_arguments.Out = None,
    base: Base = None,
    save_best: sweep_arguments.SaveBest = None,
    children: sweep_arguments.Children = None,
    metric: sweep_arguments.Metric = None,
    mode: sweep_arguments.Mode = None,
    max_points: sweep_arguments.MaxPoints = None,
    context_length: sweep_arguments.ContextLength = None,
    stride: sweep_arguments.Stride = None,
    batch_size: sweep_arguments.BatchSize = None,
    max_tokens: sweep_arguments.MaxTokens = None,
    include_path: evaluate_arguments.IncludePath = None,
    limit: evaluate_arguments.Limit = None,
    prompt: evaluate_arguments.Prompts = None,
    device: sweep_arguments.Device = None,
    only_plan: sweep_arguments.OnlyPlan = False,
    json: Json = False,
    json_progress: JsonProgress = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Evaluate merges at many values of an option, from one reading of the models.

    fusion_slerp sweep A B -t 0:1:0.1 --text chat=chat.jsonl -o sweep

    fusion_slerp sweep A B --vary t.self_attn=0:1:0.25 --vary t.mlp=0:1:0.25 --text notes.txt -o sweep

    fusion_slerp sweep A B -t 0:1:0.1 --task gsm8k --limit 200 -o curve

    The same command resumes a sweep that was stopped.
    """
    from fusion_slerp.cli import processes
    from fusion_slerp.cli.sweeping import sweep_models

    settings = {
        "context_length": context_length,
        "stride": stride,
        "batch_size": batch_size,
        "max_tokens": max_tokens,
        "prompts": prompt,
        "device": device,
    }
    evaluated = sweep_arguments.Evaluated(text or (), task or (), include_path, limit, metric, mode, settings)
    given = sweep_arguments.SweepArguments(vary or (), evaluated, out, children, save_best, max_points)
    ranks, output = processes.joined(Output(json, quiet, json_progress))
    sweep_models(models, base, options, given, output, only_plan, ranks)


@with_settings
def search(
    models: ModelsOrRecipe,
    options: dict[str, Any],
    vary: search_arguments.Vary = None,
    text: sweep_arguments.Texts = None,
    task: evaluate_arguments.Tasks = None,
    holdout: search_arguments.Holdout = None,
    out: sweep_arguments.Out = None,
    base: Base = None,
    save_best: sweep_arguments.SaveBest = None,
    trials: search_arguments.Trials = None,
    evaluations: search_arguments.Evaluations = None,
    minutes: search_arguments.Minutes = None,
    sampler: search_arguments.Sampler = "tpe",
    sampler_seed: search_arguments.SamplerSeed = 0,
    prune: search_arguments.Prune = 3.0,
    no_prune: search_arguments.NoPrune = False,
    metric: sweep_arguments.Metric = None,
    mode: sweep_arguments.Mode = None,
    context_length: sweep_arguments.ContextLength = None,
    stride: sweep_arguments.Stride = None,
    batch_size: sweep_arguments.BatchSize = None,
    max_tokens: sweep_arguments.MaxTokens = None,
    include_path: evaluate_arguments.IncludePath = None,
    limit: evaluate_arguments.Limit = None,
    device: sweep_arguments.Device = None,
    json: Json = False,
    json_progress: JsonProgress = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Search for the best values of options: each trial is a merge in memory and a part of an evaluation.

    fusion_slerp search A B --vary t=0:1 --text chat=chat.jsonl --trials 30 -o search

    fusion_slerp search A B --vary t.self_attn=0:1 --vary t.mlp=0:1 --text notes.txt --minutes 20 -o search

    The same command resumes a search that was stopped. Needs Optuna: pip install 'fusion-slerp\\[search]'.
    """
    from fusion_slerp.cli import processes
    from fusion_slerp.cli.searching import search_models

    chosen = {
        "trials": trials,
        "evaluations": evaluations,
        "minutes": minutes,
        "sampler": sampler,
        "seed": sampler_seed,
        "prune": None if no_prune else prune,
    }
    settings = {
        "context_length": context_length,
        "stride": stride,
        "batch_size": batch_size,
        "max_tokens": max_tokens,
        "device": device,
    }
    evaluated = sweep_arguments.Evaluated(text or (), task or (), include_path, limit, metric, mode, settings)
    given = search_arguments.SearchArguments(vary or (), evaluated, holdout or (), out, save_best, chosen)
    ranks, output = processes.joined(Output(json, quiet, json_progress))
    search_models(models, base, options, given, output, ranks)


def report(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="CHILD | SWEEP | MODEL",
            help="A merged model's folder, a sweep's folder, or two models or more to compare.",
            show_default=False,
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="The common ancestor of models to compare: show their differences from it.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help="The page. Default: MODEL-report.html."),
    ] = None,
    figures: Annotated[
        str | None,
        typer.Option(
            "--figures",
            metavar="FOLDER",
            help="Write the pictures for a paper as well: SVG, and PNG with the extra `figures`.",
            show_default=False,
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(
            "--evaluation",
            metavar="FILE",
            help="What evaluate wrote with -o. Default: evaluation.json in CHILD, if there is one.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read none of CHILD's weights: leave out its norms.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    json: Json = False,
    json_progress: JsonProgress = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Write a report with pictures as one HTML file, which needs no network.

    fusion_slerp report child

    fusion_slerp report path/to/A owner/B -o comparison.html

    About a merged model: what it was made of and how, the angles between its source models, norms, what was
    done with each tensor, and how to repeat the merge. About a sweep: the scores over what was varied. About
    models: how far they are apart. It holds no path of this machine.
    """
    from fusion_slerp.cli.reporting import Wanted, write_report

    wanted = Wanted(models, base, out, figures, evaluation, quick, overwrite)
    write_report(wanted, Output(json, quiet, json_progress))
