"""Folders with a form of weights that is not read: each is named for what it is, and its command works."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusion_slerp import demo, plan_merge
from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.conversions import DEQUANTISE, adapter, gguf, python
from fusion_slerp.sources.folder import open_checkpoint
from tests.models import CONFIG, SHAPES, tiny_tensors, write_checkpoint, write_json

PLAYS = Path(demo.__path__[0]) / "plays"

STAND_IN = """
class Anything:
    def __init__(self, name=""):
        self.name, self.config = name, self if not name else Anything()
    def __getattr__(self, name):
        return Anything(f"{self.name}.{name}" if self.name else name)
    def __call__(self, *arguments, **named):
        with open("calls", "a") as file:
            print(self.name, *map(repr, arguments), *(f"{k}={v!r}" for k, v in named.items()), file=file)
        return Anything(self.name)
    def __repr__(self):
        return self.name
def __getattr__(name):
    return Anything(name)
"""
"""A module that has every name; what is called is written down."""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Runs the command of a fix in a shell, with stand-ins for the libraries; returns their calls."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for name in ("transformers", "peft"):
        (libraries / f"{name}.py").write_text(STAND_IN)

    def run(message: str) -> list[str]:
        command = "python -c" + message.splitlines()[-1].partition("python -c")[2]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(libraries)}
        subprocess.run(command, shell=True, check=True, cwd=tmp_path, env=environment)
        return (tmp_path / "calls").read_text().splitlines()

    return run


def quantised(folder: Path, method: str) -> Path:
    """Writes a model whose config names the method and whose tensors are quantised."""
    name = "model.layers.0.mlp.up_proj"
    tensors = {**tiny_tensors(1), f"{name}.qweight": np.ones((8, 4), "int32"), f"{name}.scales": np.ones(8)}
    return write_checkpoint(folder, tensors=tensors, config={"quantization_config": {"quant_method": method}})


def message_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    return str(caught.value)


def write_adapter(folder: Path, *names: str, **config: object) -> Path:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    for name in names:
        (folder / name).write_bytes(b"x")
    write_json(folder / "adapter_config.json", config)
    return folder


LORA = {"peft_type": "LORA", "base_model_name_or_path": "owner/base"}


@pytest.mark.parametrize("name", ["adapter", 'it\'s a "$HOME" `touch x` folder\\'])
def test_an_adapter_is_named_with_its_base_and_the_command_that_merges_them(tmp_path, calls, name):
    folder = write_adapter(tmp_path / name, **LORA)
    message = message_of(folder)
    lines = message.splitlines()
    assert lines[:4] == [
        "an adapter is not a whole model",
        f"  folder: {folder}",
        "  found: adapter_config.json (LORA), and no weights of a whole model",
        "  base model: owner/base",
    ]
    assert lines[4].startswith(
        "Fix: merge it into its base model first (needs `pip install peft`): python -c "
    )
    assert len(lines) == 5
    merged = f"'{folder}-converted'" if name == "adapter" else repr(f"{folder}-converted")
    assert calls(message) == [
        f"AutoPeftModelForCausalLM.from_pretrained {str(folder)!r} dtype='auto'",
        "AutoPeftModelForCausalLM.from_pretrained.merge_and_unload",
        f"AutoPeftModelForCausalLM.from_pretrained.merge_and_unload.save_pretrained {merged}",
        "AutoTokenizer.from_pretrained 'owner/base'",
        f"AutoTokenizer.from_pretrained.save_pretrained {merged}",
    ]


def test_the_tokenizer_of_an_adapter_that_has_one(tmp_path, calls):
    folder = write_adapter(tmp_path / "x", "tokenizer_config.json", **LORA)
    assert f"AutoTokenizer.from_pretrained '{folder}'" in calls(message_of(folder))


@pytest.mark.parametrize("base", [None, "", 3, ["x"], "x" * 1000])
def test_an_adapter_that_does_not_name_its_base(tmp_path, base):
    message = message_of(write_adapter(tmp_path / "x", **LORA | {"base_model_name_or_path": base}))
    assert "base model: " not in message
    needed = "Fix: write the name of its base model into adapter_config.json, as base_model_name_or_path; "
    assert f"{needed}then merge it" in message


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"peft_type": 3}'])
def test_an_adapter_with_a_damaged_config(tmp_path, content):
    folder = write_adapter(tmp_path / "x")
    (folder / "adapter_config.json").write_bytes(content)
    assert message_of(folder).startswith("an adapter is not a whole model\n")


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT"])
def test_an_adapter_without_weights_to_merge(tmp_path, kind):
    message = message_of(write_adapter(tmp_path / "x", **LORA | {"peft_type": kind}))
    assert message.splitlines()[-1] == (
        "Fix: leave it out: an adapter of this type changes a model's inputs, and none of its weights"
    )


def test_a_model_with_an_adapter_next_to_its_weights_is_a_model(tmp_path):
    folder = write_checkpoint(tmp_path / "x")
    write_json(folder / "adapter_config.json", LORA)
    assert open_checkpoint(folder).config == CONFIG


def test_an_adapter_on_the_hub():
    fix = adapter(("model", "owner/lora@v1"), [], LORA).fix
    assert "from_pretrained('owner/lora', revision='v1', dtype='auto')" in fix
    assert "save_pretrained('./lora-converted')" in fix


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # those of peft and transformers about each other
def test_peft_merges_an_adapter_as_the_message_says(tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "adapter"
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(PLAYS)
    peft.get_peft_model(model, config).save_pretrained(folder)
    command = "python -c" + message_of(folder).partition("python -c")[2]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(command, shell=True, check=True, env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"})
    assert plan_merge(PLAYS, tmp_path / "adapter-converted").warnings == ()


def test_gguf_files_are_converted_by_their_names(tmp_path, calls):
    folder = tmp_path / "x"
    folder.mkdir()
    for name in ("model.Q4_K_M.gguf", "model.bf16.gguf"):
        (folder / name).write_bytes(b"x")
    message = message_of(folder)
    lines = message.splitlines()
    assert lines[:3] == [
        "no readable weights",
        f"  folder: {folder}",
        "  found: model.Q4_K_M.gguf, model.bf16.gguf: GGUF, a format that is not read",
    ]
    assert "(needs `pip install gguf accelerate`): python -c" in lines[3]
    assert len(lines) == 4
    assert calls(message) == [
        f"AutoModelForCausalLM.from_pretrained '{folder}' gguf_file='model.bf16.gguf' dtype='auto'",
        f"AutoModelForCausalLM.from_pretrained.save_pretrained '{folder}-converted'",
        f"AutoTokenizer.from_pretrained '{folder}' gguf_file='model.bf16.gguf'",
        f"AutoTokenizer.from_pretrained.save_pretrained '{folder}-converted'",
    ]


def test_parts_of_a_gguf_file_have_no_command():
    problem = gguf(("model", "owner/x"), ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"])
    assert problem.fix == "merge the model that these files were made from, in safetensors"


@pytest.mark.parametrize("method", DEQUANTISE)
def test_quantised_weights_that_transformers_can_dequantise(tmp_path, calls, method):
    folder = quantised(tmp_path / "x", method)
    message = message_of(folder)
    fix = message.splitlines()[-1]
    assert fix.startswith(
        "Fix: merge the model that it was quantised from; if there is none, dequantise this"
    )
    assert "`pip install accelerate" in fix
    done = calls(message)
    assert done[-1] == f"AutoTokenizer.from_pretrained.save_pretrained '{folder}-converted'"
    assert ("FineGrainedFP8Config dequantize=True" in done) == (method == "fp8")
    assert ("Mxfp4Config dequantize=True" in done) == (method == "mxfp4")
    assert ("AutoModelForCausalLM.from_pretrained.dequantize" in done) == (method == "bitsandbytes")


def test_quantised_weights_that_transformers_cannot_dequantise(tmp_path):
    folder = quantised(tmp_path / "x", "gptq")
    assert message_of(folder).endswith("\nFix: merge the model that it was quantised from")


def test_a_config_may_have_a_remnant_of_quantisation(tmp_path):
    """As merged adapters do, whose base was quantised: the weights are not."""
    config = {"text_config": {"quantization_config": {"quant_method": "bitsandbytes"}}}
    folder = write_checkpoint(tmp_path / "x", config=config)
    assert message_of(folder).endswith(
        "\nFix: merge the model that it was quantised from; or, if text_config.quantization_config is a "
        "remnant (no tensor is quantised), remove it from config.json"
    )
    write_json(folder / "config.json", CONFIG)
    assert open_checkpoint(folder).tensors.keys() == SHAPES.keys()


@pytest.mark.parametrize("code", ["f('x')", 'f("x")', "f('$x')", "f('`x`')", "f('\\\\x!')"])
def test_a_line_of_python_as_a_command(code):
    command = python(code).replace("python -c", "printf %s", 1)
    shown = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    assert shown == code
