"""Tiles of SIMD registers for numba.

A `Tile` is a small matrix whose elements are SIMD registers: vectors of `lanes(pointer)` numbers,
or of fewer where that is said. Numba code passes tiles around like any other value, and LLVM keeps
them in registers as long as those suffice. Tiles are loaded from and stored to bare pointers, which
have no reference counts to maintain. Strides count numbers; shapes are compile-time constants.

Nothing here checks bounds. All arithmetic is IEEE and elementwise: what happens in a lane depends
on that lane alone and is the same for every register width. A product is fused with the sum it
goes into wherever the processor can.
"""

from __future__ import annotations

import operator
from functools import cache
from itertools import combinations

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model

from dask_als.core.aligned import CACHE_LINE_BYTES

_CPU_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2]

REGISTER_BYTES = 64 if "+avx512f" in _CPU_FEATURES else 32 if "+avx2" in _CPU_FEATURES else 16


class Tile(types.Type):
    """Numba type of a rows x columns matrix of registers; dtype is numba's float32 or float64."""

    def __init__(self, dtype, rows, columns, lane_count=None):
        self.dtype, self.rows, self.columns = dtype, rows, columns
        self.lanes = lane_count or _lanes(dtype)
        self.scalar = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
        self.register = ir.VectorType(self.scalar, self.lanes)
        super().__init__(name=f"Tile({dtype}, {rows}, {columns}, {self.lanes})")

    def positions(self):
        """Return (row, column) of every register in the order of storage."""
        return [(row, column) for row in range(self.rows) for column in range(self.columns)]

    def unpack(self, builder, value):
        """Return the registers of an LLVM value of this type as a dictionary by position."""
        return {place: builder.extract_value(value, i) for i, place in enumerate(self.positions())}

    def pack(self, builder, registers):
        """Return the LLVM value of this type with the given registers by position."""
        value = ir.Constant(ir.ArrayType(self.register, self.rows * self.columns), ir.Undefined)
        for i, place in enumerate(self.positions()):
            value = builder.insert_value(value, registers[place], i)
        return value


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(
            dmm, fe_type, ir.ArrayType(fe_type.register, fe_type.rows * fe_type.columns)
        )


def _lanes(dtype):
    return REGISTER_BYTES * 8 // dtype.bitwidth


# --- constants ---


def constant_by_dtype(float32, float64):
    """Return a function of a pointer, for numba code, that is the constant for its dtype."""

    @intrinsic
    def constant(_typing, pointer):
        value = float32 if pointer.dtype == types.float32 else float64
        return types.literal(value)(pointer), lambda context, *_: context.get_constant(
            types.intp, value
        )

    return constant


