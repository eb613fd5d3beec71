"""Runs a recipe of several documents that build on one another: one merge after the other.

Each document with a name is merged into a folder of that name, next to the merged model unless another place
is given. These folders stay: the merged model is verified against them, and the same call uses them again. A
folder counts as merged if its manifest states the same merge, it is complete, and no source model is newer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_slerp.api import MergeResult, PreparedMerge, prepare_merge, run_merge
from fusion_slerp.errors import OutputError, Problem, SettingsError, raise_all
from fusion_slerp.hashes import BESIDE
from fusion_slerp.output.manifest import ManifestError, read_manifest
from fusion_slerp.output.target import check_target
from fusion_slerp.output.unfinished import MANIFEST
from fusion_slerp.paths import Named, real_path
from fusion_slerp.recipes.chains import Step, read_chain
from fusion_slerp.recipes.mergekit_writer import not_about_the_merge

SHA256 = "sha256"
"""The key of a weight file's digest, if the merge computed it."""


@dataclass(frozen=True, slots=True)
class PlacedStep:
    """A document of a recipe, and where its model is written.

    Attributes:
        step: The document, with folders in place of the names of other documents.
        out: Its folder, an absolute path.
        options: The options of its merge.
        is_last: Whether it makes the merged model.
    """

    step: Step
    out: Path
    options: Mapping[str, Any]
    is_last: bool


def place_steps(
    recipe: Named, out: Named, intermediate_dir: Named | None = None, **options: Any
) -> list[PlacedStep]:
    """Returns the documents of a recipe in the order in which they are merged, each with its folder.

    Args:
        recipe: The file.
        out: The merged model's folder.
        intermediate_dir: The folder for those of the other documents; None puts them next to `out`.
        **options: Options that change no merged model, such as `threads`; they hold for every document.

    Raises:
        SettingsError: The recipe is invalid, or an option belongs to a document.
        OutputError: The merged model cannot be written at `out`.
    """
    steps = read_chain(recipe)
    _check_options(options)
    target = real_path(out, OutputError)
    around = target.parent if intermediate_dir is None else real_path(intermediate_dir, OutputError)
    folders = {step.name: around / step.name for step in steps[:-1] if step.name is not None}
    problems = check_target(target, options.get("overwrite", False), out)
    raise_all([*problems, *_in_one_folder(target, folders)])
    placed = [step.in_folders(folders) for step in steps]
    outs = [*folders.values(), target]
    return [
        PlacedStep(step, folder, {**step.recipe.options, **options}, folder == target)
        for step, folder in zip(placed, outs, strict=True)
    ]


def _check_options(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in not_about_the_merge():
            fields = (("found", f"{name}, which changes a merged model"),)
            fix = f"set {name} in the document that it belongs to"
            raise Problem(SettingsError, "every document has its own settings", fields, fix).error()


def _in_one_folder(target: Path, folders: Mapping[str, Path]) -> list[Problem]:
    """A problem for a document whose folder is the merged model's, is in it, or holds it."""
    return [
        Problem(
            OutputError,
            f"the document {name} has the merged model's folder",
            (("out", target), (f"folder of {name}", folder)),
            "choose another output folder, or another name for the document",
        )
        for name, folder in folders.items()
        if target == folder or target in folder.parents or folder in target.parents
    ]


def prepare_step(placed: PlacedStep) -> PreparedMerge | None:
    """Prepares the merge of a document; None if its folder holds this merge already.

    Raises:
        FusionSlerpError: As `prepare_merge`.
    """
    recipe = placed.step.recipe
    if not placed.is_last and os.path.isdir(placed.out):
        replacing = {**placed.options, "overwrite": "any"}
        if is_made(prepare_merge(recipe.models, placed.out, recipe.base, **replacing)):
            return None
    return prepare_merge(recipe.models, placed.out, recipe.base, **placed.options)


def is_made(prepared: PreparedMerge) -> bool:
    """Whether the folder of a merge holds its result: complete, and newer than its source models."""
    target, identity = prepared.target, prepared.identity
    try:
        manifest = read_manifest(target)
        made = (target / MANIFEST).stat().st_mtime_ns
        is_whole = all(
            (target / name).stat().st_size == row["nbytes"] for name, row in manifest["files"].items()
        )
    except (ManifestError, OSError):
        return False
    settings = {name: each for name, each in identity["settings"].items() if name != "checksum"}
    same = [
        (manifest["rules"], identity["rules"]),
        (manifest["settings"], settings),
        (_without_digests(manifest["parents"]), _without_digests(identity["parents"])),
        (_beside(manifest, identity["beside"]), identity["beside"]),
    ]
    files = [state for parent in prepared.parents.values() for state in parent.files.values()]
    return is_whole and all(a == b for a, b in same) and all(file.mtime_ns <= made for file in files)


def _beside(manifest: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The digests of files next to the weights, as the manifest states them."""
    return {name: manifest["files"].get(name, {}).get(BESIDE) for name in names}


def _without_digests(parents: Mapping[str, Any]) -> dict[str, Any]:
    """Fingerprints without the digests of weights, which a merge computes only if it is asked to."""
    return {label: {**row, "files": _undigested(row.get("files", {}))} for label, row in parents.items()}


def _undigested(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {name: {key: value for key, value in row.items() if key != SHA256} for name, row in files.items()}


def merge_chain(
    recipe: Named, out: Named, intermediate_dir: Named | None = None, **options: Any
) -> MergeResult:
    """Merges the documents of a recipe, one after the other, and returns what the last merge made.

    Args:
        recipe: The file.
        out: The merged model's folder.
        intermediate_dir: The folder for those of the other documents; None puts them next to `out`. They
            stay, and the same call uses them again.
        **options: Options that change no merged model, such as `threads`; they hold for every document.

    Raises:
        FusionSlerpError: As `merge`; SettingsError also if the documents do not fit together.
    """
    *earlier, last = place_steps(recipe, out, intermediate_dir, **options)
    for placed in earlier:
        prepared = prepare_step(placed)
        if prepared is not None:
            run_merge(prepared)
    prepared = prepare_step(last)
    assert prepared is not None, "the last step is always merged"
    return run_merge(prepared)
