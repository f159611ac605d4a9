"""The numba type of a tile, a small matrix of SIMD registers, and its construction in LLVM."""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

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


def tile_of(pointer, rows, columns, lane_count):
    """Return the type of a tile and the types of the arguments that set its shape."""
    shape = rows, columns, types.Omitted(None) if lane_count is None else lane_count
    literals = [getattr(argument, "literal_value", None) for argument in shape]
    return Tile(pointer.dtype, *literals), shape


def llvm_constant(kind, number):
    """Return a scalar constant, or a register that repeats it, by the LLVM type."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def splat(builder, scalar, vector):
    """Return a register of the given type with the scalar in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    )


def permuted(builder, register, lanes, other=None):
    """Return a register of the given lanes; lane numbers continue into the other register."""
    index = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    other = ir.Constant(register.type, ir.Undefined) if other is None else other
    return builder.shuffle_vector(register, other, index)
