"""Models of the Hub: one commit for each use of a name, what the cache serves, and what is refused unread."""

import json
import logging
import shutil

import huggingface_hub
import pytest

from fusion_slerp import merge, plan_merge, verify
from fusion_slerp.errors import CheckpointError
from fusion_slerp.sources.hub import cache as hub_cache
from fusion_slerp.sources.hub import models as models_of_the_hub
from fusion_slerp.sources.hub.cache import listed_sha256, storage
from fusion_slerp.sources.opening import open_source, open_sources, resolve
from tests.models import contents, write_checkpoint, write_json
from tests.sources.conftest import new_process
from tests.sources.hub_server import COMMIT, NEW_COMMIT, OLD_COMMIT

WEIGHTS = "model.safetensors"


@pytest.fixture
def model(hub, tmp_path):
    """The folder of a model with two weight files, which the Hub has as `owner/name`."""
    folder = write_checkpoint(tmp_path / "x", n_shards=2)
    hub.add("owner/name", folder)
    return folder


def go_offline(monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def message_of(*sources) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_sources(dict(zip("abcdef", sources, strict=False)))
    return str(caught.value)


def our_warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("fusion_slerp")]


# --- one commit -----------------------------------------------------------------------------------------


def test_all_files_are_asked_for_by_the_commit(hub, model):
    open_source("owner/name")
    resolve("owner/name@main", weights=False)
    assert hub.revisions == {COMMIT}
    assert hub.listings == [("owner/name", "main")]


@pytest.mark.parametrize("later", ["owner/name", "owner/name@main"])
def test_a_push_between_two_uses_of_a_name_changes_neither(hub, model, tmp_path, monkeypatch, later):
    first = open_source("owner/name")
    hub.push("owner/name", write_checkpoint(tmp_path / "y", seed=7))
    assert open_source("owner/name").tensors == first.tensors
    assert resolve(later, weights=False) == (first.folder, COMMIT)
    new_process(monkeypatch)
    assert resolve(later)[1] == NEW_COMMIT


def test_a_push_between_plan_and_merge_changes_nothing(hub, model, tmp_path):
    other = write_checkpoint(tmp_path / "b", seed=2)
    plan = plan_merge("owner/name", other)
    hub.push("owner/name", write_checkpoint(tmp_path / "y", seed=7))
    child = merge("owner/name@main", other, out=tmp_path / "child", tokenizer="owner/name").out
    assert plan.parents["a"].revision == COMMIT
    manifest = json.loads((child / "merge_manifest.json").read_text())
    assert manifest["parents"]["a"]["revision"] == COMMIT
    assert f"| a | owner/name | {COMMIT} |" in (child / "README.md").read_text()
    merge(model, other, out=tmp_path / "same")
    assert contents(child)[WEIGHTS] == contents(tmp_path / "same")[WEIGHTS]


def test_a_tokenizer_of_the_hub_is_stated_with_its_commit(hub, model, parents, tmp_path, monkeypatch):
    """So that the merged model can be verified, and made again, when it has changed."""
    child = merge(*parents, out=tmp_path / "models/child", tokenizer="owner/name").out
    pinned = f"owner/name@{COMMIT}"
    assert json.loads((child / "merge_manifest.json").read_text())["settings"]["tokenizer"] == pinned
    assert f"tokenizer='{pinned}'" in (child / "README.md").read_text()
    new_process(monkeypatch)
    tokens = ("<unk>", "other", "tokens", "than", "the", "first")
    hub.push("owner/name", write_checkpoint(tmp_path / "y", tokens=tokens))
    assert verify(child, recompute="all").ok
    assert hub.listings[-1] == ("owner/name", COMMIT)


def test_a_model_from_the_cache_stays_at_its_commit_when_the_hub_is_back(hub, model, tmp_path, monkeypatch):
    open_source("owner/name")
    new_process(monkeypatch)
    hub.push("owner/name", write_checkpoint(tmp_path / "y", seed=7))
    hub.status = 503
    assert resolve("owner/name")[1] == COMMIT
    hub.status = None
    assert resolve("owner/name", weights=False)[1] == COMMIT
    assert hub.listings[-1] == ("owner/name", COMMIT)


def test_a_revision_is_noted_in_the_cache_when_all_files_are_there(hub, model, tmp_path, monkeypatch):
    """So that an interrupted download does not hide the revision that is complete."""
    note = storage("owner/name") / "refs/main"
    hub.faults["model-00002-of-00002.safetensors"] = "500"
    message_of("owner/name")
    assert not note.exists()
    hub.faults.clear()
    open_source("owner/name")
    assert note.read_text() == COMMIT
    new_process(monkeypatch)
    hub.push("owner/name", write_checkpoint(tmp_path / "y", seed=7))
    hub.faults[WEIGHTS] = "500"
    text = message_of("owner/name")
    assert f"  revision: {NEW_COMMIT}" in text
    assert text.endswith(f"or name the revision that is in the cache: owner/name@{COMMIT}")
    assert note.read_text() == COMMIT
    go_offline(monkeypatch)
    new_process(monkeypatch)
    assert resolve("owner/name")[1] == COMMIT


