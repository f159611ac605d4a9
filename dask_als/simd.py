"""Tiles of SIMD registers for numba.

A `Tile` is a small matrix whose every element is one SIMD register, a vector of `lanes(array)` numbers. Numba
passes it around like any other value; LLVM keeps it in registers as long as they suffice. Tiles are loaded
from and stored to flat arrays; offsets and strides count numbers, shapes are compile-time constants.

Nothing here checks bounds. All arithmetic is IEEE and elementwise, so the result in a lane depends on that lane
alone and is the same for every register width; a multiply-add is fused where the processor can.
"""

from __future__ import annotations


from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

_CPU_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2]

REGISTER_BYTES = 64 if "+avx512f" in _CPU_FEATURES else 32 if "+avx2" in _CPU_FEATURES else 16


class Tile(types.Type):
    """Numba type of a rows x columns matrix of registers holding numbers of `dtype`."""

    def __init__(self, dtype, rows, columns):
        self.dtype, self.rows, self.columns = dtype, rows, columns
        super().__init__(name=f"Tile({dtype}, {rows}, {columns})")

    @property
    def lanes(self):
        return _lanes(self.dtype)

    @property
    def register(self):
        scalar = ir.FloatType() if self.dtype == types.float32 else ir.DoubleType()
        return ir.VectorType(scalar, self.lanes)

    def at(self, row, column):
        """Return where a register is in the LLVM aggregate."""
        return row * self.columns + column

    def positions(self):
        return [(row, column) for row in range(self.rows) for column in range(self.columns)]


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(
            dmm, fe_type, ir.ArrayType(fe_type.register, fe_type.rows * fe_type.columns)
        )


def _lanes(dtype):
    return REGISTER_BYTES * 8 // dtype.bitwidth


def _unpack(builder, tile, value):
    return [
        [builder.extract_value(value, tile.at(r, c)) for c in range(tile.columns)]
        for r in range(tile.rows)
    ]


def _pack(builder, tile, registers):
    value = ir.Constant(ir.ArrayType(tile.register, tile.rows * tile.columns), ir.Undefined)
    for r, c in tile.positions():
        value = builder.insert_value(value, registers[r][c], tile.at(r, c))
    return value


def _advance(builder, pointer, offset, pointee):
    return builder.bitcast(builder.gep(pointer, [offset]), pointee.as_pointer())


def _call_llvm(builder, name, *args):
    vector = args[0].type
    scalar = getattr(vector, "element", vector)
    suffix = "f32" if scalar == ir.FloatType() else "f64"
    suffix = f"v{vector.count}{suffix}" if vector != scalar else suffix
    function_type = ir.FunctionType(vector, [vector] * len(args))
    function = cgutils.get_or_insert_function(
        builder.module, function_type, f"llvm.{name}.{suffix}"
    )
    return builder.call(function, args)


def _multiply_add(builder, a, b, c):
    """Emit a*b + c."""
    return _call_llvm(builder, "fmuladd", a, b, c)


def _multiply_subtract(builder, a, b, c):
    """Emit c - a*b."""
    return _multiply_add(builder, builder.fneg(a), b, c)


def _reciprocal_sqrt(builder, a):
    one = ir.Constant(a.type, [1.0] * a.type.count if isinstance(a.type, ir.VectorType) else 1.0)
    return builder.fdiv(one, _call_llvm(builder, "sqrt", a))


def _maximum(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


def _splat(builder, scalar, register):
    undefined = ir.Constant(register, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), register.count), [0] * register.count)
    return builder.shuffle_vector(first, undefined, zeros)


@intrinsic
def lanes(_typing, pointer):
    """Return how many numbers of the array's dtype one register holds, as a compile-time constant."""
    count = _lanes(pointer.dtype)
    return types.literal(count)(pointer), lambda context, *_: context.get_constant(
        types.intp, count
    )


@intrinsic(prefer_literal=True)
def zeros(_typing, pointer, rows, columns):
    """Return a tile of zeros of the array's dtype."""
    tile = Tile(pointer.dtype, rows.literal_value, columns.literal_value)

    def emit(context, builder, signature, args):
        zero = ir.Constant(tile.register, [0.0] * tile.lanes)
        return _pack(builder, tile, [[zero] * tile.columns] * tile.rows)

    return tile(pointer, rows, columns), emit


