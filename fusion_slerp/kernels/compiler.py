"""Compiles a kernel's LLVM module for this processor, once per process and types."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache

import llvmlite.binding as llvm
from llvmlite import ir

from fusion_slerp.kernels import loops

_compiling = threading.Lock()
_engines: list[llvm.ExecutionEngine] = []
"""They own the machine code, which must live as long as the process."""

_C_TYPES = {"i64": ctypes.c_int64, "ptr": ctypes.c_void_p, "double": ctypes.c_double, "void": None}


def compiled(kernel: str, dtypes: tuple[str, ...]) -> Callable[..., int]:
    """Returns the kernel for these numpy dtypes as a C function; calling it releases the GIL."""
    with _compiling:
        return _compiled(kernel, dtypes)


@cache
def _compiled(kernel: str, dtypes: tuple[str, ...]) -> Callable[..., int]:
    source: ir.Module = getattr(loops, kernel)(dtypes)
    machine = _machine()
    module = llvm.parse_assembly(str(source))
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    passes = llvm.create_pass_builder(machine, _tuning())
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    _engines.append(engine)
    signature = source.get_global(kernel).ftype
    prototype = ctypes.CFUNCTYPE(*(_C_TYPES[str(kind)] for kind in (signature.return_type, *signature.args)))
    return prototype(engine.get_function_address(kernel))


def _machine() -> llvm.TargetMachine:
    """Of this processor; never told to fuse multiply and add, which would round differently."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(llvm.get_host_cpu_name(), features, opt=3, jit=True)


def _tuning() -> llvm.PipelineTuningOptions:
    """Vectors, but no unrolled loops: they take a third longer to compile and run no faster."""
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    options.loop_interleaving = True
    options.loop_unrolling = False
    return options
