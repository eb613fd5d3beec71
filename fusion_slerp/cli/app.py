"""The command with its commands, in the order of its help."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fusion_slerp.cli import merge_commands, model_commands
from fusion_slerp.cli.arguments import NoColor
from fusion_slerp.cli.options import SettingsCommand, normalized
from fusion_slerp.cli.output import UNUSABLE
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


for each in (merge_commands.merge, merge_commands.plan, model_commands.sweep, model_commands.search):
    app.command(epilog=EXIT_CODES, cls=SettingsCommand)(each)
for each in (
    model_commands.evaluate,
    merge_commands.verify,
    merge_commands.clean,
    model_commands.inspect,
    model_commands.report,
    merge_commands.convert,
    merge_commands.demo,
):
    app.command(epilog=EXIT_CODES)(each)
