"""Two hosts with addresses of their own: network namespaces of one machine, joined by a cable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fusion_slerp import merge
from tests.models import contents, names_in

pytestmark = pytest.mark.long

ADDRESSES = ("10.213.7.1", "10.213.7.2")
PORT = 29500
"""In a namespace of its own, no other program has it."""

LIMIT_S = 300


@dataclass(frozen=True)
class Host:
    """A network namespace with its address.

    Attributes:
        name: Of the namespace, and of the host inside.
        cable: This host's end of it.
        address: Its own.
        names: A file with the addresses of all hosts.
    """

    name: str
    cable: str
    address: str
    names: Path

    def enter(self, command: list[str]) -> list[str]:
        """The command inside, under the host's name, and with the other's known."""
        named = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'
        inside = ["ip", "netns", "exec", self.name, "unshare", "--uts", "--mount"]
        return [*inside, "sh", "-c", named, self.name, str(self.names), *command]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Host]]:
    """Two namespaces that reach each other and nothing else; removed whatever happens."""
    if missing := [name for name in ("ip", "unshare", "hostname", "mount") if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    own, names = f"fs{os.getpid()}", tmp_path / "hosts"
    hosts = [Host(f"{own}-{k}", f"{own}v{k}", address, names) for k, address in enumerate(ADDRESSES)]
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in hosts)]
    names.write_text("\n".join(lines) + "\n", encoding="utf-8")
    made: list[Host] = []
    try:
        try:
            for host in hosts:
                ip("netns", "add", host.name)
                made.append(host)
            first, second = hosts
            ip("link", "add", first.cable, "netns", first.name, "type", "veth",
               "peer", "name", second.cable, "netns", second.name)  # fmt: skip
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        for host in hosts:
            inside = ("-n", host.name)
            ip(*inside, "address", "add", f"{host.address}/24", "dev", host.cable)
            ip(*inside, "link", "set", host.cable, "up")
            ip(*inside, "link", "set", "lo", "up")
        yield hosts
    finally:
        for host in made:  # with its end of the cable, and so the other
            ip("netns", "delete", host.name)


def launch(host: Host, arguments: list[str]) -> subprocess.Popen[str]:
    """One rank under torchrun, on a host; they meet on the first one."""
    launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", "1", "--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}"]
    command = [sys.executable, *launcher, *meeting, "-m", "fusion_slerp", "merge", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        host.enter(command), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def joined(hosts: list[Host], arguments: list[list[str]]) -> tuple[list[int], list[str]]:
    """The exit codes and the output of a rank on each host, with arguments of its own."""
    processes = [launch(host, own) for host, own in zip(hosts, arguments, strict=True)]
    try:
        printed = [process.communicate(timeout=LIMIT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], printed


def test_two_hosts_make_the_bytes_of_one_process(tmp_path: Path, parents, hosts):
    expected, out = tmp_path / "alone/child", tmp_path / "out/child"
    merge(*parents, t=0.4, max_shard_size=100, out=expected)
    arguments = [*map(str, parents), "-t", "0.4", "--max-shard-size", "100", "-o", str(out)]
    codes, printed = joined(hosts, [arguments] * 2)
    assert codes == [0, 0], printed
    assert contents(out) == contents(expected)
    assert names_in(out.parent) == ["child"]


def test_two_hosts_with_different_settings_make_nothing(tmp_path: Path, parents, hosts):
    out = tmp_path / "out/child"
    codes, printed = joined(hosts, [[*map(str, parents), "-t", t, "-o", str(out)] for t in ("0.4", "0.5")])
    assert all(codes), printed
    text = "".join(printed)
    assert "about to make different merges" in text
    assert any(f"rank: 1, on {host.name}" in text for host in hosts), text
    assert not out.exists()
