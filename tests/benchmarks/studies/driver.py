"""What runs on host 0 of a network: the ways of a broadcast, or a training, on its cluster.

    python -m studies.driver SCHEDULER OPTIONS_AS_JSON

Every line of its output is a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, Future, wait

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.blocks import Factors
from dask_als.data.dataset import open_dataset
from dask_als.settings.training import TrainSettings
from dask_als.solvers.base import SolvedPart, SolvedSide, join_parts, unsolved_part
from dask_als.training.task_graph import TaskGraph
from studies.clock import seconds_an_epoch

RANK = 64
BYTES_A_ROW = 4 * (RANK + 1) + 1
PARTS_A_HOST = 2
CHUNKS = 16
NO_LIMIT = 50  # Dask's limit: the number of others that may pull from a worker at once

Futures = list[Future]


@dataclass(frozen=True)
class Way:
    """A way of a broadcast.

    Attributes
    ----------
    broadcast : callable
        Takes a client, the parts and the hosts; returns a task for each host that has used all.
    serve_at_once : int
        To how many others a host sends at once; others are turned away and ask again who has it.
    memory_manager : bool
        Whether the active memory manager runs, which drops what more than one host has.
    most_hosts : int
        Leave it out for more.
    """

    broadcast: Callable[[Client, Futures, list[str]], Futures]
    serve_at_once: int = NO_LIMIT
    memory_manager: bool = True
    most_hosts: int = 1_000


def main() -> None:
    """Run the part that the options select."""
    scheduler, options = sys.argv[1], json.loads(sys.argv[2])
    with Client(scheduler) as client:
        client.wait_for_workers(options["hosts"], timeout=60)
        if "dataset" in options:
            print(json.dumps(training(client, **options)), flush=True)
            return
        for name, way in WAYS.items():
            rounds = options["rounds"] if options["hosts"] <= way.most_hosts else 0
            for _ in range(rounds):
                seconds = broadcast(client, way, options["hosts"], options["bytes"])
                print(json.dumps({"way": name, "seconds": seconds}), flush=True)


# The ways ----------------------------------------------------------------------------------------
# From the parts, two on each host, to one task on each host that has the whole side.


def pull(client: Client, parts: Futures, hosts: list[str]) -> Futures:
    """Join on one host; all others pull from there, or from one that has it by then."""
    side = client.submit(join_parts, parts, workers=hosts, pure=False)
    return [client.submit(_use, side, workers=[host], pure=False) for host in hosts]


def scatter(client: Client, parts: Futures, hosts: list[str]) -> Futures:
    """Join on one host, bring it to the driver, and scatter from there."""
    value = client.submit(join_parts, parts, workers=hosts, pure=False).result()
    side = client.scatter(value, workers=hosts, broadcast=True, hash=False)
    return [client.submit(_use, side, workers=[host], pure=False) for host in hosts]


def replicate(client: Client, parts: Futures, hosts: list[str]) -> Futures:
    """Join on one host, and have the scheduler copy it in a tree."""
    side = client.submit(join_parts, parts, workers=hosts, pure=False)
    wait(side)
    client.replicate([side], workers=hosts, branching_factor=2)
    return [client.submit(_use, side, workers=[host], pure=False) for host in hosts]


def every_part(client: Client, parts: Futures, hosts: list[str]) -> Futures:
    """Join nowhere: each host pulls all parts, each from the host that solved it."""
    return [client.submit(_join_and_use, parts, workers=[host], pure=False) for host in hosts]


def chunks(client: Client, parts: Futures, hosts: list[str]) -> Futures:
    """Join into a few chunks where most of their parts are; each host pulls all chunks."""
    n = min(CHUNKS, len(hosts))
    edges = [len(parts) * number // n for number in range(n + 1)]
    joined = [
        client.submit(_join_chunk, parts[start:stop], workers=hosts, pure=False)
        for start, stop in pairwise(edges)
    ]
    return [client.submit(_join_and_use, joined, workers=[host], pure=False) for host in hosts]


WAYS = {
    "pull": Way(pull),
    "pull, 2 at once": Way(pull, serve_at_once=2),
    "pull, 1 at once": Way(pull, serve_at_once=1),
    "scatter": Way(scatter, memory_manager=False),
    "replicate": Way(replicate, memory_manager=False),
    "replicate, memory manager on": Way(replicate, most_hosts=4),
    "parts": Way(every_part),
    "chunks": Way(chunks),
}


def broadcast(client: Client, way: Way, n_hosts: int, n_bytes: int) -> float:
    """Return the seconds from solved parts to the whole side on every host."""
    names = client.run(_name)
    hosts = sorted(names, key=lambda host: int(names[host]))[:n_hosts]
    client.run(_serve_at_once, way.serve_at_once)
    (client.amm.start if way.memory_manager else client.amm.stop)()
    rows = n_bytes // BYTES_A_ROW // (PARTS_A_HOST * n_hosts)
    parts = [
        client.submit(_part, rows, workers=[host], pure=False)
        for host in hosts
        for _ in range(PARTS_A_HOST)
    ]
    wait(parts)
    start = time.monotonic()
    counts = client.gather(way.broadcast(client, parts, hosts))
    seconds = time.monotonic() - start
    if set(counts) != {rows * len(parts)}:
        raise RuntimeError(f"the hosts have {counts} rows, not {rows * len(parts)}")
    return seconds


def _name(dask_worker: Any) -> str:
    return str(dask_worker.name)


def _serve_at_once(limit: int, dask_worker: Any) -> None:
    dask_worker.transfer_outgoing_count_limit = limit


def _part(rows: int) -> SolvedPart:
    numbers = np.random.default_rng().standard_normal((rows, RANK), dtype=np.float32)
    return unsolved_part(Factors(np.zeros(rows, np.float32), numbers))


def _join_chunk(parts: list[SolvedPart]) -> SolvedPart:
    return unsolved_part(join_parts(parts).solution)


def _join_and_use(parts: list[SolvedPart]) -> int:
    return _use(join_parts(parts))


def _use(side: SolvedSide) -> int:
    return len(side.solution.bias)


# A training --------------------------------------------------------------------------------------


def training(
    client: Client, *, dataset: str, epochs: int, memory_manager: bool, hosts: int
) -> dict[str, Any]:
    """Train some epochs; tell their seconds, and what hosts fetched from each other.

    ``fetched`` counts by the first word of the tasks' names, ``fetched_again`` what a host had had
    before.
    """
    if not memory_manager:
        client.amm.stop()
    job = TaskGraph(open_dataset(dataset), TrainSettings(rank=RANK), DaskExecutor(client))
    before = sum(client.run(_received_bytes).values())
    seconds_an_epoch(job, 1)  # reads the ratings, too
    seconds = [seconds_an_epoch(job, epochs) for _ in range(2)]
    fetched, again = Counter[str](), Counter[str]()
    for keys in client.run(_fetched_keys).values():
        for key, times in keys.items():
            word = key.split("-")[0]
            fetched[word] += times
            again[word] += times - 1
    return {
        "epochs": (1 + 2) + 2 * (1 + 1 + epochs),
        "seconds": seconds,
        "fetched": dict(fetched),
        "fetched_again": dict(again),
        "bytes_received": sum(client.run(_received_bytes).values()) - before,
    }


def _fetched_keys(dask_worker: Any) -> dict[str, int]:
    return Counter(str(key) for fetch in dask_worker.transfer_incoming_log for key in fetch["keys"])


def _received_bytes() -> int:
    """Return the bytes received over this host's link since it was made."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    (uplink,) = (line for line in lines if line.strip().startswith("uplink:"))
    return int(uplink.split(":")[1].split()[0])


if __name__ == "__main__":
    main()
