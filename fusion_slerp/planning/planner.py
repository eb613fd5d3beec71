"""Decides from headers, configs and tokenizers how every tensor is made.

All faults in the user's input are found here and raised at once, before any weight is merged. Weights are
compared in one case only: a head that is stored in addition to the embedding it is tied to (`matching`).
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from math import prod
from typing import Any

from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.errors import MismatchError, Problem, SettingsError, listed, raise_all, setting
from fusion_slerp.methods import METHODS
from fusion_slerp.methods.method import UnusableError
from fusion_slerp.planning.child_config import by_path, child_configs
from fusion_slerp.planning.compatibility import compare_configs, compare_ids, compare_tensors
from fusion_slerp.planning.config_paths import text_part
from fusion_slerp.planning.heads import TIED, is_stated
from fusion_slerp.planning.language_part import comparable
from fusion_slerp.planning.layout import Tensor, Whole, lay_out
from fusion_slerp.planning.matching import Match, Matching, match_tensors
from fusion_slerp.planning.memory import MemoryPlan, plan_memory
from fusion_slerp.planning.model_names import names_of, with_names
from fusion_slerp.planning.output_types import OutputTypes
from fusion_slerp.planning.plan import Copy, Merge, MergePlan, TensorPlan
from fusion_slerp.planning.rows_of_tensors import RowsOfTensors, rows_of_tensors
from fusion_slerp.planning.side_files import check_side_files, pointers_in
from fusion_slerp.planning.stacking import ends_differ, makers_by_name, values_by_name, views_of
from fusion_slerp.planning.stacks import stated_layers
from fusion_slerp.planning.view import View
from fusion_slerp.planning.vocabulary_tensors import VocabularyTensors, vocabulary_tensors
from fusion_slerp.planning.work import NO_ENTRY, Works
from fusion_slerp.settings.labels import BASE
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.settings.schedule import PerModel
from fusion_slerp.settings.slices import example
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.tensor_names import mtp_layers
from fusion_slerp.vocabulary.rows import RowMap

SHOWN_METHODS = 3
"""Other methods that the message about a wrong number of models names."""

MTP_LAYERS = "num_nextn_predict_layers"
"""The config's key for the number of layers for multi-token prediction."""


def make_plan(parents: Mapping[str, Checkpoint], settings: MergeSettings) -> MergePlan:
    """Returns the plan for opened checkpoints.

    Args:
        parents: The models by label, in their order.
        settings: The options.

    Raises:
        SettingsError: The method takes another number of models, or its options give a tensor invalid
            parameters.
        MismatchError: The models cannot be merged with each other; all reasons at once.
        CheckpointError: A model holds types that cannot be interpolated.
    """
    raise_all([*_wrong_number(parents, settings), *_unknown_labels(parents, settings)])
    settings = with_names(settings, names_of(parents))
    raise_all(pointers_in(parents.values()))
    overrides = by_path(settings.config_overrides or {})
    views, problems = views_of(parents, settings.layer_slices, settings.how, overrides)
    raise_all(problems)
    alike = comparable(views)
    matching, vocabulary, warnings = _matched(views, alike, settings)
    makers = makers_by_name(vocabulary.counts, settings.layer_slices, tuple(views))
    rows = rows_of_tensors(views, settings, matching.matches, vocabulary, makers)
    of_ids = compare_ids(alike, rows.alignment.vocabularies)
    raise_all([_too_different(warning) for warning in of_ids] if settings.strict else [])
    tensors, shards, remarks = _tensors(views, settings, matching.matches, rows.by_name, matching.wholes)
    changes = _config_changes(views, settings, matching, rows)
    configs = {label: view.config for label, view in views.items()}
    files, more = child_configs(parents, configs, changes, rows.alignment, overrides)
    tokenizer = rows.alignment.tokenizer
    problems, of_files = check_side_files(list(parents.values()), tokenizer, files)
    raise_all(problems)
    of_models = [warning for parent in parents.values() for warning in parent.warnings]
    return MergePlan(
        settings=settings,
        parents=dict(parents),
        tensors=tensors,
        shards=shards,
        configs=files,
        tokenizer=tokenizer,
        memory=_memory(tensors, settings, len(parents)),
        warnings=(
            *of_models,
            *matching.remarks,
            *warnings,
            *of_ids,
            *rows.remarks,
            *remarks,
            *more,
            *of_files,
            *_narrowed(views, settings, tensors),
        ),
        notes=(*_defaults(views, settings), *rows.notes),
    )


