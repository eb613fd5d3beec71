"""`fusion_slerp.slerp` on tensors and arrays: any shape and type, rounded once, nothing silent."""

import importlib.util
from pathlib import Path

import fusion_bench
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fusion_slerp import CheckpointError, MismatchError, OutputError, SettingsError, slerp
from fusion_slerp.chunks import CHUNK_ELEMENTS
from fusion_slerp.engine.in_memory import combine_tensors
from fusion_slerp.settings.merge_settings import make_settings
from tests.reference import FORMATS, Format, decode, expect, round_to, ulp_error

DTYPES = [getattr(torch, name) for name in FORMATS]
named = pytest.mark.parametrize


def format_of(tensor: torch.Tensor | np.ndarray) -> Format:
    return FORMATS[str(tensor.dtype).removeprefix("torch.")]


def bits(tensor: torch.Tensor | np.ndarray) -> np.ndarray:
    """A tensor's words, flat."""
    if isinstance(tensor, torch.Tensor):
        flat = tensor.detach().contiguous().reshape(-1)
        tensor = flat.view(getattr(torch, f"int{8 * flat.element_size()}")).numpy()
    return np.ascontiguousarray(tensor).reshape(-1).view(f"uint{8 * tensor.itemsize}")


def values(tensor: torch.Tensor | np.ndarray) -> np.ndarray:
    """A tensor's elements as float64, flat."""
    return decode(bits(tensor), format_of(tensor))


