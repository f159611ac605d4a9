"""The keys of a training's tasks: training formats them, the monitor parses them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from dask_als.core.side import SIDES, Side


class TaskKind(Enum):
    """The kinds of tasks: the words at the start of the key, and the fields that follow."""

    START = ("start", "side", "number")
    SOLVE = ("solve", "side", "epoch", "number")
    CHUNK = ("chunk", "side", "epoch", "number")
    REPLICA = ("replica", "side", "epoch", "number")
    OFFER = ("offer", "side", "epoch", "number")
    BARRIER = ("barrier", "side", "epoch")
    PULL = ("pull", "side", "epoch", "number")
    ATTRIBUTES = ("attributes", "side", "epoch", "number")
    ATTRIBUTES_SCALE = ("attributes-scale", "side", "epoch", "number")
    ATTRIBUTES_FILE = ("attributes-file", "side", "epoch", "number")
    ATTRIBUTES_SQUARES = ("attributes-squares", "side", "epoch", "number")
    ATTRIBUTES_TARGET = ("attributes-target", "side", "epoch", "number")
    ATTRIBUTES_RESIDUAL = ("attributes-residual", "side", "epoch", "number")
    ATTRIBUTES_DIRECTION = ("attributes-direction", "side", "epoch", "number")
    ATTRIBUTES_PROJECTION = ("attributes-projection", "side", "epoch", "number")
    ATTRIBUTES_CHUNK = ("attributes-chunk", "side", "epoch", "number")
    TEST = ("test", "epoch", "number")
    PREDICTIONS = ("predictions", "epoch", "number")
    FIGURES = ("figures", "epoch")
    SIDE_FIGURES = ("side-figures", "side")
    READ = ("read", "side", "number")
    READ_TEST = ("read-test", "number")
    NEEDED = ("needed", "side", "number")
    RENUMBER = ("renumber", "side", "number")
    RENUMBER_TEST = ("renumber-test", "number")
    READ_PREDICTIONS = ("read-predictions", "number")
    READ_MEANS = ("read-means", "side", "number")
    READ_WEIGHTS = ("read-weights", "side", "number")
    WRITE_MEANS = ("write-means", "side", "number")
    WRITE_WEIGHTS = ("write-weights", "side", "number")
    WRITE = ("write", "side", "number")
    WRITE_AVERAGE = ("average", "side", "number")
    MAXIMA = ("maxima", "side", "number")
    EXPONENTS = ("exponents", "side")
    GRAM = ("gram", "side", "number")
    TRUNCATE = ("truncate",)
    REDUCE = ("reduce", "side", "number")
    MOMENTS = ("moments", "side")
    REDUCTION_FIGURES = ("reduction-figures",)
    WRITE_PREDICTIONS = ("write-predictions", "number")

    def __init__(self, words: str, *fields: str) -> None:
        self.words = words
        self.fields = fields


@dataclass(frozen=True)
class TaskKey:
    """The key of a task, such as ``solve-users-12-3``.

    Attributes
    ----------
    kind : TaskKind
        Determines which of the other attributes are set; the rest are None.
    side : Side or None
        The solved side.
    epoch : int or None
        The epoch; 0 for the initial factors.
    number : int or None
        The partition, or the home of a chunk, a replica, an offer, a pull, or of what it needs.

    Raises
    ------
    ValueError
        If the attributes that are set are not those of the kind.
    """

    kind: TaskKind
    side: Side | None = None
    epoch: int | None = None
    number: int | None = None

    def __post_init__(self) -> None:
        names = ("side", "epoch", "number")
        given = tuple(name for name in names if getattr(self, name) is not None)
        if given != self.kind.fields:
            raise ValueError(
                f"the key of a {self.kind.words} task has {', '.join(self.kind.fields)}, "
                f"not {', '.join(given) or 'nothing'}"
            )

    def __str__(self) -> str:
        values = (getattr(self, field) for field in self.kind.fields)
        names = (value.name if isinstance(value, Side) else str(value) for value in values)
        return "-".join((self.kind.words, *names))

    @classmethod
    def parse(cls, text: str) -> TaskKey | None:
        """Return the key with this text; None if it is not a key of a training's task."""
        for kind, pattern in _PATTERNS.items():
            match = pattern.fullmatch(text)
            if match is not None:
                found = match.groupdict()
                side = _SIDES.get(found.pop("side", ""))
                return cls(kind, side, **{name: int(value) for name, value in found.items()})
        return None


def unique_key(key: str, client_id: str, number: int) -> str:
    """Return the key under which a client submits a task, unique on a scheduler."""
    return f"{key}-{client_id}-{number}"


def parse_unique_key(text: str, client_id: str) -> TaskKey | None:
    """Return the key of a task that a client submitted; None for all other tasks."""
    key, separator, number = text.rpartition(f"-{client_id}-")
    return TaskKey.parse(key) if separator and _NUMBER.fullmatch(number) else None


_SIDES = {str(side.name): side for side in SIDES}
_NUMBER = re.compile("0|[1-9][0-9]*")
_FIELD_PATTERNS = {
    "side": "|".join(_SIDES),
    "epoch": _NUMBER.pattern,
    "number": _NUMBER.pattern,
}
_PATTERNS = {
    kind: re.compile(
        kind.words + "".join(f"-(?P<{field}>{_FIELD_PATTERNS[field]})" for field in kind.fields)
    )
    for kind in TaskKind
}
