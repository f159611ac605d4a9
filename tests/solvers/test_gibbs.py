import time
from dataclasses import replace

import numpy as np
import pytest
from support.data import MOVIELENS, bits, content, prepared, small_settings

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.blocks import Factors, block_of, concatenated
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.model import sample_files, state_parts
from dask_als.model.model import ALSModel
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.training import CheckpointSettings, StopSettings, TrainSettings
from dask_als.solvers.base import HalfEpoch, SolvedSide
from dask_als.solvers.choice import method_of
from dask_als.solvers.gibbs import PRIOR_ROWS, Prior, _gamma, _normal_wishart
from dask_als.solvers.objective import NO_SUMS
from dask_als.solvers.row_prior import (
    RIDGE,
    scale_of_rows,
    squares_of_columns,
    start_row_prior,
    step_alone,
)
from dask_als.solvers.threads import Threaded
from dask_als.training.train import train

SETTINGS = small_settings(
    method="gibbs",
    epochs=None,
    burn_in=2,
    samples=3,
    factor_regularization=12.0,
    keep_samples=True,
)


def test_partitions_do_not_show(tmp_path):
    results = []
    for partitions in (1, 2, 7):
        dataset = prepared(tmp_path, f"dataset-{partitions}", partitions)
        model = tmp_path / f"model-{partitions}"
        train(dataset, str(model), SETTINGS, SerialExecutor())
        results.append(bits(model))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("stop", [2, 4])
def test_a_resumed_training_comes_to_the_same_bits(tmp_path, stop):
    dataset = prepared(tmp_path, partitions=2)
    train(dataset, str(tmp_path / "whole"), SETTINGS, SerialExecutor())

    class Interrupted(Exception):
        pass

    def interrupt(figures):
        if figures.epoch == stop + 1:
            raise Interrupted

    directory = str(tmp_path / "checkpoints")
    with pytest.raises(Interrupted):
        train(
            dataset,
            str(tmp_path / "model"),
            SETTINGS,
            SerialExecutor(),
            checkpoints=CheckpointSettings(directory=directory, every=stop),
            on_epoch=interrupt,
        )
    train(
        dataset,
        str(tmp_path / "model"),
        SETTINGS,
        SerialExecutor(),
        checkpoints=CheckpointSettings(directory=directory, every=stop, resume=True),
    )
    assert bits(tmp_path / "model") == bits(tmp_path / "whole")


def test_the_model_predicts_the_mean_of_the_samples(tmp_path):
    dataset = prepared(tmp_path)
    callbacks = [lambda epoch: epoch.save(str(tmp_path / f"at-{epoch.figures.epoch}")) and False]
    train(dataset, str(tmp_path / "model"), SETTINGS, SerialExecutor(), callbacks=callbacks)
    model = ALSModel.load(str(tmp_path / "model"), dataset.path)
    samples = [ALSModel.load(str(tmp_path / f"at-{epoch}"), dataset.path) for epoch in (3, 4, 5)]
    users, items = list(model.users.ids[:10]), list(model.items.ids[:10])
    expected = np.mean([sample.predict(users=users, items=items) for sample in samples], axis=0)
    found = model.predict(users=users, items=items)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert model.manifest.rank == 12
    assert model.rows(USERS).state.factors.shape[1] == 12


def test_dask_comes_to_the_bits_of_one_process(tmp_path, client):
    dataset = prepared(tmp_path, partitions=3)
    for name, executor in {"serial": SerialExecutor(), "dask": DaskExecutor(client)}.items():
        train(dataset, str(tmp_path / name), SETTINGS, executor)
    assert bits(tmp_path / "serial") == bits(tmp_path / "dask")


def test_more_samples_later_come_to_the_same_bits(tmp_path):
    dataset, directory = prepared(tmp_path), str(tmp_path / "checkpoints")
    for samples in (3, 6):
        train(
            dataset,
            str(tmp_path / f"model-{samples}"),
            replace(SETTINGS, samples=samples, epochs=None),
            SerialExecutor(),
            checkpoints=CheckpointSettings(directory=directory, every=2, resume=True),
        )
    whole = replace(SETTINGS, samples=6, epochs=None)
    train(dataset, str(tmp_path / "whole"), whole, SerialExecutor())
    assert bits(tmp_path / "model-6") == bits(tmp_path / "whole")


