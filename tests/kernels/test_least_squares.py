"""Tests of the kernel against an oracle that imports nothing of ours."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llvmlite.binding import get_host_cpu_features
from numba import njit
from support.kernel_problems import digest, mixed_counts, problem

import dask_als
from dask_als.kernels import least_squares, workspace
from dask_als.kernels.least_squares import kernel_of, solve_rows_plain
from dask_als.kernels.workspace import Sizes

RANKS = [
    *(1, 2, 3, 5, 8, 16, 17, 31, 32, 33, 64, 129),
    *(pytest.param(rank, marks=pytest.mark.slow) for rank in (100, 128, 257, 512)),
]
DTYPES = [np.float32, np.float64]


def oracle(problem):
    """Solve the equations of the model row by row, in float64 and for the bias before rounding."""
    bias, factors = np.zeros(len(problem.own_factors)), np.zeros(problem.own_factors.shape)
    error = np.zeros(len(bias))
    for n in range(len(bias)):
        which = slice(problem.indptr[n], problem.indptr[n + 1])
        rated = problem.indices[which]
        if rated.size == 0:
            continue
        f = problem.fixed_factors[rated].astype(float)
        y = problem.ratings[which].astype(float) - problem.mean - problem.fixed_bias[rated]
        b = (y - f @ problem.own_factors[n]).sum() / (len(y) + problem.bias_ridge[n])
        gram = f.T @ f + problem.factor_ridge[n] * np.eye(f.shape[1])
        u = np.linalg.solve(gram, f.T @ (y - b))
        bias[n], factors[n], error[n] = b, u, np.square(y - b - f @ u).sum()
    return bias, factors, error


def assert_close(got, wanted, tolerance):
    """Compare (bias, factors, squared_error) relative to the largest magnitude of each."""
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * np.abs(w).max(initial=0))


def assert_same_bits(got, wanted):
    """Compare (bias, factors, squared_error) for equality."""
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("rank", RANKS)
def test_float64_agrees_with_oracle(rank):
    given_problem = problem(mixed_counts(rank), rank)
    assert_close(given_problem.solved(), oracle(given_problem), 1e-9)


@pytest.mark.parametrize("rank", RANKS)
def test_float32_agrees_with_oracle(rank):
    given_problem = problem(mixed_counts(rank), rank, np.float32)
    bias, factors, error = given_problem.solved()
    assert bias.dtype == factors.dtype == np.float32
    assert error.dtype == np.float64
    wanted = oracle(given_problem)
    assert_close((bias, factors, error), wanted, 2e-4)
    assert error.sum() == pytest.approx(wanted[2].sum(), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_version_agrees_with_oracle(dtype):
    given_problem = problem(mixed_counts(9), 9, dtype)
    given_problem = given_problem._replace(mean=3.1234)  # not exact in float32
    tolerance = 1e-6 if dtype == np.float32 else 1e-12  # results are rounded to the dtype
    assert_close(given_problem.solved(solve_rows_plain), oracle(given_problem), tolerance)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 150), max_size=40),
    rank=st.integers(1, 70),
    ridge=st.floats(1e-3, 10),
    seed=st.integers(0, 1000),
)
@example(counts=[1], rank=1, ridge=1e-3, seed=21)
def test_any_block_agrees_with_oracle(counts, rank, ridge, seed):
    given_problem = problem(counts, rank, ridge=ridge, seed=seed, n_fixed=200)
    *state, error = given_problem.solved()
    *wanted_state, wanted_error = oracle(given_problem)
    assert_close(state, wanted_state, 1e-9)
    # A squared error is the rest of squared ratings: next to none is left of a row fitted closely.
    squares = np.square(given_problem.ratings).sum()
    np.testing.assert_allclose(error, wanted_error, rtol=1e-9, atol=1e-12 * squares)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_bits_do_not_depend_on_the_block(dtype, data):
    rank = data.draw(st.sampled_from([1, 5, 16, 33, 64, 170]))
    counts = data.draw(st.lists(st.integers(0, 2 * rank + 20), min_size=1, max_size=50))
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, max_size=50))
    whole = problem(counts, rank, dtype)
    assert_same_bits(whole.rows(chosen).solved(), [part[chosen] for part in whole.solved()])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [3, 17, 64, 100])
def test_single_solves_have_the_bits_of_batched_ones(dtype, rank, monkeypatch):
    given_problem = problem(np.arange(rank // 2 + 1, rank // 2 + 40), rank, dtype)
    batched = given_problem.solved()
    monkeypatch.setattr(workspace, "BATCHED_RANK", 0)
    assert_same_bits(given_problem.solved(), batched)


@pytest.mark.parametrize("rank", [24, 64, 200])
def test_dual_form_agrees_with_primal(rank, monkeypatch):
    given_problem = problem(np.arange(1, rank // 2 + 1), rank)
    dual = given_problem.solved()
    monkeypatch.setattr(workspace, "DUAL_RANK", rank + 1)
    assert_close(dual, given_problem.solved(), 1e-9)


def test_float32_keeps_its_precision_over_very_many_ratings():
    given_problem = problem([1_000_000], 8, np.float32)
    given_problem = given_problem._replace(
        fixed_factors=given_problem.fixed_factors + np.float32(0.3)
    )
    single = given_problem.solved()
    double = given_problem.astype(np.float64).solved()
    assert_close(single, double, 2e-4)
    assert single[2].sum() == pytest.approx(double[2].sum(), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0]])
def test_rows_without_ratings_are_zero(dtype, counts):
    bias, factors, error = problem(counts, 5, dtype).solved()
    assert bias.shape == error.shape == (len(counts),)
    assert factors.shape == (len(counts), 5)
    assert not bias.any()
    assert not factors.any()
    assert not error.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [5, 40, 170])
@pytest.mark.parametrize("scale", [0, 1e-3, 1, 1e3])
def test_singular_systems_have_least_squares_solutions(dtype, rank, scale):
    counts = [1, 2, rank // 4 + 1, rank - 1, rank + 3]
    given_problem = problem(counts, rank, dtype, n_fixed=rank)
    same = np.broadcast_to(given_problem.fixed_factors[:1] * dtype(scale), (rank, rank))
    given_problem = given_problem._replace(
        fixed_factors=np.ascontiguousarray(same), factor_ridge=np.zeros(len(counts))
    )
    bias, factors, error = given_problem.solved()
    assert np.isfinite(factors).all()
    largest = counts * (5 + np.abs(bias.astype(float))) ** 2
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    wanted = given_problem.solved(solve_rows_plain)[2]
    assert (np.abs(error - wanted) <= tolerance * largest).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [5, 40, 170])
def test_a_row_with_infinite_ratings_harms_no_other(dtype, rank):
    clean = problem([40, 3, 25, 300, 0, 26, 4, 300], rank, dtype)
    ratings = clean.ratings.copy()
    for row in (1, 2, 3):
        ratings[clean.indptr[row] : clean.indptr[row + 1]] = np.inf
    others = [0, 4, 5, 6, 7]
    got = clean._replace(ratings=ratings).solved()
    assert_same_bits([part[others] for part in got], [part[others] for part in clean.solved()])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [5, 40, 64, 170])
def test_what_was_in_memory_before_means_nothing(dtype, rank, monkeypatch):
    small = problem(mixed_counts(rank), rank, dtype)
    expected, buffers_of = small.solved(), Sizes.buffers

    def filled(sizes, dtype):
        buffers = buffers_of(sizes, dtype)
        buffers.matrices.fill(np.nan)
        return buffers

    monkeypatch.setattr(Sizes, "buffers", filled)
    assert_same_bits(small.solved(), expected)


def test_read_only_arrays_compile_nothing_new():
    given_problem = problem([3, 40], 8, np.float32)
    for array in given_problem:
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    given_problem.solved()
    assert len(kernel_of(np.dtype(np.float32)).signatures) == 1


def test_integer_factors_are_refused():
    given_problem = problem([3], 2).astype(np.int64)
    with pytest.raises(TypeError, match="int64; convert them to float32 or float64"):
        given_problem.solved()


def test_two_threads_run_at_once():
    given_problem = problem(np.full(4000, 100), 64, np.float32)
    call, arguments = kernel_call(given_problem)
    call(*arguments)
    # Under load this thread may come too late for one call; with the interpreter's lock held in the
    # kernel, it would come too late for every call.
    assert any(runs_beside(call, arguments) for _ in range(1000))


def test_the_test_of_two_threads_can_fail():
    call, arguments = njit(without_pause), (20_000_000,)
    call(*arguments)
    assert not any(runs_beside(call, arguments) for _ in range(20))


def kernel_call(given_problem):
    """Return the kernel, and the arguments with which `solve_rows` calls it."""
    calls = []

    class Recorder:
        def __call__(self, *arguments):
            calls.append(arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(least_squares, "kernel_of", lambda dtype, *form: Recorder())
        given_problem.solved()
    return kernel_of(given_problem.own_factors.dtype), calls[0]


def runs_beside(call, arguments):
    """Tell whether this thread ran a step of Python while another thread was in a call."""
    started, ended = threading.Event(), threading.Event()

    def run():
        started.set()
        call(*arguments)
        ended.set()

    thread = threading.Thread(target=run)
    before = sys.getswitchinterval()
    # No thread has to give the lock away: it changes hands only where a thread releases it.
    sys.setswitchinterval(1000)
    try:
        thread.start()
        started.wait()
        was_beside = not ended.is_set()
        thread.join()
    finally:
        sys.setswitchinterval(before)
    return was_beside


def without_pause(n):
    """Compute for a while."""
    total = 0
    for i in range(n):
        total ^= i * i
    return total


def test_lengths_that_do_not_fit_are_refused():
    given_problem = problem([3, 4], 2)
    with pytest.raises(ValueError, match=r"shapes .*\(6,\).* pass .*\(7,\)"):
        given_problem._replace(ratings=given_problem.ratings[1:]).solved()


REPORT = """
import json, sys, numpy as np
sys.path[:0] = json.loads(sys.argv[1])
from dask_als.kernels.least_squares import kernel_of
from support.kernel_problems import digest
dtypes = [np.dtype(name) for name in sys.argv[2:]]
digests = {dtype.name: digest(dtype) for dtype in dtypes}
stats = [kernel_of(dtype, False, False).stats for dtype in dtypes]
hits = sum(sum(s.cache_hits.values()) for s in stats)
misses = sum(sum(s.cache_misses.values()) for s in stats)
print(json.dumps({"digests": digests, "hits": hits, "misses": misses}))
"""


def fresh_process(*dtypes, **environment):
    """Start a process that solves a problem; its report is the result of `report_of`."""
    paths = [str(Path(dask_als.__file__).parents[1]), str(Path(__file__).parents[1])]
    command = [sys.executable, "-c", REPORT, json.dumps(paths), *dtypes]
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def report_of(process):
    """Wait for a process and return what it reported."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def test_fresh_process_takes_the_kernel_from_the_cache():
    digests = {np.dtype(dtype).name: digest(np.dtype(dtype)) for dtype in DTYPES}
    assert report_of(fresh_process(*digests)) == {"digests": digests, "hits": 2, "misses": 0}


@pytest.mark.slow
def test_processes_may_compile_at_the_same_time(tmp_path):
    racing = [
        fresh_process("float32", NUMBA_CACHE_DIR=str(tmp_path)),
        fresh_process("float64", NUMBA_CACHE_DIR=str(tmp_path)),
    ]
    for report in map(report_of, racing):
        assert report["misses"] == 1
    warm = report_of(fresh_process("float32", "float64", NUMBA_CACHE_DIR=str(tmp_path)))
    assert warm["hits"] == 2
    for name in ("float32", "float64"):
        assert warm["digests"][name] == digest(np.dtype(name))


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() != "x86_64" or not get_host_cpu_features().get("avx512f"),
    reason="needs a processor with registers of two widths",
)
def test_bits_do_not_depend_on_the_width_of_registers():
    narrow = fresh_process(
        "float32",
        NUMBA_CPU_NAME="haswell",
        NUMBA_CPU_FEATURES="+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt",
    )
    assert report_of(narrow)["digests"]["float32"] == digest(np.dtype(np.float32))