def test_the_library_finds_what_was_downloaded(hub, model, monkeypatch):
    folder = open_source("owner/name").folder
    go_offline(monkeypatch)
    assert huggingface_hub.snapshot_download("owner/name") == str(folder)
    assert huggingface_hub.hf_hub_download("owner/name", "config.json") == str(folder / "config.json")


# --- the cache ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["no network", "failing"])
@pytest.mark.parametrize("n_shards", [1, 2])
def test_what_was_downloaded_serves_without_the_hub(hub, tmp_path, monkeypatch, caplog, trouble, n_shards):
    hub.add("owner/name", write_checkpoint(tmp_path / "x", n_shards=n_shards), **{"model.gguf": b"x"})
    first = open_source("owner/name@main")
    hub.downloads.clear()
    if trouble == "no network":
        hub.stop()
    else:
        hub.status = 503
    new_process(monkeypatch)
    assert open_source("owner/name@main") == first
    new_process(monkeypatch)
    assert open_source(f"owner/name@{COMMIT}").tensors == first.tensors
    assert hub.downloads == []
    shown = "using revision 0123456789ab from the local cache, because the Hub failed: "
    for name, message in zip(("main", COMMIT), our_warnings(caplog), strict=True):
        assert message.startswith(f"owner/name@{name}: {shown}")
        assert hub.url in message


def test_offline_with_a_complete_cache_nothing_is_said(hub, model, monkeypatch, caplog):
    first = open_source("owner/name")
    go_offline(monkeypatch)
    new_process(monkeypatch)
    asked = list(hub.listings)
    with caplog.at_level(logging.DEBUG, "fusion_slerp"):
        assert open_source("owner/name") == first
        assert resolve("owner/name", weights=False) == (first.folder, COMMIT)
    assert our_warnings(caplog) == []
    assert hub.listings == asked


@pytest.mark.parametrize(
    ("lost", "missing"),
    [
        (["model-00002-of-00002.safetensors"], "model-00002-of-00002.safetensors"),
        (["config.json"], "config.json"),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors",
        ),
        (["model.safetensors.index.json", "config.json"], "config.json, the weights"),
    ],
)
def test_offline_with_a_part_of_the_model_the_missing_files_are_named(hub, model, monkeypatch, lost, missing):
    folder = open_source("owner/name").folder
    for name in lost:
        (folder / name).unlink()
    go_offline(monkeypatch)
    new_process(monkeypatch)
    lines = message_of("owner/name").splitlines()
    assert lines[:4] == [
        "the Hub's cache lacks files of the model",
        "  model: owner/name",
        f"  cache: {folder}",
        f"  missing: {missing}",
    ]
    assert lines[-1] == "Fix: unset HF_HUB_OFFLINE to download them"


def test_weights_that_the_config_names_are_missed_by_that_name(hub, tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "x", config={"transformers_weights": "own.safetensors"})
    (folder / WEIGHTS).rename(folder / "own.safetensors")
    hub.add("owner/name", folder, **{WEIGHTS: b"of something else"})
    cached = open_source("owner/name").folder
    assert [name for name in hub.downloaded("owner/name") if "safetensors" in name] == ["own.safetensors"]
    (cached / "own.safetensors").unlink()
    go_offline(monkeypatch)
    new_process(monkeypatch)
    assert "  missing: own.safetensors\n" in message_of("owner/name")


def test_small_files_are_missed_where_the_library_has_noted_which_there_are(hub, model, monkeypatch):
    folder = open_source("owner/name").folder
    names = ("config.json", "chat_template.jinja", "tokenizer.json", "README.md", "pytorch_model.bin")
    (storage("owner/name") / "trees").mkdir()
    files = {key: {"size": 1, "blob_id": "x"} for key in names}
    write_json(storage("owner/name") / f"trees/{COMMIT}.json", {"format_version": 1, "files": files})
    (folder / "tokenizer.json").unlink()
    go_offline(monkeypatch)
    new_process(monkeypatch)
    assert "  missing: chat_template.jinja, tokenizer.json\n" in message_of("owner/name")


def test_a_revision_that_was_never_downloaded_is_not_replaced_by_another(hub, model, monkeypatch):
    open_source("owner/name")
    go_offline(monkeypatch)
    text = message_of(f"owner/name@{OLD_COMMIT}", "owner/name@v1")
    assert text.count("not a local folder, and not available from the Hub") == 2


