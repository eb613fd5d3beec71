"""The command `convert`."""

from __future__ import annotations

from pathlib import Path

from fusion_slerp.cli.output import Output, exit_on_error
from fusion_slerp.errors import OutputError, Problem, SettingsError, nearest

FORMS = ("hydra", "mergekit")


def convert_recipe(file: str, out: str | None, to: str | None, output: Output) -> None:
    """Prints or writes a recipe in the other form."""
    with exit_on_error(output):
        _check_form(to)
        from fusion_slerp.recipes import read_recipe, to_hydra, to_mergekit

        path = Path(file).expanduser()
        if not path.is_file():
            fields = (("path", path.absolute()), ("found", "no such file"))
            raise Problem(SettingsError, f"{file}: recipe not found", fields, "correct the path").error()
        recipe = read_recipe(path)
        form = to or ("hydra" if _is_mergekit(path) else "mergekit")
        text = to_hydra(recipe) if form == "hydra" else to_mergekit(recipe)
        if out is not None:
            _write(Path(out).expanduser(), text)
    for note in recipe.notes:
        output.warn(note)
    if output.json:
        fields = {"form": form, **recipe.named, "notes": list(recipe.notes)}
        output.give(lambda: {**fields, "out": out, "yaml": text})
    elif out is None:
        print(text, end="")  # also with --quiet: it is what was asked for
    else:
        output.show(f"{form} recipe written: {out}")


def _check_form(to: str | None) -> None:
    if to is not None and to not in FORMS:
        fields = (("found", f"{to}{nearest(to, FORMS)}"), ("needed", " or ".join(FORMS)))
        raise Problem(SettingsError, "--to names no form of recipe", fields, "--to hydra").error()


def _is_mergekit(path: Path) -> bool:
    """Whether it is of the form of mergekit, which alone has the key `merge_method`."""
    import yaml

    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    return isinstance(value, dict) and "merge_method" in value


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        found = "it exists" if isinstance(error, FileExistsError) else error.strerror or error
        fields = (("file", path.absolute()), ("found", found))
        raise Problem(
            OutputError, "the recipe cannot be written", fields, "choose another name"
        ).error() from None
