"""What happened to each tensor, as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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
    """

    name: str
    rule: str
    t: float
    n_elements: int
    angle_deg: float | None = None
    norm_a: float | None = None
    norm_b: float | None = None
    rows: RowCounts | None = None


def count_rules(reports: Sequence[TensorReport]) -> dict[str, int]:
    """Returns how many tensors were made by each rule, most frequent first."""
    return dict(Counter(report.rule for report in reports).most_common())
