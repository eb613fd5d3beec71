"""The commands that make merged models and keep them in order, with their arguments and options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fusion_slerp.cli.arguments import Base, Json, JsonProgress, LogTo, ModelsOrRecipe, NoColor, Quiet
from fusion_slerp.cli.options import with_settings
from fusion_slerp.cli.output import Output, console, exit_on_error, warnings_to


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

    ranks, output = processes.joined(Output(json, quiet, json_progress))
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
