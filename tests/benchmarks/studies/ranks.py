"""One core's half-epochs over ranks, as a share of its matrix product's speed in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from machine import say

from dask_als.core.aligned import aligned_empty
from dask_als.core.blocks import Block, block_of
from dask_als.data.synthetic import GenerateSettings, chunks, generate_chunk
from dask_als.kernels.least_squares import solve_rows
from studies.report import Criterion, bar, table

TITLE = "Share of peak over ranks"
RANKS = [8, 16, 32, 64, 128, 256]
DTYPES = ["float32", "float64"]
ROWS, RATINGS = 20_000, 2_300_000
FIXED_ROWS = [59_047, 162_541]  # MovieLens-25M's items, and its users
DEMANDS = {32: 0.30, 64: 0.45, 128: 0.55}
SECONDS_A_POINT = 2.5


def measure(_found: dict[str, Any], *, small: bool) -> dict[str, Any]:
    """Measure every rank, type and size of the fixed side."""
    shrink = 10 if small else 1
    points = []
    for fixed_rows in FIXED_ROWS:
        block = _block(
            GenerateSettings(
                n_users=ROWS // shrink, n_items=fixed_rows // shrink, n_ratings=RATINGS // shrink
            )
        )
        for dtype in DTYPES:
            for rank in RANKS:
                points.append(_point(block, rank, dtype))
                say(f"rank {rank} {dtype}, {points[-1]['fixed_rows']:,} fixed rows")
    return {"points": points}


def flops(block_rows: int, ratings: int, rank: int) -> float:
    """Return the flops of solving rows by normal equations and Cholesky: what counts as done."""
    return ratings * rank * (rank + 1) + block_rows * rank**3 / 3


def fewest_flops(counts: np.ndarray, rank: int) -> float:
    """Return the flops if each row is solved in its cheaper form, primal or dual."""
    primal = counts * rank * (rank + 1) + rank**3 / 3
    dual = counts * (counts + 1) * rank + counts**3 / 3
    return float(np.minimum(primal, dual).sum())


def _block(settings: GenerateSettings) -> Block:
    ratings = pa.concat_tables([generate_chunk(settings, chunk) for chunk in chunks(settings)])
    _, items = np.unique(ratings["movieId"].to_numpy(), return_inverse=True)
    users = (ratings["userId"].to_numpy() - 1).astype(np.int32)
    rows = range(settings.n_users)
    return block_of(rows, users, items.astype(np.int32), ratings["rating"].to_numpy())


def _point(block: Block, rank: int, dtype: str) -> dict[str, Any]:
    """Time products and half-epochs by turns; the fastest of each count."""
    n, m = len(block.rows), int(block.indices.max()) + 1
    random = np.random.default_rng(0)
    own, fixed = (aligned_empty((rows, rank), dtype) for rows in (n, m))
    for factors in (own, fixed):
        factors[:] = random.standard_normal(factors.shape)
    bias, ridge = np.zeros(m, dtype), np.full(n, 12.0)
    square = np.ones((1536, 1536), dtype)

    def half_epoch() -> None:
        solve_rows(
            block.indptr,
            block.indices,
            block.ratings,
            own,
            bias,
            fixed,
            mean=3.5,
            bias_ridge=ridge,
            factor_ridge=ridge,
        )

    half_epoch()  # compiles, or loads what was compiled
    solves, products = [], []
    start = time.perf_counter()
    while len(solves) < 2 or time.perf_counter() - start < SECONDS_A_POINT:
        products += [_seconds(lambda: square @ square) for _ in range(3)]
        solves.append(_seconds(half_epoch))
    work = flops(n, len(block.ratings), rank)
    solve_gflops, gemm_gflops = work / min(solves) / 1e9, 2 * len(square) ** 3 / min(products) / 1e9
    return {
        "rank": rank,
        "dtype": dtype,
        "rows": n,
        "ratings": len(block.ratings),
        "fixed_rows": m,
        "seconds": solves,
        "gflops": solve_gflops,
        "gemm_gflops": gemm_gflops,
        "share": solve_gflops / gemm_gflops,
        "fewest_flops": fewest_flops(block.counts.astype(float), rank) / work,
    }


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def tables(result: dict[str, Any]) -> str:
    """Write a table for each type."""
    parts = []
    for dtype in DTYPES:
        points = [point for point in result["points"] if point["dtype"] == dtype]
        sides = list(dict.fromkeys(point["fixed_rows"] for point in points))
        rows = []
        for rank in RANKS:
            of_rank = [
                p for side in sides for p in points if (p["rank"], p["fixed_rows"]) == (rank, side)
            ]
            cells = [
                f"{min(p['seconds']):.3f} s, {p['share']:.0%} "
                f"({p['share'] * p['fewest_flops']:.0%})"
                for p in of_rank
            ]
            gemm = max(p["gemm_gflops"] for p in of_rank)
            rows.append([rank, *cells, f"{gemm:.0f}", bar(min(1, of_rank[0]["share"]), 1)])
        head = [f"rank, {dtype}", *(f"{side:,} fixed rows" for side in sides)]
        product = "sgemm" if dtype == "float32" else "dgemm"
        head += [f"{product}, GFLOP/s", f"share of {product}"]
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def criteria(result: dict[str, Any]) -> list[Criterion]:
    """Judge the shares at three ranks; the worse side counts."""
    judged = []
    for dtype in DTYPES:
        for rank, demand in DEMANDS.items():
            shares = [
                point["share"]
                for point in result["points"]
                if (point["rank"], point["dtype"]) == (rank, dtype)
            ]
            reached = " and ".join(f"{share:.1%}" for share in shares)
            text = f"{demand:.0%} of the matrix product at rank {rank}, {dtype}"
            judged.append(Criterion(text, reached, min(shares) >= demand))
    return judged
