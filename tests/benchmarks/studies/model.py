"""A cost model of an epoch, fitted to the other studies, and predictions for larger clusters.

An epoch's time is that of two half-epochs, one after another:

    flops / (cores × rate) + multiple(hosts) × bytes of the solved side / link
    + a + b × partitions + c × homes²

Homes are the workers that have partitions: each fetches what every other one has joined. `rate` is
fitted to the study of ratings, `multiple` to that of the broadcast, and a, b, c to that of the
overhead. Memory is counted, not fitted.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmark_data import in_the_shape_of_20m

from dask_als.data.partitioning import default_partitions
from studies import broadcast, overhead, ratings
from studies.ranks import flops
from studies.report import Criterion, table

TITLE = "Model"
NEEDS = ["ratings", "overhead", "broadcast"]
RANK = 64
BYTES_A_ROW = 4 * (RANK + 1) + 1  # float32 factors and bias, and whether it has ratings
BYTES_A_RATING = 16  # index and rating, by user and by item
PROCESS_BYTES = 250e6
# The solved side is held three times: old, new in parts, and new joined.
COPIES_OF_SOLVED, COPIES_OF_FIXED = 3, 1
WAYS = ["pull", broadcast.OURS]
PREDICTED_RATINGS = [1_000_000_000, 10_000_000_000]
PREDICTED_MACHINES = [1, 4, 16, 64, 256]


@dataclass(frozen=True)
class Cluster:
    """Machines with a worker process each."""

    machines: int
    cores: int
    memory_bytes: float
    link_bits: float


MACHINE = {"cores": 16, "memory_bytes": 128e9, "link_bits": 10e9}


@dataclass(frozen=True)
class Job:
    """Ratings to train on at `RANK`, in float32."""

    n_ratings: int
    n_users: int
    n_items: int
    partitions: int

    @property
    def flops(self) -> float:
        """Of an epoch."""
        return sum(flops(rows, self.n_ratings, RANK) for rows in (self.n_users, self.n_items))

    @property
    def side_bytes(self) -> tuple[int, int]:
        """What is broadcast after each half-epoch."""
        return BYTES_A_ROW * self.n_users, BYTES_A_ROW * self.n_items


@dataclass(frozen=True)
class Constants:
    """The fitted constants.

    Attributes
    ----------
    rate : float
        Flops a second and core.
    multiples : dict of str to tuple
        For each way of a broadcast, its time as a multiple of one transfer: for the share of a
        side that is on other hosts, and for each host.
    scheduler : tuple
        Seconds of a half-epoch: always, for each partition, for each pair of homes.
    """

    rate: float
    multiples: dict[str, tuple[float, float]]
    scheduler: tuple[float, float, float]

    def compute(self, job: Job, cores: int) -> float:
        """Return an epoch's seconds of solving."""
        return job.flops / (cores * self.rate)

    def broadcast(self, job: Job, cluster: Cluster, way: str) -> float:
        """Return an epoch's seconds of sending both solved sides to all hosts."""
        if cluster.machines == 1:
            return 0.0
        share, slope = self.multiples[way]
        multiple = share * _of_others(cluster.machines) + slope * cluster.machines
        return multiple * sum(job.side_bytes) * 8 / cluster.link_bits

    def schedule(self, job: Job, workers: int) -> float:
        """Return an epoch's seconds of overhead."""
        always, a_partition, a_pair = self.scheduler
        homes = min(workers, job.partitions)
        return 2 * (always + a_partition * job.partitions + a_pair * homes**2)


