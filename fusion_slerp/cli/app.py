"""The commands with their arguments and options."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from fusion_slerp.cli import evaluate_arguments, search_arguments, sweep_arguments
from fusion_slerp.cli.arguments import Base, Json, JsonProgress, LogTo, Models, ModelsOrRecipe, NoColor, Quiet
from fusion_slerp.cli.options import MODEL_HELP, SettingsCommand, normalized, with_settings
from fusion_slerp.cli.output import UNUSABLE, Output, console, exit_on_error, warnings_to
from fusion_slerp.cli.usage import Commands

EXIT_CODES = (
    "Exit codes: 0 done, 1 a merge or a verification failed, 2 invalid arguments or models, "
    "130 stopped by Ctrl-C, 143 by SIGTERM."
)

app = typer.Typer(
    name="fusion_slerp",
    cls=Commands,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": normalized},
    epilog=EXIT_CODES,
)


def _version(wanted: bool) -> None:
    if wanted:
        from fusion_slerp import __version__

        print(f"fusion_slerp {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    no_color: NoColor = False,
) -> None:
    """Merge the weights of language models: SLERP of two, averages, TIES and other methods of any number.

    Without a command, in a terminal, it asks for everything.
    """
    if context.invoked_subcommand is not None:
        return
    if sys.stdin.isatty() and sys.stdout.isatty():
        from fusion_slerp.cli.questions import ask_and_merge

        ask_and_merge()
        return
    context.get_help()
    raise typer.Exit(UNUSABLE)


@app.command(epilog=EXIT_CODES, cls=SettingsCommand)
@with_settings
def merge(
    models: ModelsOrRecipe,
    options: dict[str, Any],
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FOLDER", help="The merged model's folder. Required."),
    ] = None,
    base: Base = None,
    intermediate_dir: Annotated[
        str | None,
        typer.Option(
            "-I",
            "--intermediate-dir",
            metavar="FOLDER",
            help="Where the named documents of a recipe are merged, if it has several. Default: next to OUT.",
            show_default=False,
        ),
    ] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the merge as a config file as well.")
    ] = False,
    log_to: LogTo = None,
    json: Json = False,
    json_progress: JsonProgress = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Merge models into a new folder, which appears complete or not at all.

    fusion_slerp merge path/to/A owner/B -t 0.3 -o child

    fusion_slerp merge A B C --method linear -w a=0.5 -w b=0.3 -w c=0.2 -o child

    fusion_slerp merge A B C --method ties --base BASE --density 0.5 -o child
    """
    from fusion_slerp.cli import chaining, processes, running
    from fusion_slerp.cli.request import read_request
    from fusion_slerp.run_logs import read_target

    ranks = processes.joined()
    output = processes.output_of(ranks, Output(json, quiet, json_progress))
    if intermediate_dir is not None or chaining.is_chain(models):
        chaining.merge_documents(
            models, base, options, out, intermediate_dir, output, show_config, log_to, ranks
        )
        return
    with warnings_to(output):
        with exit_on_error(output):
            if log_to is not None:
                read_target(log_to)
            request = read_request(models, base, options, out, needs_out=True)
            assert out is not None
            prepared = running.prepare(request, out, output, ranks)
        for note in request.notes_on(prepared.plan):
            output.note(note)
        result = running.run(prepared, request, out, output, log_to=log_to, ranks=ranks)
    with running.says_complete(result.out):
        running.end(result, output)
        running.show_result(result, request, out, output, with_config=show_config)
        output.give(lambda: running.result_fields(result, request, out))


