"""One side of a model: ids, counts, biases and factors of its rows."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_als.core.blocks import Factors, concatenated
from dask_als.core.side import Side
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model.ids import Unknown, checked_ids, listed, report_unknown
from dask_als.model.manifest import ModelManifest, ModelSide
from dask_als.model.new_row_files import read_new_rows, write_new_rows
from dask_als.solvers.new_row_prior import NewRowPrior

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
        For an average of samples.
    new_rows : NewRowPrior or None
        For a compact model, the prior of new rows of this side.
    """

    side: Side
    ids: pd.Index[Any]
    counts: np.ndarray
    state: Factors
    mean_bias: float
    biases_of_samples: np.ndarray | None = None
    new_rows: NewRowPrior | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Without what is computed from the fields.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def rows(self, ids: Any, *, unknown: Unknown = "ignore") -> np.ndarray:
        """Return the row of each id, -1 for unknown ones.

        Raises
        ------
        InputError
            If an id is missing or of another type than those of the model (see
            `dask_als.model.ids`), or is unknown and `unknown` is ``"error"``.
        """
        wanted = self.checked(ids)
        rows = self.ids.get_indexer(wanted)
        report_unknown(wanted, rows == UNKNOWN, self.side.singular, unknown)
        return rows

    def checked(self, ids: Any) -> pd.Index[Any]:
        """Return ids in the type of the model's ids; InputError as for `rows`."""
        return checked_ids(ids, self.ids.dtype, self.side.singular)

    def row(self, identifier: Any) -> int:
        """Return the row of an id.

        Raises
        ------
        InputError
            If it is unknown.
        """
        (row,) = self.rows(listed(identifier), unknown="error")
        return int(row)

    def parse(self, text: str) -> Any:
        """Return the id that a text represents: a number where ids are numbers.

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
        """The state with a last row for unknown ids, which index -1 selects."""
        last = Factors(
            np.array([self.mean_bias], dtype=self.state.bias.dtype),
            np.zeros((1, self.state.factors.shape[1]), dtype=self.state.factors.dtype),
        )
        return concatenated([self.state, last])

    @cached_property
    def samples_with_unknown(self) -> Factors:
        """The argument of `standard_deviations`, with a last row as in `with_unknown`."""
        assert self.biases_of_samples is not None, "the model was checked to have samples"
        last = model_files.mean_biases_of_samples(self.counts, self.biases_of_samples)
        return Factors(
            np.concatenate([self.biases_of_samples, last[None, :]], dtype=np.float64),
            self.with_unknown.factors,
        )


def read_model_rows(path: str, manifest: ModelManifest, side: Side) -> ModelRows:
    """Read one side of a model directory."""
    entry = manifest.side(side)
    tables = [
        model_files.read_part(path, manifest, side, number, model_files.columns_of(manifest))
        for number in range(len(entry.partitions))
    ]
    table = pa.concat_tables(tables)
    return ModelRows(
        side,
        pd.Index(table.column("id").to_pandas()),
        table.column("count").to_numpy(),
        model_files.state_of(table),
        entry.mean_bias,
        model_files.biases_of_samples(table) if manifest.knows_deviations else None,
        read_new_rows(path, manifest, side),
    )


def write_model_rows(path: str, side: ModelSide, rows: ModelRows) -> ModelSide:
    """Write the parts of one side of a model; return the entry of the side in its manifest."""
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
