"""Tiles of SIMD registers for numba.

A `Tile` is a small matrix whose elements are SIMD registers: vectors of `lanes(pointer)` numbers,
or of fewer if the caller gives their count. Numba code passes tiles around like any other value,
and LLVM keeps them in registers as long as there are enough. Tiles are loaded from and stored to
bare pointers, which have no reference counts to maintain. Strides count numbers, not bytes; shapes
are compile-time constants.

These functions do not check bounds. All arithmetic is IEEE and elementwise: the result in a lane
depends on that lane alone and is the same for every register width. A product and the addition
that follows it are fused wherever the processor can.
"""

from __future__ import annotations

from dask_als.kernels.simd.arithmetic import (
    add,
    add_product,
    add_products_of_lanes,
    greatest,
    least,
    multiply_subtract,
    n_distances,
    reciprocal_pivot,
    square_of_products,
    subtract_product,
    subtract_product_backward,
    sum_of_lanes,
    widened,
)
from dask_als.kernels.simd.memory import (
    broadcast_rows,
    broadcast_tile,
    load,
    load_columns,
    load_first,
    load_like,
    load_tile,
    load_transposed,
    pointer,
    prefetch,
    store,
    store_tile,
    zeros,
)
from dask_als.kernels.simd.tile import (
    REGISTER_BYTES,
    Tile,
    constant_by_dtype,
    lanes,
    lanes_of,
    numbers_of_a_line,
)
from dask_als.kernels.simd.triangular import cholesky, solve, solve_transposed

__all__ = [
    "REGISTER_BYTES",
    "Tile",
    "add",
    "add_product",
    "add_products_of_lanes",
    "broadcast_rows",
    "broadcast_tile",
    "cholesky",
    "constant_by_dtype",
    "greatest",
    "lanes",
    "lanes_of",
    "least",
    "load",
    "load_columns",
    "load_first",
    "load_like",
    "load_tile",
    "load_transposed",
    "multiply_subtract",
    "n_distances",
    "numbers_of_a_line",
    "pointer",
    "prefetch",
    "reciprocal_pivot",
    "solve",
    "solve_transposed",
    "square_of_products",
    "store",
    "store_tile",
    "subtract_product",
    "subtract_product_backward",
    "sum_of_lanes",
    "widened",
    "zeros",
]
