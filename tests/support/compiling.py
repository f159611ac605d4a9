"""Compiles in a process of its own, which has to import what it runs."""

from dask_als.core import jit


def compile_what_cannot_be_kept():
    """Compile two functions without a file, for which numba finds no directory; call one."""
    for _ in range(2):
        made = {}
        exec("def add_one(number):\n    return number + 1", made)
        add_one = jit.dispatcher_of(made["add_one"])
    return add_one(1)
