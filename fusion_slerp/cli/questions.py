"""The questions in a terminal, for SLERP: two models, a folder and t; then the plan and the merge."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.text import Text

from fusion_slerp.cli import forecast, plan_table, recent, running
from fusion_slerp.cli.amounts import count_text, nbytes_text
from fusion_slerp.cli.inspection import Facts, inspect_source
from fusion_slerp.cli.options import read_value
from fusion_slerp.cli.output import (
    INTERRUPTED,
    UNUSABLE,
    Output,
    console,
    error_text,
    every_problem,
    warnings_to,
)
from fusion_slerp.cli.paths import completing
from fusion_slerp.cli.request import Request
from fusion_slerp.cli.stopping import interrupts_raise
from fusion_slerp.errors import FusionSlerpError, OutputError, raise_all
from fusion_slerp.output.target import check_apart, check_disk_space, check_target
from fusion_slerp.paths import real_path
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import is_hub_id
from fusion_slerp.sources.regular_files import reading_models

T = TypeVar("T")

INTRODUCTION = """\
Merges two language models into a new one (SLERP). Nothing is written before you agree to the plan.
A model is a folder (Tab completes it) or a Hub id such as owner/name. Ctrl-C stops.
"""


@dataclass(slots=True)
class Answers:
    """The answers so far, for the command that repeats them."""

    models: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    out: str | None = None
    warnings: tuple[str, ...] = ()

    def command(self) -> str:
        """Returns the command with the answers so far."""
        if len(self.models) < 2:
            return "fusion_slerp"
        return Request(tuple(self.models), options=self.options).command(self.out or "child")


class Back(Exception):
    """The user wants to return to the previous question."""


def ask_and_merge() -> None:
    """Asks for everything, merges, and ends the command."""
    answers = Answers()
    try:
        with interrupts_raise(), completing(), warnings_to(Output()):
            request, out = _ask_everything(answers)
            prepared = _prepare(request, out, answers.warnings)
            if not _agreed("Merge?", default=True):
                _say(Text(f"Nothing was written. To merge later:\n  {request.command(out)}"))
                return
    except (KeyboardInterrupt, EOFError):
        running.report_stopped(None, answers.command())
        raise typer.Exit(INTERRUPTED) from None
    with warnings_to(Output(quiet=True)):  # they were shown with the answers
        result = running.run(prepared, request, out, Output())
    with running.says_complete(result.out):
        running.show_result(result, request, out, Output(), with_config=False)


def _ask_everything(answers: Answers) -> tuple[Request, str]:
    _say(INTRODUCTION)
    known = recent.recent_models()
    for number, name in enumerate(known, start=1):
        _say(Text.assemble((f"  {number}  ", "bold cyan"), name))
    if known:
        _say("  (type a number to reuse a model of an earlier merge)\n")
    while True:
        answers.models.clear()
        name_a, a, facts_a = _ask_model("First model (t = 0)", known)
        answers.models.append(name_a)
        try:
            name_b, b, plan = _ask_second(known, a, facts_a)
            break
        except Back:
            continue
    answers.models.append(name_b)
    answers.warnings = plan.warnings
    answers.out = _ask_out(a, b, plan, answers.options)
    answers.options["t"] = _ask_t()
    return Request((name_a, name_b), options=answers.options), answers.out


def _ask_model(question: str, known: list[str], may_go_back: bool = False) -> tuple[str, Checkpoint, Facts]:
    """Asks until a model can be opened."""

    def open_model(answer: str) -> tuple[str, Checkpoint, Facts]:
        if not answer and may_go_back:
            raise Back
        name = _chosen(answer.rstrip("/") or answer, known)
        checkpoint, facts = inspect_source(name)
        _remark(_in_short(facts))
        return name, checkpoint, facts

    return _until(question, open_model)


def _chosen(answer: str, known: list[str]) -> str:
    if not answer:
        raise _InvalidAnswer("enter a folder or a Hub id")
    if answer.isdecimal() and known and not os.path.isdir(answer):
        if 1 <= int(answer) <= len(known):
            return known[int(answer) - 1]
        raise _InvalidAnswer(f"the last number is {len(known)}")
    is_here = os.path.exists(os.path.expanduser(answer))
    if not is_here and is_hub_id(answer) and not _agreed(f"No folder {answer} here. Look on the Hub?", False):
        raise _InvalidAnswer("enter a different model")
    return answer


def _ask_second(known: list[str], a: Checkpoint, facts_a: Facts) -> tuple[str, Checkpoint, MergePlan]:
    """Asks until a model is given that can be merged with the first."""
    while True:
        name, b, facts = _ask_model("Second model (t = 1)", known, may_go_back=True)
        try:
            with reading_models():
                plan = make_plan({"a": a, "b": b}, MergeSettings())
        except FusionSlerpError as error:
            _refuse(every_problem(error))
            _remark("Enter a different second model; an empty line returns to the first.", "yellow")
            continue
        _remark("the same architecture", "green")
        if any(tensor.rows is not None for tensor in plan.tensors):
            _remark("different vocabularies: rows follow their tokens", "yellow")
        elif None in (facts_a.n_tokens, facts.n_tokens):
            _remark("no readable tokenizer: rows are assumed to stand for the same tokens", "yellow")
        else:
            _remark("the same vocabulary", "green")
        for note in plan.notes:
            _remark(note)
        for warning in plan.warnings:
            _remark(warning, "yellow")
        return name, b, plan


def _ask_out(a: Checkpoint, b: Checkpoint, plan: MergePlan, options: dict[str, Any]) -> str:
    """Asks until a folder is given that the merged model can be written to."""
    default = _free_name(a, b)

    def check(answer: str) -> str:
        target = real_path(answer or default, OutputError)
        raise_all(check_apart(target, {b.folder: "model b", a.folder: "model a"}))
        in_the_way, despite = (
            check_target(target, overwrite, answer or default) for overwrite in (False, True)
        )
        if in_the_way and not despite:
            if not _agreed(f"{target} exists. Replace it when the merge is done?", default=False):
                raise _InvalidAnswer("enter a different folder")
            options["overwrite"] = True
        raise_all(despite)
        raise_all(check_disk_space(target, plan.nbytes_written))
        free = nbytes_text(forecast.free_space(target))
        _remark(f"{nbytes_text(plan.nbytes_written)} needed, {free} free", "green")
        return answer or default

    return _until("Folder to save in", check, default)


def _free_name(a: Checkpoint, b: Checkpoint) -> str:
    """Returns a name for the merged model that is not taken in the working folder."""
    parts = [re.sub(r"[^\w.-]+", "-", Path(p.source.partition("@")[0]).name or p.folder.name) for p in (a, b)]
    name = "-".join([*parts, "slerp"])
    taken = (f"{name}-{n}" for n in range(2, 1000) if not os.path.exists(f"{name}-{n}"))
    return next(taken, name) if os.path.exists(name) else name


def _ask_t() -> Any:
    def check(answer: str) -> Any:
        answer = answer.removeprefix("-t ").strip(" '")  # as the fixes of errors spell it
        t = read_value(answer or "0.5", "t")
        make_settings(t=t)
        return t

    question = "t, from 0 (the first) to 1 (the second), or a list across layers, e.g. [0, 0.5, 1]"
    return _until(question, check, "0.5")


def _prepare(request: Request, out: str, shown: tuple[str, ...]) -> Any:
    """Prepares the merge and shows the plan, with the warnings that were not shown yet."""
    try:
        prepared = running.prepare(request, out, Output())
    except FusionSlerpError as error:
        _refuse(every_problem(error))
        raise typer.Exit(UNUSABLE) from None
    planned = forecast.of_plan(prepared.plan, prepared.target, prepared.nbytes_written)
    Output().show(*plan_table.tables(planned))
    for warning in prepared.plan.warnings:
        if warning not in shown:
            _remark(warning, "yellow")
    _say("")
    return prepared


class _InvalidAnswer(Exception):
    """An invalid answer; the message says in one line what to enter."""


def _until(question: str, check: Callable[[str], T], default: str = "") -> T:
    """Asks until an answer passes the check, and prints what is wrong with those that do not."""
    while True:
        answer = _line(f"{question} [{default}]: " if default else f"{question}: ")
        try:
            return check(answer)
        except FusionSlerpError as error:
            _refuse(every_problem(error))
        except _InvalidAnswer as reason:
            _remark(str(reason), "yellow")


def _agreed(question: str, default: bool) -> bool:
    while True:
        answer = _line(f"{question} [{'Y/n' if default else 'y/N'}] ").lower()
        if answer in ("y", "yes", "n", "no", ""):
            return default if not answer else answer[0] == "y"
        _remark("enter y or n", "yellow")


def _line(prompt: str) -> str:
    """Reads an answer, without the quotes around a pasted path."""
    answer = input(_bold(prompt)).strip()
    return answer[1:-1] if len(answer) > 1 and answer[0] == answer[-1] and answer[0] in "'\"" else answer


def _bold(prompt: str) -> str:
    """The prompt in bold, if readline is there to be told which characters have no width."""
    if "readline" not in sys.modules or console().color_system is None:
        return prompt
    return f"\x01\x1b[1m\x02{prompt}\x01\x1b[0m\x02"


def _in_short(facts: Facts) -> str:
    types = ", ".join(facts.dtypes)
    vocabulary = f", {facts.n_tokens} tokens" if facts.n_tokens else ""
    size = f"{count_text(facts.n_parameters)} parameters in {facts.n_layers} layers, {types}{vocabulary}"
    return f"{facts.architecture}: {size}"


def _say(text: Any) -> None:
    console().print(text)


def _remark(text: str, style: str = "dim") -> None:
    console().print(Text.assemble(("  - ", style), text))


def _refuse(message: str) -> None:
    console().print(error_text(message))
