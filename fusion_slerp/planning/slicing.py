"""The models restricted to the layers of slices; imported where there are any, for its tables are large."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from reprlib import repr as shortened

from fusion_slerp.errors import SHOWN_NAME, MismatchError, Problem, listed, printable, setting
from fusion_slerp.methods import Method
from fusion_slerp.planning.config_paths import Path
from fusion_slerp.planning.layer_values import Layers
from fusion_slerp.planning.sliced_config import Unfit, sliced_config
from fusion_slerp.planning.stacks import n_mtp_layers
from fusion_slerp.planning.stand_ins import Model, NoLike, orders
from fusion_slerp.planning.unlike_layers import other_tensors
from fusion_slerp.planning.view import View
from fusion_slerp.settings.labels import BASE
from fusion_slerp.settings.slices import Slice, are_alike, example
from fusion_slerp.sources.folder import CONFIG
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.tensor_names import layer_of, renamed


def sliced_views(
    views: Mapping[str, View],
    stacks: Mapping[str, Mapping[str, int]],
    slices: Sequence[Slice],
    method: Method,
    overridden: Container[Path] = (),
) -> tuple[dict[str, View], list[Problem]]:
    """Returns the models restricted to the layers of the slices, and problems.

    Each model gets all of the merged model's layers: where a slice does not name it, another of its layers of
    the same kind.

    Args:
        views: The models by label.
        stacks: The numbers of layers of the stacks that may be the language model's, by label.
        slices: The slices.
        method: The method that merges them.
        overridden: Paths in the config whose values the merged model gets from a setting.
    """
    problems = [_not_one_stack(views[label], len(each)) for label, each in stacks.items() if len(each) != 1]
    if problems:
        return dict(views), problems
    n_more = {label: n_mtp_layers(views[label], *each.items()) for label, each in stacks.items()}
    n_layers = {label: max(each.values()) - n_more[label] for label, each in stacks.items()}
    problems = [_missing_layers(view) for label, view in views.items() if n_layers[label] > len(view.tensors)]
    fix = f"use layers that the models have, such as {setting('slices', example(method, n_layers))}"
    problems = problems or [
        *_wrong_models(slices, n_layers, method, fix),
        *_out_of_range(slices, views, n_layers, fix),
    ]
    if problems:
        return dict(views), problems
    by_label, without = orders(
        slices, {label: Model(view.config, n_layers[label]) for label, view in views.items()}
    )
    problems = [_no_like(views, each) for each in without[:3]]
    if problems:
        return dict(views), problems
    sliced = {}
    for label, view in views.items():
        layers = Layers(by_label[label], n_layers[label], n_more[label])
        sliced[label], unfit = _sliced(view, next(iter(stacks[label])), layers, overridden)
        if not are_alike(slices):
            sliced[label] = _by_layer(sliced[label], next(iter(stacks[label])))
        problems += [_unfit(view, each, layers) for each in unfit]
        problems += [*other_tensors(view, next(iter(stacks[label])), layers)]
    return sliced, problems


def _not_one_stack(view: View, n_stacks: int) -> Problem:
    fields = (("model", view.source), ("found", f"{n_stacks} stacks of layers"), ("needed", "one stack"))
    return Problem(MismatchError, "the slices do not fit the model", fields, "leave out slices")


def _missing_layers(view: View) -> Problem:
    fields = (("model", view.source), ("found", "more layers by their numbers than tensors"))
    return Problem(MismatchError, "the slices do not fit the model", fields, "leave out slices")


def _wrong_models(
    slices: Sequence[Slice], n_layers: Mapping[str, int], method: Method, fix: str
) -> Iterator[Problem]:
    """The problems with slices of other models than those that are merged, or of too many or too few."""
    for i, part in enumerate(slices):
        n, needed = len(part.ranges.keys() - {BASE}), ""
        if not part.ranges.keys() <= n_layers.keys():
            needed = f"ranges of the models: {', '.join(n_layers)}"
        elif not method.takes(n):
            needed = f"{method.models_text} of {', '.join(label for label in n_layers if label != BASE)}"
        elif BASE in n_layers and BASE not in part.ranges:
            needed = f"a range of {BASE}, as in every slice"
        if needed:
            fields = (("found", ", ".join(part.ranges)), ("needed", needed))
            yield Problem(MismatchError, f"slices[{i}] does not fit the models", fields, fix)
    unused = [label for label in n_layers if all(label not in part.ranges for part in slices)]
    if unused:
        fields = (("found", ", ".join(unused)), ("needed", "every model in some slice"))
        yield Problem(MismatchError, "models that no slice names", fields, f"leave them out, or {fix}")


def _out_of_range(
    slices: Sequence[Slice], views: Mapping[str, View], n_layers: Mapping[str, int], fix: str
) -> Iterator[Problem]:
    for label, n in n_layers.items():
        ranges = [part.ranges[label] for part in slices if label in part.ranges]
        longest = max(ranges, key=lambda each: each[1], default=(0, 0))
        if longest[1] > n:
            needed = f"at most {n}: the model has layers 0 to {n - 1}"
            fields = (
                ("model", views[label].source),
                ("found", f"{label}: {list(longest)}"),
                ("needed", needed),
            )
            yield Problem(MismatchError, "the slices do not fit the model", fields, fix)


def _no_like(views: Mapping[str, View], each: NoLike) -> Problem:
    """The problem with a layer of a kind that another model's config has no name for."""
    kind = listed([f"{key}: {value}" for key, value in each.kind.items()], 3)
    fields = (
        ("layer", f"{each.layer} of {each.of}: {printable(kind, SHOWN_NAME)}"),
        ("model", views[each.label].source),
        ("needed", f"a layer of {each.label} of that kind"),
    )
    fix = "stack models of one architecture, or leave this layer out of the slices"
    return Problem(MismatchError, f"{each.label} has no layer like one of {each.of}", fields, fix)


