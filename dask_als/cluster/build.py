"""What decides the bits that a process computes: packages, our sources, the processor.

Two processes of the same build give the same bits; of others, nobody knows.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dask_als.core.sources import digest_of_modules

_PACKAGES = ("dask-als", "dask", "distributed", "llvmlite", "numba", "numpy", "pyarrow")
_SOURCES = "sources of dask-als"
_FUSED = "fused multiply-add"


@cache
def build_of_this_process() -> dict[str, str]:
    """Return what decides the bits, by name; the same for all processes that agree."""
    from numba.core.registry import cpu_target

    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: _version(name) for name in _PACKAGES},
        _SOURCES: digest_of_modules(Path(__file__).parents[1]),
        "processor": platform.machine(),
        # Which numba takes from the processor, or from NUMBA_CPU_FEATURES.
        _FUSED: "yes" if "+fma" in features else "no",
    }


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Return, in words, what another process has that this one has not; empty if nothing."""
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
