"""The exchange between several homes: each gets the rows that its blocks use.

The graph of a half-epoch has three tasks a home, and one barrier::

    solve (each partition) -> offer (each home) -> barrier -> pull (each home) -> solve ...

Rows travel straight between the homes, not as results of tasks: the number of the graph's edges
grows with the homes, not with their square. A partition's result is an argument of its next solve,
which is after the next barrier, and that is after all pulls: so homes find what they ask for.
"""

from __future__ import annotations

from typing import Any

from dask_als.core.side import ITEMS, SIDES, Side
from dask_als.core.task_keys import TaskKey, TaskKind
from dask_als.solvers.base import HalfEpoch
from dask_als.training import home_tasks
from dask_als.training.sides import Homes, SideHandles


class HomeExchange:
    """Submits half-epochs of several homes.

    Parameters
    ----------
    homes : Homes
    method : Method
        It is a `HomeMethod`, too.
    blocks : dict of Side to list of handle
        The blocks of both sides by partition.
    test_blocks : dict of int to handle
        The blocks of held-out ratings by partition of users.
    """

    def __init__(
        self,
        homes: Homes,
        method: Any,
        blocks: dict[Side, list[Any]],
        test_blocks: dict[int, Any],
    ) -> None:
        self._homes = homes
        self._method = method
        self._needed = {side: self._submit_needed(side, blocks, test_blocks) for side in SIDES}
        self.blocks = {
            side: [
                self._submit_renumbered(TaskKey(TaskKind.RENUMBER, side, number=n), side, n, block)
                for n, block in enumerate(blocks[side])
            ]
            for side in SIDES
        }
        users = ITEMS.other
        self.test_blocks = {
            n: self._submit_renumbered(TaskKey(TaskKind.RENUMBER_TEST, number=n), users, n, block)
            for n, block in test_blocks.items()
        }

    def start(self, parts: dict[Side, list[Any]], epoch: int) -> dict[Side, SideHandles]:
        """Submit what makes sides of initial parts."""
        first, last = parts
        offered = self._submit_offers(HalfEpoch(first, epoch), parts[first], None, 0)
        # The side solved first is solved from its own rows and the other side: nobody pulls it.
        nothing = [None] * self._homes.placement.n_homes
        started = {first: _handles(parts[first], offered, nothing)}
        step = HalfEpoch(last, epoch)
        started[last] = self._submit_exchange(step, parts[last], offered, 0)
        return started

    def half_epoch(self, step: HalfEpoch, sides: dict[Side, SideHandles]) -> SideHandles:
        """Submit a half-epoch."""
        own, fixed = sides[step.side], sides[step.side.other]
        threaded = self._homes.threaded(self._method, step.side)
        parts = [
            self._homes.submit_for(
                step.side,
                number,
                home_tasks.solve_part,
                threaded,
                step,
                block,
                own.parts[number][0],
                fixed.homes[self._homes.home(step.side, number)],
                key=TaskKey(TaskKind.SOLVE, step.side, step.epoch, number),
            )
            for number, block in enumerate(self.blocks[step.side])
        ]
        return self._submit_exchange(step, parts, fixed.whole, step.epoch)

    def _submit_exchange(
        self, step: HalfEpoch, parts: list[Any], other: Any, epoch: int
    ) -> SideHandles:
        offered = self._submit_offers(step, parts, other, epoch)
        held = [
            None
            if needed is None
            else self._homes.submit_at(
                home,
                home_tasks.pull,
                self._homes.executor.peers,
                offered,
                needed,
                key=TaskKey(TaskKind.PULL, step.side, epoch, home),
            )
            for home, needed in enumerate(self._needed[step.side])
        ]
        return _handles(parts, offered, held)

    def _submit_offers(self, step: HalfEpoch, parts: list[Any], other: Any, epoch: int) -> Any:
        """Submit what homes offer of a side; return the handle of an `OfferedSide`."""
        side, executor = step.side, self._homes.executor
        rows = self._homes.placement.by_home(self._homes.rows[side])
        offers = [
            self._homes.submit_at(
                home,
                home_tasks.offer,
                self._method,
                executor.peers,
                its_rows,
                own,
                [executor.reference(part) for part in own],
                key=TaskKey(TaskKind.OFFER, side, epoch, home),
            )
            for (home, own), (_, its_rows) in zip(
                self._homes.placement.by_home(parts), rows, strict=True
            )
        ]
        return executor.submit(
            home_tasks.join_offers,
            self._method,
            step,
            offers,
            other,
            key=str(TaskKey(TaskKind.BARRIER, side, epoch)),
        )

    def _submit_needed(
        self, side: Side, blocks: dict[Side, list[Any]], test_blocks: dict[int, Any]
    ) -> list[Any]:
        """Submit what each home needs of a side; None for homes without blocks of the other."""
        using = list(enumerate(blocks[side.other]))
        if side is ITEMS:
            using += test_blocks.items()
        of_homes: list[list[Any]] = [[] for _ in self._homes.placement.workers]
        for number, block in using:
            of_homes[self._homes.home(side.other, number)].append(block)
        n_rows = self._homes.rows[side][-1].stop
        return [
            self._homes.submit_at(
                home,
                home_tasks.needed_rows,
                its,
                n_rows,
                key=TaskKey(TaskKind.NEEDED, side, number=home),
            )
            if its
            else None
            for home, its in enumerate(of_homes)
        ]

    def _submit_renumbered(self, key: TaskKey, side: Side, number: int, block: Any) -> Any:
        needed = self._needed[side.other][self._homes.home(side, number)]
        return self._homes.submit_for(side, number, home_tasks.renumbered, block, needed, key=key)


def _handles(parts: list[Any], offered: Any, held: list[Any]) -> SideHandles:
    return SideHandles(offered, [[part, offered] for part in parts], held)
