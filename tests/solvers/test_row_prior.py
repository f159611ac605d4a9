from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from support.made_blocks import state_of

from dask_als.core.blocks import Block, Factors, block_of, random_factors
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.core.sparse import sparse_rows
from dask_als.settings.training import TrainSettings
from dask_als.solvers.base import HalfEpoch, SolvedSide
from dask_als.solvers.file_attributes import file_attributes
from dask_als.solvers.least_squares import LeastSquares
from dask_als.solvers.objective import NO_SUMS
from dask_als.solvers.row_prior import (
    RIDGE,
    Regression,
    RowPrior,
    direction_of,
    projection_of_rows,
    residual_of_columns,
    scale_of_rows,
    squares_of_columns,
    start_row_prior,
    step_alone,
    stepped,
    target_of_rows,
)
from dask_als.solvers.threads import Threaded

N_ITEMS, N_USERS, RANK = 30, 12, 4
SETTINGS = TrainSettings(method="gibbs", rank=RANK, dtype="float64")
STEP = HalfEpoch(ITEMS, 3)


@dataclass(frozen=True)
class FixedRegression:
    """A method whose regression is given."""

    regression_of_side: Regression
    settings: TrainSettings = SETTINGS

    def regression(self, own):
        return self.regression_of_side


@dataclass(frozen=True)
class Problem:
    """Who rated what, as a matrix and as the blocks of both sides; some rows have no ratings."""

    attributes: np.ndarray
    items: Block
    users: Block
    own: SolvedSide

    @property
    def start(self):
        scale = scale_of_rows(self.items, "float64")
        squares = squares_of_columns(self.users, [scale])
        return start_row_prior([scale], [squares], [], [], RANK)


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    rated = rng.random((N_ITEMS, N_USERS)) < rng.uniform(0.1, 0.9, N_USERS)
    rated[4], rated[:, 7] = False, False
    of_items, of_users = (
        block_of(
            range(len(pairs)), row.astype(np.int32), column.astype(np.int32), np.ones(len(row))
        )
        for pairs, (row, column) in ((rated, np.nonzero(rated)), (rated.T, np.nonzero(rated.T)))
    )
    own = SolvedSide(state_of(3, N_ITEMS, RANK), NO_SUMS, 0.0)
    roots = np.sqrt(np.maximum(1, rated.sum(axis=1, keepdims=True)))
    return Problem(rated / roots, of_items, of_users, own)


def solution(problem, right_side, ridge):
    x = problem.attributes
    return np.linalg.solve(x.T @ x + ridge * np.eye(N_USERS), right_side)


def after_steps(method, problem, prior, n_steps, step=STEP):
    blocks = [problem.items, problem.users]
    for _ in range(n_steps):
        prior = step_alone(method, step, blocks, problem.own, prior)
    return prior


@pytest.mark.parametrize("ridge", [0.5, 3.0, 50.0])
def test_steps_come_to_the_ridge_regression(problem, ridge):
    mean = np.linspace(-1, 1, RANK)
    method = FixedRegression(Regression(mean, None))
    prior = after_steps(method, problem, replace(problem.start, ridge=ridge), 400)
    expected = solution(
        problem, problem.attributes.T @ (problem.own.solution.factors - mean), ridge
    )
    np.testing.assert_allclose(prior.weights, expected, atol=1e-9)
    np.testing.assert_allclose(prior.means, problem.attributes @ expected, atol=1e-9)
    assert not prior.weights[7].any()
    assert not prior.means[4].any()


def test_a_step_does_not_leave_the_ridge_regression(problem):
    method = FixedRegression(Regression(np.zeros(RANK), None))
    before = after_steps(method, problem, problem.start, 400)
    after = after_steps(method, problem, before, 1)
    np.testing.assert_allclose(after.weights, before.weights, atol=1e-12)


