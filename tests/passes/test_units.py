"""Rows and columns with their own angles, against `slerp` of each vector alone."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusion_slerp import CheckpointError, OutputError, merge, plan_merge, slerp
from fusion_slerp.api import merge_into_memory
from fusion_slerp.chunks import chunks_of_rows
from tests.models import write_checkpoint

T = 0.3


def pair_of(tmp_path, shape=(7, 5), dtype="float32", **more):
    """Two checkpoints with a matrix of vectors in very different directions and lengths."""
    folders, matrices = [], []
    for i, name in enumerate("ab"):
        rng = np.random.default_rng(i)
        matrix = rng.standard_normal(shape) * rng.uniform(0.1, 10, (shape[0], 1))
        tensors = {"m.weight": matrix.astype(dtype), "v.weight": rng.standard_normal(6).astype(dtype)}
        tensors |= {key: value(i) for key, value in more.items()}
        folders.append(write_checkpoint(tmp_path / name, tensors=tensors, tokens=None))
        matrices.append(tensors["m.weight"])
    return folders, matrices


def test_rows(tmp_path):
    folders, (a, b) = pair_of(tmp_path)
    result = merge(*folders, out=tmp_path / "child", t=T, granularity="row")
    child = load_file(tmp_path / "child/model.safetensors")["m.weight"]
    for i in range(len(a)):
        assert np.array_equal(child[i], slerp(T, a[i], b[i]))
    assert not np.array_equal(child, slerp(T, a, b))
    rules = {row.name: row.rule for row in result.report}
    assert rules == {"m.weight": "slerp, by row", "v.weight": "slerp"}


def test_columns(tmp_path):
    folders, (a, b) = pair_of(tmp_path)
    child, report = merge_into_memory(*folders, t=T, granularity="column")
    found = child["m.weight"].numpy()
    for j in range(a.shape[1]):
        expected = slerp(T, np.ascontiguousarray(a[:, j]), np.ascontiguousarray(b[:, j]))
        assert np.allclose(found[:, j], expected, rtol=2e-7, atol=1e-12)
    assert {row.rule for row in report} == {"slerp, by column", "slerp"}


@pytest.mark.parametrize("granularity", ["row", "column"])
def test_over_many_chunks_and_for_any_threads(tmp_path, granularity):
    """1100 columns: chunks end inside the matrix, in whole rows."""
    shape = (2500, 1100)
    assert len(chunks_of_rows(shape[0] * shape[1], shape[1])) == 3
    folders, (a, b) = pair_of(tmp_path, shape, "float16")
    children = [
        merge_into_memory(*folders, t=T, granularity=granularity, threads=threads)[0]["m.weight"].numpy()
        for threads in (1, 3)
    ]
    assert np.array_equal(*children)
    for i in (0, 1000, 1099):
        if granularity == "row":
            assert np.array_equal(children[0][i], slerp(T, a[i], b[i]))
        else:
            expected = slerp(T, a[:, i].astype("f8"), b[:, i].astype("f8"))
            assert np.allclose(children[0][:, i], expected, rtol=1e-3)


def test_the_report_gives_the_angle_of_the_whole_matrix(tmp_path):
    folders, _ = pair_of(tmp_path)
    reports = {
        kind: merge_into_memory(*folders, t=T, granularity=kind)[1][0] for kind in ("tensor", "row", "column")
    }
    whole = reports["tensor"]
    for kind in ("row", "column"):
        assert reports[kind].angle_deg == pytest.approx(whole.angle_deg, rel=1e-12)
        assert reports[kind].norms == pytest.approx(whole.norms, rel=1e-12)


@pytest.mark.parametrize("granularity", ["row", "column"])
def test_nearly_parallel_and_null_vectors(tmp_path, granularity):
    """With DOT_THRESHOLD 1, tiny angles are kept, by their chords."""
    rng = np.random.default_rng(3)
    a = rng.standard_normal((6, 6))
    b = a + 1e-6 * rng.standard_normal((6, 6))
    a[2] = a[:, 2] = 0
    folders = [
        write_checkpoint(tmp_path / name, tensors={"m.weight": matrix}, tokens=None)
        for name, matrix in (("a", a), ("b", b))
    ]
    for threshold in (0.9995, 1.0):
        child, _ = merge_into_memory(*folders, t=T, granularity=granularity, DOT_THRESHOLD=threshold)
        found = child["m.weight"].numpy()
        for i in range(6):
            vector = (lambda m, i=i: m[i]) if granularity == "row" else (lambda m, i=i: m[:, i].copy())
            expected = slerp(T, vector(a), vector(b), DOT_THRESHOLD=threshold)
            assert np.allclose(vector(found), expected, rtol=1e-14, atol=1e-18)


@pytest.mark.parametrize("granularity", ["row", "column"])
def test_bad_elements_are_named(tmp_path, granularity):
    folders, (a, _) = pair_of(tmp_path)
    a[3, 2] = np.nan
    bad = write_checkpoint(
        tmp_path / "bad", tensors={"m.weight": a, "v.weight": np.ones(6, "f4")}, tokens=None
    )
    with pytest.raises(CheckpointError, match=r"a: 1 of 35 elements, first at 17\n"):
        merge(bad, folders[1], out=tmp_path / "child", granularity=granularity)
    huge = [
        write_checkpoint(tmp_path / f"huge {name}", tensors={"m.weight": matrix}, tokens=None)
        for name, matrix in (("a", np.eye(4, dtype="f4") * 3e38), ("b", np.eye(4, dtype="f4")[::-1] * 3e38))
    ]
    with pytest.raises(OutputError, match="overflow to infinity in float16"):
        merge(*huge, out=tmp_path / "child", granularity=granularity, dtype="float16")
    assert not (tmp_path / "child").exists()


def test_what_is_no_matrix_counts_whole(tmp_path):
    folders, _ = pair_of(tmp_path, cube=lambda i: np.full((2, 2, 2), 1.0 + i, "f4"))
    kinds = {t.out.name: t.work.granularity for t in plan_merge(*folders, granularity="row").tensors}
    assert kinds == {"m.weight": "row", "v.weight": "tensor", "cube": "tensor"}
    ends = plan_merge(*folders, granularity="row", t=1).tensors
    assert {str(t.work) for t in ends} == {"copy b"}


@pytest.mark.parametrize("granularity", ["row", "column"])
@pytest.mark.parametrize("scale", [1e154, 1e200, 1e300, 1e-200], ids=str)
def test_float64_vectors_of_any_size(tmp_path, granularity, scale):
    """One vector's squares over- or underflow; its angle is right, and so is that of the whole matrix."""
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 7, 5))
    a[:, 2] *= scale
    b[:, 2] *= scale
    if granularity == "row":
        a, b = a.T, b.T
    folders = [
        write_checkpoint(tmp_path / name, tensors={"m.weight": np.ascontiguousarray(matrix)}, tokens=None)
        for name, matrix in (("a", a), ("b", b))
    ]
    child, (report,) = merge_into_memory(*folders, t=T, granularity=granularity, epsilon=0)
    found = child["m.weight"].numpy()
    for i in range(5):
        vector = (lambda m, i=i: m[i]) if granularity == "row" else (lambda m, i=i: m[:, i].copy())
        assert np.allclose(vector(found), slerp(T, vector(a), vector(b), epsilon=0), rtol=1e-14, atol=0)
    _, (whole,) = merge_into_memory(*folders, t=T, epsilon=0)
    assert report.norms == pytest.approx(whole.norms, rel=1e-12)
    assert report.angle_deg == pytest.approx(whole.angle_deg, rel=1e-12)


@pytest.mark.parametrize("granularity", ["row", "column"])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1)], ids=str)
def test_empty_matrices(tmp_path, granularity, shape):
    folders = [
        write_checkpoint(
            tmp_path / name,
            tensors={"m.weight": np.full(shape, 1.0 + i, "f4"), "v.weight": np.ones(3, "f4")},
            tokens=None,
        )
        for i, name in enumerate("ab")
    ]
    child, (report, _) = merge_into_memory(*folders, t=T, granularity=granularity)
    assert child["m.weight"].shape == shape
    assert child["m.weight"].tolist() == np.full(shape, np.float32(1.3)).tolist()
    rule = f"lerp: nearly parallel, by {granularity}" if shape == (1, 1) else "lerp: zero vector"
    assert (report.name, report.rule) == ("m.weight", rule)
