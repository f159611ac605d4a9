"""What happens to a process when its parent ends."""

import ctypes

from dask_als.cluster.parent import dask_setup

_PR_GET_PDEATHSIG = 2


def signal_after_setup():
    """Call the preload of local workers; return the signal that this process gets from then on."""
    dask_setup(None)
    number = ctypes.c_int()
    ctypes.CDLL(None).prctl(_PR_GET_PDEATHSIG, ctypes.byref(number))
    return number.value
