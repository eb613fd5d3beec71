"""Links in a model's folder: which lead out of it, and are refused unless the user wants them."""

import os
from pathlib import Path

import pytest

from fusion_slerp.errors import CheckpointError
from fusion_slerp.planning.side_files import MODEL_FILES
from fusion_slerp.sources.formats import FORMATS
from fusion_slerp.sources.links import READ, check_links
from fusion_slerp.sources.opening import open_source, resolve
from fusion_slerp.vocabulary.child_tokenizer import TOKENIZER_FILES
from tests.models import SHAPES, write_checkpoint

NAMES = [
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "chat_template.jinja",
    "LICENSE",
    "LICENCE.txt",
    "NOTICE.md",
    "README.md",
    "modeling_own.py",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "additional_chat_templates",
    "additional_chat_templates/tools.jinja",
]


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "models/a")


@pytest.fixture
def secret(tmp_path) -> Path:
    """A private file of the user's."""
    (tmp_path / "id_rsa").write_text("secret")
    return tmp_path / "id_rsa"


def link(path: Path, target: Path | str) -> None:
    """Puts a link in place of a file."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def refusal(folder: Path) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        resolve(folder)
    return str(caught.value).split("\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_link_to_a_private_file_is_refused(folder, secret, name):
    link(folder / name, secret)
    assert refusal(folder) == [
        "links lead out of the model's folder",
        f"  folder: {folder}",
        f"  found: {name} -> {secret}",
        "Fix: copy the files into the folder; or, if the links are your own, use follow_links=True",
    ]
    assert resolve(folder, follow_links=True) == (folder, None)


def test_all_links_are_named_and_a_few_shown(folder, secret):
    for i in range(12):
        link(folder / f"LICENSE{i:02}", secret)
    found = refusal(folder)[2]
    assert found.startswith(f"  found: LICENSE00 -> {secret}, LICENSE01 -> ")
    assert found.endswith("and 2 more")


@pytest.mark.parametrize("target", ["../b/config.json", "../../nowhere", "/etc/passwd"])
def test_neither_relative_links_nor_those_to_nothing(folder, target):
    link(folder / "NOTICE", target)
    assert refusal(folder)[0] == "links lead out of the model's folder"


def test_a_chain_counts_by_its_end(folder, secret):
    link(folder / "inner", secret)
    link(folder / "NOTICE", "inner")
    assert refusal(folder)[2] == f"  found: NOTICE -> {secret}"


def test_a_link_in_a_circle_leads_nowhere(folder):
    link(folder / "NOTICE", "NOTICE2")
    link(folder / "NOTICE2", "NOTICE")
    check_links(folder)


def test_links_inside_the_folder_serve(folder):
    (folder / "model.safetensors").rename(folder / "weights")
    link(folder / "model.safetensors", "weights")
    (folder / "sub").mkdir()
    (folder / "config.json").rename(folder / "sub/config.json")
    link(folder / "config.json", folder / "sub/config.json")
    assert open_source(folder).tensors.keys() == SHAPES.keys()


def test_links_that_are_not_read_may_lead_anywhere(folder, secret):
    for name in ("wandb", "train.log", "checkpoints"):
        link(folder / name, secret.parent if name == "checkpoints" else secret)
    check_links(folder)


def test_the_folder_itself_may_be_a_link(tmp_path, folder):
    link(tmp_path / "elsewhere", folder)
    link(folder / "NOTICE", "config.json")
    assert open_source(tmp_path / "elsewhere").folder == tmp_path / "elsewhere"


@pytest.fixture
def cached(tmp_path, folder) -> Path:
    """A folder as the cache of the hub has it: links to the blobs of its repository."""
    snapshot = tmp_path / "hub/models--o--m/snapshots/0123abcd"
    blobs = snapshot.parents[1] / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / f"{i:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i:064x}")
    return snapshot


def test_the_cache_of_the_hub_serves(cached):
    assert open_source(cached).tensors.keys() == SHAPES.keys()


def test_also_a_folder_within_it(cached):
    (cached / "sub").mkdir()
    for file in list(cached.glob("*.*")):
        (cached / "sub" / file.name).symlink_to(f"../{os.readlink(file)}")
    assert open_source(cached / "sub").tensors.keys() == SHAPES.keys()


@pytest.mark.parametrize("target", ["../../../models--o--other/blobs/1", "../../refs/main", "../4567/NOTICE"])
def test_other_files_of_the_cache_are_refused(cached, target):
    link(cached / "NOTICE", target)
    assert refusal(cached)[0] == "links lead out of the model's folder"


def test_blobs_that_are_a_link_are_refused(cached, secret):
    blobs = cached.parents[1] / "blobs"
    blobs.rename(secret.parent / "keys")
    blobs.symlink_to(secret.parent / "keys")
    assert refusal(cached)[0] == "links lead out of the model's folder"


def test_a_link_in_a_modules_folder_is_refused(folder, secret):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").symlink_to(secret)
    assert refusal(folder)[2] == f"  found: 1_Pooling/config.json -> {secret}"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders are a matter of Unix")
def test_a_pipe_is_refused_at_once(folder):
    os.mkfifo(folder / "LICENSE")
    lines = refusal(folder)
    assert lines[0] == "special files in the model's folder"
    assert lines[2] == "  found: LICENSE is a pipe in place of a file"


def test_every_name_that_is_read_is_looked_at():
    patterns = (*MODEL_FILES, *TOKENIZER_FILES, "*.py", "README.md", "config.json", "generation_config.json")
    weights = [name for kind in FORMATS for name in (kind.single, kind.index)]
    for pattern in (*patterns, *weights, "model-00001-of-00002.safetensors"):
        name = pattern.replace("*", "x").rpartition("/")[2]
        assert READ.fullmatch(name), name
