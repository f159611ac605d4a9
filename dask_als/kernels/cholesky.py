"""Cholesky factors of ridge systems: batched, or one large system at a time.

Systems are Gram matrices in the layout of `gram`, with the right-hand side in the row below the
matrix. The factor is U with UᵀU = matrix + ridge; its diagonal is stored as reciprocals.

Batched, a register holds the same element of as many systems as it has lanes. `pack` transposes
systems into this layout and `unpack` transposes the solutions back. U is stored in panels of PANEL
columns, row after row, so that both operands of a tile's update are read in order. In a single
solve, U overwrites the matrix, and a register holds neighbours in a row. Both variants factor a
system by the same operations in the same order, so the results have the same bits.

Without a ridge a system may be singular. If only a rounding error is left of a diagonal element,
the reciprocal is zero, and so are that row of U and that unknown.
"""

from __future__ import annotations

import numpy as np

from dask_als.kernels import parts, simd
from dask_als.kernels.gram import size_of, stride_of
from dask_als.kernels.simd.tile import REGISTER_BYTES, lanes

PANEL = 4

# Columns of a panel that are updated at a time: few enough to leave registers for the operands.
_UPDATED = PANEL if REGISTER_BYTES == 64 else PANEL // 2

# Rows and columns of registers in a tile of a single solve, for float32 and float64: what fits the
# processor. The order of every matrix is a multiple of a tile.
_TILES = ((16, 1), (8, 2)) if REGISTER_BYTES == 64 else ((4, 2), (4, 2))
_tile_rows = simd.constant_by_dtype(_TILES[0][0], _TILES[1][0])
_tile_columns = simd.constant_by_dtype(_TILES[0][1], _TILES[1][1])