@intrinsic(prefer_literal=True)
def load(_typing, pointer, offset, stride, rows, columns):
    """Return a tile whose rows are consecutive registers of the array, the rows `stride` numbers apart."""
    tile = Tile(pointer.dtype, rows.literal_value, columns.literal_value)

    def emit(context, builder, signature, args):
        registers = [[None] * tile.columns for _ in range(tile.rows)]
        for (r, c), place in _places(builder, tile, args):
            registers[r][c] = builder.load(place, align=pointer.dtype.bitwidth // 8)
        return _pack(builder, tile, registers)

    return tile(pointer, types.intp, types.intp, rows, columns), emit


@intrinsic
def store(_typing, pointer, offset, stride, tile):
    """Store a tile as `load` reads it."""

    def emit(context, builder, signature, args):
        registers = _unpack(builder, tile, args[3])
        for (r, c), place in _places(builder, tile, args):
            builder.store(registers[r][c], place, align=pointer.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, types.intp, tile), emit


def _places(builder, tile, args):
    pointer, offset, stride = args[:3]
    for r, c in tile.positions():
        row_start = builder.add(offset, builder.mul(stride, ir.Constant(stride.type, r)))
        place = builder.add(row_start, ir.Constant(stride.type, c * tile.lanes))
        yield (r, c), _advance(builder, pointer, place, tile.register)


@intrinsic(prefer_literal=True)
def broadcast(_typing, pointer, offset, stride, rows, columns):
    """Return a tile of single numbers, each repeated in all lanes: tile[r, c] = array[offset + r*stride + c]."""
    tile = Tile(pointer.dtype, rows.literal_value, columns.literal_value)

    def emit(context, builder, signature, args):
        registers = [[None] * tile.columns for _ in range(tile.rows)]
        for r, c in tile.positions():
            row_start = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, r)))
            place = builder.add(row_start, ir.Constant(args[2].type, c))
            scalar = builder.load(_advance(builder, args[0], place, tile.register.element))
            registers[r][c] = _splat(builder, scalar, tile.register)
        return _pack(builder, tile, registers)

    return tile(pointer, types.intp, types.intp, rows, columns), emit


def _elementwise(tile, emit_register):
    def emit(context, builder, signature, args):
        left, right = (_unpack(builder, tile, arg) for arg in args)
        rows = zip(left, right, strict=True)
        return _pack(
            builder,
            tile,
            [[emit_register(builder, a, b) for a, b in zip(*row, strict=True)] for row in rows],
        )

    return tile(tile, tile), emit


@intrinsic
def add(_typing, left, right):
    """Return left + right, element by element."""
    return _elementwise(left, lambda builder, a, b: builder.fadd(a, b))


@intrinsic
def multiply(_typing, left, right):
    """Return left * right, element by element."""
    return _elementwise(left, lambda builder, a, b: builder.fmul(a, b))


@intrinsic
def maximum(_typing, left, right):
    """Return the larger of left and right, element by element."""
    return _elementwise(left, _maximum)


def _outer(emit_register, tile, left, right):
    def emit(context, builder, signature, args):
        total = _unpack(builder, tile, args[0])
        column = _unpack(builder, left, args[1])
        row = _unpack(builder, right, args[2])
        for r, c in tile.positions():
            total[r][c] = emit_register(builder, column[r][0], row[0][c], total[r][c])
        return _pack(builder, tile, total)

    return tile(tile, left, right), emit


@intrinsic
def add_outer(_typing, tile, left, right):
    """Return tile + left right, the product of a column and a row of registers."""
    return _outer(_multiply_add, tile, left, right)


@intrinsic
def subtract_outer(_typing, tile, left, right):
    """Return tile - left right, the product of a column and a row of registers."""
    return _outer(_multiply_subtract, tile, left, right)


@intrinsic
def cholesky(_typing, tile, pivot_floor):
    """Return U with UᵀU = tile for a square tile, with the RECIPROCAL of its diagonal on the diagonal.

    Only registers on and above the diagonal are read. Pivots below the floor are raised to it.
    """

    def emit(context, builder, signature, args):
        u = _unpack(builder, tile, args[0])
        ((floor,),) = _unpack(builder, pivot_floor, args[1])
        for p in range(tile.rows):
            u[p][p] = _reciprocal_sqrt(builder, _maximum(builder, u[p][p], floor))
            for c in range(p + 1, tile.columns):
                u[p][c] = builder.fmul(u[p][c], u[p][p])
            for r in range(p + 1, tile.rows):
                for c in range(r, tile.columns):
                    u[r][c] = _multiply_subtract(builder, u[p][r], u[p][c], u[r][c])
        return _pack(builder, tile, u)

    return tile(tile, pivot_floor), emit


@intrinsic
def solve_upper_transposed(_typing, u, tile):
    """Return X with UᵀX = tile; U as `cholesky` returns it."""

    def emit(context, builder, signature, args):
        factor, x = _unpack(builder, u, args[0]), _unpack(builder, tile, args[1])
        for r in range(tile.rows):
            for c in range(tile.columns):
                for p in range(r):
                    x[r][c] = _multiply_subtract(builder, factor[p][r], x[p][c], x[r][c])
                x[r][c] = builder.fmul(x[r][c], factor[r][r])
        return _pack(builder, tile, x)

    return tile(u, tile), emit


