"""Messages of errors in the words of the caller: options on the command line, names in Python.

Errors name the options of commands. The methods that Python users call translate them with
`python_words`; the command line switches that off for its own calls of these methods.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from dask_als.errors import DaskALSError

_PARAMETERS = {
    "user-col": "columns=Columns(user={})",
    "item-col": "columns=Columns(item={})",
    "rating-col": "columns=Columns(rating={})",
    "time-col": "columns=Columns(time={})",
    "weight-col": "columns=Columns(weight={})",
    "half-life": "prepare_settings=PrepareSettings(half_life={})",
    "test-fraction": "prepare_settings=PrepareSettings(test_fraction={})",
    "split": "prepare_settings=PrepareSettings(split={})",
    "duplicates": "prepare_settings=PrepareSettings(duplicates={})",
    "overwrite": "overwrite=True",
    "seen": "seen=True",
    "keep-samples": "keep_samples=True",
    "cluster": "client={}",
    "patience": "stopping=StopSettings(patience={})",
}
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)(?: ([0-9][0-9.e-]*|[a-z]+(?=$|[;.]| and --)))?")
_AT_COMMAND_LINE = ContextVar("at_command_line", default=False)


@contextmanager
def option_words() -> Iterator[None]:
    """Let errors name options during the block: the caller is a command."""
    token = _AT_COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _AT_COMMAND_LINE.reset(token)


@contextmanager
def python_words(names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let errors of the block name parameters instead of options, unless a command is the caller.

    Parameters
    ----------
    names : mapping of str to str, optional
        Names for paths that the caller does not know, such as temporary files.
    """
    try:
        yield
    except DaskALSError as error:
        if error.args and not _AT_COMMAND_LINE.get():
            message = str(error.args[0])
            for path, name in (names or {}).items():
                message = message.replace(path, name)
            error.args = (in_python(message), *error.args[1:])
        raise


def in_python(message: str) -> str:
    """Return a message with parameters in place of options."""
    message = message.replace("make one with: dask-als train", "make one with ALS(...).fit(...)")
    return _OPTION.sub(_parameter, message)


def _parameter(match: re.Match[str]) -> str:
    option, value = match.groups()
    shown = "..." if value is None else value if value[0].isdigit() else repr(value)
    template = _PARAMETERS.get(option, option.replace("-", "_") + "={}")
    kept = "" if value is None or "{}" in template else f" {value}"
    return template.format(shown) + kept


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the line that called into this package."""
    level, frame = 3, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_back.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module.split(".")[0] in ("dask_als", "contextlib")
