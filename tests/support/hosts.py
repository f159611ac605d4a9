"""Hosts on a switch in one machine: network namespaces, with files of their own (root)."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

DASK = str(Path(sys.executable).parent / "dask")


@functools.cache
def why_not():
    """Return why there can be no such hosts here, or None."""
    for program in ("ip", "unshare", "mount"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with Hosts("probe"):
            return None
    except subprocess.CalledProcessError as error:
        return f"no network namespaces: {error.stderr.strip()}"


class Hosts:
    """Namespaces made on entry, and deleted on exit after the programs that were started there.

    Parameters
    ----------
    names : str
        Of the hosts.
    """

    def __init__(self, *names):
        self._names = names
        self._made = []
        self._processes = []

    def __enter__(self):
        try:
            switch = self._add("switch")
            _run(f"ip -n {switch} link add name bridge type bridge")
            _run(f"ip -n {switch} link set bridge up")
            for name in self._names:
                host, port = self._add(name), f"port-{name}"
                _run(f"ip -n {host} link add uplink type veth peer name {port} netns {switch}")
                _run(f"ip -n {host} address add {self.address(name)}/24 dev uplink")
                _run(f"ip -n {host} link set lo up")
                _run(f"ip -n {host} link set uplink up")
                _run(f"ip -n {switch} link set {port} master bridge up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()
        for name in reversed(self._made):
            _run(f"ip netns delete {name}")

    def address(self, name):
        """Return a host's address."""
        return f"10.78.0.{self._names.index(name) + 1}"

    def start(self, name, *command, own=None, **environment):
        """Start a program on a host.

        Parameters
        ----------
        own : path, optional
            A directory that is the host's own: empty there, and nobody else sees what is in it.
        """
        if own is not None:
            script = f'mount -t tmpfs own "{own}" && exec "$@"'
            command = ("unshare", "--mount", "sh", "-c", script, "sh", *command)
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._name(name), *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | environment,
        )
        self._processes.append(process)
        return process

    def _add(self, name):
        _run(f"ip netns add {self._name(name)}")
        self._made.append(self._name(name))
        return self._name(name)

    def _name(self, name):
        return f"dask-als-{os.getpid()}-{name}"


def _run(command):
    subprocess.run(command.split(), check=True, text=True, capture_output=True)
