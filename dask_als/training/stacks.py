"""The samples of a partition side by side, and the steps that cut them down to a lower rank.

A stack has a column that is 1 for rated rows, the bias of each sample, the factors of the last
reduction, if any, and the factors of each sample after it. Workers run these functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dask_als.core.blocks import Factors
from dask_als.core.side import SIDES, Side
from dask_als.data.dataset import RowsFile
from dask_als.model import compact, state_parts
from dask_als.model import files as model_files
from dask_als.model.blas_threads import one_blas_thread
from dask_als.model.exact_products import exact_gram, exact_product, exponents, gram_values
from dask_als.model.new_row_files import write_new_rows
from dask_als.settings.training import TrainSettings
from dask_als.solvers.new_row_prior import NewRowPrior
from dask_als.solvers.new_rows import SideMoments
from dask_als.training import reduction_files
from dask_als.training.reduction_files import NewRowMoments

ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Columns:
    """Which columns a stack has.

    Attributes
    ----------
    n_samples : int
        Samples that are stacked as they are.
    rank : int
        Of a sample.
    n_reduced : int
        Factors of the last reduction; 0 without one.
    """

    n_samples: int
    rank: int
    n_reduced: int

    @property
    def factors(self) -> slice:
        """All factors."""
        return slice(1 + self.n_samples, None)

    @property
    def reduced(self) -> slice:
        """The factors of the last reduction, among all factors."""
        return slice(0, self.n_reduced)

    def sample(self, number: int) -> slice:
        """Return the factors of a sample, among all factors."""
        start = self.n_reduced + number * self.rank
        return slice(start, start + self.rank)


@dataclass(frozen=True)
class StackFiles:
    """Where a partition's part of a stack is.

    Attributes
    ----------
    side : Side
    number : int
        Of the partition.
    rows : range
    ids : RowsFile
        Which has the number of ratings of each row.
    reduction : tuple of (str, int) or None
        The last reduction and the CRC-32 of its part.
    samples : tuple of (str, int)
        The samples after it and the CRC-32 of their parts.
    """

    side: Side
    number: int
    rows: range
    ids: RowsFile
    reduction: tuple[str, int] | None
    samples: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Step:
    """What all tasks of a reduction know.

    Attributes
    ----------
    settings : TrainSettings
    columns : Columns
    rank : int
        Of the result.
    n_rows : dict of Side to int
    """

    settings: TrainSettings
    columns: Columns
    rank: int
    n_rows: dict[Side, int]


@dataclass(frozen=True)
class Reduced:
    """The result of the small decomposition.

    Attributes
    ----------
    truncation : Truncation
    moments : dict of Side to NewRowMoments
        In the space of the new factors.
    bias_variances : dict of Side to float
        Summed over the stacked samples.
    """

    truncation: compact.Truncation
    moments: dict[Side, NewRowMoments]
    bias_variances: dict[Side, float]


class _Stack:
    """A partition's part of a stack in memory."""

    def __init__(self, files: StackFiles) -> None:
        counts = files.ids.read(files.rows, ["count"]).column("count").to_numpy()
        self._rated = (counts > 0).astype(np.float64)
        samples = [
            state_parts.read_part(path, files.side, files.number, crc32)
            for path, crc32 in files.samples
        ]
        self._biases = [sample.bias for sample in samples]
        self._factors = [sample.factors for sample in samples]
        self._reduced_bias: np.ndarray | None = None
        if files.reduction is not None:
            path, crc32 = files.reduction
            reduced = state_parts.read_part(path, files.side, files.number, crc32)
            self._reduced_bias = reduced.bias
            self._factors.insert(0, reduced.factors)

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield the rows with all columns, float64, some at once."""
        for start in range(0, len(self._rated), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            rated = self._rated[rows, None]
            biases = [bias[rows, None] * rated for bias in self._biases]
            factors = [factors[rows] for factors in self._factors]
            yield np.concatenate([rated, *biases, *factors], axis=1, dtype=np.float64)

    def bias(self) -> np.ndarray:
        """Return the sum of each row's biases over all samples."""
        total = np.zeros(len(self._rated)) if self._reduced_bias is None else self._reduced_bias
        for bias in self._biases:
            total = total + bias
        return total


def maxima_of_part(files: StackFiles) -> np.ndarray:
    """Return the largest magnitude of each column."""
    return np.max([np.abs(chunk).max(axis=0) for chunk in _Stack(files).chunks()], axis=0)


def exponents_of_side(maxima: list[np.ndarray]) -> np.ndarray:
    """Return the exponent of each column, from the maxima of all partitions."""
    return exponents(np.max(maxima, axis=0))


def gram_of_part(files: StackFiles, column_exponents: np.ndarray, n_rows: int) -> np.ndarray:
    """Return the exact Gram matrix of a partition's rows with ratings.

    Those that have attributes alone are at predicted places, and not what is approximated.
    """
    rated = map(_only_rated, _Stack(files).chunks())
    with one_blas_thread():
        return exact_gram(rated, column_exponents, n_rows)


def _only_rated(chunk: np.ndarray) -> np.ndarray:
    """Set the rows without ratings of a new chunk to 0, in place."""
    chunk *= chunk[:, :1].copy()
    return chunk


def sum_of_grams(grams: list[np.ndarray]) -> np.ndarray:
    """Return the sum of exact Gram matrices."""
    return sum(grams[1:], grams[0])


