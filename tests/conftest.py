"""Fixtures that several test modules share."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from fusion_slerp.kernels import code_files
from tests.fusion_bench_commands import HOST_SETTINGS
from tests.models import save_transformers_model, write_checkpoint

# The same examples in every run; no deadline, as a busy machine is no failure.
hypothesis.settings.register_profile("repository", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repository")


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled kernels in a folder of this run, for all of its processes."""
    if hasattr(config, "workerinput"):
        return
    kernels = tempfile.mkdtemp(prefix="fusion_slerp-kernels-")
    os.environ[code_files.VARIABLE] = kernels
    config.add_cleanup(lambda: shutil.rmtree(kernels, ignore_errors=True))


def pytest_collection_finish() -> None:
    """Takes what was imported out of every later collection of garbage: a fifth of the tests' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def parents(tmp_path: Path) -> tuple[Path, Path]:
    """Two tiny checkpoints that belong together, `a` and `b`, alone in a folder of their own."""
    return write_checkpoint(tmp_path / "models/a", seed=1), write_checkpoint(tmp_path / "models/b", seed=2)


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as usual: a shell lets commands in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def host_command(tmp_path_factory) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs a command line of `fusion_bench` in a process of its own, all of them for the price of one start.

    Takes the arguments, `cwd`, and environment variables; returns the exit code and all that was printed.
    """
    output = tmp_path_factory.mktemp("host") / "output"
    commands = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("fusion_bench_commands.py")],
        env={**os.environ, **HOST_SETTINGS},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert commands.stdin is not None
    assert commands.stdout is not None

    def run(*arguments, cwd, module="fusion_bench.scripts.cli", **environment):
        job = [module, arguments, str(cwd), environment, str(output)]
        print(json.dumps(job), file=commands.stdin, flush=True)
        return int(commands.stdout.readline()), output.read_text(encoding="utf-8")

    yield run
    commands.communicate()


@pytest.fixture(scope="session")
def has_direct_io(tmp_path_factory) -> bool:
    """Whether the system and the file system of all temporary folders open files past the page cache."""
    if not hasattr(os, "O_DIRECT"):
        return False
    file = tmp_path_factory.mktemp("direct_io") / "file"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    except OSError:
        return False
    os.close(descriptor)
    return True


@pytest.fixture
def direct(has_direct_io: bool) -> None:
    """Skips a test where there is no direct I/O, before its other fixtures are made."""
    if not has_direct_io:
        pytest.skip("the temporary folder has no direct I/O")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads of torch cost more than they give on small matrices, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", params=["llama", "gpt2", "qwen2", "mixtral"])
def transformers_parents(request, tmp_path_factory) -> tuple[Path, Path]:
    """Two real transformers models of one family, in bfloat16; not to be written to."""
    folder = tmp_path_factory.mktemp(request.param)
    a = save_transformers_model(folder / "a", request.param, seed=1)
    return a, save_transformers_model(folder / "b", request.param, seed=2)
