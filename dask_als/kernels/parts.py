"""Functions that are compiled only as parts of kernels.

Numba optimizes every function together with all that it calls and makes machine code of it, also if
only other compiled functions call it: what is called at depth five is optimized five times. A part
stays LLVM code instead. The kernel that calls it links all of its parts, each once, and LLVM
optimizes them together.

This takes a subclass of numba's class for a function's LLVM code, which is private. Where that has
changed, parts are compiled as any other function, which takes four times as long; a test tells
(`tests/kernels/test_parts.py`).
"""

from __future__ import annotations

from functools import update_wrapper
from typing import Any

from llvmlite.binding import Linkage
from numba import njit, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager
from numba.core.typed_passes import AnnotateTypes, InlineOverloads, NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes, InlineInlinables, WithLifting
from numba.extending import typeof_impl


class _Code(JITCodeLibrary):
    """The LLVM code of a part, and the libraries that it calls."""

    _shared_module: Any

    @property
    def codegen(self):
        return self

    def set_env(self, name, environment):
        """Do nothing: only machine code needs the environment."""

    def get_pointer_to_function(self, name):
        """Return 0: there is no machine code."""
        return 0

    def add_llvm_module(self, ll_module):
        """Add code without optimizing it; kernels drop what they have inlined."""
        ll_module.data_layout = self._codegen._data_layout
        self._final_module.link_in(ll_module)
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == Linkage.external:
                function.linkage = "linkonce_odr"

    def finalize(self):
        self._finalized = True

    def _get_module_for_linking(self):
        """Return the code of this part and of all parts that it calls."""
        if self._shared_module is None:
            self._shared_module = self._final_module.clone()
            # LLVM leaves out what nothing calls yet, so callers come first.
            for library in self._called({self}):
                is_part = isinstance(library, _Code)
                code = library._final_module if is_part else library._get_module_for_linking()
                self._shared_module.link_in(code, preserve=True)
        return self._shared_module

    def _called(self, seen):
        """Yield all libraries that this one calls, callers before what they call."""
        for library in self._linking_libraries:
            if library not in seen:
                seen.add(library)
                yield library
                if isinstance(library, _Code):
                    yield from library._called(seen)


class _InlinedCode(_Code):
    """The same, inlined wherever it is called."""

    def add_ir_module(self, ir_module):
        for function in ir_module.functions:
            if not function.is_declaration:
                function.attributes.add("alwaysinline")
        super().add_ir_module(ir_module)


# Passes for what parts do not have: closures, array expressions, numba's option `inline`.
_SUPERFLUOUS = {
    WithLifting,
    InlineClosureLikes,
    InlineInlinables,
    InlineOverloads,
    NopythonRewrites,
    AnnotateTypes,
}


class _Compiler(CompilerBase):
    """Numba's compiler, which puts a function's code into `_Code`."""

    _code_class = _Code

    def define_pipelines(self):
        state = self.state
        state.library = self._code_class(state.targetctx.codegen(), state.func_id.func_qualname)
        passes = PassManager("part")
        for compiler_pass in DefaultPassBuilder.define_nopython_pipeline(state).passes:
            if compiler_pass[0] not in _SUPERFLUOUS:
                passes.passes.append(compiler_pass)
        passes.finalize()
        return [passes]


class _InliningCompiler(_Compiler):
    _code_class = _InlinedCode


_OVERRIDDEN = (
    "codegen",
    "get_pointer_to_function",
    "add_ir_module",
    "add_llvm_module",
    "finalize",
    "_get_module_for_linking",
)


def options(*, inline, library=JITCodeLibrary):
    """Return the options with which numba compiles parts."""
    shared = {
        "nogil": True,
        "error_model": "numpy",
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }
    if not all(hasattr(library, name) for name in _OVERRIDDEN):
        return shared | {"forceinline": inline}
    # Not `forceinline`: numba would compile what these functions call once more for it.
    return shared | {"pipeline_class": _InliningCompiler if inline else _Compiler}


OPTIONS, INLINE = options(inline=False), options(inline=True)


class Part:
    """A function that compiled functions may call; in Python it is called as it is written."""

    def __init__(self, function, options=OPTIONS):
        self._function = function
        self.dispatcher = njit(**options)(function)
        update_wrapper(self, function)

    def __call__(self, *args):
        """Call the function as it is written."""
        return self._function(*args)


def part(function):
    """Make a function part of the kernels that call it."""
    return Part(function)


def inline_part(function):
    """Make a function part of the kernels that call it, inlined wherever it is called."""
    return Part(function, INLINE)


@typeof_impl.register(Part)
def _typeof_part(value, _context):
    return types.Dispatcher(value.dispatcher)