def test_what_is_drawn_cannot_be_set(tmp_path):
    dataset = prepared(tmp_path)
    results = []
    for number, precision, weight in [(1, 1.0, 1.0), (2, 5.0, 7.0)]:
        settings = replace(SETTINGS, residual_precision=precision, bias_regularization=weight)
        train(dataset, str(tmp_path / f"m-{number}"), settings, SerialExecutor())
        states, history, *_ = content(str(tmp_path / f"m-{number}"))
        results.append((states, history))
    assert results[0] == results[1]


@pytest.mark.parametrize("stopping", [StopSettings(flat=1e-3), StopSettings(patience=2)])
def test_samples_do_not_come_to_rest(tmp_path, stopping):
    dataset, model = prepared(tmp_path), tmp_path / "model"
    with pytest.raises(InputError, match="fewer --samples"):
        train(dataset, str(model), SETTINGS, SerialExecutor(), stopping=stopping)
    assert not model.exists()


@pytest.mark.parametrize(("last", "samples"), [(1, 1), (4, 2)])
def test_a_callback_ends_training_with_the_samples_so_far(tmp_path, last, samples):
    """If that is during the burn-in, with the epoch's own model."""
    dataset, kept = prepared(tmp_path), str(tmp_path / "kept")
    train(
        dataset,
        str(tmp_path / "model"),
        SETTINGS,
        SerialExecutor(),
        checkpoints=CheckpointSettings(directory=kept),
        callbacks=[lambda epoch: epoch.figures.epoch == last],
    )
    model = ALSModel.load(str(tmp_path / "model"))
    assert len(model.history) == last
    assert model.manifest.samples == samples
    assert model.manifest.rank == 4 * samples


def test_a_callback_can_save_a_sample(tmp_path):
    dataset, kept = prepared(tmp_path), tmp_path / "kept"
    train(
        dataset,
        str(tmp_path / "model"),
        SETTINGS,
        SerialExecutor(),
        checkpoints=CheckpointSettings(directory=str(kept)),
        callbacks=[lambda epoch: epoch.save(str(tmp_path / f"at-{epoch.figures.epoch}")) and False],
    )
    sample = str(kept / "sample-00004")
    manifest = sample_files.read_manifest(sample)
    saved = ALSModel.load(str(tmp_path / "at-4"), dataset.path)
    assert saved.manifest.residual_precision == manifest.residual_precision
    for side in SIDES:
        its = manifest.sides[side]
        assert saved.rows(side).mean_bias == its.mean_bias
        state = concatenated(
            [
                state_parts.read_part(sample, side, number, crc32)
                for number, crc32 in enumerate(its.checksums)
            ]
        )
        np.testing.assert_array_equal(saved.rows(side).state.factors, state.factors)
        np.testing.assert_array_equal(saved.rows(side).state.bias, state.bias)


def test_samples_start_from_a_model_that_is_none(tmp_path):
    dataset, model = prepared(tmp_path), str(tmp_path / "model")
    train(dataset, str(tmp_path / "als"), small_settings(), SerialExecutor())
    started = str(tmp_path / "started")
    train(dataset, started, SETTINGS, SerialExecutor(), initial_model=str(tmp_path / "als"))
    train(dataset, model, SETTINGS, SerialExecutor())
    assert bits(started) != bits(model)
    # From an average, its last sample is what training goes on from.
    train(dataset, str(tmp_path / "m"), SETTINGS, SerialExecutor(), initial_model=model)
    assert bits(str(tmp_path / "m")) not in (bits(started), bits(model))


def test_a_gamma_draw_has_the_moments_of_the_posterior():
    rng = np.random.default_rng(0)
    draws = np.array([_gamma(rng, 18, 6.0) for _ in range(20_000)])
    # Gamma with shape 10 and rate 4.
    assert draws.mean() == pytest.approx(2.5, rel=0.01)
    assert draws.var() == pytest.approx(10 / 16, rel=0.05)