def test_every_step_raises_the_posterior_density(problem):
    method = FixedRegression(Regression(np.zeros(RANK), None))
    prior, densities = problem.start, []
    for _ in range(10):
        error = problem.own.solution.factors - problem.attributes @ prior.weights
        densities.append(-np.sum(error**2) - prior.ridge * np.sum(prior.weights**2))
        prior = after_steps(method, problem, prior, 1)
    assert (np.diff(densities) > 0).all()


def test_draws_have_the_moments_of_the_posterior(problem):
    rng = np.random.default_rng(5)
    root = rng.normal(size=(RANK, RANK))
    method = FixedRegression(Regression(np.zeros(RANK), root))
    prior, draws = problem.start, []
    for epoch in range(1, 251):
        # Noise belongs to the epoch: all steps of one go towards the same draw.
        prior = after_steps(method, problem, prior, 20, HalfEpoch(ITEMS, epoch))
        draws.append(prior.weights)
    draws = np.array(draws)
    x = problem.attributes
    of_columns = np.linalg.inv(x.T @ x + prior.ridge * np.eye(N_USERS))
    mean = of_columns @ x.T @ problem.own.solution.factors
    of_rows = root.T @ root
    scale = np.sqrt(np.outer(np.diag(of_columns), np.diag(of_rows)))
    assert np.abs((draws.mean(axis=0) - mean) / scale).max() < 4.5 / np.sqrt(len(draws))
    centred = (draws - mean).reshape(len(draws), -1)
    expected = np.kron(of_columns, of_rows)
    found = centred.T @ centred / len(draws)
    largest = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs((found - expected) / largest).max() < 5 * np.sqrt(2 / len(draws))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cuts", [(5,), (1, 2, 11, 12), (0, 4)])
def test_partitions_do_not_show_in_the_bits(problem, cuts, dtype):
    settings = replace(SETTINGS, dtype=dtype)
    root = np.tril(np.arange(1.0, 17).reshape(4, 4))
    method = FixedRegression(Regression(np.ones(RANK), root), settings)
    own = replace(problem.own, solution=as_dtype(problem.own.solution, dtype))
    scale = scale_of_rows(problem.items, dtype)
    whole = start_row_prior([scale], [squares_of_columns(problem.users, [scale])], [], [], RANK)
    item_parts, user_parts = (split(block, cuts) for block in (problem.items, problem.users))
    scales = [scale_of_rows(part, dtype) for part in item_parts]
    squares = [squares_of_columns(part, scales) for part in user_parts]
    parts = start_row_prior(scales, squares, [], [], RANK)
    for epoch in (1, 2, 3):
        step = HalfEpoch(ITEMS, epoch)
        whole = step_alone(method, step, [problem.items, problem.users], own, whole)
        target = target_of_rows(method, step, own, parts)
        residuals = [
            residual_of_columns(method, step, part, own, parts, target) for part in user_parts
        ]
        direction = direction_of(parts, target, residuals)
        parts = stepped(
            parts, direction, [projection_of_rows(part, parts, direction) for part in item_parts]
        )
    for name in ("weights", "means", "scale", "squares"):
        assert getattr(parts, name).tobytes() == getattr(whole, name).tobytes()
        assert getattr(parts, name).dtype == dtype
    assert parts.weights.any()


ALS = TrainSettings(
    rank=2,
    dtype="float64",
    residual_precision=1.3,
    bias_regularization=0.7,
    user_factor_regularization=2.0,
    item_factor_regularization=3.0,
)


