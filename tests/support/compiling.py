"""Compiles in a process of its own, which has to import what it runs."""

from pathlib import Path

from numba import types

from dask_als.core import jit


def add_two(number):
    return number + 2


def cache_folders():
    """Return the folders in which the compiled functions of this module are kept."""
    return [jit.dispatcher_of(add_two)._cache.cache_path]


def compile_with_others(ready):
    """Compile a function as a kernel; return how often it was found in the cache and was not."""
    kernel = jit.dispatcher_of(add_two)
    Path(ready).touch()
    jit.compile_alone(kernel, types.int64(types.int64))
    assert kernel(1) == 3
    return sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values())


def compile_what_cannot_be_kept():
    """Compile two functions without a file, for which numba finds no directory; call one."""
    for _ in range(2):
        made = {}
        exec("def add_one(number):\n    return number + 1", made)
        add_one = jit.dispatcher_of(made["add_one"])
    return add_one(1)