def from_words(words: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(words.view(f"int{8 * words.itemsize}").copy()).view(dtype)


def tensor_of(numbers: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """The numbers rounded to a type by the reference."""
    return torch.from_numpy(round_to(numbers, FORMATS[str(dtype)[6:]])).to(dtype)


def ordinary(dtype: torch.dtype, *shape: int, seed: int) -> torch.Tensor:
    """A tensor like a model's weight."""
    return tensor_of(np.random.default_rng(seed).normal(0, 0.02, shape), dtype)


def assert_exactly_rounded(result, v0, v1, t, threshold=0.9995, epsilon=1e-8) -> None:
    a, b = values(v0), values(v1)
    expected = expect(t, a, b, threshold, epsilon)
    assert not expected.misrounded(values(result), a, b, format_of(result)).any()


# Values.


@named("dtype1", DTYPES, ids=str)
@named("dtype0", DTYPES, ids=str)
def test_every_pair_of_types_is_rounded_once_to_the_first(dtype0, dtype1):
    v0, v1 = ordinary(dtype0, 40, 50, seed=1), ordinary(dtype1, 40, 50, seed=2)
    kept = v0.clone(), v1.clone()
    result = slerp(0.3, v0, v1)
    assert result.dtype == dtype0
    assert result.shape == (40, 50)
    assert_exactly_rounded(result, v0, v1, 0.3)
    assert torch.equal(v0, kept[0])
    assert torch.equal(v1, kept[1])


@named("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@named("noise", [1.0, 0.15, 0.02], ids=["independent", "fine-tuned", "near"])
def test_no_element_is_further_than_half_a_unit_in_the_last_place(dtype, noise):
    v0 = ordinary(dtype, 30_000, seed=3)
    v1 = v0 + noise * ordinary(dtype, 30_000, seed=4)
    a, b = values(v0), values(v1)
    for t in (0.3, 0.5):
        error = ulp_error(values(slerp(t, v0, v1)), expect(t, a, b).values(a, b), format_of(v0))
        assert 0.49 < error.max() <= 0.5 + 1e-6


@pytest.mark.long
@named("n", [CHUNK_ELEMENTS, CHUNK_ELEMENTS + 1, 2 * CHUNK_ELEMENTS + 77])
def test_tensors_of_more_than_a_chunk(n):
    v0, v1 = ordinary(torch.float32, n, seed=5), ordinary(torch.float32, n, seed=6)
    assert_exactly_rounded(slerp(0.7, v0, v1), v0, v1, 0.7)


@named("shape", [(), (1,), (0,), (3, 0, 2), (2, 3, 4)], ids=str)
@named("dtype", DTYPES, ids=str)
def test_every_shape(dtype, shape):
    v0, v1 = ordinary(dtype, *shape, seed=7), ordinary(dtype, *shape, seed=8)
    result = slerp(0.25, v0, v1)
    assert result.shape == shape
    assert_exactly_rounded(result, v0, v1, 0.25)


def test_a_single_element_has_angle_0_or_180_and_is_interpolated_linearly():
    one = torch.tensor
    assert slerp(0.5, one(2.0), one(3.0)).item() == 2.5
    assert slerp(0.5, one([2.0]), one([-3.0])).tolist() == [-0.5]
    assert slerp(0.25, one(0.0), one(3.0)).item() == 0.75  # the peers: 2.12 at t = 0.5


def test_tensors_that_are_not_contiguous():
    v0, v1 = ordinary(torch.bfloat16, 30, 20, seed=9), ordinary(torch.bfloat16, 20, 30, seed=10)
    result = slerp(0.4, v0, v1.T)
    assert torch.equal(result, slerp(0.4, v0, v1.T.contiguous()))
    assert torch.equal(slerp(0.4, v0[::2, 1::3], v1.T[::2, 1::3]), slerp(0.4, *strided(v0, v1.T)))
    assert torch.equal(slerp(0.4, v0[:1].expand(30, 20), v1.T), slerp(0.4, v0[:1].repeat(30, 1), v1.T))
    array = v0.float().numpy()
    np.testing.assert_array_equal(slerp(0.4, array.T, array.T[::-1]), slerp(0.4, *fresh(array)))


def strided(v0: torch.Tensor, v1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return v0[::2, 1::3].contiguous(), v1[::2, 1::3].contiguous()


def fresh(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(array.T), np.ascontiguousarray(array.T[::-1])


# The rules.


def test_null_tensors_are_interpolated_linearly():
    v1 = ordinary(torch.float32, 100, seed=11)
    result = slerp(0.5, torch.zeros(100), v1)
    assert torch.equal(result, 0.5 * v1)
    assert torch.equal(slerp(0.5, v1, torch.zeros(100)), 0.5 * v1)


def test_epsilon_decides_which_tensors_are_null():
    v0, v1 = torch.tensor([1e-3, 0.0]), torch.tensor([0.0, 1.0])
    assert slerp(0.5, v0, v1)[1].item() == pytest.approx(0.5**0.5)
    assert slerp(0.5, v0, v1, epsilon=1e-2)[1].item() == 0.5


def test_DOT_THRESHOLD_decides_which_tensors_are_interpolated_linearly():
    v0, v1 = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0.8, 0.6], dtype=torch.float64)
    linear = 0.5 * v0 + 0.5 * v1
    assert torch.equal(slerp(0.5, v0, v1, DOT_THRESHOLD=0.75), linear)
    result = slerp(0.5, v0, v1, DOT_THRESHOLD=0.85)
    assert torch.linalg.norm(result).item() == pytest.approx(1.0, rel=1e-15)
    assert torch.allclose(result, linear / torch.linalg.norm(linear), rtol=1e-15, atol=0)


@named("dtype", [torch.float32, torch.float64], ids=str)
def test_threshold_one_is_slerp_where_the_default_is_linear(dtype):
    v0 = ordinary(dtype, 2000, seed=12)
    v1 = v0 + 1e-4 * ordinary(dtype, 2000, seed=13)
    assert_exactly_rounded(slerp(0.3, v0, v1, 1.0), v0, v1, 0.3, threshold=1.0)
    assert_exactly_rounded(slerp(0.3, v0, v1), v0, v1, 0.3)


@named("sign", [1, -1])
def test_threshold_one_and_exactly_parallel_or_opposite_tensors(sign):
    v0 = ordinary(torch.float64, 2000, seed=14)
    v1 = sign * 3 * v0
    assert torch.equal(slerp(0.25, v0, v1, DOT_THRESHOLD=1), 0.75 * v0 + 0.25 * v1)


def test_huge_and_tiny_tensors():
    v0 = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
    v1 = torch.tensor([0.0, 3.0, 4.0], dtype=torch.float64)
    result = slerp(0.5, v0, v1)
    for scale in (2.0**900, 2.0**-900):
        assert torch.equal(slerp(0.5, v0 * scale, v1 * scale, epsilon=0), result * scale)
    v0, v1 = v0.to(torch.bfloat16) * 1e37, v1.to(torch.float32) * 1e-38
    assert_exactly_rounded(slerp(0.5, v0, v1, epsilon=0), v0, v1, 0.5, epsilon=0.0)


@named("dtype", DTYPES, ids=str)
def test_swapped_tensors_at_one_minus_t_give_the_same(dtype):
    v0, v1 = ordinary(dtype, 999, seed=15), ordinary(dtype, 999, seed=16)
    for t in (0.25, 0.5, 0.9375):
        assert torch.equal(slerp(t, v0, v1), slerp(1 - t, v1, v0))


# The ends.


@named("dtype", DTYPES, ids=str)
def test_at_the_ends_the_result_is_that_tensor_bit_for_bit(dtype):
    format = FORMATS[str(dtype)[6:]]
    sign = 1 << (8 * format.word.itemsize - 1)
    payload = format.infinity | 5  # a NaN with a payload
    strange = [0, sign, 1, sign | 1, format.infinity, sign | format.infinity, payload, sign | payload]
    strange = np.array([*strange, format.infinity - 1], format.word)
    other = np.array([payload, 1, 2, 3, 4, 5, 6, format.infinity, 0], format.word)
    v0, v1 = from_words(strange, dtype), from_words(other, dtype)
    for at_v0, at_v1 in ((0, 1), (0.0, 1.0), (-0.0, 1)):
        np.testing.assert_array_equal(bits(slerp(at_v0, v0, v1)), strange)
        np.testing.assert_array_equal(bits(slerp(at_v1, v1, v0)), strange)
    assert slerp(0, v0, v1).data_ptr() != v0.data_ptr()


def test_at_the_ends_another_type_is_rounded_once():
    v0 = torch.zeros(3, dtype=torch.bfloat16)
    v1 = torch.tensor([1 + 2.0**-8 + 2.0**-40, -0.0, 1e-300], dtype=torch.float64)
    result = slerp(1, v0, v1)
    assert result.dtype == torch.bfloat16
    np.testing.assert_array_equal(values(result), [1 + 2.0**-7, 0.0, 0.0])
    np.testing.assert_array_equal(np.signbit(values(result)), [False, True, False])


# Kinds of tensors.


@named("name", ["float16", "float32", "float64"])
def test_numpy_arrays_give_numpy_arrays(name):
    rng = np.random.default_rng(17)
    v0, v1 = (rng.normal(size=(5, 6)).astype(name) for _ in range(2))
    v0.flags.writeable = False
    kept = v1.copy()
    result = slerp(0.6, v0, v1)
    assert type(result) is np.ndarray
    assert (result.dtype, result.shape, result.flags.writeable) == (v0.dtype, (5, 6), True)
    assert_exactly_rounded(result, v0, v1, 0.6)
    np.testing.assert_array_equal(v1, kept)
    np.testing.assert_array_equal(result, slerp(0.6, torch.tensor(v0), torch.tensor(v1)).numpy())
    assert slerp(0.6, np.array(2.0, name), np.array(3.0, name)).shape == ()


def test_gradients_are_not_tracked_and_parameters_give_tensors():
    v0 = torch.nn.Parameter(ordinary(torch.float32, 10, seed=18))
    result = slerp(0.5, v0, v0.detach() * 2)
    assert not result.requires_grad
    assert type(result) is torch.Tensor
    assert result.device == v0.device
    assert slerp(0, v0, v0).requires_grad is False


# Errors.


@named("t", [float("nan"), float("inf"), -1e-9, 1.0000001, True, False, "0.5", None, [0.5], 0.5j])
def test_t_that_is_not_a_number_from_0_to_1_is_refused(t):
    v0 = torch.ones(2)
    with pytest.raises(SettingsError, match=r"(?s)^invalid t.*number in \[0, 1\].*\nFix: use t=0\.5$"):
        slerp(t, v0, v0)


@named(
    ("name", "value"),
    [
        ("DOT_THRESHOLD", 1.5),
        ("DOT_THRESHOLD", -0.1),
        ("DOT_THRESHOLD", float("nan")),
        ("epsilon", -1e-9),
        ("epsilon", "small"),
        ("epsilon", float("inf")),
    ],
)
def test_threshold_and_epsilon_out_of_range_are_refused(name, value):
    with pytest.raises(SettingsError, match=rf"^invalid {name}"):
        slerp(0.5, torch.ones(2), torch.ones(2), **{name: value})


def test_shapes_that_differ_are_refused():
    with pytest.raises(MismatchError, match=r"(?s)^the shapes differ.*a: \[2, 3\].*b: \[3, 2\].*Fix:"):
        slerp(0.5, torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(MismatchError, match="the shapes differ"):
        slerp(0, np.ones(1), np.ones(()))


@named("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str)
@named("swapped", [False, True])
@named("t", [0.5, 0])
def test_types_that_cannot_be_interpolated_are_refused(t, swapped, dtype):
    pair = [torch.ones(3).to(dtype), torch.ones(3)]
    found = str(dtype).removeprefix("torch.")
    with pytest.raises(
        MismatchError, match=rf"(?s)this type cannot be merged.*found: {found}.*bfloat16, float16"
    ):
        slerp(t, *(pair[::-1] if swapped else pair))


def test_numpy_types_that_cannot_be_interpolated_are_refused():
    for dtype in ("int32", "complex128", ">f4", "bool"):
        with pytest.raises(MismatchError, match="this type cannot be merged"):
            slerp(0.5, np.ones(3, dtype), np.ones(3, dtype))


@named("bad", [float("nan"), float("inf"), float("-inf")])
@named("side", [0, 1])
@named("dtype", DTYPES, ids=str)
def test_an_element_that_is_not_finite_is_refused(dtype, side, bad):
    pair = [ordinary(dtype, 700, seed=19), ordinary(dtype, 700, seed=20)]
    pair[side][650] = bad
    with pytest.raises(CheckpointError, match=r"(?s)^NaN or infinity in a tensor.*\nFix: "):
        slerp(0.5, *pair)


def test_a_result_beyond_the_type_is_refused():
    v0, v1 = torch.tensor([6e4, 6e4, 1.0]).half(), torch.tensor([6e4, -1e4, 3e4]).half()
    with pytest.raises(OutputError, match=r"(?s)^overflow.*float16.*found: 1 value.*\nFix: "):
        slerp(0.5, v0, v1)
    with pytest.raises(OutputError, match="overflow"):
        slerp(1, v0, torch.tensor([1.0, 1e5, 1.0]))
    with pytest.raises(OutputError, match="overflow"):
        slerp(1, v0, torch.tensor([1.0, float("nan"), 1.0]))


@named(
    ("dtype", "fix"),
    [
        (
            "float16",
            "convert the first tensor to bfloat16, or use dtype='bfloat16', which has a larger maximum",
        ),
        (
            "float32",
            "convert the first tensor to float64, or use dtype='float64', which has a larger maximum",
        ),
        ("float64", "use smaller weights: no type has a larger maximum"),
    ],
)
def test_the_fix_for_an_overflow_is_a_type_with_a_larger_maximum(dtype, fix):
    most = np.full(3, np.finfo(dtype).max)
    settings = make_settings(method="linear", normalize=False)
    with pytest.raises(OutputError) as caught:
        combine_tensors({"a": most, "b": most}, settings, "w", {"weight": {"a": 1.0, "b": 1.0}})
    assert str(caught.value).splitlines()[-1] == f"Fix: {fix}"


def test_the_error_and_the_report_of_a_named_tensor_carry_its_name():
    v0, v1 = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    name, values = "model.norm.weight", {"t": 0.5}
    result, report = combine_tensors({"a": v0, "b": v1}, make_settings(dtype="float16"), name, values)
    assert result.dtype == torch.float16
    assert (report.name, report.rule, report.values, report.n_elements) == (name, "slerp", values, 2)
    assert (report.angle_deg, report.norms) == (90.0, {"a": 1.0, "b": 2.0})
    v1[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"tensor: model\.norm\.weight"):
        combine_tensors({"a": v0, "b": v1}, make_settings(), name, values)


# Against FusionBench's own function.


def host_slerp():
    """FusionBench's `slerp`, from its file: importing that part of its package takes seconds."""
    file = Path(fusion_bench.__path__[0]) / "method/slerp/slerp_utils.py"
    spec = importlib.util.spec_from_file_location("host_slerp_utils", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.slerp


@named("noise", [1.0, 0.15, 0.02, -1.0], ids=["independent", "fine-tuned", "near", "far"])
@named("t", [0.0, 0.3, 0.5, 1.0])
def test_agrees_with_the_host_on_ordinary_tensors(t, noise):
    """Within FusionBench's error: float32 norms and arccos lose digits near 0, float64 ones hardly any."""
    v0 = ordinary(torch.float64, 64, 100, seed=21)
    v1 = noise * v0 if noise < 0 else v0
    v1 = v1 + abs(noise) * ordinary(torch.float64, 64, 100, seed=22)
    host = host_slerp()
    torch.testing.assert_close(slerp(t, v0, v1), host(t, v0, v1), rtol=1e-11, atol=1e-15)
    single, other = v0.float(), v1.float()
    torch.testing.assert_close(slerp(t, single, other), host(t, single, other), rtol=1e-4, atol=1e-6)
    half, other = v0.bfloat16(), v1.bfloat16()
    theirs = host(t, half, other)
    assert theirs.dtype == torch.float32
    torch.testing.assert_close(slerp(t, half, other).float(), theirs, rtol=2.0**-8 + 1e-4, atol=1e-6)


# Properties.


def any_bits(dtype: torch.dtype, n: int, seed: int) -> np.ndarray:
    """Values of uniformly random bit patterns, zeros and subnormals among them; float64 below 2^512."""
    format, rng = FORMATS[str(dtype)[6:]], np.random.default_rng(seed)
    highest = format.infinity if dtype != torch.float64 else 0x5FF << 52
    words = rng.integers(0, highest, n, format.word)
    small = rng.integers(0, 3 << format.fraction_bits, n, format.word)
    magnitudes = decode(np.where(rng.random(n) < 0.2, small, words), format)
    return magnitudes * rng.choice([-1.0, 1.0, 0.0], n, p=[0.45, 0.45, 0.1])


@st.composite
def pairs(draw, same_type: bool = False):
    """Two tensors of any types and one shape: bit patterns, or numbers at any angle from each other."""
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=9))
    dtype_a = draw(st.sampled_from(DTYPES))
    dtype_b = dtype_a if same_type else draw(st.sampled_from(DTYPES))
    n, seed = int(np.prod(shape)), draw(st.integers(0, 2**32))
    if draw(st.booleans()):
        a, b = any_bits(dtype_a, n, seed), any_bits(dtype_b, n, seed + 1)
    else:
        a, aside = np.random.default_rng(seed).normal(0, draw(st.sampled_from([0.01, 1.0, 300.0])), (2, n))
        share = draw(st.sampled_from([0, 0.5, 0.9, 0.99, 0.9999, 1]))
        b = draw(st.sampled_from([1, -1, 0.25, -3])) * (share * a + (1 - share) * aside)
    return tensor_of(a, dtype_a).reshape(shape), tensor_of(b, dtype_b).reshape(shape)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    pair=pairs(),
    t=st.one_of(st.floats(0, 1, exclude_min=True, exclude_max=True), st.sampled_from([0.5, 0.25])),
    threshold=st.sampled_from([0.9995, 1.0, 0.61803]),
    epsilon=st.sampled_from([1e-8, 0.0, 1.2345e3]),
)
def test_every_element_is_the_exactly_rounded_value_of_the_formula(pair, t, threshold, epsilon):
    """One rounding of the formula, or of a value within float64 noise of it; see `reference.Expected`."""
    v0, v1 = pair
    a, b = values(v0), values(v1)
    expected = expect(t, a, b, threshold, epsilon)
    assume(expected.slack0 < 1e-3)  # close to opposite, only noise is left
    low, high = (
        round_to(expected.values(a, b) + side * expected.noise(a, b), format_of(v0)) for side in (-1, 1)
    )
    if (np.isinf(low) & (low == high)).any():
        with pytest.raises(OutputError, match="overflow"):
            slerp(t, v0, v1, threshold, epsilon)
        return
    assume(np.isfinite(low).all() and np.isfinite(high).all())
    result = slerp(t, v0, v1, threshold, epsilon)
    assert (result.shape, result.dtype) == (v0.shape, v0.dtype)
    assert not expected.misrounded(values(result), a, b, format_of(v0)).any()


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(pair=pairs(same_type=True), t=st.sampled_from([0.0, 1.0, 0.5, 0.125, 0.875]))
def test_the_order_of_the_tensors_does_not_matter(pair, t):
    v0, v1 = pair
    try:
        result = slerp(t, v0, v1)
    except OutputError:
        with pytest.raises(OutputError):
            slerp(1 - t, v1, v0)
        return
    np.testing.assert_array_equal(bits(slerp(1 - t, v1, v0)), bits(result))
