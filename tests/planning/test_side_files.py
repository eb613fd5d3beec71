"""The files next to the weights: none of them may be a pointer of Git LFS."""

import pytest

from fusion_slerp import merge, plan_merge
from fusion_slerp.errors import CheckpointError
from tests.models import contents, write_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n"


def refused(*models, **options) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        plan_merge(*models, **options)
    lines = str(caught.value).splitlines()
    assert lines[0] == "a Git LFS pointer in place of a file"
    assert lines[-1].endswith("lfs pull")
    return lines


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "vocab.json", "chat_template.jinja", "generation_config.json"]
)
@pytest.mark.parametrize("label", [0, 1])
def test_a_pointer_in_place_of_a_file_that_is_read(parents, name, label):
    (parents[label] / name).write_bytes(POINTER)
    assert refused(*parents)[1] == f"  file: {parents[label] / name}"


@pytest.mark.parametrize("name", ["preprocessor_config.json", "LICENSE", "tokenizer_config.json"])
def test_a_pointer_in_place_of_a_file_that_is_copied(parents, name):
    (parents[0] / name).write_bytes(POINTER)
    assert refused(*parents)[1] == f"  file: {parents[0] / name}"


def test_a_pointer_in_the_folder_of_another_tokenizer(tmp_path, parents):
    other = write_checkpoint(tmp_path / "c")
    (other / "tokenizer.model").write_bytes(POINTER)
    assert refused(*parents, tokenizer=str(other))[1] == f"  file: {other / 'tokenizer.model'}"


@pytest.mark.parametrize("name", ["picture.png", "optimizer.bin", "preprocessor_config.json"])
def test_a_pointer_in_place_of_a_file_that_nobody_needs(tmp_path, parents, name):
    (parents[1] / name).write_bytes(POINTER)
    merge(*parents, out=tmp_path / "child")
    assert name not in contents(tmp_path / "child")
