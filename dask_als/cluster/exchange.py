"""Workers that ask each other for parts of the results they hold, past the scheduler.

A task offers results that its worker holds: it gives the worker a handler, and says where the
results are. Tasks of other workers ask through Dask's own connections. The results stay Dask's: it
frees them, and if they are lost, the task that asks fails as one that lost its worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_als.dask_internals import (
    add_handler,
    ask_worker,
    dumps,
    get_worker,
    holders_of,
    loads,
    local_results,
    offload,
    run_on_loop,
    to_serialize,
)
from dask_als.errors import WorkersLostError

HANDLER = "dask_als_ask"

# As many as Dask lets a worker fetch from at once.
_MOST_AT_ONCE = 10
_SECONDS_UNTIL_ASKED_AGAIN = 5.0
_MOST_TRIES = 5
_SECONDS_BETWEEN_TRIES = 0.2


@dataclass(frozen=True)
class Offered:
    """Where results are.

    Attributes
    ----------
    address : str
        Of the worker that offered them.
    keys : tuple of str
    """

    address: str
    keys: tuple[str, ...]


class DaskPeers:
    """How tasks on Dask workers ask for parts of the results of other tasks."""

    def offer(self, references: list[str]) -> Offered:
        """Let other workers ask this one."""
        worker = get_worker()
        add_handler(worker, HANDLER, _handler_of(worker))
        return Offered(worker.contact_address, tuple(references))

    def ask(
        self,
        requests: list[tuple[Offered, tuple[Any, ...]]],
        function: Callable[..., list[np.ndarray]],
        receive: Callable[[int, list[np.ndarray]], None],
    ) -> None:
        """Ask several workers at once.

        Raises
        ------
        WorkersLostError
            If no worker has the results any more.
        """
        worker = get_worker()
        run_on_loop(worker, _ask_all(worker, requests, function, receive))


def _handler_of(worker: Any) -> Callable[..., Any]:
    async def answer(keys: list[str], call: bytes) -> dict[str, Any] | None:
        """Call a function with results and arguments; None if the worker lacks the results."""
        results = local_results(worker, keys)
        if results is None:
            return None
        function, arguments = loads(call)
        arrays = await offload(function, results, *arguments)
        return {"answer": [to_serialize(array) for array in arrays]}

    return answer


async def _ask_all(
    worker: Any,
    requests: list[tuple[Offered, tuple[Any, ...]]],
    function: Callable[..., list[np.ndarray]],
    receive: Callable[[int, list[np.ndarray]], None],
) -> None:
    waiting = iter(enumerate(requests))

    async def ask_in_turn() -> None:
        for number, (offered, arguments) in waiting:
            answer = await _ask(worker, offered, function, arguments)
            await offload(receive, number, answer)

    asking = [asyncio.ensure_future(ask_in_turn()) for _ in range(_MOST_AT_ONCE)]
    try:
        await asyncio.gather(*asking)
    finally:
        for one in asking:
            one.cancel()


async def _ask(
    worker: Any,
    offered: Offered,
    function: Callable[..., list[np.ndarray]],
    arguments: tuple[Any, ...],
) -> list[np.ndarray]:
    """Ask the worker that offered results, or the one that has them now."""
    own = local_results(worker, offered.keys)
    if own is not None:
        return await offload(function, own, *arguments)
    call, address = dumps((function, arguments)), offered.address
    for attempt in range(_MOST_TRIES):
        answer = await _answer_of(worker, address, offered.keys, call)
        if answer is not None:
            return answer
        # The connection broke, or Dask has moved the results.
        await asyncio.sleep(attempt * _SECONDS_BETWEEN_TRIES)
        holders = await holders_of(worker, offered.keys)
        if not holders:
            break
        address = offered.address if offered.address in holders else min(holders)
    raise WorkersLostError(f"the worker at {offered.address} is gone, and with it solved rows")


async def _answer_of(
    worker: Any, address: str, keys: tuple[str, ...], call: bytes
) -> list[np.ndarray] | None:
    """Return the answer of a worker; None if it lacks the results or is gone."""
    asking = asyncio.ensure_future(ask_worker(worker, address, HANDLER, keys=list(keys), call=call))
    try:
        while not (await asyncio.wait([asking], timeout=_SECONDS_UNTIL_ASKED_AGAIN))[0]:
            # A worker that hangs never answers: wait as long as the scheduler counts on it.
            if address not in await holders_of(worker, keys):
                return None
        answer = asking.result()
    except OSError:
        return None
    finally:
        asking.cancel()
    return None if answer is None else list(answer["answer"])
