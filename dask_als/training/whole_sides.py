"""A replica of each side on every home: with one home, and where tasks need whole sides."""

from __future__ import annotations

from typing import Any

from dask_als.core.side import Side
from dask_als.core.task_keys import TaskKey, TaskKind
from dask_als.solvers.base import HalfEpoch, Method, chunk_of
from dask_als.training.sides import Homes, SideHandles


class WholeSides:
    """Submits half-epochs after which every home has all rows.

    Parameters
    ----------
    homes : Homes
    method : Method
    blocks : dict of Side to list of handle
        The blocks of both sides by partition.
    test_blocks : dict of int to handle
        The blocks of held-out ratings by partition of users.
    """

    def __init__(
        self,
        homes: Homes,
        method: Method,
        blocks: dict[Side, list[Any]],
        test_blocks: dict[int, Any],
    ) -> None:
        self._homes = homes
        self._method = method
        self.blocks = blocks
        self.test_blocks = test_blocks

    def start(
        self,
        parts: dict[Side, list[Any]],
        epoch: int,
        priors: dict[Side, list[Any]] | None = None,
    ) -> dict[Side, SideHandles]:
        """Submit what makes sides of initial parts, given the row priors on each home."""
        return {
            side: self._submit_all_gather(HalfEpoch(side, epoch), its, 0, (priors or {}).get(side))
            for side, its in parts.items()
        }

    def half_epoch(
        self,
        step: HalfEpoch,
        sides: dict[Side, SideHandles],
        priors: list[Any] | None = None,
    ) -> SideHandles:
        """Submit a half-epoch, given the row priors of the side on each home."""
        own, fixed = sides[step.side].homes, sides[step.side.other].homes
        blocks = self.blocks[step.side]
        threaded = self._homes.threaded(self._method, step.side)
        if len(blocks) == 1:
            # One task instead of two in sequence, which matters when an epoch takes milliseconds.
            solved = self._homes.executor.submit(
                threaded.solve_side,
                step,
                *blocks,
                own[0],
                fixed[0],
                *_of_home(priors, 0),
                key=str(TaskKey(TaskKind.SOLVE, step.side, step.epoch, 0)),
            )
            return self._handles(step.side, [solved] * self._homes.placement.n_homes)
        homes = [self._homes.home(step.side, number) for number in range(len(blocks))]
        parts = [
            self._homes.submit_at(
                home,
                threaded.solve_part,
                step,
                block,
                own[home],
                fixed[home],
                *_of_home(priors, home),
                key=TaskKey(TaskKind.SOLVE, step.side, step.epoch, number),
            )
            for number, (home, block) in enumerate(zip(homes, blocks, strict=True))
        ]
        return self._submit_all_gather(step, parts, step.epoch, priors)

    def _submit_all_gather(
        self, step: HalfEpoch, parts: list[Any], epoch: int, priors: list[Any] | None
    ) -> SideHandles:
        """Assemble a replica of a side on each home, from the chunks that the homes exchange.

        Each link carries each byte once, and sends while it receives. Pulling the joined side from
        a single worker takes three to six times as long on 4 to 16 hosts (measured, see
        docs/scaling.md), and grows with the number of hosts.
        """
        placement = self._homes.placement
        concatenated = dict(placement.chunks(parts))
        chunks: list[Any] = []
        for home, own in placement.by_home(parts):
            if home not in concatenated:
                chunks += own
                continue
            key = TaskKey(TaskKind.CHUNK, step.side, epoch, home)
            chunks.append(self._homes.submit_at(home, chunk_of, own, key=key))
        replicas = [
            self._homes.submit_at(
                home,
                self._method.join_parts,
                step,
                chunks,
                *_of_home(priors, home),
                key=TaskKey(TaskKind.REPLICA, step.side, epoch, home),
            )
            for home in range(placement.n_homes)
        ]
        return self._handles(step.side, replicas)

    def _handles(self, side: Side, replicas: list[Any]) -> SideHandles:
        numbers = range(len(self._homes.rows[side]))
        parts = [[replicas[self._homes.home(side, number)]] for number in numbers]
        return SideHandles(replicas[0], parts, replicas)


def _of_home(priors: list[Any] | None, home: int) -> list[Any]:
    """Return the row prior of a home as arguments: none without attributes."""
    return [] if priors is None else [priors[home]]
