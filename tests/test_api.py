"""Whole merges through the front door: what the child is, what lies beside its weights, how it appears."""

import json
import logging
import os
import re
import time
import warnings
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import fusion_slerp
from fusion_slerp import make_settings, merge
from fusion_slerp.api import merge_into_memory
from fusion_slerp.output.model_card import CardParent, model_card
from tests.models import CONFIG, SHAPES, contents, names_in, tiny_tensors, write_checkpoint, write_json

# --- the child is a model -------------------------------------------------------------------------------


@pytest.fixture
def said_by_transformers(caplog):
    """Everything that transformers logs from WARNING up; Python's warnings are errors anyway."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield lambda: [r.getMessage() for r in caplog.records if r.name.startswith("transformers")]
    logger.removeHandler(caplog.handler)


def loaded(folder: Path) -> tuple[torch.nn.Module, dict]:
    """The model as anybody would load it, and what its loading reports."""
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, local_files_only=True)


@pytest.mark.parametrize("max_shard_size", ["5GB", 3000])
def test_child_loads_without_a_word(tmp_path, transformers_parents, said_by_transformers, max_shard_size):
    merge(*transformers_parents, out=tmp_path / "child", t=0.3, max_shard_size=max_shard_size)
    child, report = loaded(tmp_path / "child")
    assert said_by_transformers() == []
    assert not any(report.values()), report
    assert {p.dtype for p in child.parameters()} == {torch.bfloat16}
    a, b = (loaded(folder)[0] for folder in transformers_parents)
    assert type(child) is type(a)
    for (name, mine), x, y in zip(child.named_parameters(), a.parameters(), b.parameters(), strict=True):
        ends = torch.minimum(x, y).float().abs().max(), torch.maximum(x, y).float().abs().max()
        assert not torch.equal(mine, x) or torch.equal(x, y), name
        assert mine.float().abs().max() <= 1.5 * max(ends), name
    logits = child(input_ids=torch.tensor([[1, 2, 3]])).logits
    assert logits.isfinite().all()


@pytest.mark.parametrize("t", [0, 1])
def test_ends_are_the_parents_themselves(tmp_path, transformers_parents, t):
    merge(*transformers_parents, out=tmp_path / "child", t=t)
    expected = load_file(transformers_parents[t] / "model.safetensors")
    child = load_file(tmp_path / "child/model.safetensors")
    assert child.keys() == expected.keys()
    assert all(torch.equal(child[name], expected[name]) for name in child)


def test_tied_embeddings_stay_tied(tmp_path, transformers_parents):
    merge(*transformers_parents, out=tmp_path / "child")
    tied = json.loads((tmp_path / "child/config.json").read_text())["tie_word_embeddings"]
    stored = load_file(tmp_path / "child/model.safetensors")
    child, _ = loaded(tmp_path / "child")
    head, embedding = child.get_output_embeddings().weight, child.get_input_embeddings().weight
    assert tied == ("lm_head.weight" not in stored)
    assert tied == (head.data_ptr() == embedding.data_ptr())


def test_tokenizer_of_the_child_loads(tmp_path, transformers_parents):
    from transformers import PreTrainedTokenizerFast

    merge(*transformers_parents, out=tmp_path / "child")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "child")
    assert tokenizer("to be or not")["input_ids"] == [1, 2, 3, 4]


def test_into_memory_is_the_same_as_to_disk(tmp_path, transformers_parents):
    state_dict, report = merge_into_memory(*transformers_parents, t=0.3, max_shard_size=3000)
    result = merge(*transformers_parents, out=tmp_path / "child", t=0.3)
    on_disk = load_file(tmp_path / "child/model.safetensors")
    assert state_dict.keys() == on_disk.keys()
    assert all(torch.equal(state_dict[name], on_disk[name]) for name in on_disk)
    on_disk = [each._replace(digest=None) for each in result.report]
    assert sorted(report, key=lambda r: r.name) == sorted(on_disk, key=lambda r: r.name)


def test_mixed_types_scalars_and_empty_tensors(tmp_path):
    generator = torch.Generator().manual_seed(5)

    def model() -> dict[str, torch.Tensor]:
        floats = {f"w.{i}": torch.randn(3, 5, generator=generator) for i in range(4)}
        kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
        floats = {name: tensor.to(kind) for (name, tensor), kind in zip(floats.items(), kinds, strict=True)}
        scalar = torch.randn((), generator=generator).to(torch.bfloat16)
        exact = {"ids": torch.arange(7), "mask": torch.ones(3, 3, dtype=torch.bool).tril()}
        return floats | exact | {"scalar": scalar, "empty": torch.empty(0, 4, dtype=torch.bfloat16)}

    folders = [write_checkpoint(tmp_path / name, tensors={}) for name in "ab"]
    for folder in folders:
        save_file(model(), folder / "model.safetensors")
    result = merge(*folders, out=tmp_path / "child", t=0.25)
    a, b, child = (load_file(f / "model.safetensors") for f in (*folders, tmp_path / "child"))
    assert {n: (x.dtype, x.shape) for n, x in child.items()} == {n: (x.dtype, x.shape) for n, x in a.items()}
    assert torch.equal(child["ids"], a["ids"])
    assert torch.equal(child["mask"], a["mask"])
    one_sign = bool(a["scalar"] * b["scalar"] > 0)
    rules = {report.name: report.rule for report in result.report}
    assert rules["ids"] == rules["mask"] == "copy if equal"
    assert rules["scalar"] == ("lerp: nearly parallel" if one_sign else "lerp: nearly opposite")
    assert child["scalar"].double() == (0.75 * a["scalar"].double() + 0.25 * b["scalar"].double()).bfloat16()
    memory, _ = merge_into_memory(*folders, t=0.25)
    assert all(torch.equal(memory[name], child[name]) for name in child)


def test_result(tmp_path, parents):
    begun = time.perf_counter()
    result = merge(str(parents[0]), str(parents[1]), out=str(tmp_path / "child"))
    taken_s = time.perf_counter() - begun
    assert result.out == tmp_path / "child"
    assert {report.name for report in result.report} == SHAPES.keys()
    assert result.counts == {"slerp": 4}
    assert 0 < result.elapsed_s <= taken_s
    assert str(result).startswith(f"{tmp_path / 'child'}: 4 tensors (4 slerp), 4.4 kB in ")
    for report in result.report:
        assert 0 < report.angle_deg < 180
        assert report.norms == {
            label: pytest.approx(float(torch.tensor(tiny_tensors(seed)[report.name]).norm()))
            for label, seed in (("a", 1), ("b", 2))
        }


def test_the_log_says_which_is_which(tmp_path, parents, caplog):
    caplog.set_level(logging.INFO, "fusion_slerp")
    merge(*parents, out=tmp_path / "child", t=0.125)
    expected = f"merging by slerp: a = {parents[0]}, b = {parents[1]}; t = 0.125"
    assert expected in [record.getMessage() for record in caplog.records]


# --- side files -----------------------------------------------------------------------------------------

COPIED = {
    "generation_config.json": b'{"temperature":0.7 , "do_sample": false}',
    "tokenizer.model": b"\x00\xff pieces",
    "special_tokens_map.json": b"{ }",
    "added_tokens.json": b"{}\r\n",
    "chat_template.jinja": "{{ messages }}é".encode(),
    "additional_chat_templates/rag.jinja": b"{{ rag }}",
    "preprocessor_config.json": b"{}",
    "processor_config.json": b"{}",
    "video_preprocessor_config.json": b"{}",
    "LICENSE": b"do what you like",
    "LICENSE.txt": b"do what you like",
    "NOTICE": b"read this",
    "USE_POLICY.md": b"be good",
}
LEFT_BEHIND = (
    "training_args.bin",
    "trainer_state.json",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state_0.pth",
    "all_results.json",
    "adapter_config.json",
    "pytorch_model.bin",
    "consolidated.safetensors",
    "model.gguf",
    ".gitattributes",
    "original/params.json",
    "checkpoint-500/config.json",
    "modeling_x.py",
    "notes.txt",
)


def add_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_files_beside_the_weights_come_along_byte_for_byte(tmp_path, parents):
    add_files(parents[0], COPIED | dict.fromkeys(LEFT_BEHIND, b"x"))
    add_files(parents[1], dict.fromkeys(COPIED, b"of b") | {"merges.txt": b"of b", "COPYING": b"of b"})
    merge(*parents, out=tmp_path / "child")
    child, a = contents(tmp_path / "child"), contents(parents[0])
    ours = {"model.safetensors", "README.md", "merge_report.json", "merge_manifest.json"}
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    assert child.keys() == ours | tokenizer | {"config.json"} | COPIED.keys()
    assert {name: data for name, data in child.items() if name not in ours} == {
        name: data for name, data in a.items() if name in child and name not in ours
    }


def test_config_is_not_rewritten(tmp_path, parents):
    odd = json.dumps(CONFIG, indent=7, separators=(" ,", ":\t")).replace("500000.0", "5E5") + "\r\n \t"
    (parents[0] / "config.json").write_bytes(odd.encode())
    merge(*parents, out=tmp_path / "child")
    assert (tmp_path / "child/config.json").read_bytes() == odd.encode()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"torch_dtype": "float16"}),
        ({"torch_dtype": None}, {"torch_dtype": "float16"}),
        ({"torch_dtype": None, "dtype": "bfloat16"}, {"dtype": "float16"}),
        ({"dtype": "bfloat16"}, {"torch_dtype": "float16", "dtype": "float16"}),
        (
            {"text_config": {"dtype": "float32", "x": 1}, "torch_dtype": None},
            {"text_config": {"dtype": "float16", "x": 1}},
        ),
    ],
)
def test_dtype_changes_nothing_else_in_the_config(tmp_path, config, expected):
    folders = [write_checkpoint(tmp_path / name, seed=i, config=config) for i, name in enumerate("ab")]
    before = json.loads((folders[0] / "config.json").read_text())
    merge(*folders, out=tmp_path / "child", dtype="float16")
    after = json.loads((tmp_path / "child/config.json").read_text())
    assert after == before | expected
    kinds = {tensor.dtype for tensor in load_file(tmp_path / "child/model.safetensors").values()}
    assert kinds == {torch.float16}


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_comes_along_only_if_it_is_named(tmp_path, parents, where):
    add_files(parents[0], {"modeling_x.py": b"1", "configuration_x.py": b"2", "sub/more.py": b"3"})
    merge(*parents, out=tmp_path / "without")
    assert not any(name.endswith(".py") for name in names_in(tmp_path / "without"))
    content = json.loads((parents[0] / where).read_text())
    write_json(parents[0] / where, content | {"auto_map": {"AutoConfig": "configuration_x.X"}})
    merge(*parents, out=tmp_path / "with")
    code = {name for name in names_in(tmp_path / "with") if name.endswith(".py")}
    assert code == {"modeling_x.py", "configuration_x.py"}


@pytest.mark.parametrize("which", ["b", "folder"])
def test_tokenizer_files_all_come_from_where_they_were_asked_for(tmp_path, parents, which):
    other = parents[1] if which == "b" else write_checkpoint(tmp_path / "models/c")
    add_files(parents[0], {"merges.txt": b"of a", "chat_template.jinja": b"of a", "LICENSE": b"of a"})
    add_files(other, {"chat_template.jinja": b"theirs", "LICENSE": b"theirs"})
    setting = "b" if which == "b" else str(other)
    merge(*parents, out=tmp_path / "child", tokenizer=setting)
    child = contents(tmp_path / "child")
    assert child["chat_template.jinja"] == b"theirs"
    assert child["LICENSE"] == b"of a"
    assert "merges.txt" not in child


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_modes_follow_the_umask_whatever_the_originals_have(tmp_path, parents):
    for path in parents[0].iterdir():
        path.chmod(0o400)
    before = os.umask(0o027)
    try:
        merge(*parents, out=tmp_path / "child", max_shard_size=100)
    finally:
        os.umask(before)
    child = tmp_path / "child"
    assert {path.stat().st_mode & 0o777 for path in child.iterdir()} == {0o640}
    assert child.stat().st_mode & 0o777 == 0o750


# --- the card -------------------------------------------------------------------------------------------


def card_of(folder: Path) -> tuple[dict, str]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    metadata = yaml.safe_load(re.match(r"---\n(.*?)---\n", text, re.DOTALL)[1])
    assert huggingface_hub.ModelCard.load(folder / "README.md").data.to_dict() == metadata
    return metadata, text


def test_card_of_two_local_models(tmp_path, parents):
    merge(*parents, out=tmp_path / "child", t=0.3, dtype="float16", max_shard_size="2GB", threads=1)
    metadata, text = card_of(tmp_path / "child")
    assert metadata == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "fusion_slerp"],
    }
    assert text.count("# child\n") == 1
    assert f"fusion_slerp {fusion_slerp.__version__}" in text
    assert "This is a merged language model: spherical linear interpolation (SLERP) of two models" in text
    assert "| label | model | revision |" in text
    assert "| a | a | local |" in text
    assert "| b | b | local |" in text
    assert "`t` = 0.3: " in text
    assert "merge('a', 'b', out='child', t=0.3, dtype='float16', max_shard_size='2GB')" in text
    assert "| slerp | 4 |" in text
    configuration = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert configuration["method"] == {
        "_target_": "fusion_slerp.SlerpForCausalLM",
        "t": 0.3,
        "slices": None,
        "DOT_THRESHOLD": 0.9995,
        "epsilon": 1e-8,
        "granularity": "tensor",
        "dtype": "float16",
        "max_shard_size": "2GB",
        "chat_template": None,
        "vocab_fill": "owner",
        "tokens": None,
        "pad_vocab_to_multiple_of": None,
        "missing": "error",
    }


def test_card_has_no_path_of_this_machine(tmp_path, parents):
    other = write_checkpoint(tmp_path / "models/c")
    merge(*parents, out=tmp_path / "child", tokenizer=str(other))
    _, text = card_of(tmp_path / "child")
    assert str(tmp_path) not in text
    assert "/" not in re.sub(r"https://\S+", "", text)
    assert "tokenizer='c'" in text


def test_card_names_a_tokenizer_of_the_hub_in_full():
    parents = {label: CardParent(label, from_files=True) for label in "ab"}
    text = model_card(parents, make_settings(tokenizer="owner/name@v1"), [], "child")
    assert "merge('a', 'b', out='child', t=0.5, tokenizer='owner/name@v1')" in text


def test_card_can_be_written_with_numbers_of_numpy(tmp_path, parents):
    import numpy as np

    merge(*parents, out=tmp_path / "child", t=np.linspace(0, 1, 5)[1], threads=np.int64(1))
    assert "`t` = 0.25: " in card_of(tmp_path / "child")[1]


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        ("---\nlicense: mit\ntags: [x]\n---\n# A\n", {"license": "mit"}),
        (
            "---\nlicense: other\nlicense_name: a---b\nlicense_link: https://x.org/LICENSE\n---\n",
            {"license": "other", "license_name": "a---b", "license_link": "https://x.org/LICENSE"},
        ),
        ("---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
        ("# no metadata, license: mit\n---\n", {}),
        ("---\nlicense: [mit\n---\n", {}),
        ("---\n- a list\n---\n", {}),
        ("---\nlicense: mit\n", {}),
        ("\udcff", {}),
        ("", {}),
    ],
)
def test_licence_is_carried_over(tmp_path, parents, readme, expected):
    (parents[0] / "README.md").write_text(readme, encoding="utf-8", errors="surrogateescape", newline="")
    (parents[1] / "README.md").write_text("---\nlicense: gpl\n---\n")
    merge(*parents, out=tmp_path / "child")
    metadata, _ = card_of(tmp_path / "child")
    assert {key: value for key, value in metadata.items() if key.startswith("license")} == expected


# --- how the child appears ------------------------------------------------------------------------------


def test_parents_are_not_touched(tmp_path, parents):
    before = contents(tmp_path)
    merge(*parents, out=tmp_path / "child", dtype="float16")
    after = contents(tmp_path)
    assert {name: data for name, data in after.items() if not name.startswith("child/")} == before


def test_parent_folders_are_made_and_home_is_understood(tmp_path, parents, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    result = merge(*parents, out="~/new/deep/child")
    assert result.out == tmp_path / "new/deep/child"
    assert names_in(tmp_path / "new/deep") == ["child"]


def test_a_link_as_output_is_followed(tmp_path, parents):
    (tmp_path / "disk").mkdir()
    (tmp_path / "child").symlink_to(tmp_path / "disk/x")
    assert merge(*parents, out=tmp_path / "child").out == tmp_path / "disk/x"
    assert (tmp_path / "child/model.safetensors").is_file()