def _sliced(view: View, stack: str, layers: Layers, overridden: Container[Path]) -> tuple[View, list[Unfit]]:
    config, unfit = sliced_config(view.config, layers, overridden)
    tensors = dict(_renumbered(view.checkpoint.tensors, stack, layers))
    return View(view.label, view.checkpoint, tensors, config), unfit


def _renumbered(
    tensors: Mapping[str, TensorEntry], stack: str, layers: Layers
) -> Iterator[tuple[str, TensorEntry]]:
    """Yields every tensor under each of its names in the merged model."""
    new: dict[int, list[int]] = {}
    for i, layer in enumerate(layers.order):
        new.setdefault(layer, []).append(i)
    for i in range(layers.n_more):
        new[layers.n + i] = [len(layers.order) + i]
    for name, entry in tensors.items():
        layer = layer_of(name)
        if layer is None or layer[0] != stack:
            yield name, entry
            continue
        for i in new.get(layer[1], []):
            yield renamed(name, i), entry


def _by_layer(view: View, stack: str) -> View:
    """The model with its tensors outside the layers, then layer by layer: neighbours come from one model."""

    def index(name: str) -> int:
        layer = layer_of(name)
        return layer[1] if layer is not None and layer[0] == stack else -1

    return replace(view, tensors={name: view.tensors[name] for name in sorted(view.tensors, key=index)})


def _unfit(view: View, each: Unfit, layers: Layers) -> Problem:
    """The problem with a key that cannot say of the merged model's layers what it says of the model's."""
    name = ".".join(each.path)
    value = "its default" if each.value is None else printable(repr(each.value), SHOWN_NAME)
    fields = (
        ("model", view.source),
        ("key", f"{printable(name, SHOWN_NAME)}: {value} in {view.folder / CONFIG}"),
        ("found", f"layers {shortened(list(layers.order))} of {layers.n}"),
        ("needed", "slices that leave each layer the kind that this key gives it"),
    )
    fix = "leave out slices, or move their ends; if you know the value that fits the merged model's layers, "
    fix += f"give it in config_overrides, under the key {printable(name, SHOWN_NAME)}"
    return Problem(MismatchError, f"{printable(name, SHOWN_NAME)} cannot follow the slices", fields, fix)