def reduce_stack(
    step: Step,
    totals: list[np.ndarray],
    column_exponents: list[np.ndarray],
    moments: dict[Side, tuple[str, int]] | None,
) -> Reduced:
    """Decompose the stack of both sides.

    Parameters
    ----------
    totals, column_exponents : list of ndarray
        Of users and items.
    moments : dict of Side to tuple of (str, int) or None
        The last reduction and the CRC-32 of its moments.
    """
    grams = {
        side: gram_values(total, side_exponents, step.n_rows[side])
        for side, total, side_exponents in zip(SIDES, totals, column_exponents, strict=True)
    }
    factors = step.columns.factors
    with one_blas_thread():
        truncation = compact.truncate(
            {side: gram[factors, factors] for side, gram in grams.items()}, step.rank
        )
        found = {
            side: _moments(step, side, grams[side], truncation.maps[side], moments)
            for side in SIDES
        }
    return Reduced(
        truncation,
        {side: moments_of_side for side, (moments_of_side, _) in found.items()},
        {side: variance for side, (_, variance) in found.items()},
    )


def _moments(
    step: Step,
    side: Side,
    gram: np.ndarray,
    to_new: np.ndarray,
    before: dict[Side, tuple[str, int]] | None,
) -> tuple[NewRowMoments, float]:
    """Return the moments of a new row of a side, and the variance of its bias, over samples."""
    columns = step.columns
    mean, second, variance = np.zeros(step.rank), np.zeros((step.rank, step.rank)), 0.0
    if before is not None:
        reduced, to_new_factors = (
            reduction_files.read_moments(*_in(before, side)),
            to_new[columns.reduced],
        )
        mean += reduced.mean @ to_new_factors
        second += to_new_factors.T @ reduced.second @ to_new_factors
    n_rated = round(gram[0, 0])
    totals, products = gram[0, columns.factors], gram[columns.factors, columns.factors]
    for number in range(columns.n_samples):
        place = columns.sample(number)
        of_sample = SideMoments(
            n_rated, totals[place], products[place, place], gram[1 + number, 1 + number]
        )
        sample_mean, sample_second, sample_variance = of_sample.expected_prior(step.settings, side)
        mean += sample_mean @ to_new[place]
        second += to_new[place].T @ sample_second @ to_new[place]
        variance += sample_variance
    return NewRowMoments(mean, second), variance


def _in(moments: dict[Side, tuple[str, int]], side: Side) -> tuple[str, Side, int]:
    path, crc32 = moments[side]
    return path, side, crc32


def figures_of(reduced: Reduced) -> tuple[float, dict[Side, float]]:
    """Return the distance of a truncation, and the variance of a new row's bias by side."""
    return reduced.truncation.distance, reduced.bias_variances


def write_reduced_part(
    directory: str, files: StackFiles, column_exponents: np.ndarray, reduced: Reduced, dtype: str
) -> int:
    """Write a partition of a reduction; return the file's CRC-32."""
    factors = _reduced_factors(files, column_exponents, reduced)
    factors = Factors(factors.bias, factors.factors.astype(dtype))
    return state_parts.write_part(directory, files.side, files.number, factors)


def write_moments(directory: str, side: Side, reduced: Reduced) -> int:
    """Write the moments of new rows for the next reduction; return the file's CRC-32."""
    return reduction_files.write_moments(directory, side, reduced.moments[side])


def write_compact_part(
    model: str,
    files: StackFiles,
    column_exponents: np.ndarray,
    reduced: Reduced,
    dtype: str,
    n_samples: int,
) -> int:
    """Write a partition of a compact model of so many samples; return the file's CRC-32."""
    sums = _reduced_factors(files, column_exponents, reduced)
    mean = Factors(
        (sums.bias / n_samples).astype(dtype), (sums.factors / np.sqrt(n_samples)).astype(dtype)
    )
    return model_files.write_dataset_part(
        model, files.ids, files.side, files.number, files.rows, mean
    )


def write_new_row_prior(
    model: str, side: Side, reduced: Reduced, n_samples: int, bias_variance: float
) -> int:
    """Write the prior of new rows of a compact model; return the file's CRC-32.

    Parameters
    ----------
    bias_variance : float
        Of the bias, the sum over all samples.
    """
    moments = reduced.moments[side]
    # The factors of the other side are those of the sum over the root of n_samples.
    mean = moments.mean / np.sqrt(n_samples)
    with one_blas_thread():
        values, vectors = np.linalg.eigh(moments.second - np.outer(mean, mean))
        root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    whole = np.zeros((len(mean) + 1, len(mean) + 1))
    whole[0, 0] = np.sqrt(bias_variance / n_samples)
    whole[1:, 1:] = root
    return write_new_rows(model, side, NewRowPrior(np.concatenate([[0.0], mean]), whole))


def _reduced_factors(files: StackFiles, column_exponents: np.ndarray, reduced: Reduced) -> Factors:
    stack, to_new = _Stack(files), reduced.truncation.maps[files.side]
    # The factors are the last columns.
    factors = slice(len(column_exponents) - len(to_new), None)
    with one_blas_thread():
        products = [
            exact_product(chunk[:, factors], to_new, column_exponents[factors])
            for chunk in stack.chunks()
        ]
    return Factors(stack.bias(), np.concatenate(products))
