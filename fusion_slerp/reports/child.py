"""The data of a report about a merged model, from the files in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion_slerp.drawing import depth
from fusion_slerp.drawing.rows import TensorRow, columns_of, option_values, stacks
from fusion_slerp.errors import FusionSlerpError
from fusion_slerp.inspection.difference import compare
from fusion_slerp.output.manifest import read_manifest, version_in
from fusion_slerp.output.merge_report import REPORT, read_report
from fusion_slerp.reports.child_norms import child_norms
from fusion_slerp.reports.models import CHILD, local_parents, model_fields, recorded_fields
from fusion_slerp.reports.reproduction import reproduction
from fusion_slerp.reports.vocabularies import chat_templates, vocabularies
from fusion_slerp.settings.labels import BASE
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import open_source
from fusion_slerp.vocabulary.rows import RowCounts

Progress = Callable[[int, int], object]

FIRST_PAIR = "a-b"
"""The pair whose angles a merge reports."""

OWN = {"name", "action", "why", "n_elements", "angle_deg", "norms", "rows"}
"""Keys of a report's row that are not options of the method."""


def child_data(folder: Path, progress: Progress, is_quick: bool = False) -> dict[str, Any]:
    """Returns the data of a report about a merged model.

    Args:
        folder: Its folder.
        progress: Called with the bytes read and the bytes in all.
        is_quick: Whether no weights are read: then the merged model's norms are left out, and the angles as
            well if the merge did not measure them.

    Raises:
        ManifestError: It has no readable manifest.
    """
    manifest = read_manifest(folder)
    child, parents = _opened(folder), local_parents(manifest["parents"], folder)
    rows = _rows(manifest, read_report(folder / REPORT), child)
    measured = False
    if not is_quick:
        rows, measured = _measured(rows, child, parents, progress)
    has_base = BASE in manifest["parents"]
    every = {**parents, **({CHILD: child} if child else {})}
    layers = stacks(rows)
    return {
        "kind": "child",
        "name": folder.resolve().name,
        "made_by": version_in(manifest),
        "method": manifest["settings"].get("method"),
        "models": _models(manifest, child, parents, folder.resolve().name),
        "has_base": has_base,
        "angles_are_new": measured,
        "angles": depth.angles(rows, layers, [FIRST_PAIR]),
        "norms": depth.norms(layers, _labels(manifest, has_base)),
        "values": depth.values(rows, layers),
        "treatment": treatment(rows),
        "vocabulary": vocabularies(every) if parents else None,
        "row_counts": [{"name": row.name, "rows": row.rows} for row in rows if row.rows],
        "chat_templates": chat_templates(every) if parents else None,
        "settings": manifest["settings"],
        "reproduction": reproduction(manifest["parents"], manifest["settings"], folder.resolve().name),
        "n_tensors": len(rows),
        "tensors": columns_of(rows),
    }


def _labels(manifest: Mapping[str, Any], has_base: bool) -> list[str]:
    """Whose norms are compared: with a base, those of task vectors, which the merged model's are not."""
    own = [label for label in manifest["parents"] if label != BASE]
    return own if has_base else [*own, CHILD]


def _opened(folder: Path) -> Checkpoint | None:
    """The merged model; None if its weight files are missing or damaged."""
    try:
        return open_source(folder, follow_links=True)
    except (FusionSlerpError, OSError):
        return None


def _models(
    manifest: Mapping[str, Any], child: Checkpoint | None, parents: Mapping[str, Checkpoint], name: str
) -> list[dict[str, Any]]:
    found = [
        {**recorded_fields(label, row), **_without_name(label, parents.get(label))}
        for label, row in manifest["parents"].items()
    ]
    own = {"label": CHILD, "name": name, "revision": None, "role": "merged model"}
    return [*found, {**own, **_without_name(CHILD, child)}]


def _without_name(label: str, model: Checkpoint | None) -> dict[str, Any]:
    """What the model says of itself; its name and revision are those of the manifest."""
    fields = {} if model is None else model_fields(label, model)
    return {key: value for key, value in fields.items() if key not in ("name", "revision")}


def _rows(
    manifest: Mapping[str, Any], report: Mapping[str, Mapping[str, Any]], child: Checkpoint | None
) -> list[TensorRow]:
    entries = {} if child is None else child.tensors
    names = dict.fromkeys([*report, *(() if report else manifest["tensors"])])
    found = []
    for name in names:
        row, entry = report.get(name, {}), entries.get(name)
        angle = row.get("angle_deg")
        found.append(
            TensorRow(
                name,
                int(row.get("n_elements", entry.n_elements if entry else 0)),
                str(row.get("action", "")),
                str(row.get("why", "")),
                option_values({key: value for key, value in row.items() if key not in OWN}),
                {} if angle is None else {FIRST_PAIR: float(angle)},
                {str(label): float(each) for label, each in row.get("norms", {}).items()},
                None if entry is None else entry.shape,
                "" if entry is None else entry.dtype.name,
                _rows_text(row.get("rows")),
            )
        )
    return found


def _rows_text(rows: Mapping[str, Any] | None) -> str:
    return "" if rows is None else str(RowCounts(**rows))


def _measured(
    rows: Sequence[TensorRow],
    child: Checkpoint | None,
    parents: Mapping[str, Checkpoint],
    progress: Progress,
) -> tuple[list[TensorRow], bool]:
    """The rows with the merged model's norms, and with angles if the merge took none; whether it did."""
    norms = {} if child is None else child_norms(child, progress)
    angles: dict[str, tuple[float | None, Mapping[str, float]]] = {}
    is_new = not any(row.angles for row in rows) and {"a", "b"} <= parents.keys()
    if is_new:
        pair = {label: (parents[label], ()) for label in ("a", "b", BASE) if label in parents}
        angles = {each.name: (each.angle_deg, each.norms) for each in compare(pair, progress).measured}
    return [
        _with_measures(row, norms.get(row.name), *angles.get(row.name, (None, {}))) for row in rows
    ], is_new


def _with_measures(
    row: TensorRow, own: float | None, angle: float | None, norms: Mapping[str, float]
) -> TensorRow:
    every = {**row.norms, **norms, **({} if own is None else {CHILD: own})}
    return row._replace(norms=every, angles=row.angles if angle is None else {FIRST_PAIR: angle})


def treatment(rows: Sequence[TensorRow]) -> list[dict[str, Any]]:
    """Returns how many tensors and elements were made in which way and why, the most elements first."""
    groups: dict[tuple[str, str], list[TensorRow]] = {}
    for row in rows:
        if row.action:
            groups.setdefault((row.action, row.why), []).append(row)
    found = [
        {
            "action": action,
            "why": why,
            "tensors": len(members),
            "elements": sum(row.n_elements for row in members),
            "example": members[0].name,
        }
        for (action, why), members in groups.items()
    ]
    return sorted(found, key=lambda each: -each["elements"])
