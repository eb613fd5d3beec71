"""Reports: how each tensor was made, with its measurements, and the finished files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from fusion_slerp.vocabulary.rows import RowCounts

NONE: Mapping[str, Any] = {}

OLD_NAME, NEW_NAME = "null vector", "zero vector"
"""In a rule: earlier versions wrote the old name."""


class TensorReport(NamedTuple):
    """How one tensor was made.

    Attributes:
        name: Its name.
        rule: The rule: `"slerp"`, `"lerp: zero vector"`, `"lerp: nearly parallel"`,
            `"lerp: nearly opposite"`, `"linear"`, `"copy a"` (or another label), `"copy if equal"`.
        n_elements: Number of elements.
        values: The method's options that may vary from tensor to tensor, with their values: `{"t": 0.3}`,
            `{"weight": {"a": 0.4, "b": 0.6}}`.
        why: Why it was copied: `"values"` (the values select one model), `"owner"` (only that model
            has it), `"integer"` (never interpolated), `"equal"` (a bound of activations, equal in all
            models), `"no entry"` (no entry of a schedule matches its name); None if it was not.
        angle_deg: Angle between the first two models in degrees; None if it was not measured, or is
            undefined because a model's tensor is zero.
        norms: Euclidean norm in each model, by label; empty if not measured.
        rows: How many rows were made in which way, if the vocabularies differ; angle and norms are
            then those of the largest group of merged rows with the same owners. None if all rows were
            made alike.
        digest: XXH3 (128 bits) of its bytes in the merged model; None if that is not on a disk.
    """

    name: str
    rule: str
    n_elements: int
    values: Mapping[str, Any] = NONE
    why: str | None = None
    angle_deg: float | None = None
    norms: Mapping[str, float] = NONE
    rows: RowCounts | None = None
    digest: str | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The report as plain values, without empty ones; `from_fields` is the inverse."""
        values = self._asdict()
        if self.rows is not None:
            values["rows"] = asdict(self.rows)
        return {name: value for name, value in values.items() if value is not None and value != {}}


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A finished weight file.

    Attributes:
        name: Its name.
        nbytes: Its size.
        digest: The `checksum` of its content; empty if none was taken.
        reports: How its tensors were made, with their digests.
    """

    name: str
    nbytes: int
    digest: str
    reports: tuple[TensorReport, ...]


def from_fields(fields: Mapping[str, Any]) -> TensorReport:
    """Returns the report with these fields, written by this or an earlier version.

    Raises:
        TypeError: They are not the fields of a report.
    """
    rows = fields.get("rows")
    report = TensorReport(**{**fields, "rows": None if rows is None else RowCounts(**rows)})
    return report._replace(rule=report.rule.replace(OLD_NAME, NEW_NAME))


def count_rules(reports: Sequence[TensorReport]) -> dict[str, int]:
    """Returns how many tensors were made by each rule, most frequent first."""
    return dict(Counter(report.rule for report in reports).most_common())
