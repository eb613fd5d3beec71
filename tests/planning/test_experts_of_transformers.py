"""Experts of real architectures, saved in both layouts of transformers: any mix merges, to the same bytes."""

import itertools

import pytest

from fusion_slerp import merge
from tests.architectures.building import CAUSAL, Architecture, auto_class, build, save, tiny_config, words

pytestmark = pytest.mark.long

FAMILIES = [
    *("mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "olmoe", "glm4_moe", "granitemoe", "phimoe"),
    *("llama4_text", "gpt_oss", "dbrx", "jetmoe", "ernie4_5_moe", "minimax_m2", "hunyuan_v1_moe", "lfm2_moe"),
]

ORIGINAL, PRESENT = True, False
"""Values of `save_original_format`: names and layout of older files, or those of the module."""


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    """Two models, each in both layouts."""
    folder = tmp_path_factory.mktemp(request.param)
    config = tiny_config(Architecture(request.param, CAUSAL, ""))
    folders = {}
    for seed, layout in itertools.product((0, 1), (ORIGINAL, PRESENT)):
        out = folder / f"{seed}-{layout}"
        folders[seed, layout] = save(build(CAUSAL, config, seed), out, words(), save_original_format=layout)
    return folders


def loaded(folder):
    """The tensors of a model as transformers loads it."""
    model, info = auto_class(CAUSAL).from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.state_dict()


def slerp(t, a, b):
    import torch

    x, y = a.double(), b.double()
    cosine = ((x * y).sum() / (x.norm() * y.norm())).clamp(-1, 1)
    if not abs(cosine) <= 0.9995:  # a vector of zeros included
        return ((1 - t) * x + t * y).to(a.dtype)
    angle = torch.arccos(cosine)
    return ((torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)).to(a.dtype)


def matrices(name, tensor, family):
    """A tensor of the module, apart: expert by expert, gate and up."""
    kind = name.rpartition(".")[2]
    if family == "dbrx" and ".experts." in name:
        return tensor.chunk(4)
    if family == "jetmoe" and "input_linear" in name and ".mlp." in name:
        return [part for each in tensor for part in each.chunk(2)]
    if family == "jetmoe" and "put_linear" in name:
        return list(tensor)
    if ".experts." not in name or family == "jetmoe":
        return [tensor]
    if "gate_up" not in kind:
        return list(tensor)
    if family == "gpt_oss":
        return [each[..., i::2] for each in tensor for i in (0, 1)]
    return [part for each in tensor for part in each.chunk(2, dim=-1 if family == "llama4_text" else 0)]


def test_any_mix_makes_the_same_child_that_loads(saved, request, tmp_path):
    import torch

    family = request.node.callspec.params["saved"]
    a, b = loaded(saved[0, PRESENT]), loaded(saved[1, PRESENT])
    children = {
        (one, other): loaded(
            merge(saved[0, one], saved[1, other], out=tmp_path / f"{one}-{other}", t=0.3).out
        )
        for one, other in itertools.product((ORIGINAL, PRESENT), repeat=2)
    }
    first, *others = children.values()
    for child in others:
        assert [name for name, tensor in child.items() if not torch.equal(tensor, first[name])] == []
    for name, tensor in first.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        parts = (matrices(name, each[name], family) for each in (first, a, b))
        for child, one, other in zip(*parts, strict=True):
            torch.testing.assert_close(child, slerp(0.3, one, other), rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "granitemoe"])
def test_the_child_has_the_names_of_a(family, tmp_path):
    from safetensors import safe_open

    config = tiny_config(Architecture(family, CAUSAL, ""))
    folders = {
        layout: save(build(CAUSAL, config, seed), tmp_path / str(seed), words(), save_original_format=layout)
        for seed, layout in enumerate((ORIGINAL, PRESENT))
    }
    for one, other in itertools.permutations(folders.values()):
        child = merge(one, other, out=tmp_path / f"child of {one.name}").out
        names = [
            sorted(safe_open(each / "model.safetensors", "numpy").keys()) for each in (one, other, child)
        ]
        assert names[0] == names[2] != names[1]
