"""Experts of models in memory get the bytes that a merge of their files makes."""

from __future__ import annotations

import pytest
import torch
from fusion_bench.modelpool import BaseModelPool
from transformers import AutoModelForCausalLM

from fusion_slerp import SlerpForCausalLM, merge
from tests.architectures.building import CAUSAL, Architecture, build, save, tiny_config, words


@pytest.mark.long
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_experts_in_memory_are_merged_matrix_by_matrix(tmp_path, family, dtype):
    config = tiny_config(Architecture(family, CAUSAL, ""))
    models = {name: build(CAUSAL, config, seed) for seed, name in enumerate("xy")}
    folders = [save(model, tmp_path / name, words()) for name, model in models.items()]
    child = SlerpForCausalLM(t=0.3, dtype=dtype).run(BaseModelPool(models)).state_dict()
    of_files = merge(*folders, out=tmp_path / "child", t=0.3, dtype=dtype).out
    wanted = AutoModelForCausalLM.from_pretrained(of_files, dtype="auto").state_dict()
    experts = [name for name in wanted if ".experts." in name]
    assert experts
    assert [name for name in experts if not torch.equal(wanted[name], child[name])] == []
