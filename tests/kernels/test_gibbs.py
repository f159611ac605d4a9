import numpy as np
import pytest
from support.made_blocks import block_with, state_of

from dask_als.kernels.gibbs import draw_rows

TOLERANCE = {"float32": 2e-4, "float64": 1e-9}


def prior_of(rank, seed=9):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(rank, 2 * rank))
    return {
        "mean": 3.0,
        "residual_precision": 1.7,
        "bias_precision": 2.5,
        "factor_mean": rng.normal(size=rank),
        "factor_precision": root @ root.T / rank,
    }


def draw(block, own, fixed, noise, dtype, prior):
    own, fixed_factors = own.factors.astype(dtype), fixed.factors.astype(dtype)
    return draw_rows(
        block.indptr,
        block.indices,
        block.ratings,
        own,
        fixed.bias.astype(dtype),
        fixed_factors,
        noise.astype(dtype),
        **prior,
    )


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("rank", [1, 4, 13, 64, 130])
def test_rows_are_drawn_by_the_equations(rank, dtype):
    counts = [3, 0, 90, 1, 30, *range(1, 20), 300]
    block = block_with(counts, 310)
    own, fixed = state_of(1, len(counts), rank), state_of(2, 310, rank)
    noise = np.random.default_rng(3).normal(size=(len(counts), rank + 1))
    prior = prior_of(rank)
    bias, factors, error = draw(block, own, fixed, noise, dtype, prior)
    alpha, gamma = prior["residual_precision"], prior["bias_precision"]
    mu, precision = prior["factor_mean"], prior["factor_precision"]
    for row, count in enumerate(counts):
        its = slice(*block.indptr[row : row + 2])
        rated = fixed.factors[block.indices[its]]
        y = block.ratings[its] - 3.0 - fixed.bias[block.indices[its]]
        if not count:
            assert bias[row] == error[row] == 0
            assert not factors[row].any()
            continue
        variance = 1 / (alpha * count + gamma)
        b = variance * alpha * (y - rated @ own.factors[row]).sum() + noise[row, rank] * np.sqrt(
            variance
        )
        a = alpha * rated.T @ rated + precision
        upper = np.linalg.cholesky(a).T
        u = np.linalg.solve(a, alpha * rated.T @ (y - b) + precision @ mu)
        u += np.linalg.solve(upper, noise[row, :rank])
        scale = 1 + np.abs(u).max()
        assert bias[row] == pytest.approx(b, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])
        np.testing.assert_allclose(factors[row], u, atol=10 * TOLERANCE[dtype] * scale)
        expected = ((y - b - rated @ u) ** 2).sum()
        assert error[row] == pytest.approx(expected, rel=1e-2 if dtype == "float32" else 1e-7)


@pytest.mark.parametrize("rank", [5, 64, 130])
def test_a_draw_has_the_same_bits_in_any_block(rank):
    counts = [3, 0, 90, 1, 30, *range(1, 20)]
    block = block_with(counts, 100)
    own, fixed = state_of(1, len(counts), rank), state_of(2, 100, rank)
    noise = np.random.default_rng(3).normal(size=(len(counts), rank + 1))
    whole = draw(block, own, fixed, noise, "float32", prior_of(rank))
    for start, stop in [(0, 3), (3, 4), (4, len(counts))]:
        first, last = block.indptr[start], block.indptr[stop]
        part = draw_rows(
            block.indptr[start : stop + 1] - first,
            block.indices[first:last],
            block.ratings[first:last],
            own.factors[start:stop].astype("float32"),
            fixed.bias.astype("float32"),
            fixed.factors.astype("float32"),
            noise[start:stop].astype("float32"),
            **prior_of(rank),
        )
        for got, expected in zip(part, whole, strict=True):
            assert got.tobytes() == expected[start:stop].tobytes()


def test_wrong_shapes_are_refused():
    block = block_with([3, 2], 5)
    own, fixed = state_of(1, 2), state_of(2, 5)
    with pytest.raises(ValueError, match=r"\(2, 5\)"):
        draw(block, own, fixed, np.zeros((2, 4)), "float64", prior_of(4))
