"""From the user's name for a model to a folder: local paths, and a small server in the role of the Hub."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.utils._http
import pytest
import yaml

from fusion_slerp import merge
from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.hub import requests as hub_requests
from fusion_slerp.sources.opening import is_hub_id, open_source, resolve
from tests.models import as_torch_files, contents, write_checkpoint, write_json
from tests.sources.hub_server import COMMIT, OLD_COMMIT

NEVER_DOWNLOADED = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.gguf",
    "model.onnx",
    "tf_model.h5",
    "flax_model.msgpack",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state_0.pth",
    "consolidated.safetensors",
    "consolidated.00.pth",
    "picture.PNG",
    "original/consolidated.00.pth",
    "original/params.json",
    "onnx/config.json",
    "runs/events.out.tfevents.1",
)


def message_of(source) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_source(source)
    text = str(caught.value)
    assert text.splitlines()[-1].startswith("Fix: ")
    return text


def reason_of(source) -> str:
    """The hub's line, and the fix, in the message for a model that is not available."""
    lines = message_of(source).splitlines()
    assert lines[:4] == [
        "not a local folder, and not available from the Hub",
        f"  model: {source}",
        f"  path: {os.path.abspath(source)}: no such folder",
        f"  cache: {huggingface_hub.constants.HF_HUB_CACHE}: not there",
    ]
    assert lines[5].startswith("Fix: correct the path")
    assert len(lines) == 6
    return f"{lines[4].removeprefix('  hub: ')}; {lines[5]}"


# --- local folders --------------------------------------------------------------------------------------


def test_a_folder_by_path_text_and_home(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "a")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for source in (folder, str(folder), "~/a", "a", "./a", "a/"):
        checkpoint = open_source(source)
        assert checkpoint.folder.resolve() == folder
        assert (checkpoint.source, checkpoint.revision) == (os.fspath(source), None)


def test_a_folder_wins_over_the_hub(hub, tmp_path):
    hub.add("owner/name", write_checkpoint(tmp_path / "x", seed=1))
    write_checkpoint(tmp_path / "owner/name", seed=2)
    assert resolve("owner/name") == (Path("owner/name"), None)
    assert hub.downloads == []


@pytest.mark.parametrize("source", ["{}/llama-tuned", "./llama-tuned", "models/llama-tuned", "~/llama-tuned"])
def test_a_path_that_does_not_exist_is_not_asked_of_the_hub(hub, tmp_path, monkeypatch, source):
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("models/llama-tune", "llama-tune"):
        (tmp_path / folder).mkdir(parents=True)
    source = source.format(tmp_path)
    lines = message_of(source).splitlines()
    assert lines[0] == f"{source}: model not found"
    assert lines[1] == f"  path: {Path(source).expanduser().absolute()}"
    assert lines[2] == "  found: no such folder (did you mean 'llama-tune'?)"
    assert hub.downloads == []


@pytest.mark.parametrize("source", [None, 3, b"a", ["a", "b"]], ids=str)
def test_what_is_no_path_is_refused(source):
    """As a list of models would be in place of the models."""
    lines = message_of(source).splitlines()
    assert lines[:2] == ["no name of a model", f"  found: {type(source).__name__}: {source!r}"]
    assert lines[-1].startswith("Fix: name the models one by one: merge('folder/a', 'owner/b', ")


def test_a_file_is_not_a_folder(tmp_path):
    folder = write_checkpoint(tmp_path / "a")
    lines = message_of(folder / "model.safetensors").splitlines()
    assert lines[:3] == [
        "a model must be a folder",
        f"  path: {folder / 'model.safetensors'}",
        "  found: a file",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt2", True),
        ("owner/name", True),
        ("Owner-1/na.me_2", True),
        ("owner/name@main", True),
        ("owner/name@refs/pr/1", True),
        ("gpt2@v1.0", True),
        ("./name", False),
        ("../owner/name", False),
        ("/owner/name", False),
        ("~/name", False),
        ("~name", False),
        ("owner/name/more", False),
        ("owner/", False),
        ("owner name/x", False),
        ("C:\\models\\x", False),
        ("", False),
        ("models/x", False),
    ],
)
def test_form_of_a_hub_id(tmp_path, monkeypatch, text, expected):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(text) is expected


