"""The data of a report about models that are to be merged: what they are, and the angles between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from fusion_slerp.drawing import depth
from fusion_slerp.drawing.rows import TensorRow, columns_of, stacks
from fusion_slerp.inspection.difference import Difference, Model, compare
from fusion_slerp.inspection.facts import Facts
from fusion_slerp.reports.models import model_fields
from fusion_slerp.reports.names import without_paths
from fusion_slerp.reports.vocabularies import chat_templates, vocabularies
from fusion_slerp.settings.labels import BASE
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.vocabulary.remarks import enumerated

MOST_MODELS = 5
"""Models of which every pair is compared; of more, the first one with each of the others."""


def differences_of(
    models: Mapping[str, Model], progress: Callable[[int, int], object]
) -> dict[str, Difference]:
    """Returns the difference of each pair of models, by both labels: `"a-b"`.

    Args:
        models: The models by label with what prevents a merge of each, their ancestor under `base`.
        progress: Called with the bytes measured and the bytes in all, of one pair after the other.
    """
    return {f"{one}-{other}": compare(_pair(models, one, other), progress) for one, other in pairs_of(models)}


def comparison_data(
    models: Mapping[str, Model], facts: Mapping[str, Facts], differences: Mapping[str, Difference]
) -> dict[str, Any]:
    """Returns the data of a report about two or more models.

    Args:
        models: As `differences_of`.
        facts: Their facts by label.
        differences: Those of each pair.
    """
    opened = {label: model for label, (model, _) in models.items()}
    rows = _rows(differences, opened)
    layers = stacks(rows)
    own = [label for label in models if label != BASE]
    described = [model_fields(label, model, facts[label]) for label, model in opened.items()]
    return {
        "kind": "comparison",
        "name": enumerated([each["name"] for each in described if each["label"] in own]),
        "models": described,
        "has_base": BASE in models,
        "relations": {pair: _relation(each, opened) for pair, each in differences.items()},
        "angles": depth.angles(rows, layers, list(differences)),
        "norms": depth.norms(layers, own),
        "vocabulary": vocabularies(opened),
        "chat_templates": chat_templates(opened),
        "n_tensors": len(rows),
        "tensors": columns_of(rows),
    }


def pairs_of(labels: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the pairs of labels that are compared, the ancestor left out."""
    own = [label for label in labels if label != BASE]
    if len(own) > MOST_MODELS:
        return [(own[0], other) for other in own[1:]]
    return list(combinations(own, 2))


def _pair(models: Mapping[str, Model], one: str, other: str) -> dict[str, Model]:
    base = {BASE: models[BASE]} if BASE in models else {}
    return {"a": models[one], "b": models[other], **base}


def _relation(difference: Difference, models: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """Whether the models of a pair can be merged, and everything that is to be said of it."""
    problems = [] if difference.error is None else difference.error.message("command").splitlines()
    warnings = [each for each in difference.warnings if not any(each in m.warnings for m in models.values())]
    return {
        "can_be_merged": difference.error is None,
        "problems": [without_paths(line, models) for line in problems],
        "notes": [without_paths(line, models) for line in difference.notes],
        "warnings": [without_paths(line, models) for line in warnings],
    }


def _rows(differences: Mapping[str, Difference], models: Mapping[str, Checkpoint]) -> list[TensorRow]:
    """One row for each tensor that was compared, in the order of the first model that has it."""
    angles: dict[str, dict[str, float]] = {}
    norms: dict[str, dict[str, float]] = {}
    elements: dict[str, int] = {}
    for pair, difference in differences.items():
        labels = dict(zip(("a", "b"), pair.split("-"), strict=True))
        for report in difference.reports:
            elements.setdefault(report.name, report.n_elements)
            if report.angle_deg is not None:
                angles.setdefault(report.name, {})[pair] = report.angle_deg
            for label, value in report.norms.items():
                if label in labels:
                    norms.setdefault(report.name, {}).setdefault(labels[label], value)
    entries = {
        name: entry for model in reversed(list(models.values())) for name, entry in model.tensors.items()
    }
    return [
        TensorRow(
            name,
            n,
            angles=angles.get(name, {}),
            norms=norms.get(name, {}),
            shape=entries[name].shape if name in entries else None,
            dtype=entries[name].dtype.name if name in entries else "",
        )
        for name, n in elements.items()
    ]
