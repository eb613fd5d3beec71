"""Compiles a kernel's LLVM module for this processor, once per set of types: the code is kept in a file."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from fusion_slerp.kernels import code_files

_choosing, _compiling = threading.Lock(), threading.Lock()
_functions: dict[tuple[object, tuple[str, ...]], Future[Callable[..., int]]] = {}
_engines: list[llvm.ExecutionEngine] = []
"""Owners of the machine code, which must live as long as the process."""

WIDEST_VECTORS = ",-prefer-256-bit"
"""On Intel servers LLVM prefers 256-bit vectors to preserve the clock rate; these loops then take a third
longer.
"""

OPTIMISATION, LEVEL = 3, 2
"""Of LLVM's code and of its passes."""

TUNING = {"loop_vectorization": True, "loop_interleaving": True, "loop_unrolling": False}
"""Of the passes: unrolled loops take a third longer to compile and run no faster."""

_C_TYPES = {"i64": ctypes.c_int64, "ptr": ctypes.c_void_p, "double": ctypes.c_double, "void": None}

Kernel = Callable[[Sequence[str]], ir.Module]
"""Builds a kernel's module for the numpy dtypes of its arrays; the function is named as the module."""


def compiled(kernel: Kernel, dtypes: tuple[str, ...]) -> Callable[..., int]:
    """Returns the kernel for these numpy dtypes as a C function; calling it releases the GIL."""
    key = kernel, dtypes
    known = _functions.get(key)
    if known is not None:
        return known.result()
    mine: Future[Callable[..., int]] = Future()
    with _choosing:
        function = _functions.setdefault(key, mine)
    if function is mine:  # other threads that need it wait for this kernel only
        try:
            with _compiling:
                mine.set_result(_function(kernel, dtypes))
        except BaseException as error:
            del _functions[key]
            mine.set_exception(error)
            raise
    return function.result()


def _function(kernel: Kernel, dtypes: tuple[str, ...]) -> Callable[..., int]:
    """The kernel's code as a C function, compiled if it is not kept."""
    source = kernel(dtypes)
    text, machine = str(source), _machine()
    name = code_files.name_of(text, *_processor(), *_compiler())
    code = code_files.read(name)
    if code is None:
        code = _compile(text, machine)
        code_files.keep(name, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    signature: Any = source.get_global(source.name).ftype
    prototype = ctypes.CFUNCTYPE(*(_C_TYPES[str(kind)] for kind in (signature.return_type, *signature.args)))
    return prototype(engine.get_function_address(source.name))


def _compile(text: str, machine: llvm.TargetMachine) -> bytes:
    """Returns the object file of a module."""
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    passes = llvm.create_pass_builder(machine, _tuning())
    passes.getModulePassManager().run(module, passes)
    return machine.emit_object(module)


def _machine() -> llvm.TargetMachine:
    """This processor; multiply and add are never fused, which would round differently."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, flags = _processor()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(name, flags, opt=OPTIMISATION, jit=True)


@cache
def _processor() -> tuple[str, str]:
    """Its name, and the features that code may use."""
    features = llvm.get_host_cpu_features()
    return llvm.get_host_cpu_name(), features.flatten() + (WIDEST_VECTORS if features.get("avx512f") else "")


@cache
def _compiler() -> tuple[str, ...]:
    """What else decides the code that a module becomes."""
    options = f"{OPTIMISATION} {LEVEL} {TUNING}"
    return llvmlite.__version__, str(llvm.llvm_version_info), llvm.get_process_triple(), options


def _tuning() -> llvm.PipelineTuningOptions:
    options = llvm.create_pipeline_tuning_options(speed_level=LEVEL)
    for name, value in TUNING.items():
        setattr(options, name, value)
    return options
