"""What happened to each tensor, as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fusion_slerp.vocabulary.rows import RowCounts


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What happened to one tensor.

    Attributes:
        name: Its name.
        rule: How it was made: `"slerp"`, `"lerp: null vector"`, `"lerp: nearly parallel"`,
            `"lerp: nearly opposite"`, `"copy a"`, `"copy b"`, `"copy if equal"`.
        t: Where between the parents, in [0, 1].
        n_elements: Number of elements.
        angle_deg: Angle between the parents in degrees; None where it was not measured, or where
            a parent is null and there is none.
        norm_a: Euclidean norm in parent a; None where not measured.
        norm_b: Euclidean norm in parent b; None where not measured.
        rows: How many rows were made in which way, where the vocabularies differ; angle and norms are
            then those of the merged rows. None where all rows were made alike.
        digest: XXH3 (128 bits) of its bytes in the child; None where the child is not on a disk.
    """

    name: str
    rule: str
    t: float
    n_elements: int
    angle_deg: float | None = None
    norm_a: float | None = None
    norm_b: float | None = None
    rows: RowCounts | None = None
    digest: str | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The same as plain values, without what is not known; `from_fields` turns them back."""
        rows = None if self.rows is None else asdict(self.rows)
        values = {**{name: getattr(self, name) for name in self.__slots__}, "rows": rows}
        return {name: value for name, value in values.items() if value is not None}


def from_fields(fields: Mapping[str, Any]) -> TensorReport:
    """Returns the report with these fields.

    Raises:
        TypeError: They are no such fields.
    """
    rows = fields.get("rows")
    return TensorReport(**{**fields, "rows": None if rows is None else RowCounts(**rows)})


def count_rules(reports: Sequence[TensorReport]) -> dict[str, int]:
    """Returns how many tensors were made by each rule, most frequent first."""
    return dict(Counter(report.rule for report in reports).most_common())
