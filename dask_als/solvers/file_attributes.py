"""The attributes of rows that come from a file, as row priors use them; see `row_prior`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dask_als.core.sparse import SparseRows, sparse_rows


@dataclass(frozen=True)
class FileAttributes:
    """The attributes of a side's rows that come from a file.

    Attributes
    ----------
    by_row : SparseRows
        The matrix of all rows.
    by_column : SparseRows
        That of the rows with training ratings, transposed.
    is_rated, is_cold : ndarray of bool, shape (n_rows,)
        Which rows have training ratings, and which have attributes alone.
    """

    by_row: SparseRows
    by_column: SparseRows
    is_rated: np.ndarray
    is_cold: np.ndarray

    def __sizeof__(self) -> int:
        masks = self.is_rated.nbytes + self.is_cold.nbytes
        return self.by_row.__sizeof__() + self.by_column.__sizeof__() + masks


def file_attributes(
    matrix: SparseRows, scales: list[np.ndarray], dtype: str, has_intercept: bool
) -> FileAttributes:
    """Return the attributes of a file as training uses them.

    Parameters
    ----------
    matrix : SparseRows
        Of all rows of the side.
    scales : list of ndarray
        Of its partitions, see `scale_of_rows`.
    has_intercept : bool
        Whether a first column is 1 for each row with attributes.
    """
    is_rated, has_any = np.concatenate(scales) > 0, matrix.counts > 0
    if has_intercept:
        matrix = _with_intercept(matrix)
    matrix = replace(matrix, values=matrix.values.astype(dtype))
    return FileAttributes(matrix, matrix.transposed(is_rated), is_rated, has_any & ~is_rated)


def _with_intercept(matrix: SparseRows) -> SparseRows:
    """Return a matrix with a first column that is 1 for each row that has any value."""
    ones = np.flatnonzero(matrix.counts)
    return sparse_rows(
        matrix.n_rows,
        matrix.n_columns + 1,
        np.concatenate([ones, matrix.row_of_value]),
        np.concatenate([np.zeros(len(ones), np.int64), matrix.indices + 1]),
        np.concatenate([np.ones(len(ones)), matrix.values]),
    )
