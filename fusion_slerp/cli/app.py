"""The commands: what each takes, and in which order things happen."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from fusion_slerp.cli.options import normalized, with_settings
from fusion_slerp.cli.output import UNUSABLE, Output, exit_on_error, warnings_to

EXIT_CODES = (
    "Exit codes: 0 done, 1 a merge or a verification failed, 2 arguments or models that cannot be used, "
    "130 stopped by Ctrl-C, 143 by SIGTERM."
)

app = typer.Typer(
    name="fusion_slerp",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": normalized},
    epilog=EXIT_CODES,
)

MODEL_HELP = "a folder, or a hub id, with @revision if wanted"
Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help=f"Models in their order, labelled a, b, c, ...: {MODEL_HELP}.",
        show_default=False,
    ),
]
ModelsOrRecipe = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help=f"Models in their order, labelled a (t = 0), b, c, ...: {MODEL_HELP}. "
        "Or one recipe (.yml, .yaml) that names them.",
        show_default=False,
    ),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="MODEL", help="The models' ancestor, for methods that take one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours; as the variable NO_COLOR.")]


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
    """Merges language models by their weights: SLERP of two, or a weighted average of any number.

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


@app.command(epilog=EXIT_CODES)
@with_settings
def merge(
    models: ModelsOrRecipe,
    options: dict[str, Any],
    out: Annotated[str, typer.Option("-o", "--out", metavar="FOLDER", help="The merged model's folder.")],
    base: Base = None,
    json: Json = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Merge models into a new folder, complete or not at all.

    fusion_slerp merge path/to/A owner/B -t 0.3 -o child

    fusion_slerp merge A B C --method linear -w a=0.5 -w b=0.3 -w c=0.2 -o child
    """
    from fusion_slerp.cli import running
    from fusion_slerp.cli.request import read_request

    output = Output(json, quiet)
    with warnings_to(output):
        with exit_on_error(output):
            request = read_request(models, base, options)
            prepared = running.prepare(request, out, output)
        for note in request.notes:
            output.warn(note)
        result = running.run(prepared, request, out, output)
    running.show_result(result, request, out, output)
    output.give(lambda: running.result_fields(result, request, out))


@app.command(epilog=EXIT_CODES)
@with_settings
def plan(
    models: ModelsOrRecipe,
    options: dict[str, Any],
    base: Base = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FOLDER", help="Check this folder for the merged model as well."),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="List every tensor.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Show what a merge would do; write nothing.

    Every tensor, what is read and written, memory, disk, time, and every problem (exit code 2).
    """
    from fusion_slerp.cli import forecast, plan_table
    from fusion_slerp.cli.request import read_request

    output = Output(json, quiet)
    with warnings_to(output), exit_on_error(output, in_full=True):
        request = read_request(models, base, options)
        found = forecast.make(request, out)
    output.show(*plan_table.tables(found, every=all))
    for line in (*request.notes, *found.plan.warnings):
        output.warn(line)
    output.give(lambda: forecast.as_fields(found, request))


@app.command(epilog=EXIT_CODES)
def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The merged model's folder.")],
    inputs: Annotated[
        bool, typer.Option("--inputs", help="Check the models it was made from as well: reads each once.")
    ] = False,
    recompute: Annotated[
        str | None,
        typer.Option(
            "--recompute", metavar="COUNT", help="Re-merge COUNT tensors (or all), and compare the bits."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="LABEL=FOLDER",
            help="Where a model is, such as a=models/A; may be repeated. Default: next to OUT, or the hub.",
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
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Check that a merged model is, to the last bit, what was written.

    Reads it once and names every file and tensor that deviates; the exit code is 1 then.
    """
    from fusion_slerp.cli.verifying import verify_child

    given = [*(model or []), *(f"{label}={each}" for label, each in (("a", a), ("b", b)) if each is not None)]
    verify_child(out, inputs, recompute, given, Output(json, quiet))


@app.command(epilog=EXIT_CODES)
def clean(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The folder that a merge was to make.")],
    json: Json = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Remove what an interrupted merge left next to OUT.

    OUT itself and the models are not touched. An earlier OUT that was being replaced is restored.
    """
    from fusion_slerp.cli.cleaning import clean_up

    clean_up(out, Output(json, quiet))


@app.command(epilog=EXIT_CODES)
def inspect(
    models: Models,
    json: Json = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Show what is in checkpoints, and how far apart they are.

    Of two: angles in degrees and norms by layer and module, and what stands against a merge or is doubtful.
    Of more: the mean angles of A with each other one. Models that are compared are read; the exit code is 0
    even if they cannot be merged.
    """
    from fusion_slerp.cli.inspecting import inspect_models

    inspect_models(models, Output(json, quiet))


@app.command(epilog=EXIT_CODES)
def convert(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A file of mergekit, or one of ours.")],
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="FILE", help="Write there; must not exist.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FORM", help="hydra or mergekit. Default: the opposite of the input's."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Turn a mergekit recipe into our Hydra YAML, or the other way round."""
    from fusion_slerp.cli.converting import convert_recipe

    convert_recipe(recipe, out, to, Output(json, quiet))
