"""Gives the merged model's experts the layout that model a stores.

Where each matrix is contiguous in the stored tensor, it is one match, and the layout of files puts the
matrices back together. Where matrices are transposed or alternate, one expert's part is a match, of `Block`s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING

from fusion_slerp.errors import MismatchError, Problem
from fusion_slerp.planning.experts import Fit, Origin, Reading, box_name
from fusion_slerp.planning.layout import Whole
from fusion_slerp.sources.header import TensorEntry
from fusion_slerp.sources.parts import Block, contiguous, transposed
from fusion_slerp.sources.source import Source

if TYPE_CHECKING:
    from fusion_slerp.planning.matching import Match

Wholes = Mapping[str, Whole]
"""The stored tensor that a match is a part of, by the match's name."""


def restored(
    matches: Sequence[Match], readings: Mapping[str, Reading]
) -> tuple[list[Match], dict[str, Whole], list[Problem]]:
    """Returns the matches under the names that the merged model stores, and the tensors they are parts of.

    Args:
        matches: Tensors of experts matrix by matrix, as `read_experts` returns them.
        readings: How each model stores them.
    """
    if not any(reading.origins for reading in readings.values()):
        return list(matches), {}, []
    stored: list[Match] = []
    wholes: dict[str, Whole] = {}
    problems = _uneven(matches, readings)
    for (_, fit), group in groupby(zip(matches, _origins(matches, readings), strict=True), _whole_of):
        run = list(group)
        if fit is None:
            stored += [match._replace(name=origin.name) for match, origin in run]
        elif len(run) != fit.sizes["e"] * fit.sizes["p"]:
            problems = problems or [_incomplete(fit)]
        elif fit.fused.is_in_boxes:
            stored += [match._replace(name=box_name(fit, o.expert, o.part)) for match, o in run]
            wholes |= {match.name: Whole(fit.name, fit.shape) for match in stored[-len(run) :]}
        else:
            blocks, more = _blocks([match for match, _ in run], fit)
            problems += more
            stored += blocks
            wholes |= {match.name: Whole(fit.name, fit.shape) for match in blocks}
    return stored, wholes, problems[:1]


def _origins(matches: Sequence[Match], readings: Mapping[str, Reading]) -> Iterator[Origin]:
    """Where the first model that has a tensor stores it."""
    for match in matches:
        origins = readings[next(iter(match.of))].origins
        yield origins.get(match.name) or Origin(match.name)


def _whole_of(pair: tuple[Match, Origin]) -> tuple[str, Fit | None]:
    """The model and the tensor of all experts that a matrix is part of."""
    match, origin = pair
    return next(iter(match.of)), origin.fit


def _uneven(matches: Sequence[Match], readings: Mapping[str, Reading]) -> list[Problem]:
    """The problem with experts that only some models have, in a module whose other experts all have."""
    first = next(iter(readings))
    modules = {
        match.name.partition("experts.")[0] for match in matches if first in match.of and _is_of_one(match)
    }
    for match in matches:
        if first not in match.of and _is_of_one(match) and match.name.partition("experts.")[0] in modules:
            fields = (("tensor", match.name), ("only in", ", ".join(match.of)))
            fix = "merge models with the same number of experts"
            return [Problem(MismatchError, "the numbers of experts differ", fields, fix)]
    return []


def _is_of_one(match: Match) -> bool:
    _, found, after = match.name.partition("experts.")
    return bool(found) and after[:1].isdigit()


def _incomplete(fit: Fit) -> Problem:
    fields = (("tensor", fit.name), ("found", "a part of its experts or matrices"))
    fix = "merge models with the same experts in all layers"
    return Problem(MismatchError, "the numbers of experts differ", fields, fix)


def _blocks(matches: Sequence[Match], fit: Fit) -> tuple[list[Match], list[Problem]]:
    """One match for each expert."""
    n = fit.sizes["p"]
    blocks, problems = [], list[Problem]()
    for expert in range(fit.sizes["e"]):
        run = matches[expert * n : (expert + 1) * n]
        name = box_name(fit, expert, None)
        labels = list(run[0].of)
        if any(list(match.of) != labels for match in run):
            problems.append(_unlike(name, "some of its matrices in some models only"))
            continue
        boxes = {label: [match.of[label] for match in run] for label in labels}
        kinds = [{(box.dtype.code, box.shape) for box in each} for each in boxes.values()]
        if any(len(kind) > 1 for kind in kinds):
            odd = max(kinds, key=len)
            problems.append(
                _unlike(name, " and ".join(f"{code} {list(shape)}" for code, shape in sorted(odd)))
            )
            continue
        of = {label: _block(name, fit, each) for label, each in boxes.items()}
        blocks.append(run[0]._replace(name=name, of=of))
    return blocks, problems


def _unlike(name: str, found: str) -> Problem:
    fields = (("tensor", name), ("found", found))
    fix = "save the models in one layout and type, or give another model first"
    return Problem(MismatchError, "the matrices of an expert cannot be joined", fields, fix)


def _block(name: str, fit: Fit, boxes: Sequence[Source]) -> Block:
    fused, sizes = fit.fused, fit.sizes
    entries = tuple(box for box in boxes if isinstance(box, TensorEntry))
    assert len(entries) == len(boxes), name
    own = {**sizes, **dict(zip(fused.order, entries[0].shape, strict=True))}
    inner = fused.inner
    run = prod(own[axis] for axis in inner[inner.index("p") + 1 :]) if "p" in inner else entries[0].n_elements
    is_transposed = tuple(axis for axis in inner if axis != "p") != fused.order
    return Block(
        name,
        fused.block_shape(own),
        entries,
        run,
        is_transposed,
        _stored(name, [transposed(each) if is_transposed else each for each in entries], run),
    )


def _stored(name: str, turned: Sequence[TensorEntry], run: int) -> TensorEntry | None:
    """The boxes as one range of a file, if they are stored so."""
    first, itemsize = turned[0], turned[0].dtype.itemsize
    period = run * len(turned)
    steps = [period * (step // run) + step % run for step in contiguous(first.shape)]
    for i, each in enumerate(turned):
        own = each.strides or contiguous(each.shape)
        is_next = each.file == first.file and each.offset == first.offset + i * run * itemsize
        if not is_next or list(own) != steps or each.shape != first.shape:
            return None
    nbytes = sum(each.nbytes for each in turned)
    shape = (nbytes // itemsize,)
    return TensorEntry(name, first.dtype, shape, first.file, first.offset, nbytes)