# A register's transpose covers this many panels (rows) and columns of a panel (columns).
_panels = simd.constant_by_dtype(*(max(1, REGISTER_BYTES // size // PANEL) for size in (4, 8)))
_panel_columns = simd.constant_by_dtype(*(min(PANEL, REGISTER_BYTES // size) for size in (4, 8)))

_jit = parts.part


def tile_width(dtype):
    """Return the width of a tile in numbers; the columns of a matrix are a multiple of it."""
    return simd.lanes_of(dtype) * _TILES[0 if dtype == np.float32 else 1][1]


# --- batched ---


@_jit
def pack(matrices, columns, order, panels, x):
    """Set panels to the upper triangles of the matrices, x to the right-hand sides."""
    width = lanes(matrices)
    stride, size, span = stride_of(columns, width), size_of(columns, width), columns * PANEL * width
    for column in range(0, columns, width):
        for row in range(simd.least(order, column + width)):
            turned = simd.load_transposed(
                matrices + (row * stride + column),
                size,
                _panels(matrices),
                _panel_columns(matrices),
            )
            place = column // PANEL * span + (row * PANEL + column % PANEL) * width
            simd.store_tile(panels + place, span, turned)
    for column in range(0, columns, width):
        source = matrices + (columns * stride + column)
        simd.store_tile(x + column * width, width, simd.load_transposed(source, size, width, 1))


@_jit
def unpack(x, columns, solutions):
    """Write the packed solutions one after the other."""
    width = lanes(x)
    for column in range(0, columns, width):
        solved = simd.load_transposed(x + column * width, width, width, 1)
        simd.store_tile(solutions + column, columns, solved)


@_jit
def factor_batch(panels, columns, order, ridge):
    """Overwrite the packed matrices with their factors."""
    width = lanes(panels)
    step, span = PANEL * width, columns * PANEL * width
    for i in range(order):
        diagonal = panels + (i // PANEL * span + i * step + i % PANEL * width)
        simd.store(diagonal, simd.add(simd.load(diagonal), ridge))
    for right in range(order // PANEL):
        right_panel = panels + right * span
        for left in range(right):
            left_panel, end = panels + left * span, left * PANEL * step
            factor = simd.load_tile(left_panel + end, step, PANEL, PANEL)
            for part in range(0, step, _UPDATED * width):
                tile = simd.load_tile(right_panel + (end + part), step, PANEL, _UPDATED)
                for p in range(0, end, step):
                    column = simd.load_tile(left_panel + p, width, PANEL, 1)
                    row = simd.load_tile(right_panel + (p + part), 0, 1, _UPDATED)
                    tile = simd.subtract_product(tile, column, row)
                tile = simd.solve_transposed(factor, tile)
                simd.store_tile(right_panel + (end + part), step, tile)
        end = right * PANEL * step
        original = simd.load_tile(right_panel + end, step, PANEL, PANEL)
        tile = original
        for p in range(0, end, step):
            column = simd.load_tile(right_panel + p, width, PANEL, 1)
            row = simd.load_tile(right_panel + p, 0, 1, PANEL)
            tile = simd.subtract_product(tile, column, row)
        simd.store_tile(right_panel + end, step, simd.cholesky(tile, original))


@_jit
def forward_batch(panels, columns, order, x):
    """Overwrite x with the solutions y of Uᵀy = x."""
    width = lanes(panels)
    step, span = PANEL * width, columns * PANEL * width
    for right in range(order // PANEL):
        panel, end = panels + right * span, right * PANEL * step
        place = x + right * step
        tile = simd.load_tile(place, width, PANEL, 1)
        for p in range(right * PANEL):
            column = simd.load_tile(panel + p * step, width, PANEL, 1)
            tile = simd.subtract_product(tile, column, simd.load(x + p * width))
        factor = simd.load_tile(panel + end, step, PANEL, PANEL)
        simd.store_tile(place, width, simd.solve_transposed(factor, tile))


@_jit
def backward_batch(panels, columns, order, x):
    """Overwrite x with the solutions y of Uy = x."""
    width = lanes(panels)
    step, span = PANEL * width, columns * PANEL * width
    for right in range(order // PANEL - 1, -1, -1):
        panel, end = panels + right * span, right * PANEL * step
        place = x + right * step
        factor = simd.load_tile(panel + end, step, PANEL, PANEL)
        solved = simd.solve(factor, simd.load_tile(place, width, PANEL, 1))
        simd.store_tile(place, width, solved)
        for p in range(right * PANEL):
            row = simd.load_tile(panel + p * step, 0, 1, PANEL)
            rest = simd.load(x + p * width)
            simd.store(x + p * width, simd.subtract_product_backward(rest, row, solved))


# --- single ---


@_jit
def factor_single(u, columns, ridge, block):
    """Overwrite the upper triangle of a matrix with its factor; block is scratch memory."""
    rows, width = _tile_rows(u), _tile_columns(u) * lanes(u)
    stride = stride_of(columns, lanes(u))
    for i in range(columns):
        u[i * (stride + 1)] += ridge
    for row in range(0, columns, rows):
        for column in range(row // width * width, columns, width):
            place = u + (row * stride + column)
            tile = simd.load_tile(place, stride, rows, _tile_columns(u))
            for p in range(0, row * stride, stride):
                left = simd.broadcast_tile(u + (p + row), 1, rows, 1)
                right = simd.load_tile(u + (p + column), 0, 1, _tile_columns(u))
                tile = simd.subtract_product(tile, left, right)
            if column <= row:
                for i in range(rows):
                    block[rows * rows + i] = u[(row + i) * (stride + 1)]
                simd.store_tile(place, stride, tile)
                _factor_block(u + row * (stride + 1), stride, block)
            factor = simd.broadcast_tile(block, rows, rows, rows)
            simd.store_tile(place, stride, simd.solve_transposed(factor, tile))
        for i in range(rows):
            u[(row + i) * (stride + 1)] = block[i * (rows + 1)]


@_jit
def _factor_block(u, stride, block):
    """Set block to the factor of a diagonal block; the original diagonal is stored behind it."""
    size = _tile_rows(u)
    for i in range(size):
        for j in range(i, size):
            block[i * size + j] = u[i * stride + j]
    for p in range(size):
        reciprocal = simd.reciprocal_pivot(block[p * size + p], block[size * size + p])
        block[p * size + p] = reciprocal
        for j in range(p + 1, size):
            block[p * size + j] *= reciprocal
        for i in range(p + 1, size):
            left = block[p * size + i]
            for j in range(i, size):
                right = block[p * size + j]
                block[i * size + j] = simd.multiply_subtract(left, right, block[i * size + j])


@_jit
def forward_single(u, columns, x):
    """Overwrite x with the solution y of Uᵀy = x."""
    width = lanes(u)
    stride = stride_of(columns, width)
    for start in range(0, columns, width):
        for p in range(start, start + width):
            x[p] *= u[p * (stride + 1)]
            for j in range(p + 1, start + width):
                x[j] = simd.multiply_subtract(u[p * stride + j], x[p], x[j])
        solved = simd.broadcast_tile(x + start, 0, 1, width)
        for column in range(start + width, columns, width):
            rows = simd.load_tile(u + (start * stride + column), stride, width, 1)
            rest = simd.load(x + column)
            simd.store(x + column, simd.subtract_product(rest, solved, rows))


@_jit
def backward_single(u, columns, x):
    """Overwrite x with the solution y of Uy = x."""
    width = lanes(u)
    stride = stride_of(columns, width)
    for start in range(columns - width, -1, -width):
        for p in range(start + width - 1, start - 1, -1):
            x[p] *= u[p * (stride + 1)]
            for i in range(start, p):
                x[i] = simd.multiply_subtract(u[i * stride + p], x[p], x[i])
        solved = simd.broadcast_tile(x + start, 1, width, 1)
        for row in range(0, start, width):
            turned = simd.load_transposed(u + (row * stride + start), stride, 1, width)
            rest = simd.load(x + row)
            simd.store(x + row, simd.subtract_product_backward(rest, turned, solved))
