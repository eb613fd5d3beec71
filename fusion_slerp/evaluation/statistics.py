"""Means of token losses, their standard errors and 95 % intervals, of a model and of the difference of two.

Neighbouring tokens share what makes them easy or hard, so a standard error that treats them as independent is
too small. They are grouped in two ways, and the larger error counts, if it is clearly larger:

- **Blocks** of consecutive tokens, over all documents in their order. The length doubles until
  `length**3 > 2 * n * inflation**2`, where `n` is the number of tokens, and `inflation` is the variance of
  the mean by these blocks, divided by that by single tokens. So blocks are long enough to hardly depend on
  each other, and no longer: the fewer there are, the less certain is the error.
- **Documents**, if there are several: all tokens of a document share what makes it easy or hard.

Source: blocks: H. Flyvbjerg and H. G. Petersen, J. Chem. Phys. 91, 461 (1989). Their length: U. Wolff,
Comput. Phys. Commun. 156, 143 (2004), eq. 47, and R. M. Lee et al., Phys. Rev. E 83, 066706 (2011), eq. 14.
Documents as clusters, and paired differences: E. Miller, https://arxiv.org/abs/2411.00640. Lee et al. take
the shortest length above which all satisfy the rule; here it is the first that does, because there are too
few of the longest blocks to tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Losses = NDArray[np.float64]

MIN_BLOCKS = 4
"""Blocks are not lengthened below this number: an error from fewer is worth little."""

MIN_FREEDOM = 2
"""Degrees of freedom from which on documents count as groups: three documents of equal length have two."""

DISTINCT = 1.1
"""Documents count as groups if their error exceeds that from blocks by this factor: the larger of two
uncertain errors is too large on average."""

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its uncertainty.

    Attributes:
        value: The mean.
        stderr: Its standard error, in the same unit; NaN from fewer than two values.
        n_blocks: Groups of tokens that the error comes from; in a mean over texts, those of all texts.
        freedom: Degrees of freedom of Student's t distribution for the interval.
    """

    value: float
    stderr: float
    n_blocks: int
    freedom: float

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return self.value - student_quantile(self.freedom) * self.stderr

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return self.value + student_quantile(self.freedom) * self.stderr

    def scaled(self, factor: float) -> Estimate:
        """Returns the same in another unit."""
        return Estimate(self.value * factor, self.stderr * abs(factor), self.n_blocks, self.freedom)

    @property
    def differs_from_zero(self) -> bool:
        """Whether the interval leaves out zero; no if it is unknown."""
        return self.low > 0 or self.high < 0

    def as_fields(self) -> dict[str, float]:
        """Returns the estimate as plain numbers, with the ends of the interval."""
        ends = {"low": self.low, "high": self.high}
        return {"value": self.value, "stderr": self.stderr, **ends, "n_blocks": self.n_blocks}


def estimate(documents: Sequence[Losses]) -> Estimate:
    """Returns the mean over all tokens, each counting the same, and its error; see the module.

    Args:
        documents: One value a token: float64, shape [tokens] per document, in reading order.
    """
    values = np.concatenate(documents) if documents else np.empty(0)
    if len(values) < 2 or not np.isfinite(values).all():
        with np.errstate(all="ignore"):
            mean = float(values.mean()) if len(values) else math.nan
        return Estimate(mean, math.nan, len(values), math.nan)
    blocks = _grouped(values, block_bounds(values))
    lengths = [len(document) for document in documents if len(document)]
    whole = _grouped(values, np.cumsum([0, *lengths])) if len(lengths) > 1 else blocks
    is_wider = whole.freedom >= MIN_FREEDOM and whole.stderr > DISTINCT * blocks.stderr
    return whole if is_wider else blocks


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Returns the mean of independent estimates, each counting the same.

    The texts are taken as given: its error says how it would vary with other passages of the same kinds, not
    with texts of other kinds. Degrees of freedom: B. L. Welch, Biometrika 34, 28 (1947).
    """
    n = len(estimates)
    value = math.fsum(each.value for each in estimates) / n
    variances = [each.stderr**2 for each in estimates]
    total = math.fsum(variances)
    shares = math.fsum(v**2 / each.freedom for v, each in zip(variances, estimates, strict=True))
    freedom = total**2 / shares if shares > 0 else math.fsum(each.freedom for each in estimates)
    return Estimate(value, math.sqrt(total) / n, sum(each.n_blocks for each in estimates), freedom)


def block_bounds(values: Losses) -> NDArray[np.int64]:
    """Returns where the blocks begin, and one past the last: lengths differ by one at most.

    Args:
        values: Finite, at least two.
    """
    n, length = len(values), 1
    single = _grouped(values, np.arange(n + 1)).stderr
    bounds = np.arange(n + 1)
    while single > 0 and n // (2 * length) >= MIN_BLOCKS:
        inflation = (_grouped(values, bounds).stderr / single) ** 2
        if length**3 > 2 * n * inflation**2:
            break
        length *= 2
        bounds = np.linspace(0, n, n // length + 1).round().astype(np.int64)
    return bounds


def _grouped(values: Losses, bounds: NDArray[np.int64]) -> Estimate:
    """The mean, and its error from groups that are taken as independent.

    Each group is part of the mean that it is compared with, and unequal groups have fewer degrees of freedom.
    Both are corrected as if the means of all groups varied alike; for equal lengths that is the usual
    correction (R. M. Bell and D. F. McCaffrey, Survey Methodology 28, 169 (2002)).
    """
    n, mean, shares = len(values), float(values.mean()), np.diff(bounds) / len(values)
    parts = np.add.reduceat(values - mean, bounds[:-1]) / n
    squares = float((shares**2).sum())
    variance = float((parts**2 / (1 - 2 * shares + squares)).sum())
    freedom = min(squares**2 / float((shares**4).sum()), len(shares) - 1.0)
    return Estimate(mean, math.sqrt(variance), len(shares), freedom)


@lru_cache(maxsize=64)
def student_quantile(freedom: float) -> float:
    """Returns how many standard errors the 95 % interval reaches to either side; NaN for NaN.

    With x = sqrt(freedom)·tan(a), the density of Student's t is cos(a)**(freedom - 1): smooth, and integrated
    by the trapezoidal rule. The error is below 1e-4 from one degree of freedom on.
    """
    if not freedom > 0:
        return math.nan
    if freedom > 1000:
        normal = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        return normal + (normal**3 + normal) / (4 * freedom)
    angles = np.linspace(0, np.pi / 2, 4001)
    density = np.cos(angles) ** (freedom - 1)
    below = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    return math.sqrt(freedom) * math.tan(float(np.interp(CONFIDENCE * below[-1], below, angles)))