def _matched(
    views: Mapping[str, View], alike: Mapping[str, View], settings: MergeSettings
) -> tuple[Matching, VocabularyTensors, list[str]]:
    """The matching tensors, those that follow the tokens, and warnings about the configs.

    Args:
        views: The models by label.
        alike: The same with configs that can be compared.
        settings: The options.
    """
    problems, warnings = compare_configs(alike)
    if settings.strict:
        problems += [_too_different(warning) for warning in warnings]
    own_head = ends_differ(settings.layer_slices)
    matching = match_tensors(views, settings.missing, configs_fit=not problems, ends_differ=own_head)
    vocabulary = vocabulary_tensors(views, matching.matches, settings.vocabulary_tensors or {})
    problems += [*matching.problems, *compare_tensors(views, matching.matches, vocabulary.counts)]
    raise_all(problems)
    return matching, vocabulary, warnings


def _defaults(views: Mapping[str, View], settings: MergeSettings) -> list[str]:
    """A line for each option that some models have values of their own for, and others do not."""
    notes = []
    for option, schedule in settings.schedules.items():
        if not (isinstance(schedule, PerModel) and schedule.by_label and schedule.default):
            continue
        others = [label for label in views if label not in schedule.by_label and label != BASE]
        number = schedule.default.number
        if others:
            value = "the default" if number is None else f"{number:g}"
            notes.append(f"no {option} is given for {', '.join(others)}: {value} is used")
    return notes


def _wrong_number(parents: Mapping[str, Checkpoint], settings: MergeSettings) -> list[Problem]:
    n, how = len(parents.keys() - {BASE}), settings.how
    if settings.layer_slices is not None or how.takes(n):
        return []  # each slice names as many models as the method merges; see `slicing`
    found = ", ".join(parent.source for label, parent in parents.items() if label != BASE)
    fields = (("found", found), ("needed", how.models_text))
    fix = f"name {how.models_text} model{'s' * (how.n_models[1] != 1)}"
    if how.n_models[1] == 1 < n:
        n_layers = {label: stated_layers(parent.config) or 2 for label, parent in parents.items()}
        fix += f", or stack layers of each: {setting('slices', example(how, n_layers))}"
    if n > how.n_models[0]:
        own = settings.about_the_method
        without = f" without {', '.join(own)}" if own else ""
        others = [m.name for m in METHODS.values() if m.takes(n) and m.base in _bases(BASE in parents)]
        fix += "".join(f", or use {setting('method', name)}{without}" for name in others[:SHOWN_METHODS])
    headline = f"{settings.method} merges {how.models_text} model{'s' * (how.n_models[1] != 1)}, not {n}"
    return [Problem(SettingsError, headline, fields, fix)]


def _bases(has_base: bool) -> tuple[str, ...]:
    """What a method says of a base that goes well with it, or without."""
    return ("needed",) if has_base else ("optional", "none")


def _unknown_labels(parents: Mapping[str, Checkpoint], settings: MergeSettings) -> list[Problem]:
    """Values for models that are not merged, or not in a slice: they would be ignored."""
    whole = ("", settings.schedules, list(parents))
    slices = [
        (f"slices[{i}].", part.schedules, list(part.ranges))
        for i, part in enumerate(settings.layer_slices or ())
    ]
    return [
        Problem(
            SettingsError,
            f"{where}{option} has a value for {_whose(label, parents)}",
            (("found", label), ("needed", ", ".join(each for each in models if each != BASE))),
            f"leave {label} out of {where}{option}",
        )
        for where, schedules, models in (whole, *slices)
        for option, schedule in schedules.items()
        if isinstance(schedule, PerModel)
        for label in schedule.by_label
        if label not in models or label == BASE
    ]


def _whose(label: str, parents: Container[str]) -> str:
    if label == BASE:
        return "the base"
    return f"model {label}, which {'its slice does not name' if label in parents else 'is not merged'}"


def _too_different(warning: str) -> Problem:
    return Problem(MismatchError, warning, (), f"use {setting('strict', False)} to merge them anyway")


def _narrowed(views: Mapping[str, View], settings: MergeSettings, tensors: Sequence[TensorPlan]) -> list[str]:
    """A warning for each model with tensors that are wider than `dtype`."""
    if settings.dtype is None:
        return []
    wider: dict[str, list[str]] = {}
    for tensor in tensors:
        for label, source in tensor.sources.items():
            if source.dtype.itemsize > tensor.out.dtype.itemsize:
                wider.setdefault(label, []).append(source.dtype.name)
    return [
        f"{views[label].source}: {len(names)} tensor{'s' * (len(names) > 1)} in "
        f"{' and '.join(dict.fromkeys(names))} will be rounded to {settings.dtype}"
        for label, names in wider.items()
    ]


