"""What the environment says of other processes, and the errors where it says too little."""

from types import SimpleNamespace

import pytest

from fusion_slerp import SettingsError
from fusion_slerp.cluster.joining import ranks_of_fabric, ranks_of_launcher
from fusion_slerp.cluster.ranks import ALONE


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_STEP_NUM_TASKS": "4"},
    ],
)
def test_one_process_is_alone(environment):
    assert ranks_of_launcher(environment) is ALONE
    assert ranks_of_fabric(None) is ALONE
    assert ranks_of_fabric(SimpleNamespace(world_size=1)) is ALONE


def test_processes_of_srun_without_a_rendezvous_are_told_how_to_start():
    with pytest.raises(SettingsError, match="srun has started several merges") as caught:
        ranks_of_launcher({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"})
    assert "found: 4 processes, without RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT" in str(caught.value)
    assert "Fix: let torchrun start them, once on each machine: srun --ntasks-per-node 1 torchrun" in str(
        caught.value
    )


def test_an_incomplete_environment_is_named():
    with pytest.raises(
        SettingsError, match=r"WORLD_SIZE=2, without RANK, MASTER_ADDR(.|\n)*unset WORLD_SIZE"
    ):
        ranks_of_launcher({"WORLD_SIZE": "2", "MASTER_PORT": "29500"})


def test_an_address_that_is_none_is_named(monkeypatch):
    environment = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "port"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r"the processes do not find each other(.|\n)*127.0.0.1:port"):
        ranks_of_launcher(environment)
