"""The command `search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fusion_slerp.cli.amounts import path_text
from fusion_slerp.cli.output import FAILED, Output, exit_on_error, warnings_to
from fusion_slerp.cli.processes import on_all
from fusion_slerp.cli.request import Request, read_request
from fusion_slerp.cli.search_arguments import SearchArguments
from fusion_slerp.cli.sweep_arguments import named_texts
from fusion_slerp.cli.sweeping import check_out, resuming, stops_cleanly, what_varies
from fusion_slerp.errors import Problem, SettingsError

if TYPE_CHECKING:
    from fusion_slerp.cluster.ranks import Ranks
    from fusion_slerp.searches.preparing import PreparedSearch
    from fusion_slerp.searches.record import SearchRecord, Trial
    from fusion_slerp.searches.running import OnResult


def search_models(
    models: Sequence[str],
    base: str | None,
    options: Mapping[str, Any],
    given: SearchArguments,
    output: Output,
    ranks: Ranks | None = None,
) -> None:
    """Runs a search; ends the command if it fails, or if a launcher has started several processes."""
    with warnings_to(output):
        with exit_on_error(output):
            on_all(ranks, lambda: _refuse_several(ranks))
            vary, fixed = what_varies(given.vary, options)
            request = read_request(models, base, fixed)
            search = _prepare(request, vary, given)
            from fusion_slerp.searches.running import prepare_best, run_search

            target = prepare_best(search, given.save_best)
        for remark in request.notes_on(search.sweep.plan):
            output.note(remark)
        if search.chosen.is_unlimited:
            output.note(f"no budget is given: the search ends after {search.chosen.max_trials} trials")
        command = resuming("search", request, vary, given)
        with stops_cleanly(command, output, lambda: _kept(search)), exit_on_error(output, FAILED):
            record = run_search(search, target, on_result=_shown(output))
    _show_result(search, record, given, request, output)


def _refuse_several(ranks: Ranks | None) -> None:
    if ranks is not None:
        fields = (("found", f"{ranks.count} processes"), ("needed", "one: each trial depends on the others"))
        fix = "run the command without torchrun or srun, or use a sweep, which processes share"
        raise Problem(SettingsError, "a search runs in one process", fields, fix).error()


def _prepare(request: Request, vary: Mapping[str, str], given: SearchArguments) -> PreparedSearch:
    from fusion_slerp.searches.preparing import Chosen, prepare_search

    check_out(given.out, "search")
    return prepare_search(
        request.models,
        request.base,
        vary=vary,
        holdout=named_texts(given.holdout),
        out=given.out,
        chosen=Chosen(**given.chosen),
        **given.evaluated.arguments,
        **request.options,
    )


def _shown(output: Output) -> OnResult:
    """Shows each result in a line as it comes."""

    def show(record: SearchRecord, label: str | None) -> None:
        name = label if label is not None else record.trials[-1].name
        if output.json_progress:
            output.end("evaluated", name=name)
        elif label is not None:
            output.show(f"{label:>5}  {_of_parent(record, label)}")
        else:
            output.show(trial_line(record, len(record.trials) - 1))

    return show


def _of_parent(record: SearchRecord, label: str) -> str:
    from fusion_slerp.sweeps.scores import score_at

    value = score_at(record.sweep.parents[label], record.sweep.metric["name"])
    return "" if value is None else f"{value:.4f}"


def trial_line(record: SearchRecord, number: int) -> str:
    """Returns a trial in a line: its number, score, point, and how it compares with the best before it."""
    from fusion_slerp.sweeps.points import point_text

    trial = record.trials[number]
    is_best = record.best_point is not None and record.best_point.values == trial.values
    return f"{number:>5}  {_outcome(trial):<48}{point_text(trial.values)}{'  best so far' * is_best}"


def _outcome(trial: Trial) -> str:
    if trial.loss is None:
        return "not finite"
    if not trial.difference:
        return f"{trial.loss:.4f}"
    value, stderr = trial.difference["value"], trial.difference["stderr"]
    return f"stopped at {trial.share:.0%}: {value:+.4f} ± {stderr:.4f} from best"


def _kept(search: PreparedSearch) -> str:
    from fusion_slerp.searches.record import read_fields

    assert search.sweep.out is not None, "the command needs a folder"
    try:
        n_trials = len(read_fields(search.sweep.out)["trials"])
    except (OSError, ValueError, KeyError):
        n_trials = 0
    return f"{n_trials} trial{'s' * (n_trials != 1)}, in\n  {path_text(search.sweep.out)}"


def _show_result(
    search: PreparedSearch,
    record: SearchRecord,
    given: SearchArguments,
    request: Request,
    output: Output,
) -> None:
    from rich.text import Text

    from fusion_slerp.searches.conclusions import conclusions
    from fusion_slerp.searches.record import as_fields

    first, *others = conclusions(record)
    output.show("", Text(first, "bold"), *others)
    best = record.best_point
    lines = {"The results:": path_text(search.sweep.out) if search.sweep.out else ""}
    if best is not None and given.save_best is None:
        options = search.sweep.options_at(best.values)
        lines["To merge the best:"] = replace(request, options=options).command("best")
    lines["The best merged model:"] = given.save_best or ""
    output.show(*(Text.assemble((title, "bold"), f"\n  {line}") for title, line in lines.items() if line))
    output.end("done", verdict=str(record))
    output.give(
        lambda: {
            **as_fields(record),
            "best_values": None if best is None else dict(best.values),
            "best_scores": None if best is None else best.scores,
            "verdict": str(record),
            "out": str(search.sweep.out),
            "save_best": given.save_best,
        }
    )
