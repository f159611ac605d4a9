import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from dask_als.core.blocks import Factors
from dask_als.model import top_k as module
from dask_als.model.blas_threads import one_blas_thread
from dask_als.model.top_k import Seen, candidates, top_k, top_k_of_few


def random_states(n_own, n_others, rank, dtype, *, whole=False, seed=0):
    """Two sides; whole numbers have many ties, and no rounding."""
    draw = np.random.default_rng(seed)

    def state(n):
        shape = (n, rank + 1)
        values = draw.integers(-2, 3, shape) if whole else draw.normal(size=shape)
        return Factors(values[:, 0].astype(dtype), values[:, 1:].astype(dtype))

    return state(n_own), state(n_others)


def brute_force(own, others, k, seen, mean, allowed=None):
    """All scores of each row, sorted: highest first, of equal ones the first row."""
    results = []
    for row in range(len(own.bias)):
        left_out = set(seen.indices[seen.indptr[row] : seen.indptr[row + 1]].tolist())
        scores = []
        for other in range(len(others.bias)):
            if other in left_out or (allowed is not None and not allowed[other]):
                continue
            product = 0.0
            for a, b in zip(own.factors[row].tolist(), others.factors[other].tolist(), strict=True):
                product += a * b
            score = mean + (float(own.bias[row]) + float(others.bias[other])) + product
            scores.append((-score, other))
        results.append([(other, -score) for score, other in sorted(scores)[:k]])
    return results


def random_seen(n_own, n_others, seed=1):
    draw = np.random.default_rng(seed)
    lists = [np.flatnonzero(draw.random(n_others) < 0.2) for _ in range(n_own)]
    indptr = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return Seen(indptr, np.concatenate(lists).astype(np.int32))


def as_lists(best):
    return [
        [(int(row), float(score)) for row, score in zip(*pair, strict=True) if row >= 0]
        for pair in zip(best.rows, best.scores, strict=True)
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("whole", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("tile", [(1024, 512), (7, 16)], ids=["one-tile", "many-tiles"])
@pytest.mark.parametrize("k", [1, 10, 500])
def test_equals_brute_force(dtype, whole, tile, k, monkeypatch):
    monkeypatch.setattr(module, "TILE_ROWS", tile[0])
    monkeypatch.setattr(module, "TILE_CANDIDATES", tile[1])
    own, others = random_states(20, 120, 6, dtype, whole=whole)
    seen = random_seen(20, 120)
    best = top_k(own, candidates(others), k, seen=seen, mean=3.5)
    # With the same operations in the same order, scores are the same to the last bit.
    assert as_lists(best) == brute_force(own, others, k, seen, 3.5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("whole", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("k", [1, 10, 500])
def test_without_compiled_functions_the_bits_are_the_same(dtype, whole, k):
    own, others = random_states(20, 120, 6, dtype, whole=whole)
    seen = random_seen(20, 120)
    best = top_k_of_few(own, candidates(others), k, seen=seen, mean=3.5)
    assert as_lists(best) == brute_force(own, others, k, seen, 3.5)


@pytest.mark.parametrize("search", [top_k, top_k_of_few])
@pytest.mark.parametrize("whole", [False, True])
def test_some_candidates_alone(whole, search):
    own, others = random_states(9, 60, 3, "float32", whole=whole)
    allowed = np.random.default_rng(3).random(60) < 0.5
    best = search(own, candidates(others, allowed=allowed), 5, seen=random_seen(9, 60), mean=0.0)
    assert as_lists(best) == brute_force(own, others, 5, random_seen(9, 60), 0.0, allowed)


def test_ties_that_only_rounding_tells_apart():
    """More near-equal scores than are kept: float32 alone would choose among them by chance."""
    draw = np.random.default_rng(5)
    factors = draw.normal(size=64).astype(np.float32)
    others = Factors(
        np.zeros(400, np.float32),
        (factors + draw.normal(size=(400, 64)) * 1e-7).astype(np.float32),
    )
    own = Factors(np.zeros(3, np.float32), draw.normal(size=(3, 64)).astype(np.float32))
    seen = Seen(np.zeros(4, np.int64), np.zeros(0, np.int32))
    best = top_k(own, candidates(others), 10, mean=0.0)
    assert as_lists(best) == brute_force(own, others, 10, seen, 0.0)


def test_no_candidates():
    own, others = random_states(4, 30, 3, "float32")
    best = top_k(own, candidates(others, allowed=np.zeros(30, bool)), 3, mean=0.0)
    assert (best.rows == -1).all()
    assert np.isnan(best.scores).all()


def test_the_guess_of_norms_does_not_show():
    own, others = random_states(50, 3000, 8, "float32")
    first, second = (
        top_k(own, candidates(others, typical_norm=norm), 10, mean=1.0) for norm in (0.0, 100.0)
    )
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.scores, second.scores)


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_blas_has_one_thread_while_any_task_is_inside():
    before = blas_threads()
    inside, leave = threading.Event(), threading.Event()

    def other_task():
        with one_blas_thread():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other_task)
    with one_blas_thread():
        thread.start()
        assert inside.wait(10)
    assert set(blas_threads()) == {1}
    leave.set()
    thread.join()
    assert blas_threads() == before
