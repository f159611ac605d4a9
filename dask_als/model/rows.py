"""One side of a model: ids, counts, biases and factors of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_als.core.blocks import Factors, concatenated
from dask_als.core.side import Side
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model.files import ModelManifest, ModelSide
from dask_als.model.new_row_files import read_new_rows, write_new_rows
from dask_als.solvers.new_rows import NewRowPrior

UNKNOWN = -1


@dataclass(frozen=True)
class ModelRows:
    """One side of a model.

    Attributes
    ----------
    side : Side
    ids : pandas.Index
        As in the source.
    counts : ndarray of int64, shape (n_rows,)
        Training ratings of each row.
    state : Factors
        Biases and factors of each row.
    mean_bias : float
        The bias of an unknown id.
    biases_of_samples : ndarray, shape (n_rows, n_samples), or None
        Of an average of samples.
    new_rows : NewRowPrior or None
        Of a compact model, the prior of new rows of this side.
    """

    side: Side
    ids: pd.Index[Any]
    counts: np.ndarray
    state: Factors
    mean_bias: float
    biases_of_samples: np.ndarray | None = None
    new_rows: NewRowPrior | None = None

    def rows(self, ids: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return the row of each id, -1 for unknown ones."""
        return self.ids.get_indexer(pd.Index(ids))

    def row(self, identifier: Any) -> int:
        """Return the row of an id.

        Raises
        ------
        InputError
            If it is unknown.
        """
        (row,) = self.rows([identifier])
        if row == UNKNOWN:
            raise InputError(f"{self.side.singular} {identifier!r} is not in the model")
        return int(row)

    def parse(self, text: str) -> Any:
        """Return the id that a text stands for: a number where ids are numbers.

        Raises
        ------
        InputError
            If it must be a number and is not.
        """
        if not pd.api.types.is_integer_dtype(self.ids.dtype):
            return text
        try:
            return int(text)
        except ValueError:
            raise InputError(
                f"{self.side.singular} ids are whole numbers here, not {text!r}"
            ) from None

    @cached_property
    def with_unknown(self) -> Factors:
        """The state with a last row, which index -1 picks, for unknown ids."""
        last = Factors(
            np.array([self.mean_bias], dtype=self.state.bias.dtype),
            np.zeros((1, self.state.factors.shape[1]), dtype=self.state.factors.dtype),
        )
        return concatenated([self.state, last])

    @cached_property
    def samples_with_unknown(self) -> Factors:
        """What `standard_deviations` takes, with a last row, as `with_unknown`."""
        assert self.biases_of_samples is not None, "the model was checked to have samples"
        last = model_files.mean_biases_of_samples(self.counts, self.biases_of_samples)
        return Factors(
            np.concatenate([self.biases_of_samples, last[None, :]], dtype=np.float64),
            self.with_unknown.factors,
        )


def read_model_rows(path: str, manifest: ModelManifest, side: Side) -> ModelRows:
    """Read one side of a model directory."""
    its = manifest.side(side)
    tables = [
        model_files.read_part(path, manifest, side, number, model_files.columns_of(manifest))
        for number in range(len(its.partitions))
    ]
    table = pa.concat_tables(tables)
    return ModelRows(
        side,
        pd.Index(table.column("id").to_pandas()),
        table.column("count").to_numpy(),
        model_files.state_of(table),
        its.mean_bias,
        model_files.biases_of_samples(table) if manifest.knows_deviations else None,
        read_new_rows(path, manifest, side),
    )


def write_model_rows(path: str, side: ModelSide, rows: ModelRows) -> ModelSide:
    """Write the parts of one side of a model; return what its manifest says of the side."""
    table = pa.table({"id": pa.array(rows.ids), "count": rows.counts})
    biases = rows.biases_of_samples
    if rows.new_rows is not None:
        side = replace(side, new_rows_crc32=write_new_rows(path, rows.side, rows.new_rows))
    return side.written(
        [
            model_files.write_part(
                path,
                rows.side,
                number,
                table.slice(part.start, len(part.rows)),
                rows.state[part.start : part.stop],
                None if biases is None else biases[part.start : part.stop],
            )
            for number, part in enumerate(side.partitions)
        ]
    )