def test_a_normal_wishart_draw_has_the_moments_of_the_posterior():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(50, 3)) * [1.0, 2.0, 0.5] + [0.3, -0.2, 1.0]
    n, mean = len(rows), rows.mean(axis=0)
    drawn = [_normal_wishart(rng, n, rows.sum(axis=0), rows.T @ rows, 4.0) for _ in range(8_000)]
    means, precisions = (np.array(part) for part in zip(*drawn, strict=True))
    centred = rows - mean
    scale = np.linalg.inv(
        PRIOR_ROWS / 4.0 * np.eye(3) + centred.T @ centred + n / (n + 1) * np.outer(mean, mean)
    )
    freedom = 3 + PRIOR_ROWS + n
    np.testing.assert_allclose(precisions.mean(axis=0), freedom * scale, atol=0.005)
    diagonal = np.diag(scale)
    variance = freedom * (scale**2 + np.outer(diagonal, diagonal))
    np.testing.assert_allclose(precisions.var(axis=0), variance, rtol=0.06)
    np.testing.assert_allclose(means.mean(axis=0), n * mean / (n + 1), atol=0.003)
    covariance = np.linalg.inv(scale) / (freedom - 4) / (n + 1)
    np.testing.assert_allclose(np.cov(means.T), covariance, atol=2e-4)


TINY = TrainSettings(method="gibbs", rank=2, dtype="float64", factor_regularization=6.0)
TINY_ROWS = {USERS: 6, ITEMS: 5}
PRIOR_ROWS_OF_TINY = 8


def statistics_of(sides):
    """Return what both ways to simulate the model are compared by; all have light tails."""
    found = []
    for side in sides:
        bias, factors, gamma, mu, precision = side
        found += [
            np.log(gamma),
            np.log(np.linalg.det(precision)),
            np.tanh(mu[0]),
            np.log(mu @ mu),
            np.tanh(bias[0]),
            np.tanh(factors[0, 0] * factors[1, 0]),
            np.log((bias**2).mean()),
            np.log((factors**2).mean()),
        ]
    return found


def tiny_from_the_prior(rng):
    """Draw alpha and both sides from the model's prior, in NumPy alone."""
    t = 6.0 * np.sqrt(2 / 16)
    sides = []
    for n_rows in TINY_ROWS.values():
        # A Wishart matrix with whole degrees of freedom is a sum of so many outer products.
        normal = rng.normal(size=(2 + PRIOR_ROWS_OF_TINY, 2)) * np.sqrt(t / PRIOR_ROWS_OF_TINY)
        precision = normal.T @ normal
        covariance = np.linalg.inv(precision)
        mu = rng.multivariate_normal(np.zeros(2), covariance)
        gamma = rng.gamma(1.0)
        factors = rng.multivariate_normal(mu, covariance, size=n_rows)
        sides.append((rng.normal(size=n_rows) / np.sqrt(gamma), factors, gamma, mu, precision))
    return rng.gamma(1.0), sides


def tiny_pairs(rng):
    """Choose pairs of users and items, at least one of each; sorted by user, then item."""
    pairs = np.argwhere(rng.random((6, 5)) < 0.6)
    return np.unique(np.concatenate([pairs, [(i, i % 5) for i in range(6)]]), axis=0).T


def as_solved(alpha, drawn):
    """Return what half-epochs take for alpha and both sides."""
    return {
        side: SolvedSide(Factors(bias, factors), NO_SUMS, 0.0, Prior(gamma, mu, precision), alpha)
        for side, (bias, factors, gamma, mu, precision) in zip(SIDES, drawn, strict=True)
    }


def as_drawn(sides):
    """Return alpha and both sides, as `tiny_from_the_prior`."""
    return sides[ITEMS].residual_precision, [
        (
            s.solution.bias,
            s.solution.factors,
            s.shared.bias_precision,
            s.shared.factor_mean,
            s.shared.factor_precision,
        )
        for s in sides.values()
    ]


