"""The machine of a benchmark: its description, its peak speed, and the load of a process."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil


def say(line: str) -> None:
    """Print progress to standard error; standard output is for the tables."""
    print(line, file=sys.stderr, flush=True)


def environment() -> dict[str, str]:
    """Return our environment with one BLAS thread and none but the processor's own BLAS kernels."""
    forced = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}
    kept = {name: value for name, value in os.environ.items() if name not in forced}
    return kept | {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


SGEMM = """
import time, numpy
a = numpy.ones((2048, 2048), numpy.float32)
best = 1e9
for _ in range(9):
    start = time.perf_counter()
    a @ a
    best = min(best, time.perf_counter() - start)
print(2 * 2048**3 / best / 1e9)
"""


def sgemm_gflops() -> float:
    """Measure one core's fastest matrix product, as the machine's speed varies."""
    command = [sys.executable, "-c", SGEMM]
    output = subprocess.run(command, env=environment(), check=True, text=True, capture_output=True)
    return round(float(output.stdout), 1)


def describe() -> dict[str, Any]:
    """Describe the machine and the versions."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    java = (
        shutil.which("java")
        and subprocess.run(
            ["java", "-version"], text=True, capture_output=True
        ).stderr.splitlines()[0]
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": model,
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "java": java or "none",
    }


class Watch(threading.Thread):
    """The memory of a process and its descendants, and the load of other processes meanwhile.

    Attributes
    ----------
    peak_memory_bytes : int
        The largest sum of resident memory that was seen.
    high_water_bytes : dict of int to int
        Each process's own peak as the system kept it (Linux), by process id.
    others_cores : float
        Processor time per second that others took, other guests of the same host included.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_memory_bytes = 0
        self.high_water_bytes: dict[int, int] = {}
        self.others_cores = 0.0
        self._root = psutil.Process(pid)
        self._processor_seconds: dict[int, float] = {}
        self._ended = threading.Event()

    def __enter__(self) -> Watch:
        self._start, self._busy = time.monotonic(), busy_seconds()
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self.join()
        others = busy_seconds() - self._busy - sum(self._processor_seconds.values())
        self.others_cores = max(0.0, others / (time.monotonic() - self._start))

    def run(self) -> None:
        while not self._ended.wait(0.25):
            with contextlib.suppress(psutil.Error):
                self._look()

    def _look(self) -> None:
        memory = 0
        for process in [self._root, *self._root.children(recursive=True)]:
            memory += process.memory_info().rss
            times = process.cpu_times()
            self._processor_seconds[process.pid] = times.user + times.system
            # A process that has just ended has none.
            with contextlib.suppress(OSError, IndexError):
                self.high_water_bytes[process.pid] = high_water_bytes(process.pid)
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory)


def high_water_bytes(pid: int) -> int:
    """Return the peak resident memory of a process; only Linux records it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def busy_seconds() -> float:
    """Return the busy time of all cores."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
