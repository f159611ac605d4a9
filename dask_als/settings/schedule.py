"""Settings of a job that runs again and again."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dask_als.errors import InputError
from dask_als.settings.checks import require_whole

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")


@dataclass(frozen=True)
class _Field:
    """A field of a cron expression: its name, its range and the names of its values."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()

    def check(self, text: str) -> None:
        """Raise InputError unless the text is a list of values, ranges and steps."""
        for part in text.split(","):
            span, slash, step = part.partition("/")
            if slash and not (re.fullmatch(r"[0-9]{1,4}", step) and int(step) > 0):
                raise self._wrong(part)
            if span in ("*", "?"):
                continue
            first, dash, last = span.partition("-")
            ends = [self._number(first, part), self._number(last, part) if dash else self.most]
            if ends[0] > ends[1]:
                raise self._wrong(part)

    def _number(self, text: str, part: str) -> int:
        if text.lower() in self.names:
            return self.least + self.names.index(text.lower())
        if re.fullmatch(r"[0-9]{1,4}", text) and self.least <= int(text) <= self.most:
            return int(text)
        raise self._wrong(part)

    def _wrong(self, part: str) -> InputError:
        return InputError(
            f"cron has {part!r} for the {self.name}; it must be within {self.least} to {self.most}"
        )


# Days of the week end at 6: Kubernetes knows no 7 for Sunday.
_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 6, _DAYS),
)


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """When a job runs, and what its runs keep.

    Attributes
    ----------
    cron : str
        Five fields: minute, hour, day of the month, month, day of the week. Or a macro such as
        ``@daily``.
    epochs : int
        Epochs of an update, which starts from the last model. The first run trains from scratch.
    keep : int
        Number of models that are kept, the served one included.
    history : int
        Number of ended runs that Kubernetes keeps a record of.

    Raises
    ------
    InputError
        If a value is invalid.
    """

    cron: str
    epochs: int = 3
    keep: int = 3
    history: int = 10

    def __post_init__(self) -> None:
        _check_cron(self.cron)
        require_whole("epochs", self.epochs, least=1)
        require_whole("keep", self.keep, least=1)
        require_whole("history", self.history, least=1)


def _check_cron(cron: str) -> None:
    """Raise InputError unless Kubernetes accepts a cron expression."""
    if cron in _MACROS:
        return
    parts = cron.split(" ")
    if len(parts) != len(_FIELDS):
        raise InputError(
            f'cron is {cron!r}; it must have five fields, such as "0 3 * * *" for 3:00 every day'
        )
    for field, part in zip(_FIELDS, parts, strict=True):
        field.check(part)