def tiny_blocks(rated):
    """Return the ratings, which may have weights, as the block of each side."""
    users, items, *values = rated
    by_item = np.lexsort((users, items))
    order = {
        USERS: (users, items, *values),
        ITEMS: tuple(its[by_item] for its in (items, users, *values)),
    }
    return {
        side: block_of(range(TINY_ROWS[side]), row, column.astype(np.int32), *its)
        for side, (row, column, *its) in order.items()
    }


def after_an_epoch(method, epoch, sides, rated, row_priors=None):
    """Return both sides after a half-epoch of each; row priors, if any, are changed in place."""
    blocks, sides = tiny_blocks(rated), dict(sides)
    for side in SIDES:
        step, prior = HalfEpoch(side, epoch), None
        if row_priors is not None:
            prior, both = row_priors[side], [blocks[side], blocks[side.other]]
            # One step is near to a draw; so many are one.
            for _ in range(15):
                prior = step_alone(method, step, both, sides[side], prior)
            row_priors[side] = prior
        arguments = blocks[side], sides[side], sides[side.other], prior
        sides[side] = Threaded(method, 1).solve_side(step, *arguments)
    return sides


def predictions_of(sides):
    """Return what is predicted for all pairs."""
    u, v = sides[USERS].solution, sides[ITEMS].solution
    return 3.0 + u.bias[:, None] + v.bias + u.factors @ v.factors.T


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
def test_joint_distribution(monkeypatch, weighted):
    """The sampler leaves the model's joint distribution as it is.

    Source: Geweke 2004, "Getting it right: joint distribution tests of posterior simulators". Where
    ratings are drawn anew from the model before every epoch, the states of the chain are draws from
    the prior, which is also drawn from directly. A rating with a weight has as many times the
    precision.
    """
    monkeypatch.setattr("dask_als.solvers.gibbs.PRIOR_ROWS", float(PRIOR_ROWS_OF_TINY))
    rng = np.random.default_rng(5)
    users, items = tiny_pairs(rng)
    direct = [
        (np.log(alpha), *statistics_of(sides))
        for alpha, sides in (tiny_from_the_prior(rng) for _ in range(5_000))
    ]
    weights = rng.choice([0.2, 1.0, 5.0], len(users)).astype(np.float32)
    given = [weights] if weighted else []
    scale = weights**-0.5 if weighted else 1.0

    method = method_of(TINY, 3.0)
    sides = as_solved(*tiny_from_the_prior(rng))
    chain = []
    for epoch in range(1, 6_001):
        means = predictions_of(sides)[users, items]
        deviation = scale * sides[ITEMS].residual_precision ** -0.5
        ratings = rng.normal(means, deviation).astype(np.float32)
        sides = after_an_epoch(method, epoch, sides, (users, items, ratings, *given))
        alpha, state = as_drawn(sides)
        chain.append((np.log(alpha), *statistics_of(state)))

    direct, chain = np.array(direct), np.array(chain)
    error = np.hypot(error_of_mean(chain), direct.std(axis=0) / np.sqrt(len(direct)))
    scores = (chain.mean(axis=0) - direct.mean(axis=0)) / error
    assert np.abs(scores).max() < 4.5, scores
    # What is compared must be known well enough to tell a wrong sampler.
    assert (error < 0.2 * direct.std(axis=0)).all()