def test_least_squares_come_to_what_a_general_optimizer_finds():
    """Without a mean; the errors of ratings are float32."""
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(2)
    rated = rng.random((N_USERS, N_ITEMS)) < 0.5
    rated[:, 3] = False
    users, items = np.nonzero(rated)
    signal = 3 * np.outer(rng.normal(size=N_USERS), rng.normal(size=N_ITEMS))
    ratings = (signal[users, items] + rng.normal(size=len(users))).astype(np.float32)
    matrices = {
        USERS: rated / np.sqrt(rated.sum(axis=1, keepdims=True)),
        ITEMS: rated.T / np.sqrt(np.maximum(1, rated.T.sum(axis=1, keepdims=True))),
    }
    shapes = {
        (what, side): (n, *([] if what == "bias" else [2]))
        for side, n, m in ((USERS, N_USERS, N_ITEMS), (ITEMS, N_ITEMS, N_USERS))
        for what, n in (("bias", n), ("factors", n), ("weights", m))
    }

    def loss_and_gradient(values):
        cuts = np.cumsum([np.prod(shape) for shape in shapes.values()])
        parts = np.split(values, cuts[:-1].astype(int))
        x = {key: part.reshape(shapes[key]) for key, part in zip(shapes, parts, strict=True)}
        of_users, of_items = x["factors", USERS][users], x["factors", ITEMS][items]
        predicted = x["bias", USERS][users] + x["bias", ITEMS][items]
        error = ratings - predicted - (of_users * of_items).sum(axis=1)
        loss, gradient = 0.5 * 1.3 * error @ error, {key: np.zeros(shapes[key]) for key in shapes}
        for side, rows, others in ((USERS, users, of_items), (ITEMS, items, of_users)):
            tau = ALS.regularization(side).factor
            np.add.at(gradient["bias", side], rows, -1.3 * error)
            np.add.at(gradient["factors", side], rows, -1.3 * error[:, None] * others)
            deviations = x["factors", side] - matrices[side] @ x["weights", side]
            loss += 0.5 * 0.7 * np.sum(x["bias", side] ** 2)
            loss += 0.5 * tau * (np.sum(deviations**2) + RIDGE * np.sum(x["weights", side] ** 2))
            gradient["bias", side] += 0.7 * x["bias", side]
            gradient["factors", side] += tau * deviations
            gradient["weights", side] = tau * (
                RIDGE * x["weights", side] - matrices[side].T @ deviations
            )
        return loss, np.concatenate([gradient[key].ravel() for key in shapes])

    n_values = sum(int(np.prod(shape)) for shape in shapes.values())
    found = [
        optimize.minimize(
            loss_and_gradient,
            np.random.default_rng(seed).normal(size=n_values),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-10},
        ).fun
        for seed in range(3)
    ]

    method, objectives, values = LeastSquares(ALS, 0.0), [], None
    for values in epochs_of_least_squares(method, (users, items, ratings), 600):
        objectives.append(values[0])
    state = [values[1][key].ravel() for key in shapes]
    assert objectives[-1] == pytest.approx(-loss_and_gradient(np.concatenate(state))[0], rel=1e-6)
    assert objectives[-1] == pytest.approx(-min(found), rel=1e-6)
    assert (np.diff(objectives) > -1e-5).all()


def epochs_of_least_squares(method, rated, n_epochs):
    """Yield after each epoch the objective, and by name and side all that is fitted."""
    users, items, ratings = rated
    by_item = np.lexsort((users, items))
    blocks = {
        USERS: block_of(range(N_USERS), users, items.astype(np.int32), ratings),
        ITEMS: block_of(
            range(N_ITEMS), items[by_item], users[by_item].astype(np.int32), ratings[by_item]
        ),
    }
    sides, priors = {}, {}
    for side in SIDES:
        state = random_factors(side, blocks[side].rows, rank=2, seed=0, dtype="float64")
        sides[side] = method.join_parts(HalfEpoch(side, 0), [method.start_part(state)])
        scale = scale_of_rows(blocks[side], "float64")
        squares = squares_of_columns(blocks[side.other], [scale])
        priors[side] = start_row_prior([scale], [squares], [], [], 2)
    for epoch in range(1, n_epochs + 1):
        for side in SIDES:
            step, both = HalfEpoch(side, epoch), [blocks[side], blocks[side.other]]
            priors[side] = step_alone(method, step, both, sides[side], priors[side])
            arguments = blocks[side], sides[side], sides[side.other], priors[side]
            sides[side] = Threaded(method, 1).solve_side(step, *arguments)
        fitted = {("weights", side): priors[side].weights for side in SIDES}
        for side in SIDES:
            rows = blocks[side].counts > 0
            fitted["bias", side] = sides[side].solution.bias * rows
            fitted["factors", side] = sides[side].solution.factors
        yield method.figures(sides[USERS], sides[ITEMS], len(ratings), len(ratings))[0], fitted


