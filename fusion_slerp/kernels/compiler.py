"""Compiles a kernel's LLVM module for this processor, once per process and set of types."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

_choosing, _compiling = threading.Lock(), threading.Lock()
_functions: dict[tuple[object, tuple[str, ...]], Future[Callable[..., int]]] = {}
_engines: list[llvm.ExecutionEngine] = []
"""Owners of the machine code, which must live as long as the process."""

WIDEST_VECTORS = ",-prefer-256-bit"
"""On Intel servers LLVM prefers 256-bit vectors to preserve the clock rate; these loops then take a third
longer.
"""

_C_TYPES = {"i64": ctypes.c_int64, "ptr": ctypes.c_void_p, "double": ctypes.c_double, "void": None}

Kernel = Callable[[Sequence[str]], ir.Module]
"""Builds a kernel's module for the numpy dtypes of its arrays; the function is named as the module."""


def compiled(kernel: Kernel, dtypes: tuple[str, ...]) -> Callable[..., int]:
    """Returns the kernel for these numpy dtypes as a C function; calling it releases the GIL."""
    mine: Future[Callable[..., int]] = Future()
    with _choosing:
        function = _functions.setdefault((kernel, dtypes), mine)
    if function is mine:  # other threads that need it wait for this kernel only
        try:
            with _compiling:
                mine.set_result(_compile(kernel, dtypes))
        except BaseException as error:
            del _functions[kernel, dtypes]
            mine.set_exception(error)
            raise
    return function.result()


def _compile(kernel: Kernel, dtypes: tuple[str, ...]) -> Callable[..., int]:
    source = kernel(dtypes)
    machine = _machine()
    module = llvm.parse_assembly(str(source))
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    passes = llvm.create_pass_builder(machine, _tuning())
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    _engines.append(engine)
    signature: Any = source.get_global(source.name).ftype
    prototype = ctypes.CFUNCTYPE(*(_C_TYPES[str(kind)] for kind in (signature.return_type, *signature.args)))
    return prototype(engine.get_function_address(source.name))


def _machine() -> llvm.TargetMachine:
    """This processor; multiply and add are never fused, which would round differently."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    flags = features.flatten() + (WIDEST_VECTORS if features.get("avx512f") else "")
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(llvm.get_host_cpu_name(), flags, opt=3, jit=True)


def _tuning() -> llvm.PipelineTuningOptions:
    """Vectorised but not unrolled loops: unrolled ones take a third longer to compile and run no faster."""
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True
    options.loop_interleaving = True
    options.loop_unrolling = False
    return options