@pytest.mark.slow
def test_joint_distribution_with_row_priors(monkeypatch):
    """The same with attributes on both sides, whose weights also have a prior and are drawn."""
    monkeypatch.setattr("dask_als.solvers.gibbs.PRIOR_ROWS", float(PRIOR_ROWS_OF_TINY))
    rng = np.random.default_rng(6)
    users, items = tiny_pairs(rng)
    start = tiny_row_priors(users, items)
    rated = np.zeros((TINY_ROWS[USERS], TINY_ROWS[ITEMS]))
    rated[users, items] = 1
    attributes = {
        USERS: rated / np.sqrt(rated.sum(axis=1, keepdims=True)),
        ITEMS: rated.T / np.sqrt(rated.T.sum(axis=1, keepdims=True)),
    }
    direct = []
    for _ in range(5_000):
        alpha, sides, weights = tiny_with_row_priors(rng, attributes)
        direct.append((np.log(alpha), *statistics_of(sides), *statistics_of_weights(weights)))

    method = method_of(TINY, 3.0)
    alpha, sides, weights = tiny_with_row_priors(rng, attributes)
    sides = as_solved(alpha, sides)
    priors = {
        side: replace(start[side], weights=weights[side], means=attributes[side] @ weights[side])
        for side in SIDES
    }
    chain = []
    for epoch in range(1, 6_001):
        means = predictions_of(sides)[users, items]
        ratings = rng.normal(means, sides[ITEMS].residual_precision ** -0.5).astype(np.float32)
        sides = after_an_epoch(method, epoch, sides, (users, items, ratings), priors)
        alpha, state = as_drawn(sides)
        weights = {side: prior.weights for side, prior in priors.items()}
        chain.append((np.log(alpha), *statistics_of(state), *statistics_of_weights(weights)))

    direct, chain = np.array(direct), np.array(chain)
    error = np.hypot(error_of_mean(chain), direct.std(axis=0) / np.sqrt(len(direct)))
    scores = (chain.mean(axis=0) - direct.mean(axis=0)) / error
    assert np.abs(scores).max() < 4.5, scores
    assert (error < 0.2 * direct.std(axis=0)).all()


def tiny_row_priors(users, items):
    """Return the row priors of both sides before any step."""
    blocks = tiny_blocks((users, items, np.ones(len(users), np.float32)))
    scales = {side: [scale_of_rows(blocks[side], "float64")] for side in SIDES}
    return {
        side: start_row_prior(
            scales[side], [squares_of_columns(blocks[side.other], scales[side])], [], [], 2
        )
        for side in SIDES
    }


def tiny_with_row_priors(rng, attributes):
    """Draw alpha, both sides and the weights of their attributes from the model's prior."""
    alpha, sides = tiny_from_the_prior(rng)
    weights, shifted = {}, []
    for side, (bias, factors, gamma, mu, precision) in zip(SIDES, sides, strict=True):
        covariance = np.linalg.inv(RIDGE * precision)
        n_columns = TINY_ROWS[side.other]
        weights[side] = rng.multivariate_normal(np.zeros(2), covariance, size=n_columns)
        shifted.append((bias, factors + attributes[side] @ weights[side], gamma, mu, precision))
    return alpha, shifted, weights


def statistics_of_weights(weights):
    """Return what the weights of attributes are compared by."""
    return [
        value
        for side in SIDES
        for value in (np.tanh(weights[side][0, 0]), np.log((weights[side] ** 2).mean()))
    ]


