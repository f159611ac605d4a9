"""A start on more ratings than the model was trained on."""

import numpy as np
import pytest
from support.data import generated, small_settings, write_csv

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.blocks import Factors
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import TrainSettings
from dask_als.training.longer_start import added_length, lengthened, lengthening
from dask_als.training.train import train

SERIAL = SerialExecutor()


def factors_of(rng, n_rows, rank, dtype="float64"):
    return Factors(
        rng.normal(size=n_rows).astype(dtype), rng.normal(size=(n_rows, rank)).astype(dtype)
    )


def longer(users, items, length):
    matrices = lengthening(users, items, length)
    return lengthened(users, matrices[USERS]), lengthened(items, matrices[ITEMS])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_rows", [(40, 30), (9000, 20), (40, 3)])
def test_each_singular_value_grows_and_the_directions_stay(dtype, n_rows):
    rng = np.random.default_rng(0)
    users, items = (factors_of(rng, n, 5, dtype) for n in n_rows)
    found = longer(users, items, 2.5)
    left, values, right = np.linalg.svd(
        users.factors.astype(float) @ items.factors.T.astype(float), full_matrices=False
    )
    rank = min(5, *n_rows)
    expected = left[:, :rank] * (values[:rank] + 2.5) @ right[:rank]
    # Gram matrices are exact for factors of 20 bits.
    tolerance = 1e-6 * values[0]
    np.testing.assert_allclose(
        found[0].factors.astype(float) @ found[1].factors.T.astype(float), expected, atol=tolerance
    )
    # Both sides are as long as each other along every direction.
    for side in found:
        gram = side.factors.T.astype(float) @ side.factors.astype(float)
        wanted = np.zeros(5)
        wanted[:rank] = values[:rank] + 2.5
        np.testing.assert_allclose(gram, np.diag(wanted), atol=tolerance)
        assert side.factors.dtype == dtype
    np.testing.assert_array_equal(found[0].bias, users.bias)


def test_directions_that_the_product_lacks_stay_at_zero():
    rng = np.random.default_rng(1)
    users, items = factors_of(rng, 20, 4), factors_of(rng, 10, 4)
    items.factors[:, 1:] = 0
    found = longer(users, items, 3.0)
    assert [int(np.linalg.matrix_rank(its.factors)) for its in found] == [1, 1]
    nothing = Factors(np.zeros(6), np.zeros((6, 4)))
    assert not longer(nothing, nothing, 3.0)[0].factors.any()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Datasets of 1,000 ratings and of 1,690, and a model of the first."""
    folder = tmp_path_factory.mktemp("longer-start")
    ratings = generated(70, 50, 1690, seed=5)
    rows = np.random.default_rng(0).permutation(len(ratings))
    old = [ratings[row] for row in rows[:1000]]
    for name, its in (("old", old), ("new", ratings)):
        write_csv(folder / f"{name}.csv", its)
    prepare(str(folder / "old.csv"), str(folder / "old"), SERIAL)
    for partitions in (1, 2, 5):
        chosen = PrepareSettings(partitions=partitions)
        prepare(str(folder / "new.csv"), str(folder / f"new-{partitions}"), SERIAL, settings=chosen)
    train(open_dataset(str(folder / "old")), str(folder / "model"), small_settings(), SERIAL)
    return folder


def opened(folder, name):
    return open_dataset(str(folder / name))


def test_the_length_grows_with_the_root_of_the_share_of_new_ratings(folder):
    manifest = model_manifest.read_manifest(str(folder / "model"))
    settings = small_settings(
        factor_regularization=9.0, item_factor_regularization=4.0, residual_precision=3.0
    )
    found = added_length(manifest, opened(folder, "new-2"), settings)
    assert found == pytest.approx(np.sqrt(0.69) * 6 / 3)


@pytest.mark.parametrize(
    "settings",
    [
        small_settings(nonnegative=True),
        small_settings(regularization_scaling="count"),
        small_settings(feedback="implicit"),
        small_settings(implicit_attributes="both"),
        TrainSettings(method="gibbs", rank=4, burn_in=1, samples=1),
    ],
)
def test_other_maxima_are_left_alone(folder, settings):
    manifest = model_manifest.read_manifest(str(folder / "model"))
    assert added_length(manifest, opened(folder, "new-2"), settings) == 0


def test_the_same_ratings_start_from_the_model_as_it_is(folder, tmp_path):
    """So one epoch after three is the fourth."""
    dataset = opened(folder, "old")
    for epochs, name, start in ((4, "four", None), (1, "one", str(folder / "model"))):
        its = small_settings(epochs=epochs)
        train(dataset, str(tmp_path / name), its, SERIAL, initial_model=start)
    four, one = (ALSModel.load(str(tmp_path / name)) for name in ("four", "one"))
    for side in SIDES:
        np.testing.assert_array_equal(four.rows(side).state.factors, one.rows(side).state.factors)


def test_the_same_bits_on_any_cluster(folder, tmp_path, client):
    found = []
    for partitions, executor in ((1, SERIAL), (2, SERIAL), (5, SERIAL), (5, DaskExecutor(client))):
        path = str(tmp_path / f"{len(found)}")
        dataset = opened(folder, f"new-{partitions}")
        start = str(folder / "model")
        train(dataset, path, small_settings(epochs=2), executor, initial_model=start)
        states = [
            model_files.read_state(path, side, range(dataset.table(side).n_rows), "float32")[0]
            for side in SIDES
        ]
        found.append([(its.bias.tobytes(), its.factors.tobytes()) for its in states])
    assert found[1:] == found[:1] * 3
