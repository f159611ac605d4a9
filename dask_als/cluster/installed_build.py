"""The build of a process: versions of packages, our sources, and the processor.

Processes of the same build compute the same bits; others may not.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dask_als.core.code_digest import digest_of_modules

_PACKAGES = ("dask-als", "dask", "distributed", "llvmlite", "numba", "numpy", "pyarrow")
_SOURCES = "sources of dask-als"
_FUSED = "fused multiply-add"


@cache
def build_of_this_process() -> dict[str, str]:
    """Return the build of this process, by name of each component."""
    from numba.core.registry import cpu_target

    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: _version(name) for name in _PACKAGES},
        _SOURCES: digest_of_modules(Path(__file__).parents[1]),
        "processor": platform.machine(),
        # Numba detects it, or reads it from NUMBA_CPU_FEATURES.
        _FUSED: "yes" if "+fma" in features else "no",
    }


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Return the differences of another build from the one here, in words, or an empty text."""
    return ", ".join(
        f"other {name}" if name == _SOURCES else f"{name} {there.get(name)} (here {value})"
        for name, value in here.items()
        if there.get(name) != value
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not at all"
