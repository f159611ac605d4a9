"""Peers that kill or stop workers in the midst of an exchange."""

import os
import random
import signal
import subprocess
from dataclasses import dataclass

from dask_als.cluster.exchange import DaskPeers


def die(*_):
    """Kill the process that answers."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop_a_while(results, seconds, function, *arguments):
    """Stop the process that answers, then answer."""
    pid = os.getpid()
    subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {pid}"], start_new_session=True)
    os.kill(pid, signal.SIGSTOP)
    return function(results, *arguments)


@dataclass(frozen=True)
class DeadlyPeers(DaskPeers):
    """Some of those who ask die, or those who answer."""

    directory: str
    kills: int
    chance: float = 1.0

    def ask(self, requests, function, receive):
        if random.random() < self.chance and claimed(self.directory, self.kills):
            if random.random() < 0.5:
                die()
            function = die
        super().ask(requests, function, receive)


@dataclass(frozen=True)
class StoppingPeers(DaskPeers):
    """The first who answers is stopped for some seconds."""

    directory: str
    seconds: float

    def ask(self, requests, function, receive):
        if claimed(self.directory, 1):
            more = (self.seconds, function)
            requests = [(offered, (*more, *arguments)) for offered, arguments in requests]
            function = stop_a_while
        super().ask(requests, function, receive)


def claimed(directory, most):
    """Claim one of a number of turns, over all processes; tell whether one was left."""
    for number in range(most):
        try:
            os.close(os.open(f"{directory}/{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return True
    return False
