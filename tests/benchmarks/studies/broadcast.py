"""How a solved side gets to all hosts: the ways that Dask has, over links of a given speed."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmark_data import BUILD, generated_dataset, in_the_shape_of_20m
from machine import busy_seconds, cores, say

from studies.network import Network, address, why_not
from studies.report import Criterion, table

TITLE = "Broadcast"
HOSTS = [2, 4, 8, 16]
MEGABITS = 100
BYTES = 8_000_000
ROUNDS = 2
TRAINING_HOSTS = [4, 8]
TRAINING_EPOCHS = 5
PORT = 8786
OURS = "chunks"  # the way that the package uses


def measure(_found: dict[str, Any], *, small: bool) -> dict[str, Any]:
    """Measure the ways, then trainings with and without Dask's active memory manager."""
    if reason := why_not():
        say(f"skipped: {reason}")
        return {"skipped": reason}
    hosts = HOSTS[:2] if small else HOSTS
    n_bytes = BYTES // 4 if small else BYTES
    points = []
    for number in hosts:
        options = {"hosts": number, "bytes": n_bytes, "rounds": ROUNDS}
        busy = busy_seconds()
        lines = _on_cluster(number, options)
        busy = busy_seconds() - busy
        seconds: dict[str, list[float]] = {}
        for line in lines:
            seconds.setdefault(line["way"], []).append(line["seconds"])
        points.append({"hosts": number, "seconds": seconds})
        say(f"{number} hosts: {seconds}, {busy:.0f} s of processors")
    dataset = generated_dataset(in_the_shape_of_20m(1_000_000 if small else 4_000_000), 16)
    trainings = []
    for number in TRAINING_HOSTS[:1] if small else TRAINING_HOSTS:
        for memory_manager in (True, False):
            options = {
                "hosts": number,
                "dataset": dataset.path,
                "epochs": TRAINING_EPOCHS,
                "memory_manager": memory_manager,
            }
            (line,) = _on_cluster(number, options)
            trainings.append({**line, "hosts": number, "memory_manager": memory_manager})
            say(f"training: {trainings[-1]}")
    return {
        "megabits": MEGABITS,
        "bytes": n_bytes,
        "cores": cores(),
        "points": points,
        "dataset": {
            "n_ratings": dataset.n_ratings,
            "n_users": dataset.users.n_rows,
            "n_items": dataset.items.n_rows,
            "partitions": len(dataset.users.partitions),
        },
        "trainings": trainings,
    }


def _on_cluster(hosts: int, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Start a scheduler on host 0 and a worker on each other; run the driver beside the former."""
    scheduler = f"tcp://{address(0)}:{PORT}"
    dask = [sys.executable, "-m"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        tempfile.TemporaryDirectory(dir=BUILD) as folder,
        Network(hosts + 1, megabits=MEGABITS) as network,
    ):
        network.start(
            0,
            *dask,
            "distributed.cli.dask_scheduler",
            *("--host", address(0), "--port", str(PORT), "--no-dashboard"),
            **quiet,
        )
        for host in range(1, hosts + 1):
            network.start(
                host,
                *dask,
                "distributed.cli.dask_worker",
                scheduler,
                *("--host", address(host), "--name", str(host), "--nthreads", "1"),
                *("--no-nanny", "--no-dashboard", "--memory-limit", "0"),
                *("--local-directory", folder),
                **quiet,
            )
        driver = network.start(
            0,
            *dask,
            "studies.driver",
            scheduler,
            json.dumps(options),
            stdout=subprocess.PIPE,
        )
        output, _ = driver.communicate()
    if driver.returncode:
        raise RuntimeError(f"the driver ended with {driver.returncode}")
    return [json.loads(line) for line in output.splitlines()]


def one_transfer(result: dict[str, Any]) -> float:
    """Return the seconds that one side takes over one link."""
    return result["bytes"] * 8 / result["megabits"] / 1e6


def transfers(result: dict[str, Any], way: str) -> dict[int, float]:
    """Return a way's time as a multiple of that, by number of hosts."""
    return {
        point["hosts"]: statistics.median(point["seconds"][way]) / one_transfer(result)
        for point in result["points"]
        if way in point["seconds"]
    }


def tables(result: dict[str, Any]) -> str:
    """Write the ways' times, and what the memory manager costs."""
    if "skipped" in result:
        return f"Skipped: {result['skipped']}."
    head = [
        f"s for {result['bytes'] / 1e6:g} MB at {result['megabits']} Mbit/s "
        f"(multiples of {one_transfer(result):.2f} s)",
        *(f"{point['hosts']} hosts" for point in result["points"]),
    ]
    rows = [
        [
            way,
            *(
                f"{statistics.median(point['seconds'][way]):.2f} "
                f"({transfers(result, way)[point['hosts']]:.1f})"
                if way in point["seconds"]
                else ""
                for point in result["points"]
            ),
        ]
        for way in result["points"][0]["seconds"]
    ]
    words = sorted({word for t in result["trainings"] for word in t["fetched"]})
    trainings = [
        [
            f"{t['hosts']} hosts, memory manager {'on' if t['memory_manager'] else 'paused'}",
            f"{statistics.median(t['seconds']):.2f}",
            *(f"{t['fetched'].get(word, 0)} ({t['fetched_again'].get(word, 0)})" for word in words),
            f"{t['bytes_received'] / 1e6:,.0f}",
        ]
        for t in result["trainings"]
    ]
    training_head = [f"a training on {result['dataset']['n_ratings'] / 1e6:g} M ratings"]
    training_head += [
        "s an epoch",
        *(f"{word}-… fetched (again)" for word in words),
        "MB over links",
    ]
    return f"{table(head, rows)}\n\n{table(training_head, trainings)}"


def criteria(result: dict[str, Any]) -> list[Criterion]:
    """The only criterion is that the fastest way is known."""
    return []