lanes = constant_by_dtype(REGISTER_BYTES // 4, REGISTER_BYTES // 8)
numbers_of_a_line = constant_by_dtype(CACHE_LINE_BYTES // 4, CACHE_LINE_BYTES // 8)


def lanes_of(dtype):
    """Return how many numbers of a NumPy dtype a register holds."""
    return REGISTER_BYTES // dtype.itemsize


# --- memory ---


@intrinsic
def pointer(_typing, array):
    """Return the address of a C-contiguous array, which does not keep the array alive."""

    def emit(context, builder, signature, args):
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), emit


@intrinsic
def _advance(_typing, pointer, count):
    return pointer(pointer, types.intp), lambda _context, builder, _signature, args: builder.gep(
        args[0], [args[1]]
    )


@overload(operator.add)
def _pointer_add(pointer, count):
    if isinstance(pointer, types.CPointer) and isinstance(count, types.Integer):
        return lambda pointer, count: _advance(pointer, count)
    return None


def _tile_of(pointer, rows, columns, lane_count):
    """Return the type of a tile and those of the arguments that give its shape."""
    shape = rows, columns, types.Omitted(None) if lane_count is None else lane_count
    literals = [getattr(argument, "literal_value", None) for argument in shape]
    return Tile(pointer.dtype, *literals), shape


@intrinsic(prefer_literal=True)
def load_tile(_typing, pointer, stride, rows, columns, lane_count=None):
    """Return a tile whose rows are consecutive registers in memory, `stride` numbers apart."""
    tile, shape = _tile_of(pointer, rows, columns, lane_count)

    def emit(_context, builder, _signature, args):
        return tile.pack(builder, _load_registers(builder, tile, *args[:2]))

    return tile(pointer, types.intp, *shape), emit


@intrinsic
def load_like(_typing, tile, pointer, stride):
    """Return a tile of the shape of another, as `load_tile` does."""

    def emit(_context, builder, _signature, args):
        return tile.pack(builder, _load_registers(builder, tile, *args[1:]))

    return tile(tile, pointer, types.intp), emit


@intrinsic
def store_tile(_typing, pointer, stride, tile):
    """Store a tile as `load_tile` reads it."""

    def emit(context, builder, _signature, args):
        registers = tile.unpack(builder, args[2])
        for position, place in _register_pointers(builder, tile, *args[:2]):
            builder.store(registers[position], place, align=tile.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, tile), emit


def _load_registers(builder, tile, pointer, stride):
    places = _register_pointers(builder, tile, pointer, stride)
    return {
        position: builder.load(place, align=tile.dtype.bitwidth // 8) for position, place in places
    }


def _register_pointers(builder, tile, pointer, stride):
    for row, column in tile.positions():
        start = builder.mul(stride, ir.Constant(stride.type, row))
        place = builder.gep(
            pointer, [builder.add(start, ir.Constant(stride.type, column * tile.lanes))]
        )
        yield (row, column), builder.bitcast(place, tile.register.as_pointer())


@intrinsic
def load(_typing, pointer):
    """Return one register (a 1 x 1 tile) from memory."""
    tile = Tile(pointer.dtype, 1, 1)

    def emit(_context, builder, _signature, args):
        return tile.pack(
            builder, _load_registers(builder, tile, args[0], ir.Constant(ir.IntType(64), 0))
        )

    return tile(pointer), emit


@intrinsic(prefer_literal=True)
def load_transposed(_typing, pointer, stride, rows, columns):
    """Return a square of numbers transposed: register i has number i of every row, in their order.

    The square has as many rows in memory, `stride` numbers apart, as a register has lanes; the
    tile's shape is rows x columns. Pieces of 128 bits are loaded to where they belong and turned
    there, with half the shuffles, or fewer, that turning whole registers takes.
    """
    tile, shape = _tile_of(pointer, rows, columns, None)
    length = 128 // tile.dtype.bitwidth
    lower = [i // 2 + i % 2 * length for i in range(length)]
    upper = [length // 2 + i for i in lower]

    def emit(_context, builder, _signature, args):
        turned = []
        for piece in range(0, tile.lanes, length):
            registers = [
                _load_pieces(builder, tile, args, range(row, tile.lanes, length), piece)
                for row in range(length)
            ]
            for _ in range(length.bit_length() - 1):
                halves = registers[: length // 2], registers[length // 2 :]
                registers = [
                    _permuted_pieces(builder, a, lanes, b)
                    for a, b in zip(*halves, strict=True)
                    for lanes in (lower, upper)
                ]
            turned += registers
        return tile.pack(builder, dict(zip(tile.positions(), turned, strict=True)))

    return tile(pointer, types.intp, *shape), emit


def _load_pieces(builder, tile, square, rows, column):
    """Return a register of pieces of rows, from a column on."""
    pointer, stride, *_ = square
    length = tile.lanes // len(rows)
    kind = ir.VectorType(tile.scalar, length).as_pointer()
    pieces = []
    for row in rows:
        start = builder.mul(stride, ir.Constant(stride.type, row))
        place = builder.gep(pointer, [builder.add(start, ir.Constant(stride.type, column))])
        pieces.append(builder.load(builder.bitcast(place, kind), align=tile.dtype.bitwidth // 8))
    while len(pieces) > 1:
        length *= 2
        pairs = zip(pieces[::2], pieces[1::2], strict=True)
        pieces = [_permuted(builder, a, range(length), b) for a, b in pairs]
    return pieces[0]


def _permuted_pieces(builder, register, lanes, other):
    """Return a register of the given lanes of each piece of 128 bits, which count on in another."""
    count, length = register.type.count, len(lanes)
    starts = range(0, count, length)
    return _permuted(
        builder,
        register,
        [start + lane % length + lane // length * count for start in starts for lane in lanes],
        other,
    )


@intrinsic
def load_first(_typing, pointer, count):
    """Return one register with `count` numbers from memory in its first lanes, then zeros.

    Memory behind these numbers is not read.
    """
    tile = Tile(pointer.dtype, 1, 1)

    def emit(_context, builder, _signature, args):
        place = builder.bitcast(args[0], tile.register.as_pointer())
        counts = ir.VectorType(args[1].type, tile.lanes)
        mask = builder.icmp_signed(
            "<", ir.Constant(counts, list(range(tile.lanes))), _splat(builder, args[1], counts)
        )
        align = ir.Constant(ir.IntType(32), tile.dtype.bitwidth // 8)
        function_type = ir.FunctionType(
            tile.register, [place.type, align.type, mask.type, tile.register]
        )
        name = f"llvm.masked.load.v{tile.lanes}f{tile.dtype.bitwidth}.p0"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        zero = _constant(tile.register, 0.0)
        return tile.pack(builder, {(0, 0): builder.call(function, [place, align, mask, zero])})

    return tile(pointer, types.intp), emit


@intrinsic
def prefetch(_typing, pointer):
    """Have the cache line of an address, which may be any, brought to the second-level cache."""

    def emit(context, builder, _signature, args):
        number = ir.IntType(32)
        to_read, second_level, data = (
            ir.Constant(number, 0),
            ir.Constant(number, 2),
            ir.Constant(number, 1),
        )
        function_type = ir.FunctionType(ir.VoidType(), [args[0].type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [args[0], to_read, second_level, data])
        return context.get_dummy_value()

    return types.void(pointer), emit


@intrinsic
def store(_typing, pointer, tile):
    """Store a tile of one row in consecutive memory."""

    def emit(context, builder, _signature, args):
        registers = tile.unpack(builder, args[1])
        for position, place in _register_pointers(
            builder, tile, args[0], ir.Constant(ir.IntType(64), 0)
        ):
            builder.store(registers[position], place, align=tile.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(pointer, tile), emit


@intrinsic(prefer_literal=True)
def broadcast_tile(_typing, pointer, stride, rows, columns):
    """Return a tile of numbers repeated in all lanes, tile[r, c] = pointer[r * stride + c]."""
    tile, shape = _tile_of(pointer, rows, columns, None)

    def emit(_context, builder, _signature, args):
        return tile.pack(builder, _broadcast_registers(builder, tile, *args[:2]))

    return tile(pointer, types.intp, *shape), emit


def _broadcast_registers(builder, tile, pointer, stride):
    registers = {}
    for row, column in tile.positions():
        start = builder.mul(stride, ir.Constant(stride.type, row))
        place = builder.gep(pointer, [builder.add(start, ir.Constant(stride.type, column))])
        registers[row, column] = _splat(builder, builder.load(place), tile.register)
    return registers


@intrinsic
def broadcast_rows(_typing, tile, pointer):
    """Return consecutive numbers, each repeated in all lanes, a column for a tile's rows."""
    result = Tile(pointer.dtype, tile.rows, 1, tile.lanes)

    def emit(_context, builder, _signature, args):
        one = ir.Constant(ir.IntType(64), 1)
        return result.pack(builder, _broadcast_registers(builder, result, args[1], one))

    return result(tile, pointer), emit


@intrinsic
def load_columns(_typing, tile, pointer):
    """Return a row of consecutive registers in memory, for the columns of a tile."""
    result = Tile(pointer.dtype, 1, tile.columns, tile.lanes)

    def emit(_context, builder, _signature, args):
        none = ir.Constant(ir.IntType(64), 0)
        return result.pack(builder, _load_registers(builder, result, args[1], none))

    return result(tile, pointer), emit


@intrinsic(prefer_literal=True)
def zeros(_typing, pointer, rows, columns, lane_count=None):
    """Return a tile of zeros of the pointer's dtype."""
    tile, shape = _tile_of(pointer, rows, columns, lane_count)

    def emit(_context, builder, _signature, _args):
        zero = _constant(tile.register, 0.0)
        return tile.pack(builder, dict.fromkeys(tile.positions(), zero))

    return tile(pointer, *shape), emit


# --- arithmetic ---


def _call_llvm(builder, name, *args):
    scalar = getattr(args[0].type, "element", args[0].type)
    suffix = "f32" if scalar == ir.FloatType() else "f64"
    if scalar != args[0].type:
        suffix = f"v{args[0].type.count}{suffix}"
    function_type = ir.FunctionType(args[0].type, [arg.type for arg in args])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function_type, f"llvm.{name}.{suffix}"), args
    )


def _multiply_add(builder, a, b, c):
    return _call_llvm(builder, "fmuladd", a, b, c)


def _multiply_subtract(builder, a, b, c):
    return _call_llvm(builder, "fmuladd", builder.fneg(a), b, c)


def _reciprocal_pivot(builder, pivot, diagonal):
    single = getattr(pivot.type, "element", pivot.type) == ir.FloatType()
    limit = builder.fmul(diagonal, _constant(pivot.type, 16 * 2.0 ** (-23 if single else -52)))
    reciprocal = builder.fdiv(_constant(pivot.type, 1.0), _call_llvm(builder, "sqrt", pivot))
    positive = builder.fcmp_ordered(">", pivot, limit)
    return builder.select(positive, reciprocal, _constant(pivot.type, 0.0))


def _constant(kind, number):
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def _splat(builder, scalar, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    )


def _permuted(builder, register, lanes, other=None):
    """Return a register of the given lanes, which count on in another one."""
    index = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    other = ir.Constant(register.type, ir.Undefined) if other is None else other
    return builder.shuffle_vector(register, other, index)


@intrinsic
def multiply_subtract(_typing, a, b, c):
    """Return c - a*b of three numbers, rounded as in tiles."""
    return a(a, a, a), lambda _context, builder, _signature, args: _multiply_subtract(
        builder, *args
    )


@intrinsic
def reciprocal_pivot(_typing, pivot, diagonal):
    """Return for two numbers what `cholesky` puts on the diagonal."""

    def emit(_context, builder, _signature, args):
        return _reciprocal_pivot(builder, *args)

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
    return _product(_multiply_add, iter, tile, left, right)


@intrinsic
def subtract_product(_typing, tile, left, right):
    """Return tile - left right, a matrix product of tiles summed from first term to last."""
    return _product(_multiply_subtract, iter, tile, left, right)


@intrinsic
def subtract_product_backward(_typing, tile, left, right):
    """Return tile - left right, a matrix product of tiles summed from last term to first."""
    return _product(_multiply_subtract, reversed, tile, left, right)


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
            upper = _permuted(builder, x, range(count, 2 * count))
            x = builder.fadd(_permuted(builder, x, range(count)), upper)
        return builder.extract_element(x, ir.Constant(ir.IntType(32), 0))

    return register.dtype(register), emit


# --- small triangular systems, one in every lane ---


@intrinsic
def cholesky(_typing, tile, original):
    """Return U with UᵀU = tile for a square tile, the RECIPROCALS of its diagonal on the diagonal.

    Only registers on and above the diagonal are read. `original` has the diagonal from which the
    squared pivots are left; where that is no more than rounding errors, the reciprocal is zero.
    """

    def emit(_context, builder, _signature, args):
        u, diagonal = tile.unpack(builder, args[0]), original.unpack(builder, args[1])
        for p in range(tile.rows):
            u[p, p] = _reciprocal_pivot(builder, u[p, p], diagonal[p, p])
            for c in range(p + 1, tile.columns):
                u[p, c] = builder.fmul(u[p, c], u[p, p])
            for r in range(p + 1, tile.rows):
                for c in range(r, tile.columns):
                    u[r, c] = _multiply_subtract(builder, u[p, r], u[p, c], u[r, c])
        return tile.pack(builder, u)

    return tile(tile, original), emit


@intrinsic
def solve_transposed(_typing, factor, tile):
    """Return X with UᵀX = tile, for the factor U as `cholesky` returns it."""

    def emit(_context, builder, _signature, args):
        u, x = factor.unpack(builder, args[0]), tile.unpack(builder, args[1])
        for r, c in tile.positions():
            for p in range(r):
                x[r, c] = _multiply_subtract(builder, u[p, r], x[p, c], x[r, c])
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
                x[r, c] = _multiply_subtract(builder, u[r, p], x[p, c], x[r, c])
            x[r, c] = builder.fmul(x[r, c], u[r, r])
        return tile.pack(builder, x)

    return tile(factor, tile), emit


# --- products of the lanes of a register ---
# They are summed by the distance of their lanes, counted around the register, so that half of the
# lanes is the farthest. A row of registers has one for each: in lane i the product of lanes i + a
# and i + b, where a and b are rotations that are so far apart.

n_distances = constant_by_dtype(REGISTER_BYTES // 4 // 2 + 1, REGISTER_BYTES // 8 // 2 + 1)


@cache
def _rotations_by_distance(lanes):
    """Return two rotations for each distance, of as few altogether as suffice."""
    distances = range(lanes // 2 + 1)
    for count in range(1, lanes):
        for others in combinations(range(1, lanes), count):
            rotations = (0, *others)
            pairs = {(b - a) % lanes: (a, b) for a in rotations for b in rotations}
            if pairs.keys() >= set(distances):
                return [pairs[distance] for distance in distances]
    raise AssertionError("all rotations together are enough")


@intrinsic
def add_products_of_lanes(_typing, products, register):
    """Return products + the products of any two numbers of a register."""
    rotations = _rotations_by_distance(register.lanes)

    def emit(_context, builder, _signature, args):
        total, x = products.unpack(builder, args[0]), builder.extract_value(args[1], 0)
        rotated = {by: _rotated(builder, x, by) for pair in rotations for by in pair}
        for distance, (a, b) in enumerate(rotations):
            total[0, distance] = _multiply_add(builder, rotated[a], rotated[b], total[0, distance])
        return products.pack(builder, total)

    return products(products, register), emit


@intrinsic
def square_of_products(_typing, products):
    """Return the symmetric square that has the products of lanes i and j in row i and lane j."""
    n = products.lanes
    square, rotations = Tile(products.dtype, n, 1), _rotations_by_distance(n)

    def emit(_context, builder, _signature, args):
        total = products.unpack(builder, args[0])
        # At first row r has in lane j the product of lanes j + r and j, then that of row r - j.
        rows = []
        for row in range(n):
            distance = min(row, n - row)
            a, b = rotations[distance]
            rows.append(_rotated(builder, total[0, distance], -(a if row == distance else b)))
        step = 1
        while step < n:
            lanes = [lane + lane // step % 2 * n for lane in range(n)]
            rows = [_permuted(builder, rows[row], lanes, rows[row - step]) for row in range(n)]
            step *= 2
        return square.pack(builder, {(row, 0): rows[row] for row in range(n)})

    return square(products), emit


def _rotated(builder, register, by):
    """Return a register that has in lane i what lane i + by had, counted around the register."""
    count = register.type.count
    return _permuted(builder, register, [(lane + by) % count for lane in range(count)])