# --- what is downloaded ---------------------------------------------------------------------------------


def test_only_what_is_read_is_downloaded(hub, tmp_path):
    folder = write_checkpoint(tmp_path / "x")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/rag.jinja").write_text("x")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text("{}")
    small = (
        "README.md",
        "LICENSE",
        "generation_config.json",
        "tokenizer.model",
        "modeling_x.py",
        "USE_POLICY.md",
    )
    hub.add("owner/name", folder, **{name: name.encode() for name in (*NEVER_DOWNLOADED, *small)})
    checkpoint = open_source("owner/name")
    wanted = {*contents(folder), *small}
    assert set(hub.downloaded("owner/name")) == wanted
    assert set(contents(checkpoint.folder)) == wanted
    assert (checkpoint.revision, checkpoint.source) == (COMMIT, "owner/name")
    assert {entry.file.read_bytes() for entry in checkpoint.tensors.values()} == {
        (folder / "model.safetensors").read_bytes()
    }


def test_only_the_shards_that_the_index_names(hub, tmp_path):
    folder = write_checkpoint(tmp_path / "x", n_shards=2)
    more = {"model-00001-of-00003.safetensors": b"x"} | dict.fromkeys(NEVER_DOWNLOADED, b"x")
    hub.add("owner/name", folder, **more)
    checkpoint = open_source("owner/name")
    assert set(hub.downloaded("owner/name")) == set(contents(folder))
    assert checkpoint.tensors.keys() == open_source(folder).tensors.keys()


@pytest.mark.parametrize("n_shards", [1, 2])
def test_the_weights_that_the_config_names(hub, tmp_path, n_shards):
    usual = "model.safetensors" if n_shards == 1 else "model.safetensors.index.json"
    name = usual.replace("model", "other")
    config = {"transformers_weights": name}
    folder = write_checkpoint(tmp_path / "x", n_shards=n_shards, config=config)
    (folder / usual).rename(folder / name)
    hub.add("owner/name", folder, **{"model.safetensors": b"x"})
    checkpoint = open_source("owner/name")
    assert checkpoint.tensors.keys() == open_source(folder).tensors.keys()
    assert set(hub.downloaded("owner/name")) == set(contents(folder))


def test_the_single_file_is_preferred_as_in_a_folder(hub, tmp_path):
    folder = write_checkpoint(tmp_path / "x", n_shards=2)
    single = write_checkpoint(tmp_path / "y", seed=5)
    hub.add("owner/name", folder, **{"model.safetensors": (single / "model.safetensors").read_bytes()})
    open_source("owner/name")
    weights = [name for name in hub.downloaded("owner/name") if "safetensors" in name]
    assert weights == ["model.safetensors"]


@pytest.mark.parametrize("n_shards", [1, 2])
def test_torch_files_where_there_are_no_safetensors(hub, tmp_path, n_shards):
    folder = as_torch_files(write_checkpoint(tmp_path / "x"), n_shards)
    more = {"training_args.bin": b"x", "pytorch_model-00001-of-00009.bin": b"x", "model.gguf": b"x"}
    hub.add("owner/name", folder, **more)
    checkpoint = open_source("owner/name")
    assert set(hub.downloaded("owner/name")) == set(contents(folder))
    assert checkpoint.tensors.keys() == open_source(folder).tensors.keys()


def test_torch_files_in_the_place_of_an_index_whose_files_are_gone(hub, tmp_path):
    folder = as_torch_files(write_checkpoint(tmp_path / "x"))
    write_json(
        folder / "model.safetensors.index.json", {"weight_map": {"w": "model-00001-of-00001.safetensors"}}
    )
    hub.add("owner/name", folder)
    checkpoint = open_source("owner/name")
    assert set(hub.downloaded("owner/name")) == set(contents(folder))
    (warning,) = checkpoint.warnings
    assert "model.safetensors.index.json lists files none of which exists" in warning


