"""`dask-als prepare` beside DuckDB, from the same CSV to the same two sorted copies, by turns."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark_data import BUILD, generated_ratings, in_the_shape_of_20m
from machine import Watch, environment, say
from peers_venv import HERE, install, python_of_peers

from studies.report import Criterion, table

TITLE = "Preparation"
THREADS = 2
ROUNDS = 2
OURS = [sys.executable, "-m", "dask_als", "prepare", "--dashboard", "127.0.0.1:0"]
LIMITED = ["--workers", "2", "--threads", "1", "--memory", "1GB"]


def measure(_found: dict[str, Any], *, small: bool) -> dict[str, Any]:
    """Time both, and ours once more with little memory."""
    n_ratings = 500_000 if small else 20_000_000
    source = str(generated_ratings(in_the_shape_of_20m(n_ratings), ".csv"))
    not_installed = install(["duckdb"]).get("duckdb")
    ways = {
        "dask_als": [*OURS, "--threads", str(THREADS), source, "{folder}/dataset"],
        "duckdb": [
            str(python_of_peers()),
            str(HERE / "peers/duckdb_sorted.py"),
            source,
            "{folder}",
            str(THREADS),
        ],
    }
    if not_installed:
        del ways["duckdb"]
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, command in ways.items():
            runs[way].append(_run(command))
            if runs[way][-1]["exit_code"]:
                raise RuntimeError(f"{' '.join(command)} failed")
            say(f"{way}: {runs[way][-1]['seconds']:.1f} s")
    limited = _run([*OURS, *LIMITED, source, "{folder}/dataset"])
    return {
        "n_ratings": n_ratings,
        "runs": runs,
        "limited": limited,
        "not_installed": not_installed,
    }


def _run(command: list[str]) -> dict[str, Any]:
    """Run a command that writes to a folder of its own; return its time, memory and exit code."""
    folder = tempfile.mkdtemp(dir=BUILD)
    try:
        start = time.monotonic()
        process = subprocess.Popen(
            [part.format(folder=folder) for part in command],
            env=environment(),
            stdout=subprocess.DEVNULL,
        )
        try:
            with Watch(process.pid) as watch:
                code = process.wait()
        finally:
            process.kill()
        return {
            "seconds": time.monotonic() - start,
            "exit_code": code,
            "peak_of_the_sum": watch.peak_memory_bytes,
            "peaks_of_processes": sorted(watch.high_water_bytes.values(), reverse=True),
            "written_bytes": sum(f.stat().st_size for f in Path(folder).rglob("*.parquet")),
        }
    finally:
        shutil.rmtree(folder)


def tables(result: dict[str, Any]) -> str:
    """Write times and memory."""
    rows = [
        [
            way,
            f"{_median(runs):.1f}",
            *_memory(max(runs, key=lambda run: run["peak_of_the_sum"])),
        ]
        for way, runs in result["runs"].items()
    ]
    limited = result["limited"]
    ended = f"{limited['seconds']:.1f}" if limited["exit_code"] == 0 else "failed"
    rows.append([f"dask_als {' '.join(LIMITED)}", ended, *_memory(limited)])
    head = [f"{result['n_ratings'] / 1e6:g} M rows of CSV", "s", "peak of all processes, GB"]
    head += ["of the largest process, GB", "written, MB"]
    return table(head, rows)


def _median(runs: list[dict[str, Any]]) -> float:
    return statistics.median(run["seconds"] for run in runs)


def _memory(run: dict[str, Any]) -> list[str]:
    return [
        f"{run['peak_of_the_sum'] / 1e9:.2f}",
        f"{run['peaks_of_processes'][0] / 1e9:.2f}",
        f"{run['written_bytes'] / 1e6:.0f}",
    ]


def criteria(result: dict[str, Any]) -> list[Criterion]:
    """Judge the time beside DuckDB's, and the end with little memory."""
    demand = "prepare takes at most 3 times what DuckDB takes"
    if result["not_installed"]:
        beside_duckdb = Criterion(demand, f"duckdb {result['not_installed']}", met=False)
    else:
        ratio = _median(result["runs"]["dask_als"]) / _median(result["runs"]["duckdb"])
        beside_duckdb = Criterion(demand, f"{ratio:.2f} times", ratio <= 3)
    limited = result["limited"]
    largest = limited["peaks_of_processes"][0]
    ended = "it finishes" if limited["exit_code"] == 0 else f"exit code {limited['exit_code']}"
    return [
        beside_duckdb,
        Criterion(
            "prepare finishes with workers of 1 GB",
            f"{ended}; the largest process had {largest / 1e9:.2f} GB",
            limited["exit_code"] == 0,
        ),
    ]