def measure(found: dict[str, Any], *, small: bool) -> dict[str, Any]:
    """Fit, compare with what was measured, and predict."""
    for name in NEEDS:
        if name not in found:
            raise SystemExit(f"the model needs the study {name}; run it first")
    results = {name: found[name]["result"] for name in NEEDS}
    constants = Constants(
        rate=_rate(results["ratings"]),
        multiples={way: _multiple(results["broadcast"], way) for way in WAYS},
        scheduler=_scheduler(results["overhead"]),
    )
    return {
        "machine": MACHINE,
        "constants": {
            "gflops_a_core": constants.rate / 1e9,
            "multiples": constants.multiples,
            "scheduler_seconds": constants.scheduler,
        },
        "multiples_are_measured": "points" in results["broadcast"],
        "checks": _checks(constants, results),
        "predictions": [
            _prediction(constants, n_ratings, machines)
            for n_ratings in PREDICTED_RATINGS
            for machines in PREDICTED_MACHINES
        ],
    }


# Fits --------------------------------------------------------------------------------------------


def _rate(result: dict[str, Any]) -> float:
    """Return a core's flops in the largest epochs, whose factors exceed the cache."""
    largest = result["sizes"][-1]
    seconds = statistics.median(largest["seconds"][ratings.DASK])
    return _job_of(largest).flops / (seconds * result["threads"])


def _job_of(size: dict[str, Any]) -> Job:
    return Job(size["n_ratings"], size["n_users"], size["n_items"], size["partitions"])


def _multiple(result: dict[str, Any], way: str) -> tuple[float, float]:
    """Fit a line to a way's times over hosts; without measurements, what it would be at best."""
    if "skipped" in result:
        return {"pull": (0.0, 1.0)}.get(way, (1.0, 0.0))
    multiples = broadcast.transfers(result, way)
    columns = np.array([[_of_others(hosts), hosts] for hosts in multiples])
    share, slope = _fit(columns, list(multiples.values()))
    return share, slope


def _of_others(hosts: int) -> float:
    """Return the share of a side that a host has to get from others."""
    return (hosts - 1) / hosts


def _scheduler(result: dict[str, Any]) -> tuple[float, float, float]:
    """Fit the overhead of all clusters."""
    rows, seconds = [], []
    for point in result["points"]:
        homes = min(point["workers"], point["partitions"])
        rows.append([1, point["partitions"], homes**2])
        seconds.append(overhead.milliseconds(point) / 1e3)
    always, a_partition, a_pair = _fit(np.array(rows), seconds)
    return always, a_partition, a_pair


def _fit(columns: np.ndarray, values: list[float]) -> list[float]:
    """Fit coefficients of 0 or more by least squares of relative errors.

    Terms that would be negative are left out, the most negative first.
    """
    weighted = columns / np.array(values)[:, None]
    kept = list(range(columns.shape[1]))
    while True:
        found = np.linalg.lstsq(weighted[:, kept], np.ones(len(values)))[0]
        if found.min() >= 0:
            break
        del kept[int(found.argmin())]
    coefficients = np.zeros(columns.shape[1])
    coefficients[kept] = found
    return coefficients.tolist()


# Checks and predictions --------------------------------------------------------------------------


