"""Tests of training with factors that are not negative."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support.data import bits, prepared, read_state, small_settings, write_csv
from support.weighted_data import HEADER, WEIGHTED, prepared_with, weighted_rows
from support.weighted_rows import system_of_row, violation

from dask_als.core.executor import SerialExecutor
from dask_als.core.side import USERS
from dask_als.data.block_files import read_block
from dask_als.errors import InputError
from dask_als.model.fold_in import fold_in
from dask_als.model.model import ALSModel
from dask_als.settings.training import CheckpointSettings, TrainSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
EXPLICIT = small_settings(epochs=5, nonnegative=True, factor_regularization=0.5)
IMPLICIT = replace(EXPLICIT, feedback="implicit")
EACH = pytest.mark.parametrize("settings", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])


@EACH
def test_partitions_and_interruptions_do_not_show(tmp_path, settings):
    class Interrupted(Exception):
        pass

    def interrupt(figures):
        if figures.epoch == 3:
            raise Interrupted

    results = []
    for partitions in (1, 2, 7):
        dataset = prepared(tmp_path, f"dataset-{partitions}", partitions)
        train(dataset, str(tmp_path / f"model-{partitions}"), settings, SERIAL)
        results.append(bits(tmp_path / f"model-{partitions}"))
    checkpoints = CheckpointSettings(directory=str(tmp_path / "checkpoints"), every=2)
    model = str(tmp_path / "resumed")
    with pytest.raises(Interrupted):
        train(dataset, model, settings, SERIAL, checkpoints=checkpoints, on_epoch=interrupt)
    checkpoints = replace(checkpoints, resume=True)
    train(dataset, model, settings, SERIAL, checkpoints=checkpoints)
    results.append(bits(model))
    assert all(result == results[0] for result in results)


@pytest.mark.slow
@EACH
def test_the_objective_rises_and_no_factor_is_negative(tmp_path, settings):
    settings = replace(settings, dtype="float64", epochs=20)
    train(prepared(tmp_path), str(tmp_path / "model"), settings, SERIAL)
    model = ALSModel.load(str(tmp_path / "model"))
    values = [figures.objective for figures in model.history]
    assert all(later >= value - 1e-9 for value, later in pairwise(values))
    for state in (model.users.state, model.items.state):
        assert (state.factors >= 0).all()
        assert (state.factors > 0).any()
    if settings.feedback == "explicit":
        assert (model.users.state.bias < 0).any()


@pytest.mark.slow
def test_trained_and_folded_rows_satisfy_the_conditions(tmp_path):
    settings = replace(EXPLICIT, dtype="float64", first="items", regularization_scaling="count")
    dataset = prepared_with(tmp_path, weighted_rows(), test_fraction=0)
    model = str(tmp_path / "model")
    train(dataset, model, settings, SERIAL)
    loaded = ALSModel.load(model)
    items, mean = loaded.items.state, loaded.manifest.global_mean
    block = read_block(dataset.path, USERS, 0, dataset.users.partitions[0])

    def violated(rated, ratings, weights, bias, factors):
        y = ratings.astype(float) - mean - items.bias[rated]
        scale = settings.factor_regularization / settings.residual_precision
        ridge = scale * weights.sum(dtype=float)
        system = system_of_row(y, items.factors[rated], weights.astype(float), bias, ridge)
        return violation(*system, factors)

    for row in range(len(block.rows)):
        its = slice(block.indptr[row], block.indptr[row + 1])
        given = block.indices[its], block.ratings[its], block.weights[its]
        state = loaded.users.state
        assert violated(*given, state.bias[row], state.factors[row]) < 1e-10
    ids = loaded.items.ids[:5]
    new = [("new", item, [5, 1, 4, 2, 3][n], 1, 1.5) for n, item in enumerate(ids)]
    source = write_csv(tmp_path / "new.csv", new, HEADER)
    fold_in(str(source), model, str(tmp_path / "folded"), SERIAL, USERS, columns=WEIGHTED)
    bias, factors = (values["new"] for values in read_state(tmp_path / "folded", "users"))
    given = np.arange(5), np.array([5, 1, 4, 2, 3]), np.full(5, 1.5)
    assert violated(*given, bias, factors) < 1e-10
    assert (factors >= 0).all()


@pytest.mark.slow
def test_parts_of_an_explanation_add_up(tmp_path):
    settings = replace(EXPLICIT, dtype="float64")
    train(prepared(tmp_path), str(tmp_path / "model"), settings, SERIAL)
    model = ALSModel.load(str(tmp_path / "model"))
    for row in range(5):
        explained = model.explain(model.users.ids[row], model.items.ids[3])
        its, own = model.ratings_of(USERS, row), model.users.state[row : row + 1]
        solved = model.solver.solve(USERS, its.rated, its.ratings, own)
        product = solved.factors[0] @ model.items.state.factors[3]
        assert explained["part"].sum() == pytest.approx(product, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "gibbs"}, "nonnegative is True; it must be left out with gibbs"),
        ({"implicit_attributes": "items"}, "implicit-attributes is 'items'; it must be none with"),
    ],
)
def test_what_has_any_sign_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        TrainSettings(nonnegative=True, **settings)


def test_the_reference_solver_refuses(tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_ALS_SOLVER", "reference")
    with pytest.raises(InputError, match="unset it for --nonnegative"):
        train(prepared(tmp_path), str(tmp_path / "model"), EXPLICIT, SERIAL)
