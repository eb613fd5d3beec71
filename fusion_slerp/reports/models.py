"""What a report says of each model: its name, its size, its vocabulary, and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion_slerp.errors import FusionSlerpError
from fusion_slerp.inspection.facts import Facts, facts_of
from fusion_slerp.output.lineage import Lineage
from fusion_slerp.output.model_card import card_parent
from fusion_slerp.settings.labels import BASE
from fusion_slerp.sources.folder import CONFIG, Checkpoint
from fusion_slerp.sources.hub.cache import COMMIT, snapshot
from fusion_slerp.sources.opening import open_source
from fusion_slerp.verification.parents import check_fingerprint, neighbours

CHILD = "child"
"""The merged model's label in a report."""


def model_fields(label: str, model: Checkpoint, facts: Facts | None = None) -> dict[str, Any]:
    """Returns what the report says of a model that is on this machine.

    Args:
        label: Its label.
        model: The model.
        facts: Its facts; None gathers them.
    """
    facts = facts_of(model) if facts is None else facts
    card = card_parent(model)
    return {
        "label": label,
        "name": card.name,
        "revision": card.revision,
        "role": _role(label),
        "licence": card.metadata.get("license"),
        "merge_of": _merge_of(card.lineage),
        "architecture": facts.architecture,
        "config": {
            name: value for name, value in facts.config.items() if name not in ("dtype", "torch_dtype")
        },
        "parameters": facts.n_parameters,
        "tensors": facts.n_tensors,
        "types": dict(facts.dtypes),
        "layers": facts.n_layers,
        "nbytes": sum(facts.files.values()),
        "rows": facts.n_rows,
        "tokens": facts.n_tokens,
        "tokenizer": facts.tokenizer,
        "special": dict(facts.special),
        "has_chat_template": facts.has_chat_template,
        "quantised": facts.quantised,
    }


def recorded_fields(label: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the report says of a source model that is known from the manifest alone."""
    return {
        "label": label,
        "name": row["model"],
        "revision": row.get("revision"),
        "role": _role(label),
        "nbytes": sum(each.get("nbytes", 0) for each in row.get("files", {}).values()) or None,
    }


def _role(label: str) -> str:
    return {CHILD: "merged model", BASE: "ancestor"}.get(label, "source model")


def _merge_of(made: Lineage | None) -> str | None:
    """What a model was merged from, in words."""
    if made is None:
        return None
    more = [f"{made.n_models - len(made.models)} more"] if made.n_models > len(made.models) else []
    how = f" (method: {made.method})" if made.method else " (according to its card)"
    return ", ".join([*made.models, *more]) + how


def local_parents(rows: Mapping[str, Mapping[str, Any]], child: Path) -> dict[str, Checkpoint]:
    """Returns the source models that are on this machine as they were merged; nothing is downloaded.

    They are looked for as `verify` does: in the Hub's cache, next to the merged model and in the current
    folder.
    """
    found = {label: _local(row, child) for label, row in rows.items()}
    return {label: model for label, model in found.items() if model is not None}


def _local(row: Mapping[str, Any], child: Path) -> Checkpoint | None:
    if "files" not in row:  # it was in memory
        return None
    name, revision = str(row["model"]), str(row.get("revision"))
    cached = snapshot(name, revision) if COMMIT.fullmatch(revision) else None
    for folder in [*([] if cached is None else [cached]), *neighbours(name, child)]:
        if not os.path.isfile(folder / CONFIG):
            continue
        try:
            model = open_source(folder, follow_links=True)
            if not check_fingerprint("", model, row):
                return model
        except (FusionSlerpError, OSError):
            continue
    return None
