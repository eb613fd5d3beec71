"""Merges the documents of a recipe that build on one another, and prints each as it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusion_slerp.cli import running
from fusion_slerp.cli.amounts import path_text
from fusion_slerp.cli.options import parse_options
from fusion_slerp.cli.output import Output, exit_on_error, warnings_to
from fusion_slerp.cli.processes import on_all, share
from fusion_slerp.cli.request import Request, free_name, is_recipe
from fusion_slerp.cli.shell import shell_line
from fusion_slerp.errors import FusionSlerpError, Problem, SettingsError, not_an_option

if TYPE_CHECKING:
    from fusion_slerp.api import MergeResult
    from fusion_slerp.chains import PlacedStep
    from fusion_slerp.cluster.ranks import Ranks


def is_chain(models: Sequence[str]) -> bool:
    """Whether the arguments name a recipe of several documents."""
    if len(models) != 1 or not is_recipe(models[0]):
        return False
    from fusion_slerp.recipes.reading import documents

    try:
        return len(documents(models[0])) > 1
    except FusionSlerpError:  # which the reader of recipes reports
        return False


def merge_documents(
    models: Sequence[str],
    base: str | None,
    given: Mapping[str, Any],
    out: str | None,
    intermediate_dir: str | None,
    output: Output,
    with_config: bool,
    log_to: str | None = None,
    ranks: Ranks | None = None,
) -> None:
    """Merges the documents of a recipe, and shows the last merged model like any other.

    Args:
        models: The recipe.
        base: The base as typed, which only a document may have.
        given: The options as typed.
        out: The merged model's folder as typed.
        intermediate_dir: The folder for those of the other documents as typed; None without.
        output: Where to print.
        with_config: Whether the last merge is also printed as a config file.
        log_to: Where each merge is logged, see `run_log`; None for nowhere.
        ranks: The processes that merge together; None for this one alone.
    """
    result: MergeResult | None = None
    with warnings_to(output):
        with exit_on_error(output):
            _check(models, base, out)
            from fusion_slerp.chains import place_steps
            from fusion_slerp.run_logs import read_target

            if log_to is not None:
                read_target(log_to)
            assert out is not None
            options = share(ranks, {"show_pbar": output.progress, **parse_options(given)})
            steps = place_steps(models[0], out, intermediate_dir, **options)
        command = _command(models[0], out, intermediate_dir, parse_options(given))
        for number, placed in enumerate(steps, start=1):
            output.show(f"{number} of {len(steps)}: {placed.step.name or 'the merged model'}")
            result = _merge(placed, command, output, log_to, ranks)
    assert result is not None, "the last step is always merged"
    last = _request(steps[-1])
    with running.says_complete(result.out):
        running.end(result, output)
        running.show_result(result, last, out, output, with_config)
        kept = [path_text(placed.out) for placed in steps[:-1]]
        output.show("Kept, as the merged model is made of them:", *(f"  {folder}" for folder in kept))
        output.give(lambda: {**running.result_fields(result, last, out), "kept": kept, "command": command})


def _check(models: Sequence[str], base: str | None, out: str | None) -> None:
    if not is_chain(models):
        fields = (("found", ", ".join(models)), ("needed", "a recipe of several documents"))
        fix = "leave out --intermediate-dir"
        raise Problem(SettingsError, "--intermediate-dir has no effect here", fields, fix).error()
    if base is not None:
        fix = "set base_model in the document that it belongs to"
        raise Problem(SettingsError, "every document has its own base", (("found", base),), fix).error()
    if out is None:
        fix = shell_line(["fusion_slerp", "merge", not_an_option(models[0]), "-o", free_name()])
        fields = (("needed", "-o FOLDER"),)
        raise Problem(SettingsError, "no folder is named for the merged model", fields, fix).error()


def _command(recipe: str, out: str, intermediate_dir: str | None, options: Mapping[str, Any]) -> str:
    """The line that does the same in a shell."""
    line = Request((recipe,), None, dict(options)).command(out, in_full=False)
    more = [] if intermediate_dir is None else ["-I", not_an_option(intermediate_dir)]
    return f"{line} {shell_line(more)}" if more else line


def _request(placed: PlacedStep) -> Request:
    recipe = placed.step.recipe
    return Request(recipe.models, recipe.base, placed.options, recipe.notes)


def _merge(
    placed: PlacedStep, command: str, output: Output, log_to: str | None, ranks: Ranks | None
) -> MergeResult | None:
    """Merges one document, unless its folder holds it already; returns what was made, or None."""
    from fusion_slerp.chains import prepare_step

    request = _request(placed)
    with exit_on_error(output):
        prepared = on_all(ranks, lambda: prepare_step(placed))
    if prepared is None:
        output.show(f"  merged before: {path_text(placed.out)}")
        return None
    for note in request.notes_on(prepared.plan):
        output.note(note)
    result = running.run(prepared, request, str(placed.out), output, command, log_to, ranks)
    output.show(f"  {result}")
    return result
