"""Sparse matrices as compressed rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix as compressed rows; within a row, columns ascend.

    Attributes
    ----------
    n_columns : int
    indptr : ndarray of int64, shape (n_rows + 1,)
    indices : ndarray of int32
    values : ndarray of float32 or float64
    """

    n_columns: int
    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray

    def __sizeof__(self) -> int:
        return self.indptr.nbytes + self.indices.nbytes + self.values.nbytes

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.indptr) - 1

    @property
    def counts(self) -> np.ndarray:
        """The number of values in each row."""
        return np.diff(self.indptr)

    @property
    def row_of_value(self) -> np.ndarray:
        """The row of each value."""
        return np.repeat(np.arange(self.n_rows), self.counts)

    def transposed(self, keep: np.ndarray) -> SparseRows:
        """Return the transposed matrix, without the values of rows that are not kept."""
        row = self.row_of_value
        kept = keep[row]
        return sparse_rows(
            self.n_columns, self.n_rows, self.indices[kept], row[kept], self.values[kept]
        )

    def dense(self) -> np.ndarray:
        """Return all numbers."""
        matrix = np.zeros((self.n_rows, self.n_columns), self.values.dtype)
        matrix[self.row_of_value, self.indices] = self.values
        return matrix


def sparse_rows(
    n_rows: int, n_columns: int, rows: np.ndarray, columns: np.ndarray, values: np.ndarray
) -> SparseRows:
    """Return a matrix from the place of each value; no place is there twice."""
    order = np.lexsort((columns, rows))
    indptr = np.zeros(n_rows + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=n_rows), out=indptr[1:])
    return SparseRows(n_columns, indptr, columns[order].astype(np.int32), values[order])
