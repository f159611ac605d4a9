"""The memory of `dask-als train`, all its processes together."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
from benchmark_data import BUILD, generated_dataset, in_the_shape_of_20m
from machine import Watch, environment

from dask_als.settings.training import TrainSettings
from studies.report import Criterion, table

TITLE = "Memory of a training"
SETTINGS = TrainSettings(rank=64, epochs=4)
PROCESSES = 2  # the command, in which scheduler and client are, and a worker
BYTES_A_RATING, FACTORS, BYTES_A_PROCESS = 16, 3, 250e6


def measure(_found: dict[str, Any], *, small: bool) -> dict[str, Any]:
    """Train by the command line and watch it."""
    dataset = generated_dataset(in_the_shape_of_20m(1_000_000 if small else 20_000_000))
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        command = [sys.executable, "-m", "dask_als", "train", dataset.path, str(Path(folder, "m"))]
        command += ["--rank", str(SETTINGS.rank), "--epochs", str(SETTINGS.epochs)]
        command += ["--dashboard", "127.0.0.1:0"]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        try:
            with Watch(process.pid) as watch, _SharedOnce(process.pid) as shared_once:
                process.wait()
        finally:
            process.kill()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    rows = dataset.users.n_rows + dataset.items.n_rows
    return {
        "n_ratings": dataset.n_ratings,
        "factor_bytes": rows * (SETTINGS.rank + 1) * 4,
        "peak_of_the_sum": watch.peak_memory_bytes,
        "peak_shared_once": shared_once.peak_bytes,
        "peaks_of_processes": sorted(watch.high_water_bytes.values(), reverse=True),
    }


class _SharedOnce(threading.Thread):
    """Samples the memory of a process and its descendants, with shared pages counted once."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._root = psutil.Process(pid)
        self._ended = threading.Event()

    def __enter__(self) -> _SharedOnce:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            with contextlib.suppress(psutil.Error):
                family = [self._root, *self._root.children(recursive=True)]
                now = sum(process.memory_full_info().pss for process in family)
                self.peak_bytes = max(self.peak_bytes, now)


def allowed(result: dict[str, Any]) -> float:
    """Return the bytes that the criterion allows."""
    return (
        BYTES_A_RATING * result["n_ratings"]
        + FACTORS * result["factor_bytes"]
        + BYTES_A_PROCESS * PROCESSES
    )


def tables(result: dict[str, Any]) -> str:
    """Write how the memory is distributed."""
    rows = [
        ["allowed", f"{allowed(result) / 1e6:,.0f}"],
        ["of it ratings", f"{BYTES_A_RATING * result['n_ratings'] / 1e6:,.0f}"],
        ["of it factors", f"{FACTORS * result['factor_bytes'] / 1e6:,.0f}"],
        ["all processes, shared pages counted once", f"{result['peak_shared_once'] / 1e6:,.0f}"],
        ["all processes, shared pages in each", f"{result['peak_of_the_sum'] / 1e6:,.0f}"],
        ["sum of each process's own peak", f"{sum(result['peaks_of_processes']) / 1e6:,.0f}"],
    ]
    names = [f"peak of process {number + 1}" for number in range(len(result["peaks_of_processes"]))]
    rows += [
        [name, f"{peak / 1e6:,.0f}"]
        for name, peak in zip(names, result["peaks_of_processes"], strict=True)
    ]
    return table([f"{result['n_ratings'] / 1e6:g} M ratings", "MB"], rows)


def criteria(result: dict[str, Any]) -> list[Criterion]:
    """Check the sum over all processes; shared pages count once."""
    peak = result["peak_shared_once"]
    return [
        Criterion(
            "peak memory of all processes under 16 bytes a rating + 3 × the factors "
            "+ 250 MB a process",
            f"{peak / 1e6:,.0f} of {allowed(result) / 1e6:,.0f} MB",
            peak < allowed(result),
        )
    ]