def test_no_weights_for_a_tokenizer(hub, tmp_path):
    folder = write_checkpoint(tmp_path / "x", n_shards=2)
    hub.add("owner/name", folder)
    assert resolve("owner/name", weights=False)[1] == COMMIT
    assert hub.downloaded("owner/name") == ["config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize(
    ("revision", "commit", "seed"),
    [("", COMMIT, 1), ("@main", COMMIT, 1), ("@v1", OLD_COMMIT, 2), (f"@{OLD_COMMIT}", OLD_COMMIT, 2)],
)
def test_revision(hub, tmp_path, revision, commit, seed):
    new, old = (write_checkpoint(tmp_path / f"{i}", seed=i) for i in (1, 2))
    hub.add("owner/name", new)
    hub.repos["owner/name"] |= dict.fromkeys(("v1", OLD_COMMIT), contents(old))
    checkpoint = open_source(f"owner/name{revision}")
    assert checkpoint.revision == commit
    expected = (tmp_path / f"{seed}/model.safetensors").read_bytes()
    assert (checkpoint.folder / "model.safetensors").read_bytes() == expected


# --- what is not available ------------------------------------------------------------------------------


def test_only_formats_that_are_not_read(hub, tmp_path):
    folder = write_checkpoint(tmp_path / "x")
    (folder / "model.safetensors").unlink()
    hub.add("owner/name", folder, **{"model.gguf": b"x"})
    lines = message_of("owner/name").splitlines()
    assert lines[:3] == [
        "no readable weights",
        "  model: owner/name",
        "  found: model.gguf: GGUF, a format that is not read",
    ]
    assert "model.gguf" not in hub.downloaded("owner/name")


@pytest.mark.parametrize("index", [b"[]", b'{"weight_map": {"w": ["x"]}}', b"{", b"\xff", b"{}"])
def test_damaged_index(hub, tmp_path, index):
    folder = write_checkpoint(tmp_path / "x", n_shards=2)
    (folder / "model.safetensors.index.json").write_bytes(index)
    hub.add("owner/name", folder)
    message = message_of("owner/name")
    assert "no usable" in message
    assert "model.safetensors.index.json" in message


