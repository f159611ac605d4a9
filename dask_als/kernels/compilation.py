"""Compile kernels for one signature and keep them in numba's cache on disk."""

from __future__ import annotations

import hashlib
import threading
from functools import cache, wraps
from pathlib import Path

import numpy as np
from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic

from dask_als.core import jit
from dask_als.core.code_digest import digest_of_modules


def compile_kernel(function, name, dtype, *arguments):
    """Compile a kernel for its only signature, or load it from numba's cache on disk.

    Parameters
    ----------
    function : function
        Its closure must hold `digest_of_sources()`: numba's cache compares the bytecode and the
        closure of the function itself, but not the functions that it calls.
    name : str
        The kernel's name in the cache. The dtype is appended, so that processes which compile for
        different dtypes at the same time do not overwrite each other's files.
    dtype : numpy.dtype
    *arguments : numba types

    Returns
    -------
    numba dispatcher
        It never compiles for other types: those of `read_only` accept unaligned arrays, too.
    """
    function.__qualname__ = f"{name}_{dtype}"
    kernel = jit.dispatcher_of(function)
    jit.compile_alone(kernel, types.void(*arguments))
    return kernel


def made_once(kernel_of):
    """Keep what a function returns; threads that call it meanwhile wait."""
    made, lock = {}, threading.Lock()

    @wraps(kernel_of)
    def found(*key):
        if key not in made:
            with lock:
                if key not in made:
                    made[key] = kernel_of(*key)
        return made[key]

    return found


def number_type(dtype):
    """Return numba's type of a floating-point dtype.

    Raises
    ------
    TypeError
        If the dtype is neither float32 nor float64.
    """
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"factors are {dtype}; convert them to float32 or float64")
    return from_dtype(dtype)


def read_only(number, ndim=1):
    """Return numba's type of an input array, C-contiguous."""
    return types.Array(number, ndim, "C", readonly=True, aligned=False)


def writable(number, ndim=1):
    """Return numba's type of an output array, C-contiguous."""
    return types.Array(number, ndim, "C")


def tuple_of(*kinds):
    """Return numba's type of a tuple."""
    return types.BaseTuple.from_types(kinds)


@intrinsic
def pointers(_typing, kind, values):
    """Return a named tuple of some kind: pointers in place of arrays, other values unchanged."""
    fields = [types.CPointer(v.dtype) if isinstance(v, types.Array) else v for v in values]
    result = types.BaseTuple.from_types(fields, kind.instance_class)

    def emit(context, builder, _signature, args):
        unpacked = cgutils.unpack_tuple(builder, args[1], len(values))
        fields = [
            context.make_array(of)(context, builder, value).data
            if isinstance(of, types.Array)
            else value
            for of, value in zip(values, unpacked, strict=True)
        ]
        return context.make_tuple(builder, result, fields)

    return result(kind, values), emit


# --- the cache's key ---


_FOLDER = Path(__file__).parent


@cache
def digest_of_sources(folder: Path = _FOLDER) -> str:
    """Return a digest of all that kernels are compiled from: a folder's modules and `core.jit`.

    Returns
    -------
    str
        It changes if a module is added, removed, renamed, moved or edited.
    """
    own = hashlib.sha256(Path(jit.__file__).read_bytes()).hexdigest()
    return f"{own} {digest_of_modules(folder)}"
