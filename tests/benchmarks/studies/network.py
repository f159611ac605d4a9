"""Hosts on a switch in one machine: network namespaces with links of a given speed (Linux, root).

Host 0 is for the scheduler and the driver. A link is a pair of virtual Ethernet devices; token
buckets limit what either end sends, so a host sends and receives at that speed at once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from machine import environment

BURST, QUEUE = "256kb", "50ms"


def why_not() -> str | None:
    """Return the reason why there can be no such hosts here; None if there can be."""
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"there is no {program} (iproute2)"
    if os.geteuid() != 0:
        return "network namespaces and links of a given speed need root"
    try:
        with Network(1, megabits=100):
            return None
    except subprocess.CalledProcessError as error:
        return error.stderr.strip().splitlines()[-1]


def address(host: int) -> str:
    """Return a host's address."""
    return f"10.77.0.{host + 1}"


class Network:
    """Namespaces made on entry and deleted on exit, after the programs that were started in them.

    Parameters
    ----------
    hosts : int
    megabits : float
        Speed of each host's link, a second and direction.
    """

    def __init__(self, hosts: int, *, megabits: float) -> None:
        self.hosts = hosts
        self._megabits = megabits
        self._namespaces: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Network:
        try:
            self._add_namespace("switch")
            _ip(self._name("switch"), "link add name bridge type bridge")
            _ip(self._name("switch"), "link set bridge up")
            for host in range(self.hosts):
                self._add_host(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        for namespace in reversed(self._namespaces):
            _run("ip", "netns", "delete", namespace)
        self._namespaces.clear()

    def start(self, host: int, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a Python program on a host."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._name(host), *command],
            text=True,
            env=environment() | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            **options,
        )
        self._processes.append(process)
        return process

    def _add_host(self, host: int) -> None:
        name, switch, port = self._name(host), self._name("switch"), f"port{host}"
        self._add_namespace(host)
        _ip(name, f"link add name uplink type veth peer name {port} netns {switch}")
        _ip(name, f"address add {address(host)}/24 dev uplink")
        _ip(name, "link set lo up")
        _ip(name, "link set uplink up")
        _ip(switch, f"link set {port} master bridge up")
        bucket = f"root tbf rate {self._megabits}mbit burst {BURST} latency {QUEUE}"
        _run("tc", "-n", name, *f"qdisc add dev uplink {bucket}".split())
        _run("tc", "-n", switch, *f"qdisc add dev {port} {bucket}".split())

    def _add_namespace(self, host: int | str) -> None:
        _run("ip", "netns", "add", self._name(host))
        self._namespaces.append(self._name(host))

    def _name(self, host: int | str) -> str:
        return f"dask-als-{os.getpid()}-{host}"


def _ip(namespace: str, command: str) -> None:
    _run("ip", "-n", namespace, *command.split())


def _run(*command: str) -> None:
    subprocess.run(command, check=True, text=True, capture_output=True)
