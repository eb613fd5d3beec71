"""The operation for one tensor: copied or merged, from which sources, with which parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.errors import setting
from fusion_slerp.methods.method import BASE, UnusableError, WithoutBase
from fusion_slerp.planning.layout import Slot
from fusion_slerp.planning.matching import Match
from fusion_slerp.planning.plan import BOX, Copy, CopyIfEqual, Merge, TensorPlan
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.parts import Block
from fusion_slerp.sources.source import Source
from fusion_slerp.sources.stored_bytes import equal_bytes
from fusion_slerp.vocabulary.rows import Owners, RowMap

VALUES, OWNER, NO_ENTRY, EQUAL = "values", "owner", "no entry", "equal"
"""Why a tensor is copied; see `TensorReport`."""

_SEPARATE = "give a model first that stores a tensor for each matrix of an expert"

BOUNDS = ("put_min", "put_max")
"""Endings of the names of the bounds to which activations are clipped, which are infinite where nothing is
clipped (`input_max` in Gemma 4's towers).
"""

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Decision:
    """The operation that a tensor's values select, for given owners.

    Attributes:
        used: The labels of the sources that take part.
        parameters: The method's parameters for these.
        copied: The label of the source that is copied; None if the tensor is merged.
        why: Why it is copied, if it is.
    """

    used: Owners
    parameters: Any
    copied: str | None = None
    why: str = VALUES


class Works:
    """Decides how each tensor is made; tensors with the same values and owners are decided once.

    Args:
        settings: The options.
        labels: The models' labels, and the base's if there is one.
    """

    def __init__(self, settings: MergeSettings, labels: Collection[str]) -> None:
        self._settings, self._method, self._labels = settings, settings.how, tuple(labels)
        self._has_base = BASE in labels
        self._known: dict[tuple[int, Owners], tuple[Values, Decision]] = {}
        self._merges: dict[tuple[int, str], Merge] = {}

    def plan(
        self, match: Match, slot: Slot, values: Values, rows: RowMap | None, makers: Owners | None = None
    ) -> TensorPlan:
        """Returns the plan for a tensor.

        Args:
            match: Its sources.
            slot: Its position in the output.
            values: The values of the method's options with a schedule, for this tensor.
            rows: The sources of its rows, if not all are in place.
            makers: The labels of the models that its slice names; None for all.

        Raises:
            UnusableError: The values give the method invalid parameters.
        """
        if rows is not None:
            return self._of_rows(match, slot, values, rows, makers or self._labels)
        match = match if makers is None else match.made_by(makers)
        owners = tuple(match.of)
        if len(owners) == 1 and owners != (makers or self._labels):
            return _copy(match, slot, values, owners[0], OWNER)
        decision = self.decided(values, owners)
        if decision.copied is not None:
            return _copy(match, slot, values, decision.copied, decision.why)
        if match.name.endswith(BOUNDS) and _is_equal_bound(match):
            return _copy(match, slot, values, owners[0], EQUAL)
        first = match.first
        if not first.dtype.is_mergeable:
            return TensorPlan(slot, match.of, CopyIfEqual(), values)
        used = decision.used
        sources = match.of if used == owners else {label: match.of[label] for label in used}
        return TensorPlan(slot, sources, self._merge(decision, self._granularity(first)), values)

    def _merge(self, decision: Decision, granularity: str) -> Merge:
        """One object for all tensors that are merged alike; decisions live as long as this instance."""
        key = id(decision), granularity
        if key not in self._merges:
            units = {decision.used: decision.parameters}
            self._merges[key] = Merge(units, granularity, self._method.needs_rows)
        return self._merges[key]

    def decided(self, values: Values, owners: Owners) -> Decision:
        """Returns the operation that the values select for these owners; raises as `plan`."""
        key = id(values), owners
        if key not in self._known:  # the values are kept, so that their id stays unique
            self._known[key] = values, self._decide(values, owners)
        return self._known[key][1]

    def _decide(self, values: Values, owners: Owners) -> Decision:
        if _is_without(values, owners):
            return Decision(owners[:1], None, owners[0], NO_ENTRY)
        models = tuple(label for label in owners if label != BASE)
        for option, value in values.items():
            lacking = [label for label in models if isinstance(value, Mapping) and value[label] is None]
            if lacking:
                whose = ", ".join(lacking)
                fix = f"end the {option} of {whose} with an entry that has no filter, such as {{value: 0.5}}"
                raise UnusableError(f"no entry of {option} matches for {whose}", fix)
        is_lacking = BASE not in owners and not self._method.base_is_target
        if self._has_base and (is_lacking or len(models) < self._method.n_models[0]):
            return _without(models, owners)
        parameters = self._parameters(values, owners)
        copied = self._method.copied(parameters)
        if copied is not None:
            return Decision((owners[copied],), parameters, owners[copied])
        used = tuple(owners[i] for i in self._method.used(parameters))
        return Decision(used, parameters if used == owners else self._parameters(values, used))

    def _parameters(self, values: Values, labels: Owners) -> Any:
        return self._method.parameters(self._settings.parameters, values, labels)

    def _granularity(self, source: Source) -> str:
        """Rows and columns are units in a matrix that is not empty and whose rows fit into a chunk."""
        if isinstance(source, Block):
            return self._granularity_of(source)
        if self._settings.granularity == "tensor" or len(source.shape) != 2:
            return "tensor"
        fits = source.n_elements and source.shape[1] <= CHUNK_ELEMENTS
        return self._settings.granularity if fits else "tensor"

    def _granularity_of(self, block: Block) -> str:
        if self._method.is_indexed or self._method.needs_rows:
            raise UnusableError(f"{self._method.name} where experts are transposed or alternate", _SEPARATE)
        if len(block.boxes) > 1 and block.period > CHUNK_ELEMENTS:
            raise UnusableError(
                f"matrices of an expert that alternate after {block.period} elements", _SEPARATE
            )
        if self._settings.granularity != "tensor" and len(block.shape) == 2:
            reason = f"granularity {self._settings.granularity} where experts are transposed or alternate"
            raise UnusableError(reason, f"use {setting('granularity', 'tensor')}, or {_SEPARATE}")
        return BOX

    def _of_rows(self, match: Match, slot: Slot, values: Values, rows: RowMap, makers: Owners) -> TensorPlan:
        """Each set of owners of rows is a unit; if the values select one owner, its rows are copied."""
        if not slot.nbytes:
            return _copy(match, slot, values, next(iter(match.of)), OWNER)
        if len(makers) == 1 and self.decided(values, makers).copied is None:
            reason = "a tensor of one model whose rows follow the tokens is copied, row by row"
            raise UnusableError(reason, f"change {' and '.join(values)} so that this tensor is copied")
        units: dict[Owners, Any] = {}
        why = OWNER
        for owners, where in rows.groups().items():
            decision = self.decided(values, owners)
            if decision.copied is not None:
                rows, why = rows.kept(where, (decision.copied,)), decision.why
            elif len(decision.used) > 1:
                rows = rows if decision.used == owners else rows.kept(where, decision.used)
                units[decision.used] = decision.parameters
            else:  # one model with a weight other than 1: rows of a single owner would be copied
                units[owners] = self._parameters(values, owners)
        sources = {label: source for label, source in match.of.items() if (rows.of[label] >= 0).any()}
        if units:
            return TensorPlan(slot, sources, Merge(units, needs_rows=self._method.needs_rows), values, rows)
        counts = rows.counts.copied
        giver = max(match.of, key=lambda label: counts.get(label, 0))
        return TensorPlan(slot, sources or dict(match.of), Copy(giver, why), values, rows)


def _without(models: Owners, owners: Owners) -> Decision:
    """The operation where the base or too many models are lacking."""
    if len(models) < 2:
        only = (*models, *owners)[:1]
        return Decision(only, None, only[0], OWNER)
    return Decision(models, WithoutBase(len(models)))


def _copy(match: Match, slot: Slot, values: Values, label: str, why: str) -> TensorPlan:
    return TensorPlan(slot, {label: match.of[label]}, Copy(label, why), values)


def _is_equal_bound(match: Match) -> bool:
    """Whether a tensor is one number, with the same bytes in all models."""
    first, *others = match.of.values()
    return first.n_elements == 1 and all(
        len(first.entries) == len(other.entries) == 1 and equal_bytes(first.entries[0], other.entries[0])
        for other in others
    )


def _is_without(values: Values, owners: Owners) -> bool:
    """Whether no entry of any schedule matches the tensor's name."""
    parts = [
        [v.get(label) for label in owners if label != BASE] if isinstance(v, Mapping) else [v]
        for v in values.values()
    ]
    given = [each for part in parts for each in part]
    return bool(given) and all(each is None for each in given)