def error_of_mean(chain):
    """Return the standard error of the mean of a chain's columns, from the means of 30 batches."""
    batches = chain.reshape(30, len(chain) // 30, -1).mean(axis=1)
    return batches.std(axis=0, ddof=1) / np.sqrt(30)


def drawn_side(rng, rows, y, fixed_bias, fixed_factors, alpha, gamma, mu, precision):
    """Draw a side's rows in NumPy alone: bias and factors of a row at once, not by turns."""
    inner = np.zeros((3, 3))
    inner[0, 0], inner[1:, 1:] = gamma, precision
    bias, factors = np.empty(len(rows)), np.empty((len(rows), 2))
    for row, (its, others) in enumerate(rows):
        design = np.column_stack([np.ones(len(its)), fixed_factors[others]])
        covariance = np.linalg.inv(alpha * design.T @ design + inner)
        target = alpha * design.T @ (y[its] - fixed_bias[others]) + inner @ [0.0, *mu]
        bias[row], *factors[row] = rng.multivariate_normal(covariance @ target, covariance)
    return bias, factors


def drawn_prior(rng, bias, factors):
    """Draw what a side's rows are drawn from, in NumPy alone."""
    n, mean = len(factors), factors.mean(axis=0)
    gamma = rng.gamma(1 + n / 2) / (1 + (bias**2).sum() / 2)
    inverse = PRIOR_ROWS_OF_TINY / (6.0 * np.sqrt(2 / 16)) * np.eye(2)
    inverse += (factors - mean).T @ (factors - mean) + n / (n + 1) * np.outer(mean, mean)
    normal = rng.multivariate_normal(
        np.zeros(2), np.linalg.inv(inverse), size=2 + PRIOR_ROWS_OF_TINY + n
    )
    precision = normal.T @ normal
    mu = rng.multivariate_normal(n * mean / (n + 1), np.linalg.inv((n + 1) * precision))
    return gamma, mu, precision


@pytest.mark.slow
def test_marginal_moments(monkeypatch):
    """Given ratings, predictions and precisions have the moments that another sampler finds."""
    monkeypatch.setattr("dask_als.solvers.gibbs.PRIOR_ROWS", float(PRIOR_ROWS_OF_TINY))
    rng = np.random.default_rng(11)
    users, items = tiny_pairs(rng)
    ratings = rng.normal(3.0 + 0.8 * (users % 3) - 0.5 * (items % 2), 0.6).astype(np.float32)
    alpha, drawn = tiny_from_the_prior(rng)

    ours, method, sides = [], method_of(TINY, 3.0), as_solved(alpha, drawn)
    for epoch in range(1, 9_101):
        sides = after_an_epoch(method, epoch, sides, (users, items, ratings))
        precisions = [sides[ITEMS].residual_precision]
        precisions += [sides[side].shared.bias_precision for side in SIDES]
        ours.append((*np.log(precisions), *predictions_of(sides).ravel()))

    theirs, y = [], ratings - 3.0
    (b, u, *user_prior), (c, v, *item_prior) = drawn
    by_user = [(its, items[its]) for its in (np.flatnonzero(users == row) for row in range(6))]
    by_item = [(its, users[its]) for its in (np.flatnonzero(items == row) for row in range(5))]
    for _ in range(9_100):
        b, u = drawn_side(rng, by_user, y, c, v, alpha, *user_prior)
        user_prior = drawn_prior(rng, b, u)
        c, v = drawn_side(rng, by_item, y, b, u, alpha, *item_prior)
        item_prior = drawn_prior(rng, c, v)
        predicted = b[:, None] + c + u @ v.T
        error = y - predicted[users, items]
        alpha = rng.gamma(1 + len(y) / 2) / (1 + error @ error / 2)
        precisions = alpha, user_prior[0], item_prior[0]
        theirs.append((*np.log(precisions), *(3.0 + predicted).ravel()))

    # The first hundred are still near to what the chains start from.
    chains = [np.array(chain)[100:] for chain in (ours, theirs)]
    centre = chains[1].mean(axis=0)
    for power in (1, 2):
        moments = [(chain - centre) ** power for chain in chains]
        error = np.hypot(*(error_of_mean(values) for values in moments))
        scores = (moments[0].mean(axis=0) - moments[1].mean(axis=0)) / error
        assert np.abs(scores).max() < 4.5, scores
        assert (error < 0.2 * moments[1].std(axis=0)).all()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(MOVIELENS is None, reason="needs ../shared/data/ml-latest-small")
@pytest.mark.parametrize(("attributes", "most"), [("none", 0.838), ("auto", 0.816)])
def test_the_defaults_beat_least_squares(tmp_path, capsys, attributes, most):
    settings = TrainSettings(method="gibbs", implicit_attributes=attributes)
    errors, seconds = [], []
    for seed in range(5):
        start = time.monotonic()
        dataset = prepare(
            str(MOVIELENS),
            str(tmp_path / f"dataset-{seed}"),
            SerialExecutor(),
            columns=Columns(),
            settings=PrepareSettings(test_fraction=0.2, seed=seed),
        )
        model = tmp_path / f"model-{seed}"
        manifest = train(dataset, str(model), settings, SerialExecutor())
        errors.append(manifest.figures.test_rmse)
        seconds.append(time.monotonic() - start)
        with capsys.disabled():
            print(f"\nsplit {seed}: held-out RMSE {errors[-1]:.4f}, {seconds[-1]:.1f} s", end="")
    with capsys.disabled():
        print(f"\nmean: held-out RMSE {np.mean(errors):.4f}")
    assert np.mean(errors) <= most
    assert max(seconds) < 60
