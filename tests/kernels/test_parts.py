"""Tests that parts are compiled with the kernels that call them, not apart."""

import numpy as np
import pytest
from numba import njit
from numba.core.codegen import JITCodeLibrary

from dask_als.kernels import parts
from dask_als.kernels.parts import inline_part, part


@part
def add_one(number):
    return number + 1


@inline_part
def twice(number):
    return add_one(number) + number - 1


@part
def add_three(number):
    return add_one(add_one(add_one(twice(number)) - number))


def test_in_python_a_part_is_called_as_it_is_written():
    assert add_three(5) == 8


@pytest.fixture
def finalized(monkeypatch):
    """The names of the functions for which machine code is made, in order."""
    names = []
    finalize = JITCodeLibrary._finalize_specific

    def recorded(library):
        if library.name != "nrt":  # Numba's runtime, made with the first kernel of a process.
            names.append(library.name)
        finalize(library)

    monkeypatch.setattr(JITCodeLibrary, "_finalize_specific", recorded)
    return names


def test_machine_code_is_made_of_the_kernel_alone(finalized):
    @njit
    def kernel(number):
        return add_three(number) + twice(number)

    assert kernel(5) == 18
    assert finalized == [kernel.py_func.__qualname__], (
        "numba compiles parts apart, or with other private parts; see dask_als.kernels.parts"
    )


def test_kernels_share_parts():
    @njit
    def first(number):
        return add_three(number)

    @njit
    def second(number):
        return add_one(add_three(number))

    assert (first(1.5), second(1.5)) == (4.5, 5.5)
    assert (first(2), second(2)) == (5, 6)


@pytest.mark.parametrize("inline", [False, True])
def test_without_the_class_of_numba_parts_are_compiled_as_other_functions(inline):
    options = parts.options(inline=inline, library=object)
    assert "pipeline_class" not in options

    @njit(**options)
    def add_two(number):
        return number + np.float32(2)

    @njit
    def kernel(number):
        return add_two(number) + 1

    assert kernel(np.float32(1)) == 4
