"""Time one epoch of dask_als beside its peers: the same ratings, the same cores, in one go.

    python tests/benchmarks/run_benchmarks.py                    # everything (most of an hour)
    python tests/benchmarks/run_benchmarks.py --small            # under five minutes
    python tests/benchmarks/run_benchmarks.py --workloads 20m:64 --peers dask_als spark --repeats 3

Every peer is a script of its own in ``peers/``, runs in a process of its own and prints one line
of JSON. Peers are installed into ``.venv-peers`` beside this file, pinned by
``requirements-peers.txt``. A round runs every peer once; more rounds spread each peer's epochs over
the whole time, so that a slow minute of the machine hits all alike. A peer that can't be installed
or fails stays in the table with its reason.

Writes ``results.json`` and ``results.md`` to ``build/benchmarks``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow.csv
import pyarrow.parquet

from dask_als.generate import MOVIELENS_25M, MOVIELENS_SMALL, GenerateSettings, write_ratings

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
VENV = HERE / ".venv-peers"
PINS = HERE / "requirements-peers.txt"
SHARED = ["numpy", "pyarrow", "scipy", "threadpoolctl"]
REAL_SMALL = PROJECT.parent / "shared/data/ml-latest-small/ratings.csv"

GENERATED = {
    "ml-small": MOVIELENS_SMALL,
    "1m": GenerateSettings(n_users=6_040, n_items=3_706, n_ratings=1_000_209),
    "20m": GenerateSettings(n_users=162_541, n_items=59_047, n_ratings=20_000_000),
    "25m": MOVIELENS_25M,
}


@dataclass(frozen=True)
class Contender:
    """A script that trains and prints its epochs' seconds; pip installs its `package`."""

    name: str
    script: str
    package: str | None = None
    small_data_only: bool = False


OURS = Contender("dask_als", "dask_als_epoch.py")
PEERS = [
    Contender("spark", "peers/spark_als.py", "pyspark"),
    Contender("cmfrec-cholesky", "peers/cmfrec_cholesky.py", "cmfrec"),
    Contender("implicit-cholesky", "peers/implicit_cholesky.py", "implicit"),
    Contender("lenskit", "peers/lenskit_biased.py", "lenskit"),
    Contender("implicit-cg", "peers/implicit_cg.py", "implicit"),
    Contender("cmfrec-cg", "peers/cmfrec_cg.py", "cmfrec"),
    Contender("notebook", "peers/notebook_loops.py", "numpy", small_data_only=True),
]


@dataclass(frozen=True)
class Workload:
    """A data set and a rank."""

    data: str
    rank: int

    @classmethod
    def parse(cls, text: str) -> Workload:
        data, _, rank = text.partition(":")
        if data not in GENERATED or not rank.isdigit() or int(rank) < 1:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no workload: give DATA:RANK, DATA one of {', '.join(GENERATED)}"
            )
        return cls(data, int(rank))

    def __str__(self) -> str:
        return f"{self.data}:{self.rank}"

    @property
    def is_small(self) -> bool:
        return GENERATED[self.data].n_ratings < 1_000_000


SMALL = [Workload("ml-small", 5), Workload("1m", 64)]
ALL = [Workload("ml-small", 5), Workload("20m", 64)]


@dataclass
class Row:
    """What came out of one contender's runs of one workload."""

    contender: str
    workload: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    failure: str | None = None

    @property
    def seconds(self) -> list[float]:
        return [epoch for run in self.runs for epoch in run["seconds_per_epoch"]]


def main() -> None:
    """Make the data, install the peers, run the rounds and write the tables."""
    options = parse()
    workloads = options.workloads or (SMALL if options.small else ALL)
    contenders = [c for c in [OURS, *PEERS] if not options.peers or c.name in options.peers]
    options.build.mkdir(parents=True, exist_ok=True)
    folders = {w.data: ratings_folder(w.data, options.build) for w in workloads}
    not_installed = install([c for c in contenders if c.package])

    rows = {
        (workload, contender): Row(contender.name, str(workload))
        for workload in workloads
        for contender in contenders
        if workload.is_small or not contender.small_data_only
    }
    sgemm = [sgemm_gflops()]
    for number in range(options.repeats):
        for (workload, contender), row in rows.items():
            row.failure = row.failure or not_installed.get(contender.package or "")
            if row.failure:
                continue
            say(f"round {number + 1}/{options.repeats}, {workload}: {contender.name} …")
            try:
                run = run_contender(contender, folders[workload.data], workload, options)
                row.runs.append(run)
                say(
                    f"  {statistics.median(run['seconds_per_epoch']):.3f} s an epoch, "
                    f"others took {run['others_cores']:.2f} cores"
                )
            except ContenderFailed as failure:
                row.failure = str(failure)
                say(f"  failed: {failure}")
        sgemm.append(sgemm_gflops())

    results = {
        "machine": machine(sgemm),
        "options": {
            "repeats": options.repeats,
            "threads": options.threads,
        },
        "data": {name: asdict(GENERATED[name]) | {"source": source(name)} for name in folders},
        "rows": [summary(row, ours(rows, workload)) for (workload, _), row in rows.items()],
    }
    (options.build / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.build / "results.md").write_text(markdown(results))
    print(markdown(results))
    say(f"written: {options.build / 'results.md'}, {options.build / 'results.json'}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small data, one repeat")
    parser.add_argument("--workloads", nargs="+", type=Workload.parse, metavar="DATA:RANK")
    parser.add_argument("--peers", nargs="+", choices=[c.name for c in [OURS, *PEERS]])
    parser.add_argument("--epochs", type=int, help="epochs of a run (3; 20 of ml-small)")
    parser.add_argument("--repeats", type=int, help="rounds (default 3; 1 with --small)")
    parser.add_argument("--threads", type=int, default=2, help="threads and cores of each run")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one run")
    parser.add_argument("--build", type=Path, default=PROJECT / "build/benchmarks")
    options = parser.parse_args()
    if options.repeats is None:
        options.repeats = 1 if options.small else 3
    return options


