"""Errors of usage, in the form of all others: no boxes, no wrapped names, a line to paste."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup

from fusion_slerp.cli.output import FAILED, Output, exit_on_error, system_error
from fusion_slerp.cli.shell import shell_line
from fusion_slerp.errors import Problem, SettingsError, nearest


class Commands(TyperGroup):
    """The commands; models in place of a command are answered with the command that merges them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns the command that the arguments begin with."""
        if args[0] not in self.commands and not ctx.resilient_parsing and self._are_models(args):
            with exit_on_error(Output()):
                raise _no_command(args).error()
        return super().resolve_command(ctx, args)

    def _are_models(self, args: Sequence[str]) -> bool:
        """Whether arguments name a model, or several things that resemble no command."""
        are_several = len(args) > 1 and not args[1].startswith("-")
        return _is_model(args[0]) or (are_several and not nearest(args[0], self.commands))

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Runs the command and ends the process, unless `standalone_mode` is off."""
        try:
            code = super().main(*args, standalone_mode=False, **extra)
            sys.stdout.flush()
        except OSError as error:
            if not standalone_mode:
                raise
            Output().fail(system_error(error).error())
            code = FAILED
        except Exception as error:
            if not (standalone_mode and hasattr(error, "format_message")):
                raise
            typed = args[0] if args and args[0] is not None else extra.get("args") or sys.argv[1:]
            command = [argument for argument in typed[:1] if argument in self.commands]
            Output().fail(_usage_error(error, command).error())
            code = getattr(error, "exit_code", 2)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def _is_model(argument: str) -> bool:
    """Whether an argument is a folder, a path, a Hub id with its owner, or a recipe."""
    return "/" in argument or os.path.isdir(argument) or argument.endswith((".yml", ".yaml"))


def _no_command(args: Sequence[str]) -> Problem:
    """The problem with arguments that begin with a model."""
    from fusion_slerp.cli.request import free_name
    from fusion_slerp.methods import DEFAULT, METHODS

    first = args[0]
    n_models = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    is_alone = n_models == 1 and not first.endswith((".yml", ".yaml"))
    names_out = any(arg.startswith(("-o", "--out")) for arg in args)
    is_named = any(arg.startswith("--method") for arg in args) or METHODS[DEFAULT].takes(max(n_models, 2))
    fitting = [] if is_named else [each.name for each in METHODS.values() if each.takes(n_models)]
    method = ["--method", fitting[0]] if fitting else []
    words = [
        first,
        *(["SECOND"] if is_alone else []),
        *args[1:],
        *method,
        *([] if names_out else ["-o", free_name()]),
    ]
    fix = shell_line(["fusion_slerp", "merge", *words])
    if is_alone:
        fix = f"{shell_line(['fusion_slerp', 'inspect', first])}, or with a second model: {fix}"
    return Problem(SettingsError, "no command is named", (("found", first),), fix)


def _usage_error(error: Any, command: Sequence[str]) -> Problem:
    """The problem that typer reports, as one of ours; `command` holds the command's name if there is one."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else " ".join(["fusion_slerp", *command])
    headline = error.format_message().removesuffix(".")
    return Problem(SettingsError, headline, (), f"{path} --help")