def _checks(constants: Constants, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare the model with every epoch that was measured."""
    checks = []
    threads = results["ratings"]["threads"]
    for size in results["ratings"]["sizes"]:
        job = _job_of(size)
        checks.append(
            {
                "what": f"{size['n_ratings'] / 1e6:g} M ratings, {threads} threads",
                "model": constants.compute(job, threads) + constants.schedule(job, 1),
                "measured": statistics.median(size["seconds"][ratings.DASK]),
            }
        )
    for point in results["overhead"]["points"]:
        n = point["partitions"]
        checks.append(
            {
                "what": f"{n} empty partitions, {point['workers']} workers ({point['kind']})",
                "model": constants.schedule(Job(0, 0, 0, n), point["workers"]),
                "measured": 2 * overhead.milliseconds(point) / 1e3,
            }
        )
    of_network = results["broadcast"]
    for training in of_network.get("trainings", []):
        if training["memory_manager"]:
            hosts, job = training["hosts"], Job(**of_network["dataset"])
            cluster = Cluster(hosts, 1, 0, of_network["megabits"] * 1e6)
            # The hosts share this machine's cores.
            solving = constants.compute(job, min(hosts, of_network["cores"]))
            checks.append(
                {
                    "what": f"{job.n_ratings / 1e6:g} M ratings, {hosts} hosts "
                    f"at {of_network['megabits']} Mbit/s",
                    "model": solving
                    + constants.broadcast(job, cluster, broadcast.OURS)
                    + constants.schedule(job, hosts),
                    "measured": statistics.median(training["seconds"]),
                }
            )
    return checks


def _prediction(constants: Constants, n_ratings: int, machines: int) -> dict[str, Any]:
    shape = in_the_shape_of_20m(n_ratings)
    cluster = Cluster(machines, **MACHINE)
    cores = machines * cluster.cores
    partitions = max(default_partitions(n_ratings), 2 * cores)
    job = Job(n_ratings, shape.n_users, shape.n_items, partitions)
    states = max(
        COPIES_OF_SOLVED * solved + COPIES_OF_FIXED * fixed
        for solved, fixed in (job.side_bytes, job.side_bytes[::-1])
    )
    return {
        "n_ratings": n_ratings,
        "machines": machines,
        "partitions": partitions,
        "flops": job.flops,
        "side_bytes": job.side_bytes,
        "compute": constants.compute(job, cores),
        "broadcast": {way: constants.broadcast(job, cluster, way) for way in WAYS},
        "scheduler": constants.schedule(job, machines),
        "ratings_bytes": BYTES_A_RATING * n_ratings / machines,
        "states_bytes": states,
        "fits": BYTES_A_RATING * n_ratings / machines + states + PROCESS_BYTES
        < cluster.memory_bytes,
    }


# Tables ------------------------------------------------------------------------------------------


def tables(result: dict[str, Any]) -> str:
    """Write constants, checks and predictions."""
    always, a_partition, a_pair = result["constants"]["scheduler_seconds"]
    constants = [
        ["solving, GFLOP/s a core", f"{result['constants']['gflops_a_core']:.1f}"],
        *(
            [
                f"broadcast by {way}, transfers of a whole side",
                f"{share:.2f} × (hosts − 1) / hosts + {slope:.2f} × hosts",
            ]
            for way, (share, slope) in result["constants"]["multiples"].items()
        ),
        [
            "overhead of a half-epoch, ms",
            f"{always * 1e3:.1f} + {a_partition * 1e3:.2f} × partitions "
            f"+ {a_pair * 1e3:.3f} × homes²",
        ],
    ]
    checks = [
        [
            c["what"],
            f"{c['measured']:.3f}",
            f"{c['model']:.3f}",
            f"{c['model'] / c['measured'] - 1:+.0%}",
        ]
        for c in result["checks"]
    ]
    predictions = [_prediction_row(p) for p in result["predictions"]]
    machine = result["machine"]
    head = [
        f"ratings, machines of {machine['cores']} cores, {machine['memory_bytes'] / 1e9:g} GB, "
        f"{machine['link_bits'] / 1e9:g} Gbit/s",
        "solving, s",
        *(f"broadcast by {way}, s" for way in WAYS),
        "scheduler, s",
        "GB a machine: ratings",
        "states",
        f"s an epoch by {WAYS[-1]}",
    ]
    return "\n\n".join(
        [
            table(["constant", "fitted"], constants),
            table(["an epoch of", "measured, s", "model, s", "error"], checks),
            table(head, predictions),
        ]
    )


def _prediction_row(p: dict[str, Any]) -> list[str]:
    epoch = p["compute"] + p["broadcast"][WAYS[-1]] + p["scheduler"]
    return [
        f"{p['n_ratings'] / 1e9:g} B, {p['machines']}",
        f"{p['compute']:.1f}",
        *(f"{p['broadcast'][way]:.1f}" for way in WAYS),
        f"{p['scheduler']:.1f}",
        f"{p['ratings_bytes'] / 1e9:.1f}",
        f"{p['states_bytes'] / 1e9:.1f}",
        f"{epoch:.1f}" if p["fits"] else "does not fit",
    ]


def criteria(result: dict[str, Any]) -> list[Criterion]:
    """The only criterion is that the model's errors are reported."""
    return []