def say(line: str) -> None:
    """Tell the person who waits; standard output is for the tables."""
    print(line, file=sys.stderr, flush=True)


# Data and peers ----------------------------------------------------------------------------------


def source(data: str) -> str:
    """Say whether a data set is real or generated."""
    return "GroupLens" if data == "ml-small" and REAL_SMALL.exists() else "generated"


def ratings_folder(data: str, build: Path) -> Path:
    """Give a Parquet folder with the ratings, made once."""
    folder = build / "data" / f"{data}-{source(data)}"
    if folder.exists():
        return folder
    say(f"{source(data)} ratings: {folder}")
    if source(data) == "generated":
        write_ratings(GENERATED[data], folder)
        return folder
    folder.mkdir(parents=True)
    ratings = pyarrow.csv.read_csv(REAL_SMALL)
    pyarrow.parquet.write_table(ratings, folder / "part-00000.parquet")
    return folder


def install(contenders: list[Contender]) -> dict[str, str]:
    """Install each contender's package by itself; give the reasons of those that would not."""
    if contenders and not python_of_peers().exists():
        say(f"making {VENV.name}; LensKit brings PyTorch, some 3 GB to download")
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    reasons = {}
    for package in dict.fromkeys(c.package for c in contenders if c.package):
        pip = [str(python_of_peers()), "-m", "pip", "install", "--quiet", "--constraint", str(PINS)]
        result = subprocess.run([*pip, *SHARED, package], text=True, capture_output=True)
        if result.returncode:
            reasons[package] = f"not installed: {reason(result.stderr)}"
            say(f"{package} {reasons[package]}")
    return reasons


def python_of_peers() -> Path:
    """Give the interpreter of the peers' own environment."""
    return VENV / "bin" / "python"


# One run -----------------------------------------------------------------------------------------


class ContenderFailed(Exception):
    """A run that gave no figures; the message is the reason, in one line."""


def run_contender(
    contender: Contender, data: Path, workload: Workload, options: argparse.Namespace
) -> dict[str, Any]:
    """Run one script in its own process and session, and watch its memory."""
    python = python_of_peers() if contender.package else Path(sys.executable)
    command = [str(python), str(HERE / contender.script), str(data)]
    for name, value in {
        "rank": workload.rank,
        "epochs": options.epochs or (20 if workload.is_small else 3),
        "threads": options.threads,
    }.items():
        command += [f"--{name}", str(value)]
    process = subprocess.Popen(
        command,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    watch = Watch(process.pid)
    try:
        with watch:
            output, errors = process.communicate(timeout=options.timeout)
    except subprocess.TimeoutExpired:
        raise ContenderFailed(f"took more than {options.timeout:g} s") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        raise ContenderFailed(f"exit code {process.returncode}, {reason(errors)}")
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return json.loads(line) | {
                "peak_memory_bytes": watch.peak_memory_bytes,
                "others_cores": round(watch.others_cores, 2),
            }
    raise ContenderFailed("printed no line of JSON")


def reason(stderr: str) -> str:
    """Give the last line that names an error, else the last that says something."""
    lines = [line.rstrip() for line in stderr.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"ERROR: |[\w.]+(Error|Exception|Invalid)\b", line)]
    return ([*lines[-1:], *named[-1:]] or ["no message"])[-1][:300]


