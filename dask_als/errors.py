"""The errors this package raises on purpose."""

from __future__ import annotations

INTERRUPTED_EXIT_CODE = 130
"""The exit code of a command after Ctrl-C: 128 + SIGINT, as in shells."""


class DaskALSError(Exception):
    """Base of all errors raised on purpose; the message is one line that says what to do."""

    exit_code = 1


class InputError(DaskALSError, ValueError):
    """The user's input cannot be used: a setting, a file, a directory, an id."""

    exit_code = 2


class JobError(DaskALSError, RuntimeError):
    """The input is valid, but the work failed."""


class WorkersLostError(JobError):
    """A task lost its worker too often; the work can be started again."""


class ClusterLostError(JobError):
    """The scheduler is gone, or no worker came back in time; resume on another cluster."""

    exit_code = 3


class NotFiniteError(InputError, OverflowError):
    """Numbers became infinite or NaN: ratings or settings are too large for their type."""


class DaskALSWarning(UserWarning):
    """Base of all warnings of this package."""


class UnknownIdWarning(DaskALSWarning):
    """Ids that are not in the model got predictions from means and biases alone."""


class RejectedRowsWarning(DaskALSWarning):
    """Rows of the ratings were not usable, and the model was trained without them."""


class LeftOutWarning(DaskALSWarning):
    """A model was saved without its training ratings, so some of its methods need a dataset."""
