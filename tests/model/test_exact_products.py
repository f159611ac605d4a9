import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_als.model.exact_products import exact_gram, exact_product, exponents, gram_values


def rows_of(n, n_columns, seed=0):
    """Columns of very different sizes, one of them zero."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, n_columns)) * np.logspace(3, -6, n_columns)
    rows[:, n_columns // 2] = 0.0
    return rows


def exponents_of(rows):
    return exponents(np.abs(rows).max(axis=0))


def test_exponents_bound_the_columns():
    maxima = np.array([0.0, 1.0, 0.75, 3.0, 1e-30, 2.0**-20])
    bounds = np.ldexp(1.0, exponents(maxima))
    assert (maxima <= bounds).all()
    assert (bounds[1:] <= 2 * maxima[1:]).all()


def test_values_are_right():
    rows, matrix = rows_of(500, 12), np.random.default_rng(1).normal(size=(12, 4))
    found = exponents_of(rows)
    gram = gram_values(exact_gram([rows], found, 500), found, 500)
    scale = np.sqrt(np.outer(*[(rows**2).sum(axis=0)] * 2))
    np.testing.assert_allclose(
        gram / np.maximum(scale, 1e-300), rows.T @ rows / np.maximum(scale, 1e-300), atol=1e-5
    )
    product = exact_product(rows, matrix, found)
    size = np.abs(rows) @ np.abs(matrix)
    assert (np.abs(product - rows @ matrix) <= 1e-10 * size.max()).all()


@given(st.lists(st.integers(1, 299), max_size=6))
def test_any_split_gives_the_same_bits(cuts):
    rows, matrix = rows_of(300, 9), np.random.default_rng(2).normal(size=(9, 5))
    found = exponents_of(rows)
    parts = np.split(rows, sorted(cuts))
    grams = [exact_gram([part], found, 300) for part in parts]
    np.testing.assert_array_equal(sum(grams), exact_gram([rows], found, 300))
    products = np.concatenate([exact_product(part, matrix, found) for part in parts])
    np.testing.assert_array_equal(products, exact_product(rows, matrix, found))


@pytest.mark.parametrize("n_rows", [1, 4_000_000, 2**31 - 1])
def test_a_gram_matrix_of_very_many_rows_does_not_overflow(n_rows):
    """The largest sum: all rows at the bound of their column."""
    total = exact_gram([np.ones((1, 1))], exponents(np.ones(1)), n_rows)
    assert int(total[0, 0]) * n_rows < 2**63
    assert gram_values(total, exponents(np.ones(1)), n_rows) == 1.0


def test_the_order_of_rows_does_not_matter():
    rows = rows_of(20_000, 3)
    found = exponents_of(rows)
    backwards = np.ascontiguousarray(rows[::-1])
    np.testing.assert_array_equal(
        exact_gram([rows], found, 20_000), exact_gram([backwards], found, 20_000)
    )
