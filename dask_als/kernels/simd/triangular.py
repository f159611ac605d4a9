"""Cholesky factors of small square tiles and their triangular systems: one system in every lane."""

from __future__ import annotations

from numba.extending import intrinsic

from dask_als.kernels.simd.arithmetic import emit_multiply_subtract, emit_reciprocal_pivot


@intrinsic
def cholesky(_typing, tile, original):
    """Return U with UᵀU = tile for a square tile, the RECIPROCALS of its diagonal on the diagonal.

    Only registers on and above the diagonal are read. `original` holds the diagonal before the
    elimination: where only a rounding error is left of it, the reciprocal is zero.
    """

    def emit(_context, builder, _signature, args):
        u, diagonal = tile.unpack(builder, args[0]), original.unpack(builder, args[1])
        for p in range(tile.rows):
            u[p, p] = emit_reciprocal_pivot(builder, u[p, p], diagonal[p, p])
            for c in range(p + 1, tile.columns):
                u[p, c] = builder.fmul(u[p, c], u[p, p])
            for r in range(p + 1, tile.rows):
                for c in range(r, tile.columns):
                    u[r, c] = emit_multiply_subtract(builder, u[p, r], u[p, c], u[r, c])
        return tile.pack(builder, u)

    return tile(tile, original), emit


@intrinsic
def solve_transposed(_typing, factor, tile):
    """Return X with UᵀX = tile, for the factor U as `cholesky` returns it."""

    def emit(_context, builder, _signature, args):
        u, x = factor.unpack(builder, args[0]), tile.unpack(builder, args[1])
        for r, c in tile.positions():
            for p in range(r):
                x[r, c] = emit_multiply_subtract(builder, u[p, r], x[p, c], x[r, c])
            x[r, c] = builder.fmul(x[r, c], u[r, r])
        return tile.pack(builder, x)

    return tile(factor, tile), emit


@intrinsic
def solve(_typing, factor, tile):
    """Return X with UX = tile, for the factor U as `cholesky` returns it."""

    def emit(_context, builder, _signature, args):
        u, x = factor.unpack(builder, args[0]), tile.unpack(builder, args[1])
        for r, c in reversed(tile.positions()):
            for p in reversed(range(r + 1, tile.rows)):
                x[r, c] = emit_multiply_subtract(builder, u[r, p], x[p, c], x[r, c])
            x[r, c] = builder.fmul(x[r, c], u[r, r])
        return tile.pack(builder, x)

    return tile(factor, tile), emit
