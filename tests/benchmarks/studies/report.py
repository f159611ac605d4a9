"""How a study says what it found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Criterion:
    """What was demanded, what was reached, and whether that suffices."""

    demand: str
    reached: str
    met: bool


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a Markdown table; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [head, rule, *rows])


def bar(value: float, largest: float, width: int = 24) -> str:
    """Draw a number as a bar."""
    return "█" * max(1, round(width * value / largest))
