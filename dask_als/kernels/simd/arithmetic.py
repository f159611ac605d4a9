"""Sums and products of tiles, and products of the lanes of a register."""

from __future__ import annotations

from functools import cache
from itertools import combinations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from dask_als.kernels.simd.tile import (
    REGISTER_BYTES,
    Tile,
    constant_by_dtype,
    llvm_constant,
    permuted,
)


def _call_llvm(builder, name, *args):
    scalar = getattr(args[0].type, "element", args[0].type)
    suffix = "f32" if scalar == ir.FloatType() else "f64"
    if scalar != args[0].type:
        suffix = f"v{args[0].type.count}{suffix}"
    function_type = ir.FunctionType(args[0].type, [arg.type for arg in args])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function_type, f"llvm.{name}.{suffix}"), args
    )


def emit_multiply_add(builder, a, b, c):
    """Emit a*b + c of scalars or registers."""
    return _call_llvm(builder, "fmuladd", a, b, c)


def emit_multiply_subtract(builder, a, b, c):
    """Emit c - a*b of scalars or registers."""
    return _call_llvm(builder, "fmuladd", builder.fneg(a), b, c)


def emit_reciprocal_pivot(builder, pivot, diagonal):
    """Emit 1/sqrt(pivot), or zero if the pivot is a rounding error of the original diagonal."""
    single = getattr(pivot.type, "element", pivot.type) == ir.FloatType()
    limit = builder.fmul(diagonal, llvm_constant(pivot.type, 16 * 2.0 ** (-23 if single else -52)))
    reciprocal = builder.fdiv(llvm_constant(pivot.type, 1.0), _call_llvm(builder, "sqrt", pivot))
    positive = builder.fcmp_ordered(">", pivot, limit)
    return builder.select(positive, reciprocal, llvm_constant(pivot.type, 0.0))


def _chosen(sign, first, second):
    """Return typing and code of an intrinsic: the second number if it compares so, else the first.

    As Python's functions `min` and `max`, for which numba compiles functions of their own.
    """
    if first != second:
        return None

    def emit(_context, builder, _signature, args):
        is_float = isinstance(first, types.Float)
        compare = builder.fcmp_ordered if is_float else builder.icmp_signed
        return builder.select(compare(sign, args[1], args[0]), args[1], args[0])

    return first(first, first), emit


@intrinsic
def least(_typing, first, second):
    """Return min(first, second) of two numbers of one type."""
    return _chosen("<", first, second)


@intrinsic
def greatest(_typing, first, second):
    """Return max(first, second) of two numbers of one type."""
    return _chosen(">", first, second)


@intrinsic
def multiply_subtract(_typing, a, b, c):
    """Return c - a*b of three numbers, rounded as in tiles."""
    return a(a, a, a), lambda _context, builder, _signature, args: emit_multiply_subtract(
        builder, *args
    )


@intrinsic
def reciprocal_pivot(_typing, pivot, diagonal):
    """Return the diagonal element that `cholesky` computes from a pivot; both are scalars."""

    def emit(_context, builder, _signature, args):
        return emit_reciprocal_pivot(builder, *args)

    return pivot(pivot, pivot), emit


@intrinsic
def add(_typing, left, right):
    """Return left + right."""

    def emit(_context, builder, _signature, args):
        a, b = left.unpack(builder, args[0]), left.unpack(builder, args[1])
        return left.pack(builder, {place: builder.fadd(a[place], b[place]) for place in a})

    return left(left, right), emit


def _product(combine, order, tile, left, right):
    def emit(_context, builder, _signature, args):
        total, a, b = (
            kind.unpack(builder, arg) for kind, arg in zip((tile, left, right), args, strict=True)
        )
        for p in order(range(left.columns)):
            for r, c in tile.positions():
                total[r, c] = combine(builder, a[r, p], b[p, c], total[r, c])
        return tile.pack(builder, total)

    return tile(tile, left, right), emit


@intrinsic
def add_product(_typing, tile, left, right):
    """Return tile + left right, a matrix product of tiles summed from first term to last."""
    return _product(emit_multiply_add, iter, tile, left, right)


