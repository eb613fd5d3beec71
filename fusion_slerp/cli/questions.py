"""The conversation in a terminal, for SLERP: which two models, where to, which t; then plan and merge."""

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
from fusion_slerp.errors import FusionSlerpError, raise_all
from fusion_slerp.output.place import check_apart, check_place, check_room
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import is_hub_id
from fusion_slerp.sources.regular_files import reading_models

T = TypeVar("T")

INTRODUCTION = """\
Merges two language models into a new one (SLERP). Nothing is written before you agree to the plan.
A model is a folder (Tab completes) or a hub id such as owner/name. Ctrl-C stops.
"""


@dataclass(slots=True)
class Answers:
    """The answers so far; for the line that resumes from them."""

    models: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    out: str | None = None
    warnings: tuple[str, ...] = ()

    def command(self) -> str:
        """The command that resumes from here, as far as it is known."""
        if len(self.models) < 2:
            return "fusion_slerp"
        return Request(tuple(self.models), options=self.options).command(self.out or "child")


class Back(Exception):
    """The question before is to be asked again."""


def ask_and_merge() -> None:
    """Asks for everything, merges, and ends the command."""
    answers = Answers()
    try:
        with completing(), warnings_to(Output()):
            request, out = _ask_everything(answers)
            prepared = _prepare(request, out, answers.warnings)
            if not _agreed("Merge?", default=True):
                _say(Text.assemble("Nothing was written. To do it later:\n  ", request.command(out)))
                return
    except (KeyboardInterrupt, EOFError):
        running.tell_stopped(None, answers.command())
        raise typer.Exit(INTERRUPTED) from None
    with warnings_to(Output(quiet=True)):  # they were told with the answers
        result = running.run(prepared, request, out, Output())
    running.show_result(result, request, out, Output())


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

    def open_model(text: str) -> tuple[str, Checkpoint, Facts]:
        if not text and may_go_back:
            raise Back
        name = _chosen(text.rstrip("/") or text, known)
        checkpoint, facts = inspect_source(name, follow_links=False)
        _remark(_in_short(facts))
        return name, checkpoint, facts

    return _until(question, open_model)


def _chosen(text: str, known: list[str]) -> str:
    if not text:
        raise _Unusable("a folder or a hub id is needed")
    if text.isdecimal() and known and not os.path.isdir(text):
        if 1 <= int(text) <= len(known):
            return known[int(text) - 1]
        raise _Unusable(f"the list ends with {len(known)}")
    is_here = os.path.exists(os.path.expanduser(text))
    if not is_here and is_hub_id(text) and not _agreed(f"No folder {text} here. Look on the hub?", False):
        raise _Unusable("enter a different model")
    return text


def _ask_second(known: list[str], a: Checkpoint, facts_a: Facts) -> tuple[str, Checkpoint, MergePlan]:
    """Asks until a model can be merged with the first."""
    while True:
        name, b, facts = _ask_model("Second model (t = 1)", known, may_go_back=True)
        try:
            with reading_models():
                plan = make_plan({"a": a, "b": b}, MergeSettings())
        except FusionSlerpError as error:
            _refuse(every_problem(error))
            _remark("Enter a different second model; an empty line goes back to the first.", "yellow")
            continue
        _remark("the same architecture", "green")
        if any(tensor.rows is not None for tensor in plan.tensors):
            _remark("other vocabulary: rows follow their tokens", "yellow")
        elif None in (facts_a.n_tokens, facts.n_tokens):
            _remark("no readable tokenizer: rows are taken to stand for the same tokens", "yellow")
        else:
            _remark("the same vocabulary", "green")
        for warning in plan.warnings:
            _remark(warning, "yellow")
        return name, b, plan


def _ask_out(a: Checkpoint, b: Checkpoint, plan: MergePlan, options: dict[str, Any]) -> str:
    """Asks until the child can be made there."""
    default = _free_name(a, b)

    def check(text: str) -> str:
        target = Path(text or default).expanduser().resolve()
        raise_all(check_apart(target, {b.folder: "model b", a.folder: "model a"}))
        in_the_way, despite = check_place(target, False), check_place(target, True)
        if in_the_way and not despite:
            if not _agreed(f"{target} exists. Replace it when the merge is done?", default=False):
                raise _Unusable("choose another folder")
            options["overwrite"] = True
        raise_all(despite)
        raise_all(check_room(target, plan.nbytes_written))
        free = nbytes_text(forecast.free_room(target))
        _remark(f"{nbytes_text(plan.nbytes_written)} needed, {free} free", "green")
        return text or default

    return _until("Folder to save in", check, default)


def _free_name(a: Checkpoint, b: Checkpoint) -> str:
    """A name for the child that is not taken here."""
    parts = [re.sub(r"[^\w.-]+", "-", Path(p.source.partition("@")[0]).name or p.folder.name) for p in (a, b)]
    name = "-".join([*parts, "slerp"])
    taken = (f"{name}-{n}" for n in range(2, 1000) if not os.path.exists(f"{name}-{n}"))
    return next(taken, name) if os.path.exists(name) else name


def _ask_t() -> Any:
    def check(text: str) -> Any:
        t = read_value(text or "0.5", "t")
        make_settings(t=t)
        return t

    question = "t, from 0 (the first) to 1 (the second), or a list across layers, e.g. [0, 0.5, 1]"
    return _until(question, check, "0.5")


def _prepare(request: Request, out: str, told: tuple[str, ...]) -> Any:
    """Prepares the merge and shows the plan, with the warnings that were not told yet."""
    try:
        prepared = running.prepare(request, out, Output())
    except FusionSlerpError as error:
        _refuse(every_problem(error))
        raise typer.Exit(UNUSABLE) from None
    found = forecast.of_plan(prepared.plan, prepared.target, prepared.nbytes_written)
    Output().show(*plan_table.tables(found))
    for warning in prepared.plan.warnings:
        if warning not in told:
            _remark(warning, "yellow")
    _say("")
    return prepared


class _Unusable(Exception):
    """An answer that is explained in one line."""


def _until(question: str, check: Callable[[str], T], default: str = "") -> T:
    """Asks until an answer passes the check; what is wrong with the others is said."""
    while True:
        text = _line(f"{question} [{default}]: " if default else f"{question}: ")
        try:
            return check(text)
        except FusionSlerpError as error:
            _refuse(every_problem(error))
        except _Unusable as reason:
            _remark(str(reason), "yellow")


def _agreed(question: str, default: bool) -> bool:
    while True:
        text = _line(f"{question} [{'Y/n' if default else 'y/N'}] ").lower()
        if text in ("y", "yes", "n", "no", ""):
            return default if not text else text[0] == "y"
        _remark("y or n", "yellow")


def _line(prompt: str) -> str:
    """Reads an answer, without the quotes that a pasted path may have."""
    text = input(_bold(prompt)).strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _bold(prompt: str) -> str:
    """The prompt in bold where readline can be told which characters take no room."""
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
