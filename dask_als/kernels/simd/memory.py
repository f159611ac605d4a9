"""Pointers to arrays; loads, stores, broadcasts and prefetches of tiles."""

from __future__ import annotations

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, lower_builtin, type_callable

from dask_als.kernels.simd.tile import Tile, llvm_constant, permuted, splat, tile_of


@intrinsic
def pointer(_typing, array):
    """Return the address of a C-contiguous array; the address does not keep the array alive."""

    def emit(context, builder, signature, args):
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), emit


@type_callable(operator.add)
def _type_of_sum(_context):
    def typer(pointer, count):
        is_place = isinstance(pointer, types.CPointer) and isinstance(count, types.Integer)
        return pointer(pointer, types.intp) if is_place else None

    return typer


@lower_builtin(operator.add, types.CPointer, types.Integer)
def _advance(_context, builder, _signature, args):
    return builder.gep(args[0], [args[1]])


@intrinsic(prefer_literal=True)
def load_tile(_typing, pointer, stride, rows, columns, lane_count=None):
    """Return a tile whose rows are consecutive registers in memory, `stride` numbers apart."""
    tile, shape = tile_of(pointer, rows, columns, lane_count)

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
    """Return the transpose of a square of numbers: register i has number i of every row, in order.

    The square has as many rows in memory, `stride` numbers apart, as a register has lanes; the
    tile's shape is rows x columns. Pieces of 128 bits are loaded into their final position and
    transposed there. This takes at most half the shuffles of transposing whole registers.
    """
    tile, shape = tile_of(pointer, rows, columns, None)
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
        pieces = [permuted(builder, a, range(length), b) for a, b in pairs]
    return pieces[0]


def _permuted_pieces(builder, register, lanes, other):
    """Return a register of the given lanes of each 128-bit piece of two registers."""
    count, length = register.type.count, len(lanes)
    starts = range(0, count, length)
    return permuted(
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
            "<", ir.Constant(counts, list(range(tile.lanes))), splat(builder, args[1], counts)
        )
        align = ir.Constant(ir.IntType(32), tile.dtype.bitwidth // 8)
        function_type = ir.FunctionType(
            tile.register, [place.type, align.type, mask.type, tile.register]
        )
        name = f"llvm.masked.load.v{tile.lanes}f{tile.dtype.bitwidth}.p0"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        zero = llvm_constant(tile.register, 0.0)
        return tile.pack(builder, {(0, 0): builder.call(function, [place, align, mask, zero])})

    return tile(pointer, types.intp), emit


@intrinsic
def prefetch(_typing, pointer):
    """Prefetch the cache line of an address, valid or not, into the second-level cache."""

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
    tile, shape = tile_of(pointer, rows, columns, None)

    def emit(_context, builder, _signature, args):
        return tile.pack(builder, _broadcast_registers(builder, tile, *args[:2]))

    return tile(pointer, types.intp, *shape), emit


def _broadcast_registers(builder, tile, pointer, stride):
    registers = {}
    for row, column in tile.positions():
        start = builder.mul(stride, ir.Constant(stride.type, row))
        place = builder.gep(pointer, [builder.add(start, ir.Constant(stride.type, column))])
        registers[row, column] = splat(builder, builder.load(place), tile.register)
    return registers


@intrinsic
def broadcast_rows(_typing, tile, pointer):
    """Return a column for a tile's rows: consecutive numbers, each repeated in all lanes."""
    result = Tile(pointer.dtype, tile.rows, 1, tile.lanes)

    def emit(_context, builder, _signature, args):
        one = ir.Constant(ir.IntType(64), 1)
        return result.pack(builder, _broadcast_registers(builder, result, args[1], one))

    return result(tile, pointer), emit


@intrinsic
def load_columns(_typing, tile, pointer):
    """Return a row for a tile's columns: consecutive registers from memory."""
    result = Tile(pointer.dtype, 1, tile.columns, tile.lanes)

    def emit(_context, builder, _signature, args):
        none = ir.Constant(ir.IntType(64), 0)
        return result.pack(builder, _load_registers(builder, result, args[1], none))

    return result(tile, pointer), emit


@intrinsic(prefer_literal=True)
def zeros(_typing, pointer, rows, columns, lane_count=None):
    """Return a tile of zeros of the pointer's dtype."""
    tile, shape = tile_of(pointer, rows, columns, lane_count)

    def emit(_context, builder, _signature, _args):
        zero = llvm_constant(tile.register, 0.0)
        return tile.pack(builder, dict.fromkeys(tile.positions(), zero))

    return tile(pointer, *shape), emit
