"""The files that start a merge on a cluster: consistent, and run for real by two nodes of one machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fusion_slerp import merge
from tests.models import contents

FOLDER = Path(__file__).resolve().parents[2] / "examples/cluster"
SCRIPT = FOLDER / "merge.sbatch"
N_NODES = 2
LIMIT_S = 300

OF_SLURM = {
    "scontrol": "#!/bin/sh\necho 127.0.0.1\necho second\n",
    # srun without its options, once for each node
    "srun": (
        '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\n"$@" & first=$!\n"$@" & second=$!\n'
        "wait $first && wait $second\n"
    ),
}


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    """The Kubernetes objects, by kind."""
    text = (FOLDER / "job.yaml").read_text(encoding="utf-8")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def pod(documents: dict[str, Any]) -> dict[str, Any]:
    return documents["Job"]["spec"]["template"]["spec"]


def command(documents: dict[str, Any]) -> list[str]:
    (container,) = pod(documents)["containers"]
    return container["command"]


def words(documents: dict[str, Any]) -> list[str]:
    return command(documents)[-1].split()


def value_of(option: str, documents: dict[str, Any]) -> str:
    return words(documents)[words(documents).index(option) + 1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    """The programs of this environment come first; torch's threads do not matter here."""
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([more.pop("programs", programs), programs, os.environ["PATH"]])
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **more}


def test_the_objects_are_of_current_versions_and_belong_together(documents):
    assert {kind: each["apiVersion"] for kind, each in documents.items()} == {
        "Service": "v1",
        "Job": "batch/v1",
        "PersistentVolumeClaim": "v1",
    }
    service, job = documents["Service"], documents["Job"]
    assert service["spec"]["clusterIP"] == "None"
    assert pod(documents)["subdomain"] == service["metadata"]["name"]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (spread,) = pod(documents)["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels


def test_the_volume_is_shared_and_holds_models_and_output(documents):
    claim = documents["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    (volume,) = pod(documents)["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (mount,) = pod(documents)["containers"][0]["volumeMounts"]
    assert mount["name"] == volume["name"]
    paths = [word for word in words(documents) if word.startswith("/")]
    assert len(paths) == 3
    assert all(path.startswith(f"{mount['mountPath']}/") for path in paths)


def test_all_pods_run_at_once_and_meet_at_the_first_one(documents):
    spec = documents["Job"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(value_of("--nnodes", documents))
    assert value_of("--node-rank", documents) == '"$JOB_COMPLETION_INDEX"'
    name, service = documents["Job"]["metadata"]["name"], documents["Service"]
    assert value_of("--master-addr", documents) == f"{name}-0.{service['metadata']['name']}"
    assert int(value_of("--master-port", documents)) == service["spec"]["ports"][0]["port"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_script_of_slurm_parses():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_script_of_slurm_merges_with_two_nodes(tmp_path, parents):
    """SLURM's two programs are stand-ins, torchrun and the merge are real."""
    programs, out = tmp_path / "programs", tmp_path / "out/child"
    programs.mkdir()
    for name, text in OF_SLURM.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    of_slurm = {
        "SLURM_JOB_NODELIST": "first,second",
        "SLURM_JOB_NUM_NODES": str(N_NODES),
        "SLURM_JOB_ID": str(os.getpid()),
    }
    ran = subprocess.run(
        ["bash", SCRIPT, *parents, "-t", "0.4", "--max-shard-size", "100", "-o", out],
        env=environment(programs=str(programs), **of_slurm),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert contents(out) == alone(tmp_path, parents)


@pytest.mark.long
def test_the_pods_command_merges_with_two_nodes(tmp_path, parents, documents):
    a, b = parents
    out = tmp_path / "out/child"
    shell, flag, line = command(documents)
    changes = {
        "--nnodes 4": f"--nnodes {N_NODES}",
        "merge-0.merge": "127.0.0.1",
        "--master-port 29500": f"--master-port {free_port()}",
        "/models/a": str(a),
        "/models/b": str(b),
        "/models/child": f"{out} --max-shard-size 100",
    }
    for before, after in changes.items():
        assert before in line
        line = line.replace(before, after)
    nodes = [
        subprocess.Popen(
            [shell, flag, line],
            env=environment(JOB_COMPLETION_INDEX=str(index)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(N_NODES)
    ]
    printed = [node.communicate(timeout=LIMIT_S)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0] * N_NODES, printed
    assert contents(out) == alone(tmp_path, parents)


def alone(tmp_path: Path, parents: tuple[Path, Path]) -> dict[str, bytes]:
    """The files that one process makes."""
    out = tmp_path / "alone/child"
    merge(*parents, t=0.4, max_shard_size=100, out=out)
    return contents(out)