class Watch(threading.Thread):
    """What a process and its descendants take, and how busy others keep the cores meanwhile.

    Attributes
    ----------
    peak_memory_bytes : int
        The largest sum of resident memory that was seen.
    others_cores : float
        Processor time per second that others took, other guests of the same host included.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_memory_bytes = 0
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
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory)


def busy_seconds() -> float:
    """Give the processor time that all cores were not idle for."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def environment() -> dict[str, str]:
    """Give our environment with one BLAS thread and none but the processor's own BLAS kernels."""
    forced = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}
    kept = {name: value for name, value in os.environ.items() if name not in forced}
    return kept | {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


# The machine -------------------------------------------------------------------------------------

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
    """Measure one core's best matrix product, to tell a slow hour of the machine from a fast."""
    command = [sys.executable, "-c", SGEMM]
    output = subprocess.run(command, env=environment(), check=True, text=True, capture_output=True)
    return round(float(output.stdout), 1)


def machine(sgemm: list[float]) -> dict[str, Any]:
    """Describe where the figures come from."""
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
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "java": java or "none",
        "sgemm_gflops_of_a_core": sgemm,
    }


# The tables --------------------------------------------------------------------------------------


def ours(rows: dict[tuple[Workload, Contender], Row], workload: Workload) -> list[float]:
    """Give our epochs of a workload; none if ours did not run."""
    row = rows.get((workload, OURS))
    return row.seconds if row else []


def summary(row: Row, our_seconds: list[float]) -> dict[str, Any]:
    """Reduce a row to its figures, keeping every run."""
    result = asdict(row)
    if row.failure or not row.seconds:
        return result
    described = {k: v for k, v in row.runs[0].items() if k not in MEASURED}
    result |= described | {
        "median": statistics.median(row.seconds),
        "fastest": min(row.seconds),
        "load_seconds": statistics.median(run["load_seconds"] for run in row.runs),
        "peak_memory_bytes": max(run["peak_memory_bytes"] for run in row.runs),
    }
    if our_seconds:
        result["times_ours"] = result["median"] / statistics.median(our_seconds)
        result["fastest_times_ours"] = result["fastest"] / min(our_seconds)
    return result


MEASURED = {"seconds_per_epoch", "load_seconds", "peak_memory_bytes", "others_cores", "blas"}


def markdown(results: dict[str, Any]) -> str:
    """Write the tables, a workload each, slowest first, and what they were measured on."""
    parts = []
    for workload in dict.fromkeys(row["workload"] for row in results["rows"]):
        name, rank = workload.split(":")
        rows = [row for row in results["rows"] if row["workload"] == workload]
        rows.sort(key=lambda row: -row.get("median", 0))
        parts += [heading(results["data"][name], name, rank), TABLE_HEAD, *map(table_row, rows), ""]
    return "\n".join([*parts, footnote(results), ""])


TABLE_HEAD = """
| | version | model | solver | seconds an epoch | fastest | times ours | memory | timed by |
|---|---|---|---|---:|---:|---:|---:|---|"""


def heading(data: dict[str, Any], name: str, rank: str) -> str:
    """Say what the ratings are."""
    size = (
        f"{data['n_ratings']:,} ratings of {data['n_items']:,} items by {data['n_users']:,} users"
    )
    return f"### {name} ({data['source']}): {size}, rank {rank}"


def table_row(row: dict[str, Any]) -> str:
    """Write the figures of one contender, or why there are none."""
    if "median" not in row:
        failure = (row["failure"] or "no epoch was timed").replace("|", "/")
        return f"| {row['contender']} | | | failed: {failure} | | | | | |"
    cells = [
        row["peer"],
        f"{row['package']} {row['version']}",
        row["model"],
        f"{row['solver']}, {row['dtype']}",
        f"{row['median']:.3g}",
        f"{row['fastest']:.3g}",
        f"{row['times_ours']:.1f}" if "times_ours" in row else "",
        f"{row['peak_memory_bytes'] / 1e9:.2f} GB",
        row["timed_by"],
    ]
    return f"| {' | '.join(cells)} |"


def footnote(results: dict[str, Any]) -> str:
    """Say what and how it was measured."""
    on, options = results["machine"], results["options"]
    sgemm = on["sgemm_gflops_of_a_core"]
    memory = on["memory_bytes"] / 2**30
    others = [run["others_cores"] for row in results["rows"] for run in row["runs"]]
    return " ".join(
        [
            f"{on['date']}, {on['processor']}, {on['cores']} cores, {memory:.0f} GiB,",
            f"{on['system']}, Python {on['python']}, {on['java']}.",
            f"Each runs {options['threads']} threads on as many cores, BLAS one.",
            f"Median and fastest of all epochs of {options['repeats']} rounds;",
            "reading and setting up are left out.",
            f"Others took up to {max(others, default=0):.2f} cores during a run;",
            f"sgemm of one core before and after: {min(sgemm):.0f} to {max(sgemm):.0f} GFLOP/s.",
        ]
    )


if __name__ == "__main__":
    started = time.monotonic()
    main()
    say(f"took {time.monotonic() - started:.0f} s")
