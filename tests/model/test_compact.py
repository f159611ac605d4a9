import numpy as np
import pytest

from dask_als.core.side import ITEMS, USERS
from dask_als.model.compact import truncate


def stacked(n_columns=12, seed=0):
    rng = np.random.default_rng(seed)
    users = rng.normal(size=(40, n_columns)) * np.logspace(0, -2, n_columns)
    return users, rng.normal(size=(30, n_columns))


def truncated(users, items, rank):
    found = truncate({USERS: users.T @ users, ITEMS: items.T @ items}, rank)
    return found, users @ found.maps[USERS], items @ found.maps[ITEMS]


@pytest.mark.parametrize("rank", [1, 5, 11])
def test_it_is_the_best_approximation(rank):
    users, items = stacked()
    left, singular, right = np.linalg.svd(users @ items.T)
    best = left[:, :rank] * singular[:rank] @ right[:rank]
    found, new_users, new_items = truncated(users, items, rank)
    np.testing.assert_allclose(new_users @ new_items.T, best, atol=1e-9)
    np.testing.assert_allclose(found.singular_values, singular[:rank])
    distance = np.linalg.norm(users @ items.T - new_users @ new_items.T)
    assert found.distance == pytest.approx(distance, rel=1e-6)


def test_both_sides_are_balanced():
    users, items = stacked()
    found, new_users, new_items = truncated(users, items, 6)
    for factors in (new_users, new_items):
        np.testing.assert_allclose(factors.T @ factors, np.diag(found.singular_values), atol=1e-9)


def test_beyond_the_rank_of_the_product_nothing_is_lost_and_columns_are_zero():
    users, items = stacked(4)
    users[:, 3] = users[:, 0]
    items[:, 3] = items[:, 1]
    users, items = np.concatenate([users, users], axis=1), np.concatenate([items, items], axis=1)
    found, new_users, new_items = truncated(users, items, 10)
    np.testing.assert_allclose(new_users @ new_items.T, users @ items.T, atol=1e-7)
    assert new_users.shape == (40, 10)
    assert not new_users[:, 4:].any()
    assert not new_items[:, 4:].any()
    assert (found.singular_values[4:] == 0).all()


def test_a_row_of_one_sample_is_mapped_to_its_nearest():
    """A user with other weights of the columns has the predictions nearest to their own."""
    users, items = stacked()
    found, _, new_items = truncated(users, items, 5)
    row = np.zeros(12)
    row[3:6] = [0.3, -1.0, 2.0]
    nearest = np.linalg.lstsq(new_items, items @ row, rcond=None)[0]
    np.testing.assert_allclose(row @ found.maps[USERS], nearest, atol=1e-9)


def test_nothing_at_all():
    found = truncate({side: np.zeros((3, 3)) for side in (USERS, ITEMS)}, 2)
    assert not found.singular_values.any()
    assert not found.maps[USERS].any()
    assert found.distance == 0
