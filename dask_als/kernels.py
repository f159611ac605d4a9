"""Solve every row of one side."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dask_als import simd
from dask_als.simd import REGISTER_BYTES, lanes, pointer

GRAM_TILES = {64: ((16, 1), (8, 2)), 32: ((4, 2), (4, 2)), 16: ((4, 2), (4, 2))}
(_f32, _f64) = GRAM_TILES[REGISTER_BYTES]
_gram_rows = simd.constant_by_dtype(_f32[0], _f64[0])
_gram_columns = simd.constant_by_dtype(_f32[1], _f64[1])

P = 4  # panel width
_panel_groups = simd.constant_by_dtype(
    max(1, REGISTER_BYTES // 4 // P), max(1, REGISTER_BYTES // 8 // P)
)
_panel_group = simd.constant_by_dtype(min(P, REGISTER_BYTES // 4), min(P, REGISTER_BYTES // 8))
HALF = 4 if REGISTER_BYTES == 64 else 2
SIDE_BY_SIDE_RANK = 160

_jit = njit(nogil=True, error_model="numpy")
_entry = njit(cache=True, nogil=True, error_model="numpy")


class Layout(NamedTuple):
    rank: int
    columns: int
    stride: int
    size: int
    chunk: int
    group: int
    span: int

    @classmethod
    def of(cls, rank, dtype):
        dtype = np.dtype(dtype)
        width = REGISTER_BYTES // dtype.itemsize
        tile = width * (_f32[1] if dtype == np.float32 else _f64[1])
        columns = -(-rank // tile) * tile
        stride = columns + width
        return cls(
            rank=rank,
            columns=columns,
            stride=stride,
            size=(columns + 2) * stride + width,
            chunk=max(16, min(256, 16384 // (rank + 16))),
            group=width if rank <= SIDE_BY_SIDE_RANK else 1,
            span=columns * P * width,
        )

    def workspace(self, dtype):
        width = REGISTER_BYTES // np.dtype(dtype).itemsize
        sizes = {
            "gathered": self.chunk * self.stride,
            "normals": self.group * self.size,
            "panels": self.span * self.columns // P
            if self.group > 1
            else self.columns * self.columns,
            "rhs": self.columns * width,
            "solution": self.columns * width,
            "ridge": width,
            "floor": width,
        }
        return Workspace(**{name: _aligned(size, dtype) for name, size in sizes.items()})


class Workspace(NamedTuple):
    gathered: np.ndarray
    normals: np.ndarray
    panels: np.ndarray
    rhs: np.ndarray
    solution: np.ndarray
    ridge: np.ndarray
    floor: np.ndarray


def _aligned(size, dtype):
    memory = np.zeros(size + 64, dtype)
    start = (-memory.ctypes.data % 64) // memory.itemsize
    return memory[start : start + size]


def solve_rows(
    indptr,
    indices,
    ratings,
    own_factors,
    fixed_bias,
    fixed_factors,
    *,
    mean,
    bias_ridge,
    factor_ridge,
):
    n, rank = own_factors.shape
    dtype = own_factors.dtype
    bias = np.zeros(n, dtype)
    factors = np.zeros_like(own_factors)
    squared_error = np.zeros(n)
    solve = _solve_float32 if dtype == np.float32 else _solve_float64
    layout = Layout.of(rank, dtype)
    solve(
        indptr,
        indices,
        ratings,
        own_factors,
        fixed_bias,
        fixed_factors,
        float(mean),
        bias_ridge,
        factor_ridge,
        bias,
        factors,
        squared_error,
        layout,
        layout.workspace(dtype),
    )
    return bias, factors, squared_error


@_entry
def _solve_float32(
    indptr,
    indices,
    ratings,
    own,
    fixed_bias,
    fixed,
    mean,
    bias_ridge,
    factor_ridge,
    bias,
    factors,
    squared_error,
    layout,
    workspace,
):
    _solve(
        indptr,
        indices,
        ratings,
        own,
        fixed_bias,
        fixed,
        mean,
        bias_ridge,
        factor_ridge,
        bias,
        factors,
        squared_error,
        layout,
        workspace,
    )


@_entry
def _solve_float64(
    indptr,
    indices,
    ratings,
    own,
    fixed_bias,
    fixed,
    mean,
    bias_ridge,
    factor_ridge,
    bias,
    factors,
    squared_error,
    layout,
    workspace,
):
    _solve(
        indptr,
        indices,
        ratings,
        own,
        fixed_bias,
        fixed,
        mean,
        bias_ridge,
        factor_ridge,
        bias,
        factors,
        squared_error,
        layout,
        workspace,
    )


@_jit
def _solve(
    indptr,
    indices,
    ratings,
    own,
    fixed_bias,
    fixed,
    mean,
    bias_ridge,
    factor_ridge,
    bias,
    factors,
    squared_error,
    layout,
    workspace,
):
    members = np.empty(layout.group, np.int64)
    normals = pointer(workspace.normals, 0)
    gathered = pointer(workspace.gathered, 0)
    panels = pointer(workspace.panels, 0)
    rhs = pointer(workspace.rhs, 0)
    solution = pointer(workspace.solution, 0)
    ridge = pointer(workspace.ridge, 0)
    floor = pointer(workspace.floor, 0)
    stride = layout.stride
    lane = 0
    for row in range(len(bias)):
        begin, end = indptr[row], indptr[row + 1]
        if begin == end:
            continue
        normal = simd.advance(normals, lane * layout.size)
        total, total_square = _normal_equations(
            pointer(indices, begin),
            pointer(ratings, begin),
            end - begin,
            pointer(fixed_bias, 0),
            pointer(fixed, 0),
            mean,
            gathered,
            normal,
            layout,
        )
        count = end - begin
        moment = _dot(
            simd.advance(normal, (layout.columns + 1) * stride),
            pointer(own, row * layout.rank),
            layout.rank,
        )
        bias[row] = (total - moment) / (count + bias_ridge[row])
        b = np.float64(bias[row])
        squared_error[row] = total_square - 2 * b * total + count * b * b
        _center(normal, layout, bias[row])
        members[lane] = row
        lane += 1
        if lane == layout.group or row == len(bias):
            _solve_group(
                normals,
                lane,
                members,
                factor_ridge,
                panels,
                rhs,
                solution,
                ridge,
                floor,
                factors,
                squared_error,
                layout,
            )
            lane = 0
    if lane > 0:
        workspace.normals[lane * layout.size :] = 0
        _solve_group(
            normals,
            lane,
            members,
            factor_ridge,
            panels,
            rhs,
            solution,
            ridge,
            floor,
            factors,
            squared_error,
            layout,
        )


@_jit
def _dot(a, b, n):
    s0 = s1 = s2 = s3 = 0.0
    whole = n // 4 * 4
    for i in range(0, whole, 4):
        s0 += np.float64(a[i]) * np.float64(b[i])
        s1 += np.float64(a[i + 1]) * np.float64(b[i + 1])
        s2 += np.float64(a[i + 2]) * np.float64(b[i + 2])
        s3 += np.float64(a[i + 3]) * np.float64(b[i + 3])
    for i in range(whole, n):
        s0 += np.float64(a[i]) * np.float64(b[i])
    return (s0 + s1) + (s2 + s3)


@_jit
def _center(normal, layout, b):
    for c in range(layout.columns):
        normal[layout.columns * layout.stride + c] -= (
            b * normal[(layout.columns + 1) * layout.stride + c]
        )


@_jit
def _normal_equations(indices, ratings, count, fixed_bias, fixed, mean, gathered, normal, layout):
    total = 0.0
    total_square = 0.0
    for first in range(0, count, layout.chunk):
        size = min(layout.chunk, count - first)
        for i in range(size):
            index = np.int64(indices[first + i])
            y = ratings[first + i] - mean - fixed_bias[index]
            total += y
            total_square += y * y
            at = i * layout.stride
            _copy(fixed, index * layout.rank, gathered, at, layout.rank)
            gathered[at + layout.columns] = y
            gathered[at + layout.columns + 1] = 1
        _accumulate(gathered, size, normal, layout.columns, layout.stride, first == 0)
    return total, total_square


@_jit
def _copy(source, start, target, offset, count):
    width = lanes(source)
    if count < width:
        for c in range(count):
            target[offset + c] = source[start + c]
    else:
        for c in range(0, count - width, width):
            simd.store(target, offset + c, 0, simd.load(source, start + c, 0, 1, 1))
        c = count - width
        simd.store(target, offset + c, 0, simd.load(source, start + c, 0, 1, 1))


@_jit
def _accumulate(gathered, count, normal, padded, stride, fresh):
    rows, columns = _gram_rows(gathered), _gram_columns(gathered)
    width = columns * lanes(gathered)
    for column in range(0, padded, width):
        last = column + width - rows
        for row in range(0, last, rows):
            tile = simd.zeros(gathered, rows, columns)
            for i in range(0, count * stride, stride):
                left = simd.broadcast(gathered, i + row, 1, rows, 1)
                tile = simd.add_outer(tile, left, simd.load(gathered, i + column, 0, 1, columns))
            _put(normal, row * stride + column, stride, tile, fresh)
        tile = simd.zeros(gathered, rows, columns)
        moments = simd.zeros(gathered, 2, columns)
        for i in range(0, count * stride, stride):
            right = simd.load(gathered, i + column, 0, 1, columns)
            tile = simd.add_outer(tile, simd.broadcast(gathered, i + last, 1, rows, 1), right)
            moments = simd.add_outer(moments, simd.broadcast(gathered, i + padded, 1, 2, 1), right)
        _put(normal, last * stride + column, stride, tile, fresh)
        _put(normal, padded * stride + column, stride, moments, fresh)


@_jit
def _put(normal, offset, stride, tile, fresh):
    if fresh:
        simd.store(normal, offset, stride, tile)
    else:
        simd.store(
            normal, offset, stride, simd.add(tile, simd.load_like(tile, normal, offset, stride))
        )


@_jit
def _solve_group(
    normals,
    used,
    members,
    factor_ridge,
    panels,
    rhs,
    solution,
    ridge,
    floor,
    factors,
    squared_error,
    layout,
):
    rank = layout.rank
    if layout.group == 1:
        row = members[0]
        right_side = simd.advance(normals, layout.columns * layout.stride)
        _factor_one(normals, panels, layout, factor_ridge[row])
        for c in range(layout.columns):
            solution[c] = right_side[c]
        _solve_one(normals, solution, layout)
        for c in range(rank):
            factors[row, c] = solution[c]
        squared_error[row] -= _dot(solution, right_side, rank) + factor_ridge[row] * _dot(
            solution, solution, rank
        )
        return
    width = lanes(normals)
    systems = (rank + P - 1) // P
    _interleave(normals, panels, rhs, layout)
    for lane in range(width):
        ridge[lane] = factor_ridge[members[lane]] if lane < used else 1
    _add_ridge(panels, layout.span, rank, systems, ridge, floor)
    _factor_side_by_side(panels, layout.span, systems, floor)
    for i in range(layout.columns * width):
        solution[i] = rhs[i]
    _solve_side_by_side(panels, layout.span, systems, solution)
    for lane in range(used):
        row = members[lane]
        fit = 0.0
        square = 0.0
        for c in range(rank):
            u = np.float64(solution[c * width + lane])
            fit += u * np.float64(rhs[c * width + lane])
            square += u * u
            factors[row, c] = u
        squared_error[row] -= fit + factor_ridge[row] * square


@_jit
def _interleave(normals, panels, rhs, layout):
    width = lanes(normals)
    groups, group = _panel_groups(normals), _panel_group(normals)
    for row in range(layout.rank):
        for column in range(row // width * width, layout.columns, width):
            tile = simd.load(normals, row * layout.stride + column, layout.size, width, 1)
            place = column // P * layout.span + (row * P + column % P) * width
            simd.store(panels, place, layout.span, simd.transpose(tile, groups, group))
    for column in range(0, layout.columns, width):
        tile = simd.load(normals, layout.columns * layout.stride + column, layout.size, width, 1)
        simd.store(rhs, column * width, width, simd.transpose(tile, width, 1))


@_jit
def _add_ridge(panels, span, rank, systems, ridge, floor):
    width = lanes(panels)
    add = simd.load(ridge, 0, 0, 1, 1)
    largest = simd.zeros(ridge, 1, 1)
    for i in range(rank):
        place = i // P * span + (i * P + i % P) * width
        diagonal = simd.add(add, simd.load(panels, place, 0, 1, 1))
        simd.store(panels, place, 0, diagonal)
        largest = simd.maximum(largest, diagonal)
    for i in range(rank, systems * P):
        for j in range(i + 1):
            place = i // P * span + (j * P + i % P) * width
            simd.store(panels, place, 0, simd.zeros(panels, 1, 1))
        for lane in range(width):
            panels[place + lane] = 1
    simd.store(floor, 0, 0, largest)
    for lane in range(width):
        floor[lane] *= simd.epsilon(floor)


@_jit
def _factor_side_by_side(panels, span, systems, pivot_floor):
    width = lanes(panels)
    step = P * width
    floor = simd.load(pivot_floor, 0, 0, 1, 1)
    for right in range(systems):
        for left in range(right):
            diagonal = simd.load(panels, left * span + left * P * step, step, P, P)
            for half in range(0, P * width, HALF * width):
                place = right * span + left * P * step + half
                tile = simd.load(panels, place, step, P, HALF)
                for p in range(0, left * P * step, step):
                    tile = simd.subtract_outer(
                        tile,
                        simd.load(panels, left * span + p, width, P, 1),
                        simd.load(panels, right * span + p + half, 0, 1, HALF),
                    )
                simd.store(panels, place, step, simd.solve_upper_transposed(diagonal, tile))
        place = right * span + right * P * step
        tile = simd.load(panels, place, step, P, P)
        for p in range(0, right * P * step, step):
            tile = simd.subtract_outer(
                tile,
                simd.load(panels, right * span + p, width, P, 1),
                simd.load(panels, right * span + p, 0, 1, P),
            )
        simd.store(panels, place, step, simd.cholesky(tile, floor))


@_jit
def _solve_side_by_side(panels, span, systems, x):
    width = lanes(panels)
    step = P * width
    for right in range(systems):
        tile = simd.load(x, right * step, width, P, 1)
        for p in range(right * P):
            tile = simd.subtract_outer(
                tile,
                simd.load(panels, right * span + p * step, width, P, 1),
                simd.load(x, p * width, 0, 1, 1),
            )
        diagonal = simd.load(panels, right * span + right * P * step, step, P, P)
        simd.store(x, right * step, width, simd.solve_upper_transposed(diagonal, tile))
    for right in range(systems - 1, -1, -1):
        diagonal = simd.load(panels, right * span + right * P * step, step, P, P)
        solved = simd.solve_upper(diagonal, simd.load(x, right * step, width, P, 1))
        simd.store(x, right * step, width, solved)
        for p in range(right * P):
            coefficients = simd.load(panels, right * span + p * step, 0, 1, P)
            rest = simd.load(x, p * width, 0, 1, 1)
            simd.store(x, p * width, 0, simd.subtract_product(rest, coefficients, solved))


@_jit
def _factor_one(u, block, layout, ridge):
    rows, columns = _gram_rows(u), _gram_columns(u)
    width = columns * lanes(u)
    stride = layout.stride
    largest = u[0]
    for i in range(layout.rank):
        u[i * stride + i] += ridge
        largest = max(largest, u[i * stride + i])
    floor = largest * simd.epsilon(u)
    for i in range(layout.rank, layout.columns):
        u[i * stride + i] = 1
    for row in range(0, layout.columns, rows):
        for column in range(row // width * width, layout.columns, width):
            tile = simd.load(u, row * stride + column, stride, rows, columns)
            for p in range(0, row * stride, stride):
                left = simd.broadcast(u, p + row, 1, rows, 1)
                tile = simd.subtract_outer(tile, left, simd.load(u, p + column, 0, 1, columns))
            if column <= row:
                simd.store(u, row * stride + column, stride, tile)
                _factor_block(u, row, stride, rows, floor, block)
            triangle = simd.broadcast(block, 0, rows, rows, rows)
            tile = simd.solve_upper_transposed(triangle, tile)
            simd.store(u, row * stride + column, stride, tile)
        for i in range(rows):
            u[(row + i) * stride + row + i] = block[i * rows + i]


@_jit
def _factor_block(u, row, stride, size, floor, block):
    for i in range(size):
        for j in range(i, size):
            block[i * size + j] = u[(row + i) * stride + row + j]
    for p in range(size):
        pivot = simd.reciprocal_sqrt(max(block[p * size + p], floor))
        block[p * size + p] = pivot
        for j in range(p + 1, size):
            block[p * size + j] *= pivot
        for i in range(p + 1, size):
            for j in range(i, size):
                block[i * size + j] = simd.multiply_subtract(
                    block[p * size + i], block[p * size + j], block[i * size + j]
                )


@_jit
def _solve_one(u, x, layout):
    width = lanes(u)
    stride = layout.stride
    for block in range(0, layout.columns, width):
        for p in range(block, block + width):
            x[p] *= u[p * stride + p]
            for j in range(p + 1, block + width):
                x[j] = simd.multiply_subtract(u[p * stride + j], x[p], x[j])
        for column in range(block + width, layout.columns, width):
            tile = simd.load(x, column, 0, 1, 1)
            for p in range(block, block + width):
                tile = simd.subtract_outer(
                    tile, simd.broadcast(x, p, 0, 1, 1), simd.load(u, p * stride + column, 0, 1, 1)
                )
            simd.store(x, column, 0, tile)
    for block in range(layout.columns - width, -1, -width):
        for p in range(block + width - 1, block - 1, -1):
            x[p] *= u[p * stride + p]
            for i in range(block, p):
                x[i] = simd.multiply_subtract(u[i * stride + p], x[p], x[i])
        solved = simd.broadcast(x, block, 1, width, 1)
        for row in range(0, block, width):
            coefficients = simd.transpose(
                simd.load(u, row * stride + block, stride, width, 1), 1, width
            )
            rest = simd.load(x, row, 0, 1, 1)
            simd.store(x, row, 0, simd.subtract_product(rest, coefficients, solved))
