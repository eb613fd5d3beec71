"""The questions in a terminal: a method, its models, a folder and values; then the plan and the merge."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from fusion_slerp.cli import forecast, plan_table, recent, running
from fusion_slerp.cli.amounts import count_text, nbytes_text
from fusion_slerp.cli.method_questions import ask_method, ask_values, model_question
from fusion_slerp.cli.output import (
    INTERRUPTED,
    UNUSABLE,
    Output,
    console,
    every_problem,
    warnings_to,
)
from fusion_slerp.cli.paths import completing
from fusion_slerp.cli.prompts import InvalidAnswer, agreed, refuse, remark, say, until
from fusion_slerp.cli.request import Request
from fusion_slerp.cli.stopping import interrupts_raise
from fusion_slerp.errors import FusionSlerpError, OutputError, raise_all
from fusion_slerp.inspection.facts import Facts, inspect_source
from fusion_slerp.methods import DEFAULT, METHODS, Method
from fusion_slerp.output.target import check_apart, check_disk_space, check_target
from fusion_slerp.paths import real_path
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.settings.labels import BASE, labels
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import is_hub_id
from fusion_slerp.sources.regular_files import reading_models

INTRODUCTION = """\
Merges language models into a new one. Nothing is written before you agree to the plan.
A model is a folder (Tab completes it) or a Hub id such as owner/name. Ctrl-C stops.
"""


@dataclass(slots=True)
class Answers:
    """The answers so far, for the command that repeats them.

    Attributes:
        method: The method.
        names: The models as typed, by label.
        options: The options.
        out: The folder for the merged model.
        warnings: Warnings that were shown.
    """

    method: Method = METHODS[DEFAULT]
    names: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    out: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def request(self) -> Request:
        """The merge."""
        models = tuple(name for label, name in self.names.items() if label != BASE)
        chosen = {} if self.method.name == DEFAULT else {"method": self.method.name}
        return Request(models, self.names.get(BASE), chosen | self.options)

    def command(self) -> str:
        """Returns the command with the answers so far."""
        if not self.method.takes(len(self.names.keys() - {BASE})):
            return "fusion_slerp"
        return self.request.command(self.out or "child")


class Back(Exception):
    """The user wants to return to the previous question."""


def ask_and_merge() -> None:
    """Asks for everything, merges, and ends the command."""
    answers = Answers()
    try:
        with interrupts_raise(), completing(), warnings_to(Output()):
            request, out = _ask_everything(answers)
            prepared = _prepare(request, out, answers.warnings)
            if not agreed("Merge?", default=True):
                say(Text(f"Nothing was written. To merge later:\n  {request.command(out)}"))
                return
    except (KeyboardInterrupt, EOFError):
        running.report_stopped(None, answers.command())
        raise typer.Exit(INTERRUPTED) from None
    with warnings_to(Output(quiet=True)):  # they were shown with the answers
        result = running.run(prepared, request, out, Output())
    with running.says_complete(result.out):
        running.show_result(result, request, out, Output(), with_config=False)


def _ask_everything(answers: Answers) -> tuple[Request, str]:
    say(INTRODUCTION)
    known = recent.recent_models()
    for number, name in enumerate(known, start=1):
        say(Text.assemble((f"  {number}  ", "bold cyan"), name))
    if known:
        say("  (type a number to reuse a model of an earlier merge)\n")
    answers.method = ask_method()
    models = _ask_models(answers, known)
    answers.out = _ask_out(models, answers)
    answers.options |= ask_values(answers.method)
    return answers.request, answers.out


def _ask_models(answers: Answers, known: list[str]) -> dict[str, Checkpoint]:
    """Asks for as many models as the method takes, and for the base if it needs one; by label."""
    method = answers.method
    least, most = method.n_models
    while True:
        answers.names.clear()
        models: dict[str, Checkpoint] = {}
        facts: dict[str, Facts] = {}
        try:
            for label in labels(most or len(_MANY)):
                may_end = len(models) >= least
                model = _ask_fitting(label, answers, known, models, facts, may_end)
                if model is None:
                    break
                models[label] = model
            if method.base == "needed":
                model = _ask_fitting(BASE, answers, known, models, facts, may_end=False)
                models |= {} if model is None else {BASE: model}
        except Back:
            continue
        return models


_MANY = range(26)
"""Models that are asked for at most."""


def _ask_fitting(
    label: str,
    answers: Answers,
    known: list[str],
    models: dict[str, Checkpoint],
    facts: dict[str, Facts],
    may_end: bool,
) -> Checkpoint | None:
    """Asks until a model is given that can be merged with the first; None if there are enough.

    Raises:
        Back: An empty line was given before there are enough.
    """
    question = model_question(answers.method, label, may_end)
    while True:
        given = _ask_model(question, known, may_be_empty=bool(models))
        if given is None and may_end:
            return None
        if given is None:
            raise Back
        name, model, own = given
        if models and not _fits(answers, models, facts, model, own):
            more = "an empty line ends the models" if may_end else "an empty line returns to the first"
            remark(f"Enter a different model; {more}.", "yellow")
            continue
        answers.names[label], facts[label] = name, own
        return model


def _fits(
    answers: Answers, models: dict[str, Checkpoint], facts: dict[str, Facts], model: Checkpoint, own: Facts
) -> bool:
    """Whether a model can be merged with the first; says what is the same and what differs."""
    first, of_first = next(iter(models.items()))
    try:
        with reading_models():
            plan = make_plan({"a": of_first, "b": model}, MergeSettings())
    except FusionSlerpError as error:
        refuse(every_problem(error))
        return False
    remark("the same architecture", "green")
    if any(tensor.rows is not None for tensor in plan.tensors):
        remark("different vocabularies: rows follow their tokens", "yellow")
    elif None in (facts[first].n_tokens, own.n_tokens):
        remark("no readable tokenizer: rows are assumed to stand for the same tokens", "yellow")
    else:
        remark("the same vocabulary", "green")
    for note in plan.notes:
        remark(note)
    for warning in plan.warnings:
        remark(warning, "yellow")
    answers.warnings += plan.warnings
    return True


def _ask_model(
    question: str, known: list[str], may_be_empty: bool = False
) -> tuple[str, Checkpoint, Facts] | None:
    """Asks until a model can be opened; None for an empty line, if it may be empty."""

    def open_model(answer: str) -> tuple[str, Checkpoint, Facts] | None:
        if not answer and may_be_empty:
            return None
        name = _chosen(answer.rstrip("/") or answer, known)
        checkpoint, facts = inspect_source(name)
        remark(_in_short(facts))
        return name, checkpoint, facts

    return until(question, open_model)


def _chosen(answer: str, known: list[str]) -> str:
    if not answer:
        raise InvalidAnswer("enter a folder or a Hub id")
    if answer.isdecimal() and known and not os.path.isdir(answer):
        if 1 <= int(answer) <= len(known):
            return known[int(answer) - 1]
        raise InvalidAnswer(f"the last number is {len(known)}")
    is_here = os.path.exists(os.path.expanduser(answer))
    if not is_here and is_hub_id(answer) and not agreed(f"No folder {answer} here. Look on the Hub?", False):
        raise InvalidAnswer("enter a different model")
    return answer


def _ask_out(models: dict[str, Checkpoint], answers: Answers) -> str:
    """Asks until a folder is given that the merged model can be written to."""
    default = _free_name(models, answers.method)
    nbytes = sum(entry.nbytes for entry in models["a"].tensors.values())

    def check(answer: str) -> str:
        target = real_path(answer or default, OutputError)
        folders = {model.folder: f"model {label}" for label, model in reversed(models.items())}
        raise_all(check_apart(target, folders))
        in_the_way, despite = (
            check_target(target, overwrite, answer or default) for overwrite in (False, True)
        )
        if in_the_way and not despite:
            if not agreed(f"{target} exists. Replace it when the merge is done?", default=False):
                raise InvalidAnswer("enter a different folder")
            answers.options["overwrite"] = True
        raise_all(despite)
        raise_all(check_disk_space(target, nbytes))
        free = nbytes_text(forecast.free_space(target))
        remark(f"about {nbytes_text(nbytes)} needed, {free} free", "green")
        return answer or default

    return until("Folder to save in", check, default)


def _free_name(models: dict[str, Checkpoint], method: Method) -> str:
    """Returns a name for the merged model that is not taken in the working folder."""
    first = [model for label, model in models.items() if label != BASE][:2]
    parts = [re.sub(r"[^\w.-]+", "-", Path(p.source.partition("@")[0]).name or p.folder.name) for p in first]
    name = "-".join([*parts, method.name])
    taken = (f"{name}-{n}" for n in range(2, 1000) if not os.path.exists(f"{name}-{n}"))
    return next(taken, name) if os.path.exists(name) else name


def _prepare(request: Request, out: str, shown: tuple[str, ...]) -> Any:
    """Prepares the merge and shows the plan, with the warnings that were not shown yet."""
    try:
        prepared = running.prepare(request, out, Output())
    except FusionSlerpError as error:
        refuse(every_problem(error))
        raise typer.Exit(UNUSABLE) from None
    planned = forecast.of_plan(prepared.plan, prepared.target, prepared.nbytes_written)
    Output().show(*plan_table.tables(planned, console()))
    for warning in prepared.plan.warnings:
        if warning not in shown:
            remark(warning, "yellow")
    say("")
    return prepared


def _in_short(facts: Facts) -> str:
    types = ", ".join(facts.dtypes)
    vocabulary = f", {facts.n_tokens} tokens" if facts.n_tokens else ""
    size = f"{count_text(facts.n_parameters)} parameters in {facts.n_layers} layers, {types}{vocabulary}"
    return f"{facts.architecture}: {size}"