def test_a_shard_that_the_hub_does_not_have(hub, tmp_path):
    folder = write_checkpoint(tmp_path / "x", n_shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    hub.add("owner/name", folder)
    assert "1 of 2 shards missing: model-00002-of-00002.safetensors" in message_of("owner/name")


@pytest.mark.parametrize(("source", "status"), [("owner/nobody", "401"), ("owner/name@nowhere", "404")])
def test_unknown_id_or_revision(hub, tmp_path, source, status):
    hub.add("owner/name", write_checkpoint(tmp_path / "x"))
    reason = reason_of(source)
    assert status in reason
    assert reason.endswith("correct the path or id; for a gated or private model, run `hf auth login` first")


def test_a_folder_of_almost_that_name_is_suggested(hub, tmp_path):
    (tmp_path / "llama-tuned").mkdir()
    found = f"  path: {tmp_path / 'llama-tune'}: no such folder (did you mean 'llama-tuned'?)"
    assert found in message_of("llama-tune").splitlines()


@pytest.mark.parametrize("status", [403, 500, 503])
def test_hub_that_refuses_or_fails(hub, status):
    hub.status = status
    reason = reason_of("owner/name")
    assert str(status) in reason
    assert ("hf auth login" in reason) == (status == 403)
    assert ("check the network" in reason) == (status >= 500)


def test_no_network(hub):
    hub.stop()
    reason = reason_of("models/a").lower()
    assert "refused" in reason
    assert hub.url in reason
    assert reason.endswith("for a model of the hub, check the network and hf_endpoint, and try again")


def test_offline(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    reason = reason_of("owner/name").lower()
    assert "offline" in reason
    assert reason.endswith("for a model of the hub, unset hf_hub_offline")


def test_a_hub_that_does_not_answer_is_asked_once_for_all_models(hub, tmp_path, monkeypatch, caplog):
    asked, waited = [], []

    def silent(self, repo, **_):
        asked.append(repo)
        raise TimeoutError("timed out")

    retries = SimpleNamespace(sleep=waited.append)
    monkeypatch.setattr(huggingface_hub.utils._http, "time", retries)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", silent)
    with pytest.raises(CheckpointError) as caught:
        merge("models/a", "models/b", "models/c", out=tmp_path / "child", method="linear")
    assert str(caught.value).count("not a local folder, and not available from the Hub\n") == 3
    assert str(caught.value).count(f"  hub: {hub.url}: no answer within 10 s (timed out)\n") == 3
    assert asked == ["models/a"]
    assert waited == []
    monkeypatch.setattr(hub_requests, "PAUSE_S", 0)
    message_of("models/a")
    assert asked == ["models/a", "models/a"]


def test_three_models_that_no_hub_has_cost_no_retries_and_no_lines_of_the_library(hub, tmp_path):
    """In a process of its own, where logging is as users have it; each retry would take up to 8 seconds."""
    hub.stop()
    code = "import fusion_slerp; fusion_slerp.merge('m/a', 'm/b', 'm/c', out='child', method='linear')"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr.count("not a local folder, and not available from the Hub\n") == 3
    assert "Retrying" not in done.stdout + done.stderr


def test_retries_of_a_download_are_not_shown(hub, tmp_path, monkeypatch, caplog):
    """Unless the user asks the library for its messages."""
    hub.add("owner/name", write_checkpoint(tmp_path / "x"))
    logger = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(logger, "propagate", True)
    real = huggingface_hub.hf_hub_download

    def warning(*arguments, **named):
        huggingface_hub.logging.get_logger("huggingface_hub.utils._http").warning("Retrying in 8s")
        return real(*arguments, **named)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", warning)
    n_files = len(contents(tmp_path / "x"))
    for level, shown in ((logging.WARNING, 0), (logging.INFO, n_files)):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        monkeypatch.setattr(logger, "level", level)
        logger.manager._clear_cache()
        caplog.clear()
        open_source("owner/name")
        assert [record.getMessage() for record in caplog.records].count("Retrying in 8s") == shown
        assert huggingface_hub.logging.get_verbosity() == level


def test_an_adapter_on_the_hub_is_named(hub, tmp_path):
    folder = tmp_path / "lora"
    folder.mkdir()
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "owner/base"})
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    hub.add("owner/lora", folder)
    lines = message_of("owner/lora").splitlines()
    assert lines[0] == "an adapter is not a whole model"
    assert lines[3] == "  base model: owner/base"
    assert "from_pretrained('owner/lora', dtype='auto')" in lines[-1]
    assert hub.downloaded("owner/lora") == ["adapter_config.json"]
    (folder / "adapter_config.json").write_text("{")
    hub.add("owner/damaged", folder)
    assert message_of("owner/damaged").startswith("an adapter is not a whole model\n")


def test_both_models_that_are_not_available_are_reported_together(hub, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        merge("owner/first", "owner/second", out=tmp_path / "child")
    assert "owner/first" in str(caught.value)
    assert "owner/second" in str(caught.value)
    assert not (tmp_path / "child").exists()


# --- a whole merge --------------------------------------------------------------------------------------


def test_merge_of_two_hub_models_by_the_environment_alone(hub, tmp_path):
    """In a process of its own, configured by HF_ENDPOINT and HF_HOME, as a user would."""
    card = {"license": "llama3", "license_name": "x", "tags": ["not", "ours"]}
    for name, seed in (("first", 1), ("second", 2)):
        folder = write_checkpoint(tmp_path / name, seed=seed)
        (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n# {name}\n")
        hub.add(f"owner/{name}", folder, **dict.fromkeys(NEVER_DOWNLOADED, b"x"))
    code = "import fusion_slerp; fusion_slerp.merge('owner/first@main', 'owner/second', out='child', t=0.25)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in ("first", "second"):
        assert set(hub.downloaded(f"owner/{name}")) == set(contents(tmp_path / name))
    text = (tmp_path / "child/README.md").read_text()
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["base_model"] == ["owner/first", "owner/second"]
    assert metadata["base_model_relation"] == "merge"
    assert (metadata["license"], metadata["license_name"]) == ("llama3", "x")
    assert f"| a | owner/first | {COMMIT} |" in text
    assert f"merge('owner/first@{COMMIT}', 'owner/second@{COMMIT}', out='child', t=0.25)" in text
    merge(tmp_path / "first", tmp_path / "second", out=tmp_path / "same", t=0.25)
    same, child = (contents(tmp_path / name) for name in ("same", "child"))
    assert same["model.safetensors"] == child["model.safetensors"]