@app.command(epilog=EXIT_CODES, cls=SettingsCommand)
@with_settings
def plan(
    models: ModelsOrRecipe,
    options: dict[str, Any],
    base: Base = None,
    out: Annotated[
        str | None,
        typer.Option(
            "-o", "--out", metavar="FOLDER", help="The merged model's folder, to be checked as well."
        ),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="List every tensor.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Show what a merge would do; write nothing.

    Lists every tensor, the bytes read and written, memory, disk and time, or every problem (exit code 2).
    """
    from fusion_slerp.cli import forecast, plan_table
    from fusion_slerp.cli.request import read_request

    output = Output(json, quiet)
    with warnings_to(output), exit_on_error(output, in_full=True):
        request = read_request(models, base, options, out)
        planned = forecast.make(request, out)
    if output.shows:
        output.show(*plan_table.tables(planned, console(), every=all))
    for note in request.notes_on(planned.plan):
        output.note(note)
    for warning in planned.plan.warnings:
        output.warn(warning)
    output.give(lambda: forecast.as_fields(planned, request))


@app.command(epilog=EXIT_CODES, cls=SettingsCommand)
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
    ranks = processes.joined()
    output = processes.output_of(ranks, Output(json, quiet, json_progress))
    sweep_models(models, base, options, given, output, only_plan, ranks)


@app.command(epilog=EXIT_CODES, cls=SettingsCommand)
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
    ranks = processes.joined()
    output = processes.output_of(ranks, Output(json, quiet, json_progress))
    search_models(models, base, options, given, output, ranks)


@app.command(epilog=EXIT_CODES)
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


@app.command(epilog=EXIT_CODES)
def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The merged model's folder.")],
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Check the source models as well; reads each once or twice.")
    ] = False,
    recompute: Annotated[
        str | None,
        typer.Option(
            "--recompute",
            metavar="COUNT",
            help="Re-merge COUNT tensors (or all) and compare them bit by bit.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="LABEL=FOLDER",
            help="A source model's folder, as a=models/A or base=models/B, or the recipe that names them; "
            "may be repeated. Default: next to OUT, in the current folder, or the Hub.",
            show_default=False,
        ),
    ] = None,
    a: Annotated[
        str | None, typer.Option("--a", metavar="FOLDER", help="The same as --model a=FOLDER.")
    ] = None,
    b: Annotated[
        str | None, typer.Option("--b", metavar="FOLDER", help="The same as --model b=FOLDER.")
    ] = None,
    json: Json = False,
    json_progress: JsonProgress = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Check that a merged model is bit for bit as it was written.

    Reads it once and names every file and tensor that deviates; the exit code is 1 if any does.
    """
    from fusion_slerp.cli.verifying import verify_child

    given = [*(model or []), *(f"{label}={each}" for label, each in (("a", a), ("b", b)) if each is not None)]
    verify_child(out, inputs, recompute, given, Output(json, quiet, json_progress))


@app.command(epilog=EXIT_CODES)
def clean(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The merged model's folder, as given to merge.")],
    json: Json = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Remove the partial folder that an interrupted merge left next to OUT.

    OUT itself and the models are not touched. An earlier OUT that was being replaced is restored.
    """
    from fusion_slerp.cli.cleaning import clean_up

    clean_up(out, Output(json, quiet))


@app.command(epilog=EXIT_CODES)
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


@app.command(epilog=EXIT_CODES)
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


@app.command(epilog=EXIT_CODES)
def convert(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe of mergekit, or a Hydra YAML of fusion_slerp.")
    ],
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write to this file, which must not exist."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FORM", help="hydra or mergekit. Default: the opposite of the input's."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Convert a mergekit recipe to Hydra YAML, or Hydra YAML to a mergekit recipe."""
    from fusion_slerp.cli.converting import convert_recipe

    convert_recipe(recipe, out, to, Output(json, quiet))


@app.command(epilog=EXIT_CODES)
def demo(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="The folder to copy to. Default: the current one.", show_default=False
        ),
    ] = ".",
    json: Json = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Copy four small demo models to merge (4 MB each): plays, code, manual, ancestor; and held-out texts."""
    from fusion_slerp.cli.demo import copy_demo_models

    copy_demo_models(folder, Output(json, quiet))