def _config_changes(
    views: Mapping[str, View], settings: MergeSettings, matching: Matching, rows: RowsOfTensors
) -> dict[str, object]:
    """The keys in which the merged model's config.json differs from model a's for its layers."""
    first = next(iter(views.values()))
    changes = {
        "dtype": settings.dtype,
        TIED: None if is_stated(matching.tied, first.config) else matching.tied,
        **rows.sizes,
        MTP_LAYERS: _mtp_layers(first, matching.matches),
    }
    return {key: value for key, value in changes.items() if value is not None}


def _mtp_layers(first: View, matches: Sequence[Match]) -> int | None:
    """The number of layers for multi-token prediction, if another model's are copied; else None."""
    stated = text_part(first.config).get(MTP_LAYERS)
    return None if stated else len(mtp_layers(match.name for match in matches)) or None


def _tensors(
    views: Mapping[str, View],
    settings: MergeSettings,
    matches: Sequence[Match],
    rows: Mapping[str, RowMap],
    wholes: Mapping[str, Whole],
) -> tuple[tuple[TensorPlan, ...], tuple[Any, ...], list[str]]:
    types = OutputTypes(settings.dtype, next(iter(views.values())).config)
    wanted = [_wanted(m, types, rows.get(m.name), wholes.get(m.name)) for m in matches]
    slots, shards = lay_out(wanted, settings.max_shard_nbytes)
    by_name = {match.name: match for match in matches}
    stored = {name: wholes[name].name if name in wholes else name for name in by_name} if wholes else {}
    names, labels = stored.values() if stored else by_name, tuple(views)
    values = values_by_name(names, settings, labels)
    makers = makers_by_name(names, settings.layer_slices, labels)
    works, tensors = Works(settings, views), list[TensorPlan]()
    unusable: dict[tuple[str, str], list[str]] = {}
    for slot in slots:
        match, name = by_name[slot.name], stored[slot.name] if stored else slot.name
        try:
            tensors.append(works.plan(match, slot, values[name], rows.get(slot.name), makers.get(name)))
        except UnusableError as error:
            unusable.setdefault((str(error), error.fix), []).append(slot.name)
    raise_all([_unusable(*reason, names) for reason, names in unusable.items()])
    return tuple(tensors), tuple(shards), _without_entry(tensors, settings)


def _without_entry(tensors: Sequence[TensorPlan], settings: MergeSettings) -> list[str]:
    """A remark about tensors that are copied because no entry of any schedule matches their names."""
    works = [(tensor.out.name, tensor.work) for tensor in tensors]
    without = {name: work.of for name, work in works if isinstance(work, Copy) and work.why == NO_ENTRY}
    if not without:
        return []
    options, of = " and ".join(settings.schedules), " and ".join(dict.fromkeys(without.values()))
    return [f"no entry of {options} matches, copied from {of}: {listed([*without], 3)}"]


def _unusable(reason: str, fix: str, names: Sequence[str]) -> Problem:
    return Problem(SettingsError, reason, (("tensors", f"{len(names)}: {listed(names, 3)}"),), fix)


def _wanted(match: Match, types: OutputTypes, rows: RowMap | None, whole: Whole | None) -> Tensor:
    """The tensor in its output type."""
    first = match.first
    dtype = types.of(match, first.dtype)
    shape = first.shape if rows is None else (len(rows), *first.shape[1:])
    return Tensor(match.name, dtype, shape, prod(shape) * dtype.itemsize, whole)


def _memory(tensors: Sequence[TensorPlan], settings: MergeSettings, n_models: int) -> MemoryPlan:
    widths = {sum(source.words.itemsize for source in tensor.sources.values()) for tensor in tensors}
    measured = [
        tensor.out.n_elements
        for tensor in tensors
        if isinstance(tensor.work, Merge)
        and any(settings.how.n_passes(parameters)[1] for parameters in tensor.work.units.values())
    ]
    longest = -(-max(measured, default=0) // CHUNK_ELEMENTS)
    out_widths = {tensor.out.dtype.itemsize for tensor in tensors}
    return plan_memory(settings, widths, out_widths, longest, n_models)