@intrinsic
def subtract_product(_typing, tile, left, right):
    """Return tile - left right, a matrix product of tiles summed from first term to last."""
    return _product(emit_multiply_subtract, iter, tile, left, right)


@intrinsic
def subtract_product_backward(_typing, tile, left, right):
    """Return tile - left right, a matrix product of tiles summed from last term to first."""
    return _product(emit_multiply_subtract, reversed, tile, left, right)


@intrinsic
def widened(_typing, tile):
    """Return the tile in float64, with as many lanes."""
    result = Tile(types.float64, tile.rows, tile.columns, tile.lanes)

    def emit(_context, builder, _signature, args):
        if tile == result:
            return args[0]
        narrow = tile.unpack(builder, args[0])
        return result.pack(
            builder,
            {place: builder.fpext(narrow[place], result.register) for place in narrow},
        )

    return result(tile), emit


@intrinsic
def sum_of_lanes(_typing, register):
    """Return the sum over the lanes of one register, adding its halves, then halves of that."""

    def emit(_context, builder, _signature, args):
        x, count = builder.extract_value(args[0], 0), register.lanes
        while count > 1:
            count //= 2
            upper = permuted(builder, x, range(count, 2 * count))
            x = builder.fadd(permuted(builder, x, range(count)), upper)
        return builder.extract_element(x, ir.Constant(ir.IntType(32), 0))

    return register.dtype(register), emit


# Products of lanes are grouped by the distance of the lanes, counted around the register: half of
# the lanes is the largest distance. A row of registers has one register for each distance. Its
# lane i holds the product of lanes i + a and i + b; the rotations a and b differ by the distance.
n_distances = constant_by_dtype(REGISTER_BYTES // 4 // 2 + 1, REGISTER_BYTES // 8 // 2 + 1)


@cache
def _rotations_by_distance(lanes):
    """Return two rotations for each distance, with the fewest distinct rotations."""
    distances = range(lanes // 2 + 1)
    for count in range(1, lanes):
        for others in combinations(range(1, lanes), count):
            rotations = (0, *others)
            pairs = {(b - a) % lanes: (a, b) for a in rotations for b in rotations}
            if pairs.keys() >= set(distances):
                return [pairs[distance] for distance in distances]
    raise AssertionError("all rotations cover every distance")


@intrinsic
def add_products_of_lanes(_typing, products, register):
    """Return products + the products of any two numbers of a register."""
    rotations = _rotations_by_distance(register.lanes)

    def emit(_context, builder, _signature, args):
        total, x = products.unpack(builder, args[0]), builder.extract_value(args[1], 0)
        rotated = {by: _rotated(builder, x, by) for pair in rotations for by in pair}
        for distance, (a, b) in enumerate(rotations):
            total[0, distance] = emit_multiply_add(
                builder, rotated[a], rotated[b], total[0, distance]
            )
        return products.pack(builder, total)

    return products(products, register), emit


@intrinsic
def square_of_products(_typing, products):
    """Return the symmetric square with the product of lanes i and j in lane j of row i."""
    n = products.lanes
    square, rotations = Tile(products.dtype, n, 1), _rotations_by_distance(n)

    def emit(_context, builder, _signature, args):
        total = products.unpack(builder, args[0])
        # Row r first holds the products of lanes j + r and j; the steps move lane j to row r - j.
        rows = []
        for row in range(n):
            distance = min(row, n - row)
            a, b = rotations[distance]
            rows.append(_rotated(builder, total[0, distance], -(a if row == distance else b)))
        step = 1
        while step < n:
            lanes = [lane + lane // step % 2 * n for lane in range(n)]
            rows = [permuted(builder, rows[row], lanes, rows[row - step]) for row in range(n)]
            step *= 2
        return square.pack(builder, {(row, 0): rows[row] for row in range(n)})

    return square(products), emit


def _rotated(builder, register, by):
    """Return the register rotated: lane i gets lane i + by, counted around the register."""
    count = register.type.count
    return permuted(builder, register, [(lane + by) % count for lane in range(count)])