def as_dtype(state, dtype):
    """Return a state whose numbers are of another type."""
    return Factors(state.bias.astype(dtype), state.factors.astype(dtype))


def split(block, cuts):
    """Return the blocks of ranges of a block's rows."""
    bounds = [0, *cuts, len(block.rows)]
    parts = []
    for start, stop in pairwise(bounds):
        indptr = block.indptr[start : stop + 1]
        its = slice(indptr[0], indptr[-1])
        parts.append(
            Block(range(start, stop), indptr - indptr[0], block.indices[its], block.ratings[its])
        )
    return parts


def test_it_is_measured_by_dask(problem):
    prior: RowPrior = problem.start
    assert prior.__sizeof__() == 8 * (N_USERS * RANK + N_ITEMS * RANK + N_ITEMS + N_USERS)


@pytest.fixture
def with_file(problem):
    """The problem, attributes of a file, and the start of its row prior."""
    rng = np.random.default_rng(7)
    dense = np.where(rng.random((N_ITEMS, 5)) < 0.4, rng.normal(size=(N_ITEMS, 5)), 0)
    # Two rows have no ratings: one of them has attributes.
    dense[4] = 1.0
    row, column = np.nonzero(dense)
    matrix = sparse_rows(N_ITEMS, 5, row, column, dense[row, column])
    scale = scale_of_rows(problem.items, "float64")
    of_file = file_attributes(matrix, [scale], "float64", True)
    squares = squares_of_columns(problem.users, [scale])
    x = np.column_stack([dense.any(axis=1), dense])
    assert of_file.by_row.dense().tolist() == x.tolist()
    return x, start_row_prior([scale], [squares], [], [], RANK, of_file), of_file


def test_attributes_of_a_file_are_further_columns_of_the_regression(problem, with_file):
    x, start, _ = with_file
    mean = np.array([0.5, -1.0, 0.0, 2.0])
    prior = after_steps(FixedRegression(Regression(mean, None)), problem, start, 1500)
    rated = problem.items.counts > 0
    both = np.column_stack([problem.attributes, x])
    of_rated, target = both[rated], problem.own.solution.factors[rated] - mean
    ridge = RIDGE * np.eye(both.shape[1])
    expected = np.linalg.solve(of_rated.T @ of_rated + ridge, of_rated.T @ target)
    np.testing.assert_allclose(prior.weights, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(prior.means, both @ expected, rtol=0, atol=1e-9)
    assert not rated[4]
    cold = prior.with_cold_rows(problem.own.solution.factors, mean)
    np.testing.assert_allclose(cold[4], mean + x[4] @ expected[-6:], rtol=0, atol=1e-9)
    assert cold[rated].tobytes() == problem.own.solution.factors[rated].tobytes()


def test_attributes_of_a_file_are_a_regression_of_their_own(problem, with_file):
    x, _, of_file = with_file
    start = start_row_prior([scale_of_rows(problem.items, "float64")], [], [], [], RANK, of_file)
    method, prior = FixedRegression(Regression(np.zeros(RANK), None)), start
    for _ in range(300):
        prior = step_alone(method, STEP, [], problem.own, prior)
    of_rated = x[problem.items.counts > 0]
    factors = problem.own.solution.factors[problem.items.counts > 0]
    ridge = RIDGE * np.eye(6)
    expected = np.linalg.solve(of_rated.T @ of_rated + ridge, of_rated.T @ factors)
    np.testing.assert_allclose(prior.weights, expected, rtol=0, atol=1e-9)
