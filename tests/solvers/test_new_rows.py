import numpy as np
import pytest
from support.data import small_settings

from dask_als.core.blocks import Block, Factors
from dask_als.core.side import ITEMS, USERS
from dask_als.solvers.base import HalfEpoch, SolvedSide
from dask_als.solvers.gibbs import PRIOR_ROWS, _gamma, _normal_wishart
from dask_als.solvers.new_row_prior import NewRowPrior
from dask_als.solvers.new_rows import NewRows, SideMoments
from dask_als.solvers.objective import NO_SUMS

RANK, ALPHA, MEAN = 4, 2.3, 3.5


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(RANK + 1, RANK + 1))
    prior = NewRowPrior(rng.normal(size=RANK + 1), root)
    items = Factors(rng.normal(size=20), rng.normal(size=(20, RANK)))
    counts = [0, 1, 3, 12]
    indices = [np.sort(rng.choice(20, count, replace=False)) for count in counts]
    block = Block(
        range(4),
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate(indices).astype(np.int32),
        rng.integers(1, 6, sum(counts)).astype(np.float32),
    )
    return prior, items, block


def solved(prior, items, block):
    method = NewRows({USERS: prior, ITEMS: prior}, ALPHA, MEAN)
    fixed = method.join_parts(HalfEpoch(ITEMS, 1), [method.start_part(items)])
    own = SolvedSide(Factors(np.zeros(4), np.zeros((4, RANK))), NO_SUMS, 0.0)
    return method.solve_part(HalfEpoch(USERS, 1), block, own, fixed)


def test_rows_have_the_mean_of_their_posterior(problem):
    prior, items, block = problem
    found = solved(prior, items, block)
    assert found.rated.tolist() == [False, True, True, True]
    covariance = np.linalg.inv(prior.root @ prior.root.T)
    for row in range(1, 4):
        which = slice(*block.indptr[row : row + 2])
        design = np.column_stack(
            [np.ones(row * 0 + which.stop - which.start), items.factors[block.indices[which]]]
        )
        target = block.ratings[which] - MEAN - items.bias[block.indices[which]]
        matrix = covariance + ALPHA * design.T @ design
        expected = np.linalg.solve(matrix, covariance @ prior.mean + ALPHA * design.T @ target)
        assert found.solution.bias[row] == pytest.approx(expected[0])
        np.testing.assert_allclose(found.solution.factors[row], expected[1:])
    assert not found.solution.factors[0].any()


def test_a_row_does_not_depend_on_the_others(problem):
    prior, items, block = problem
    whole = solved(prior, items, block)
    for row in range(4):
        first, last = block.indptr[row : row + 2]
        one = Block(
            range(1),
            np.array([0, last - first]),
            block.indices[first:last],
            block.ratings[first:last],
        )
        alone = solved(prior, items, one)
        np.testing.assert_array_equal(alone.solution.factors[0], whole.solution.factors[row])
        assert alone.solution.bias[0] == whole.solution.bias[row]


def test_the_expected_prior_is_the_mean_of_draws():
    settings = small_settings(method="gibbs", epochs=None, rank=2, factor_regularization=12.0)
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(400, 2)) * [1.0, 0.4] + [0.5, -1.0]
    biases = rng.normal(size=400)
    moments = SideMoments(400, rows.sum(axis=0), rows.T @ rows, float((biases**2).sum()))
    mean, second, variance = moments.expected_prior(settings, USERS)
    weight = 12.0 * np.sqrt(2 / 16)
    drawn = [_normal_wishart(rng, 400, moments.total, moments.gram, weight) for _ in range(4000)]
    seconds = [np.linalg.inv(precision) + np.outer(mu, mu) for mu, precision in drawn]
    np.testing.assert_allclose(np.mean([mu for mu, _ in drawn], axis=0), mean, atol=0.005)
    np.testing.assert_allclose(np.mean(seconds, axis=0), second, atol=0.01)
    drawn_variances = [1 / _gamma(rng, 400, moments.squared_bias) for _ in range(4000)]
    assert np.mean(drawn_variances) == pytest.approx(variance, rel=0.01)
    assert PRIOR_ROWS > 400