@intrinsic
def solve_upper(_typing, u, tile):
    """Return X with UX = tile; U as `cholesky` returns it."""

    def emit(context, builder, signature, args):
        factor, x = _unpack(builder, u, args[0]), _unpack(builder, tile, args[1])
        for r in reversed(range(tile.rows)):
            for c in range(tile.columns):
                for p in reversed(range(r + 1, tile.rows)):
                    x[r][c] = _multiply_subtract(builder, factor[r][p], x[p][c], x[r][c])
                x[r][c] = builder.fmul(x[r][c], factor[r][r])
        return _pack(builder, tile, x)

    return tile(u, tile), emit


@intrinsic(prefer_literal=True)
def transpose(_typing, tile, rows, columns):
    """Return numbers transposed: lane l of register r becomes lane r of register l; the result is rows x columns.

    The tile has as many registers as a register has lanes.
    """
    result = Tile(tile.dtype, rows.literal_value, columns.literal_value)
    count = tile.lanes

    def emit(context, builder, signature, args):
        registers = [builder.extract_value(args[0], i) for i in range(count)]
        half = count // 2
        index = ir.VectorType(ir.IntType(32), count)
        low = ir.Constant(index, [i // 2 + (i % 2) * count for i in range(count)])
        high = ir.Constant(index, [half + i // 2 + (i % 2) * count for i in range(count)])
        for _ in range(count.bit_length() - 1):
            interleaved = []
            for i in range(half):
                pair = registers[i], registers[i + half]
                interleaved += [
                    builder.shuffle_vector(*pair, low),
                    builder.shuffle_vector(*pair, high),
                ]
            registers = interleaved
        value = ir.Constant(ir.ArrayType(result.register, count), ir.Undefined)
        for i, register in enumerate(registers):
            value = builder.insert_value(value, register, i)
        return value

    return result(tile, rows, columns), emit


@intrinsic
def prefetch(_typing, pointer, offset):
    """Ask for the cache line of array[offset]; no effect but on speed, and safe for any address."""

    def emit(context, builder, signature, args):
        integer = ir.IntType(32)
        pointer = _advance(builder, args[0], args[1], ir.IntType(8))
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, integer, integer, integer])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(
            function,
            [pointer, ir.Constant(integer, 0), ir.Constant(integer, 3), ir.Constant(integer, 1)],
        )
        return context.get_dummy_value()

    return types.void(pointer, types.intp), emit


def constant_by_dtype(float32: int, float64: int):
    """Return a function that numba code calls with an array for the compile-time constant of its dtype."""

    @intrinsic
    def constant(_typing, pointer):
        value = float32 if pointer.dtype == types.float32 else float64
        return types.literal(value)(pointer), lambda context, *_: context.get_constant(
            types.intp, value
        )

    return constant


@intrinsic
def load_like(_typing, tile, pointer, offset, stride):
    """Return a tile of the shape of another, as `load` reads it."""

    def emit(context, builder, signature, args):
        registers = [[None] * tile.columns for _ in range(tile.rows)]
        for (r, c), place in _places(builder, tile, args[1:]):
            registers[r][c] = builder.load(place, align=tile.dtype.bitwidth // 8)
        return _pack(builder, tile, registers)

    return tile(tile, pointer, types.intp, types.intp), emit


@intrinsic
def subtract_product(_typing, tile, left, right):
    """Return tile - left right, a matrix product of registers, with the last terms of its sums subtracted first."""

    def emit(context, builder, signature, args):
        total, a, b = (
            _unpack(builder, t, v) for t, v in zip((tile, left, right), args, strict=True)
        )
        for r, c in tile.positions():
            for p in reversed(range(left.columns)):
                total[r][c] = _multiply_subtract(builder, a[r][p], b[p][c], total[r][c])
        return _pack(builder, tile, total)

    return tile(tile, left, right), emit


@intrinsic
def pointer(_typing, array, index):
    """Return the address of a C-contiguous array's element, counted flat. It does not keep the array alive."""

    def emit(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0]).data
        return builder.gep(data, [args[1]])

    return types.CPointer(array.dtype)(array, types.intp), emit


@intrinsic
def advance(_typing, pointer, offset):
    return pointer(pointer, types.intp), lambda context, builder, signature, args: builder.gep(
        *args[:1], [args[1]]
    )


@intrinsic
def multiply_subtract(_typing, a, b, c):
    """Return c - a*b of three numbers, fused as in `subtract_outer`."""
    return a(a, a, a), lambda context, builder, signature, args: _multiply_subtract(builder, *args)


@intrinsic
def reciprocal_sqrt(_typing, a):
    """Return 1 / sqrt(a) of a number, rounded as in `cholesky`."""
    return a(a), lambda context, builder, signature, args: _reciprocal_sqrt(builder, *args)


@intrinsic
def epsilon(_typing, pointer):
    """Return the spacing of the pointer's numbers at one."""
    value = 2.0 ** (-23 if pointer.dtype == types.float32 else -52)
    return pointer.dtype(pointer), lambda context, *_: context.get_constant(pointer.dtype, value)
