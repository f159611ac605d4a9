"""Locks on open files, which end with the process."""

from __future__ import annotations

import fcntl


def try_lock(file: int) -> bool:
    """Lock an open file; return False if another process has locked it.

    There are file systems without locks: there it does nothing and returns True.

    Parameters
    ----------
    file : int
        A descriptor; closing it ends the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
