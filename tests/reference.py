"""The slow, obvious reference that the package's arithmetic is compared with.

Nothing of fusion_slerp is imported here. The floating-point types are written out from their bit
layout, sums are exact integers, angles and sines are decimals of 50 digits, and rounding is
"to the nearest multiple of the last place". A result is called misrounded when it is not what
one rounding makes of any number within float64 noise of the exact value; see `Expected`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from operator import mul

import numpy as np

DIGITS = 50

Scaled = tuple[list[int], int]
"""A vector as integers and the exponent of two that they all are multiplied with."""


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point type: one sign bit, the exponent, the fraction.

    Attributes:
        name: Its name in torch.
        exponent_bits: Width of the exponent.
        fraction_bits: Width of the fraction.
    """

    name: str
    exponent_bits: int
    fraction_bits: int

    @property
    def word(self) -> np.dtype:
        """The unsigned integer that holds its bits."""
        return np.dtype(f"uint{1 + self.exponent_bits + self.fraction_bits}")

    @property
    def bias(self) -> int:
        """What is subtracted from the stored exponent."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def least_exponent(self) -> int:
        """The smallest subnormal is two to this power."""
        return 1 - self.bias - self.fraction_bits

    @property
    def infinity(self) -> int:
        """The word of +infinity; words below it are the finite magnitudes in rising order."""
        return (2**self.exponent_bits - 1) << self.fraction_bits

    @property
    def largest(self) -> float:
        """The largest finite value."""
        return float((2 - Fraction(1, 2**self.fraction_bits)) * 2**self.bias)


BF16 = Format("bfloat16", 8, 7)
F16 = Format("float16", 5, 10)
F32 = Format("float32", 8, 23)
F64 = Format("float64", 11, 52)
FORMATS = {format.name: format for format in (BF16, F16, F32, F64)}


def decode(words: np.ndarray, format: Format) -> np.ndarray:
    """The values of raw words as float64, which holds all four types exactly."""
    words = np.ascontiguousarray(words).view(format.word)
    fraction = words & format.word.type(2**format.fraction_bits - 1)
    stored = (words >> format.word.type(format.fraction_bits)).astype(np.int32) & (
        2**format.exponent_bits - 1
    )
    significand = fraction.astype(float) + np.where(stored > 0, 2.0**format.fraction_bits, 0.0)
    with np.errstate(over="ignore"):  # only where infinity or NaN is put in below
        values = np.ldexp(significand, np.maximum(stored, 1) - format.bias - format.fraction_bits)
    special = np.where(fraction == 0, np.inf, np.nan)
    values = np.where(stored == 2**format.exponent_bits - 1, special, values)
    negative = (words >> format.word.type(format.word.itemsize * 8 - 1)) != 0
    return np.where(negative, -values, values)


def encode(values: np.ndarray, format: Format) -> np.ndarray:
    """The words of float64 values that the type holds exactly; the inverse of `decode`."""
    values = np.asarray(values, np.float64)
    if format is BF16:
        return (values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype(format.name).view(format.word)


def last_place(values: np.ndarray, format: Format) -> np.ndarray:
    """The exponent of the unit in the last place that the type has at each value."""
    exponent = np.frexp(values)[1]
    return np.maximum(exponent - 1 - format.fraction_bits, format.least_exponent)


def round_to(values: np.ndarray, format: Format) -> np.ndarray:
    """Float64 values rounded once to the type: to the nearest multiple of the last place."""
    unit = last_place(values, format)
    with np.errstate(over="ignore"):  # a float64 next to infinity may be rounded up to it
        rounded = np.ldexp(np.rint(np.ldexp(values, -unit)), unit)
    return np.where(np.abs(rounded) > format.largest, np.copysign(np.inf, values), rounded)


def round_exactly(value: Fraction, format: Format) -> float:
    """One number of any precision rounded once to the type: exact comparison with its neighbours.

    The words of finite magnitudes count upwards, so the neighbours are two consecutive words;
    the one of infinity takes part as the power of two that would follow.
    """
    low, high = 0, format.infinity
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _magnitude(middle, format) <= abs(value) else (low, middle)
    below = abs(value) - _magnitude(low, format)
    above = _magnitude(high, format) - abs(value)
    word = low if below < above or (below == above and low % 2 == 0) else high
    magnitude = np.inf if word == format.infinity else float(_magnitude(word, format))
    return -magnitude if value < 0 else magnitude


def _magnitude(word: int, format: Format) -> Fraction:
    stored, fraction = divmod(word, 2**format.fraction_bits)
    significand = fraction + (2**format.fraction_bits if stored else 0)
    return significand * Fraction(2) ** (max(stored, 1) - format.bias - format.fraction_bits)


def ulp_error(result: np.ndarray, exact: np.ndarray, format: Format) -> np.ndarray:
    """Distance of each result from the exact value in units of the last place there."""
    with np.errstate(over="ignore"):
        return np.ldexp(np.abs(result - exact), -last_place(exact, format))


@dataclass(frozen=True, slots=True)
class Expected:
    """What SLERP of two vectors has to be.

    Float64 noise: the package may err by 2^-48 in the cosine and by 2^-50 of each product.
    `noise` bounds what that does to an element; only where a rounding border lies within the
    noise of the exact value are both its sides accepted.

    Attributes:
        s0: Exact factor of a (to 50 digits).
        s1: Exact factor of b.
        rule: As the package words it.
        angle: The angle in radians, to 50 digits; None with a zero vector.
        slack0: Bound of the float64 error of s0.
        slack1: Bound of the float64 error of s1.
    """

    s0: Fraction
    s1: Fraction
    rule: str
    angle: Decimal | None
    slack0: float
    slack1: float

    def values(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The formula for each element, as float64."""
        with np.errstate(over="ignore"):
            return float(self.s0) * a + float(self.s1) * b

    def noise(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """How far float64 arithmetic may be from the exact formula, for each element."""
        with np.errstate(over="ignore", under="ignore"):
            return self.slack0 * np.abs(a) + self.slack1 * np.abs(b) + 2.0**-1073

    def misrounded(self, result: np.ndarray, a: np.ndarray, b: np.ndarray, format: Format) -> np.ndarray:
        """Which elements are not the one rounding of a value within the noise of the exact one."""
        values, noise = self.values(a, b), self.noise(a, b)
        low, high = round_to(values - noise, format), round_to(values + noise, format)
        return ~((low <= result) & (result <= high))


def expect(
    t: float, a: np.ndarray, b: np.ndarray, threshold: float = 0.9995, epsilon: float = 1e-8
) -> Expected:
    """SLERP of two float64 vectors by the rules of the design page, t in [0, 1]."""
    x, y = _integers(a), _integers(b)
    aa, bb, ab = _dot(x, x), _dot(y, y), _dot(x, y)
    if min(aa, bb) <= Fraction(epsilon) ** 2:
        return _linear(t, "lerp: zero vector", None)
    with localcontext() as context:
        context.prec = DIGITS
        angle, supplement = _angles(aa, bb, ab)
        side = "parallel" if ab > 0 else "opposite"
        if ab * ab > Fraction(threshold) ** 2 * aa * bb or not min(angle, supplement):
            return _linear(t, f"lerp: nearly {side}", angle)
        return _spherical(t, angle)


def _linear(t: float, rule: str, angle: Decimal | None) -> Expected:
    slack0, slack1 = 2.0**-51 * (1 - t), 2.0**-51 * t
    return Expected(1 - Fraction(t), Fraction(t), rule, angle, slack0, slack1)


def _spherical(t: float, angle: Decimal) -> Expected:
    sine, cosine = _sin(angle), _sin(_pi() / 2 - angle)
    # Adding up 256 partial sums, one after another, errs by up to 2^-49 of |a||b| (measured). The
    # cosine's error becomes one of the angle, growing towards 0 and π until the chords take over.
    angle_noise = 2.0**-48 / max(float(sine), 2.0**-5)
    factors, slacks = [], []
    for part in (1 - Decimal(t), Decimal(t)):
        factor = _sin(part * angle) / sine
        slope = (part * _sin(_pi() / 2 - part * angle) - factor * cosine) / sine
        factors.append(Fraction(factor))
        # The last term: with a t below 1e-300, t·θ is a subnormal of few digits.
        slacks.append(2.0**-50 * abs(float(factor)) + abs(float(slope)) * angle_noise + 2.0**-1072)
    return Expected(*factors, "slerp", angle, *slacks)


def exact_dot(x: np.ndarray, y: np.ndarray) -> Fraction:
    """The scalar product of two float64 vectors, without any rounding."""
    return _dot(_integers(x), _integers(y))


def _dot(x: Scaled, y: Scaled) -> Fraction:
    return sum(map(mul, x[0], y[0])) * Fraction(2) ** (x[1] + y[1])


def _integers(values: np.ndarray) -> Scaled:
    significand, exponent = np.frexp(np.asarray(values, np.float64))
    least = int(exponent.min(initial=0))
    integers = np.ldexp(significand, 53).astype(np.int64).tolist()
    return [i << e for i, e in zip(integers, (exponent - least).tolist(), strict=True)], least - 53


def _angles(aa: Fraction, bb: Fraction, ab: Fraction) -> tuple[Decimal, Decimal]:
    """The angle and its supplement; the sine's square is exact, so neither loses digits."""
    opposite = _decimal(aa * bb - ab * ab).sqrt()
    smaller = 2 * _arctan(opposite / (_decimal(aa * bb).sqrt() + abs(_decimal(ab))))
    return (smaller, _pi() - smaller) if ab >= 0 else (_pi() - smaller, smaller)


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _pi() -> Decimal:
    return 4 * _arctan(Decimal(1))


def _arctan(x: Decimal) -> Decimal:
    """The series, after halving the angle five times: arctan x = 2 arctan(x / (1 + √(1 + x²)))."""
    for _ in range(5):
        x = x / (1 + (1 + x * x).sqrt())
    power, total, n = x, Decimal(0), 1
    while total + power / n != total:
        total += power / n
        power, n = -power * x * x, n + 2
    return 32 * total


def _sin(x: Decimal) -> Decimal:
    """The series; x in [-π, π]."""
    term, total, n = x, Decimal(0), 1
    while total + term != total:
        total += term
        n += 2
        term = -term * x * x / (n * (n - 1))
    return total


def exact_sums(vectors: Sequence[np.ndarray], factors: Sequence[float]) -> list[Fraction]:
    """The sum of factor times vector, element by element, without any rounding; of finite float64 values."""
    multipliers = [Fraction(factor) for factor in factors]
    columns = zip(*(vector.tolist() for vector in vectors), strict=True)
    return [sum(map(mul, multipliers, map(Fraction, column)), Fraction()) for column in columns]


def nearest(value: Fraction, format: Format) -> float:
    """The same as `round_exactly`, by the number of units in the last place: fast enough for many numbers."""
    magnitude = abs(value)
    if not magnitude:
        return 0.0
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > magnitude
    unit = Fraction(2) ** max(exponent - format.fraction_bits, format.least_exponent)
    rounded = round(magnitude / unit) * unit  # Python rounds a fraction half to even
    result = np.inf if rounded > format.largest else float(rounded)
    return -result if value < 0 else result
