"""The command `evaluate`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.cli.amounts import path_text
from fusion_slerp.cli.evaluate_arguments import EvaluateArguments
from fusion_slerp.cli.output import Output, console, exit_on_error, warnings_to
from fusion_slerp.cli.processes import joined, on_all
from fusion_slerp.cli.stopping import interrupts_raise
from fusion_slerp.cli.sweep_arguments import named_texts
from fusion_slerp.engine.event_lines import write_event
from fusion_slerp.engine.progress import INTERVAL_S
from fusion_slerp.errors import OutputError, Problem
from fusion_slerp.output.replaceable import EVALUATION
from fusion_slerp.paths import absolute_text, user_path, utf8

if TYPE_CHECKING:
    from rich.status import Status

    from fusion_slerp.cluster.ranks import Ranks
    from fusion_slerp.evaluation.comparing import EvaluatedModels


def evaluate_models(models: Sequence[str], given: EvaluateArguments, output: Output) -> None:
    """Evaluates models, and shows how the first compares with the others; ends the command if that fails.

    Args:
        models: Folders or Hub ids.
        given: What was typed after them.
        output: Where to print.
    """
    ranks, output = joined(output)
    with warnings_to(output), exit_on_error(output):
        file = on_all(ranks, lambda: None if given.out is None else _target(given.out))
        texts = named_texts(given.texts)
        settings = {name: value for name, value in given.settings.items() if value not in (None, [])}
        with interrupts_raise(), _progress(output, len(models)) as shown:
            settings |= {"texts": texts, "on_model": shown.on_model, "on_tokens": shown.on_tokens}
            result = on_all(ranks, lambda: _evaluated(models, settings, ranks))
        if file is not None and not output.rank:
            _write(file, result.as_fields())
    _show(result, output)
    if file is not None:
        output.show("", f"The result:\n  {path_text(file)}")
    output.give(result.as_fields)
    output.end("done", verdict=result.verdict)


def _evaluated(models: Sequence[str], settings: Mapping[str, Any], ranks: Ranks | None) -> EvaluatedModels:
    from fusion_slerp.evaluation.comparing import evaluate

    if ranks is None:
        return evaluate(*models, **settings)
    from fusion_slerp.cluster.evaluating import shared_by

    return evaluate(*models, **settings, measuring=shared_by(ranks))


def _show(result: EvaluatedModels, output: Output) -> None:
    from fusion_slerp.evaluation.table import comparison_parts

    if not output.shows:
        return
    output.show(*comparison_parts(result.comparison, console(), result.samples))
    if result.tasks:
        from fusion_slerp.evaluation.harness_table import print_scores

        print_scores(result.tasks, result.comparison.subject)


class _Shown:
    """The progress of an evaluation: the model, and how far it is in which text. This one shows nothing."""

    def on_model(self, name: str) -> None:
        """Begins a model."""

    def on_tokens(self, text: str, done: int, total: int) -> None:
        """Some of a text's tokens are scored."""


class _Lines(_Shown):
    """As JSON lines, at most one every `INTERVAL_S` of a text."""

    def __init__(self) -> None:
        self._model, self._last = "", 0.0

    def on_model(self, name: str) -> None:
        self._model = name
        write_event("evaluating", model=name)

    def on_tokens(self, text: str, done: int, total: int) -> None:
        if time.monotonic() - self._last >= INTERVAL_S or done == total:
            self._last = time.monotonic()
            write_event("evaluating", model=self._model, text=text, done_tokens=done, total_tokens=total)


class _Line(_Shown):
    """As a line in a terminal."""

    def __init__(self, status: Status, n_models: int) -> None:
        self._status, self._n_models, self._n_begun, self._model = status, n_models, 0, ""

    def on_model(self, name: str) -> None:
        self._n_begun += 1
        self._model = f"evaluating {name} ({self._n_begun} of {self._n_models})"
        self._status.update(self._model)

    def on_tokens(self, text: str, done: int, total: int) -> None:
        self._status.update(f"{self._model}: {text}, {done / total:.0%}")


@contextmanager
def _progress(output: Output, n_models: int) -> Iterator[_Shown]:
    """Shows which model is being evaluated, and how far it is."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # of each model's loading
    if output.progress == "json":
        yield _Lines()
        return
    if not output.progress:
        yield _Shown()
        return
    from rich.status import Status

    with Status("reading the texts", console=console(stderr=True)) as status:
        yield _Line(status, n_models)


def _target(out: str) -> Path:
    """The file to write to.

    Raises:
        OutputError: It is not a .json file, its folder does not exist, or another file has its name.
    """
    path = user_path(out, OutputError)
    file = path / EVALUATION if os.path.isdir(path) else path
    if file.suffix != ".json":
        raise _cannot_write(file, "the name does not end in .json", f"{path}.json").error()
    if not os.path.isdir(file.parent):
        raise _cannot_write(file, "no such folder", EVALUATION).error()
    if os.path.lexists(file) and not _is_evaluation(file):
        raise _cannot_write(file, "it exists, and is no evaluation", f"{file.stem}-{EVALUATION}").error()
    return file


def _is_evaluation(file: Path) -> bool:
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(file.read_bytes())
        return isinstance(content, dict) and {"fusion_slerp", "models", "differences"} <= content.keys()
    return False


def _cannot_write(file: Path, found: object, instead: str) -> Problem:
    from fusion_slerp.cli.shell import folder_word, shell_line

    fields = (("file", absolute_text(file)), ("found", found))
    fix = f"use {shell_line(['-o', folder_word(Path(instead))])}"
    return Problem(OutputError, "the evaluation cannot be written", fields, fix)


def _write(file: Path, fields: Mapping[str, Any]) -> None:
    """Writes the file complete, or leaves an earlier one unchanged."""
    content = utf8(json.dumps(fields, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise _cannot_write(file, error.strerror or error, EVALUATION).error() from None
