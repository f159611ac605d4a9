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
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark_data import BUILD, GENERATED, ratings_folder, source
from machine import Watch, describe, environment, say, sgemm_gflops
from peers_venv import HERE, install, python_of_peers, reason


@dataclass(frozen=True)
class Contender:
    """A script that trains and prints its epochs' seconds; pip installs its `package`."""

    name: str
    script: str
    package: str | None = None
    small_data_only: bool = False


OURS = Contender("dask_als", "dask_als_epoch.py")
OTHERS = [
    Contender("dask_als-gibbs", "dask_als_gibbs.py"),
    Contender("dask_als-implicit", "dask_als_implicit.py"),
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
    """The results of one contender on one workload."""

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
    contenders = [c for c in [OURS, *OTHERS] if not options.peers or c.name in options.peers]
    options.build.mkdir(parents=True, exist_ok=True)
    folders = {w.data: ratings_folder(w.data, options.build) for w in workloads}
    not_installed = install([c.package for c in contenders if c.package])

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
        "machine": describe() | {"sgemm_gflops_of_a_core": sgemm},
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
    parser.add_argument("--peers", nargs="+", choices=[c.name for c in [OURS, *OTHERS]])
    parser.add_argument("--epochs", type=int, help="epochs of a run (3; 100 of ml-small)")
    parser.add_argument("--repeats", type=int, help="rounds (default 3; 1 with --small)")
    parser.add_argument("--threads", type=int, default=2, help="threads and cores of each run")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one run")
    parser.add_argument("--build", type=Path, default=BUILD)
    options = parser.parse_args()
    if options.repeats is None:
        options.repeats = 1 if options.small else 3
    return options


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
        "epochs": options.epochs or (100 if workload.is_small else 3),
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


# The tables --------------------------------------------------------------------------------------


def ours(rows: dict[tuple[Workload, Contender], Row], workload: Workload) -> list[float]:
    """Return the epochs of dask_als on a workload; none if it did not run."""
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
    """Describe the ratings."""
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
    """Describe what was measured, and how."""
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
