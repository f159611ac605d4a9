"""How many epochs are submitted together, and how far ahead of the awaited epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

# Submitting one epoch and fetching its figures costs milliseconds; several cost hardly more.
_SECONDS_PER_BATCH = 0.1


def epochs_per_batch(seconds: float) -> int:
    """Return how many epochs to submit together if each takes at most this many seconds."""
    return max(1, int(_SECONDS_PER_BATCH / seconds))


def batches(items: Iterator[T], size: Callable[[], int]) -> Iterator[deque[T]]:
    """Yield items in batches; `size` is called before each batch."""
    while batch := deque(islice(items, size())):
        yield batch


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield each item only after the next one has been produced."""
    waiting = next(items)
    for item in items:
        yield waiting
        waiting = item
    yield waiting
