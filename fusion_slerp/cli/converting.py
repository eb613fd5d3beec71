"""The command `convert`."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from fusion_slerp.cli.output import Output, exit_on_error
from fusion_slerp.cli.shell import folder_word, shell_line
from fusion_slerp.errors import OutputError, Problem, SettingsError, nearest
from fusion_slerp.paths import absolute_text, refusal, user_path

FORMS = ("hydra", "mergekit")


def convert_recipe(file: str, out: str | None, to: str | None, output: Output) -> None:
    """Prints a recipe in the other form, or writes it to a file."""
    with exit_on_error(output):
        _check_form(to)
        from fusion_slerp.recipes import read_recipe, to_hydra, to_mergekit
        from fusion_slerp.recipes.shipped import shipped

        path = shipped(file) or user_path(file)
        if not os.path.isfile(path):
            raise _not_found(file, path).error()
        recipe = read_recipe(file)
        form = to or ("hydra" if _is_mergekit(path) else "mergekit")
        converted = to_hydra(recipe) if form == "hydra" else to_mergekit(recipe)
        if out is not None:
            _write(user_path(out, OutputError), converted)
    for note in recipe.notes:
        output.note(note)
    if output.json:
        fields = {"form": form, **recipe.named, "notes": list(recipe.notes)}
        output.give(lambda: {**fields, "out": out, "yaml": converted})
    elif out is None:
        print(converted, end="")  # also with --quiet: it was asked for
    else:
        output.show(f"Written as a {form} recipe:\n  {out}")


def _not_found(file: str, path: Path) -> Problem:
    refused = refusal(path)
    if refused is None:
        found = f"no such file{nearest(path.name, _recipes_in(path.parent))}"
    else:
        found = refused.strerror
    fields = (("path", absolute_text(path)), ("found", found))
    return Problem(SettingsError, f"{file}: recipe not found", fields, "correct the path")


def _recipes_in(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith((".yml", ".yaml"))]
    except OSError:
        return []


def _check_form(to: str | None) -> None:
    if to is not None and to not in FORMS:
        fields = (("found", f"{to}{nearest(to, FORMS)}"), ("needed", " or ".join(FORMS)))
        raise Problem(SettingsError, "invalid form of a recipe: --to", fields, "use --to hydra").error()


def _is_mergekit(path: Path) -> bool:
    """Whether a recipe is mergekit's, the only form with the key `merge_method`."""
    import yaml

    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    return isinstance(value, dict) and "merge_method" in value


def _write(path: Path, converted: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(converted)
    except OSError as error:
        exists = isinstance(error, FileExistsError)
        found = "it exists" if exists else error.strerror or error
        fix = "write to a file in a folder that exists"
        if exists and not os.path.isdir(path):
            fix = f"use {shell_line(['-o', folder_word(_free(path))])}"
        fields = (("file", absolute_text(path)), ("found", found))
        raise Problem(OutputError, "the recipe cannot be written", fields, fix).error() from None


def _free(path: Path) -> Path:
    """The name with a number that no file has yet."""
    names = (path.with_name(f"{path.stem}-{i}{path.suffix}") for i in count(2))
    return next(name for name in names if not os.path.lexists(name))