def test_an_adapter_in_the_cache_is_named_offline_as_well(hub, tmp_path, monkeypatch):
    folder = tmp_path / "lora"
    folder.mkdir()
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})
    hub.add("owner/lora", folder)
    resolve("owner/lora", weights=False)
    go_offline(monkeypatch)
    new_process(monkeypatch)
    assert message_of("owner/lora").startswith("an adapter is not a whole model\n")


def test_large_files_of_a_shared_store_are_the_models_own(hub, model, tmp_path, monkeypatch):
    """Newer versions of the library keep equal files of all models once, and link to them."""
    folder = open_source("owner/name").folder
    shared = hub_cache.cache_folder() / "blobs/ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    (hub_cache.cache_folder() / "blobs/.huggingface-shared-blobs").write_text("1")
    name = "model-00001-of-00002.safetensors"
    blob = (folder / name).resolve()
    shutil.move(blob, shared)
    blob.symlink_to(shared)
    assert listed_sha256(folder / name) == blob.name
    assert open_source("owner/name").tensors.keys() == open_source(model).tensors.keys()


# --- refused before the weights -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": {"quant_method": "gptq"}},
        {"text_config": {"quantization_config": {"quant_method": "fp8"}}},
    ],
)
def test_quantised_models_are_refused_before_their_weights_are_downloaded(hub, tmp_path, config):
    hub.add("owner/good", write_checkpoint(tmp_path / "x"))
    hub.add("owner/small", write_checkpoint(tmp_path / "y", config=config))
    text = message_of("owner/good", "owner/small")
    assert text.startswith("quantised weights cannot be merged\n")
    assert "snapshots" not in text.splitlines()[-1]
    for name in ("good", "small"):
        assert WEIGHTS not in hub.downloaded(f"owner/{name}")


def test_the_command_that_dequantises_loads_from_the_hub(hub, tmp_path):
    hub.add(
        "owner/x", write_checkpoint(tmp_path / "x", config={"quantization_config": {"quant_method": "fp8"}})
    )
    assert f"from_pretrained('owner/x', revision='{COMMIT}'" in message_of("owner/x@main")


def test_a_repository_without_a_config_is_refused_before_its_weights_are_downloaded(hub, tmp_path):
    folder = write_checkpoint(tmp_path / "x")
    (folder / "config.json").unlink()
    hub.add("owner/name", folder)
    assert message_of("owner/name").startswith("no usable config.json\n")
    assert WEIGHTS not in hub.downloaded("owner/name")


def test_nothing_is_downloaded_for_a_model_whose_partner_does_not_exist(hub, model, tmp_path):
    assert "missing" in message_of("owner/name", "./missing")
    assert not [name for name in hub.downloaded("owner/name") if name.endswith(".safetensors")]


def test_quantised_models_can_be_resolved_for_other_uses(hub, tmp_path):
    hub.add("owner/x", write_checkpoint(tmp_path / "x", config={"quantization_config": {}}))
    assert (resolve("owner/x")[0] / WEIGHTS).is_file()


# --- space ----------------------------------------------------------------------------------------------


def test_too_little_space_is_noticed_before_the_download(hub, model, tmp_path, monkeypatch):
    hub.add("owner/other", write_checkpoint(tmp_path / "y"))
    nbytes = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    needed = nbytes + (tmp_path / "y" / WEIGHTS).stat().st_size
    monkeypatch.setattr(models_of_the_hub, "free_nbytes", lambda: needed - 1)
    lines = message_of("owner/name", "owner/other").splitlines()
    assert lines == [
        "not enough disk space for the download",
        f"  cache: {tmp_path / 'cache'}",
        f"  needed: {needed} bytes",
        f"  free: {needed - 1} bytes",
        "Fix: free space, or choose a cache on another disk: export HF_HUB_CACHE=FOLDER",
    ]
    assert not [name for name in hub.downloads if name.endswith(".safetensors")]
    open_source("owner/other")
    open_source("owner/name")  # the rest fits
    monkeypatch.setattr(models_of_the_hub, "free_nbytes", lambda: 0)
    open_source("owner/name")


def test_files_that_the_cache_has_of_another_revision_take_no_space(hub, model, tmp_path, monkeypatch):
    open_source("owner/name")
    new_process(monkeypatch)
    write_json(model / "config.json", json.loads((model / "config.json").read_text()) | {"x": 1})
    hub.push("owner/name", model)
    monkeypatch.setattr(models_of_the_hub, "free_nbytes", lambda: 0)
    assert open_source("owner/name").revision == NEW_COMMIT
