"""Every known kind of bad input, as a user meets it: one clear error, and nothing is changed anywhere."""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fusion_slerp import (
    CheckpointError,
    FusionSlerpError,
    MismatchError,
    OutputError,
    SettingsError,
    merge,
    plan_merge,
)
from fusion_slerp.methods import METHODS
from fusion_slerp.output import output_file
from fusion_slerp.output.target import check_disk_space, check_target
from tests.models import (
    CONFIG,
    TOKENS,
    contents,
    names_in,
    tiny_tensors,
    tokenizer_json,
    write_checkpoint,
    write_json,
)

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SIDE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass
class World:
    """A folder with `a` and `b`, which fit together, and the call that is about to be made.

    Attributes:
        root: The folder.
        options: Of the call.
        more: Models that follow a and b.
    """

    root: Path
    options: dict[str, Any] = field(default_factory=dict)
    more: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.a = write_checkpoint(self.root / "a", seed=1)
        self.b = write_checkpoint(self.root / "b", seed=2)
        self.out = self.root / "child"

    def reshard(self, name: str) -> Path:
        """Replaces a parent by one of three shards."""
        shutil.rmtree(self.root / name)
        return write_checkpoint(self.root / name, n_shards=3)

    def change_config(self, name: str, **changes: Any) -> None:
        write_json(self.root / name / "config.json", CONFIG | changes)

    def change_tensors(self, name: str, **changes: np.ndarray | None) -> None:
        """Replaces tensors (`_` stands for the dots of their names); None removes one."""
        tensors = load_file(self.root / name / WEIGHTS) | {
            k.replace("__", "."): v for k, v in changes.items()
        }
        save_file({k: v for k, v in tensors.items() if v is not None}, self.root / name / WEIGHTS)

    def set_element(self, name: str, tensor: str, value: float) -> None:
        tensors = load_file(self.root / name / WEIGHTS)
        tensors[tensor].reshape(-1)[3] = value
        save_file(tensors, self.root / name / WEIGHTS)


CASES: list[Any] = []


def case(error: type[FusionSlerpError], *parts: str) -> Callable[[Any], Any]:
    """Registers a function that spoils a world; `parts` are in the message, with {root} filled in."""

    def register(spoil: Callable[[World], None]) -> Callable[[World], None]:
        CASES.append(pytest.param(spoil, error, parts, id=spoil.__name__))
        return spoil

    return register


# --- models that are not models -------------------------------------------------------------------------


@case(CheckpointError, "{root}/nowhere: model not found", "path: {root}/nowhere", "found: no such folder")
def missing_path(w):
    w.a = w.root / "nowhere"


@case(CheckpointError, "path: {root}/bb", "no such folder (did you mean 'b'?)")
def misspelt_path(w):
    w.b = w.root / "bb"


@case(CheckpointError, "a model must be a folder", "path: {root}/b/model.safetensors", "found: a file")
def file_for_a_folder(w):
    w.b = w.b / WEIGHTS


@case(
    CheckpointError,
    "2 problems",
    "no usable config.json",
    "no readable weights",
    "folder: {root}/empty",
)
def empty_folder(w):
    w.a = w.root / "empty"
    w.a.mkdir()


@case(CheckpointError, "no usable config.json", "file: {root}/b/config.json", "not readable as JSON")
def broken_config(w):
    (w.b / "config.json").write_text('{"model_type": ')


@case(
    CheckpointError,
    "no readable weights",
    "folder: {root}/b",
    "model.gguf: GGUF, a format that is not read",
    "from_pretrained('{root}/b', gguf_file='model.gguf', dtype='auto')",
)
def weights_of_another_format(w):
    (w.b / WEIGHTS).rename(w.b / "model.gguf")


@case(
    CheckpointError,
    "an adapter is not a whole model",
    "folder: {root}/lora",
    "base model: owner/base",
    "M.from_pretrained('{root}/lora', dtype='auto').merge_and_unload()",
)
def adapter_for_a_model(w):
    w.b = w.root / "lora"
    w.b.mkdir()
    write_json(w.b / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "owner/base"})


@case(CheckpointError, "a Git LFS pointer in place of a file", "file: {root}/b/model.safetensors", "lfs pull")
def weights_that_git_lfs_has_not_downloaded(w):
    (w.b / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")


@case(CheckpointError, "a Git LFS pointer in place of a file", "file: {root}/b/tokenizer.json", "lfs pull")
def a_tokenizer_that_git_lfs_has_not_downloaded(w):
    (w.b / "tokenizer.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")


@case(CheckpointError, "not a file of torch.save", "file: {root}/b/pytorch_model.bin", "not a zip archive")
def weights_under_another_name(w):
    (w.b / WEIGHTS).rename(w.b / "pytorch_model.bin")


@case(
    CheckpointError,
    "quantised weights cannot be merged",
    "{root}/a/config.json",
    "quantization_config, method gptq",
)
def quantised(w):
    w.change_config("a", quantization_config={"quant_method": "gptq"})


# --- damaged files --------------------------------------------------------------------------------------


@case(
    CheckpointError,
    "damaged safetensors file",
    "file: {root}/a/model.safetensors",
    "truncated: the header describes",
)
def truncated_weights(w):
    (w.a / WEIGHTS).write_bytes((w.a / WEIGHTS).read_bytes()[:-5])


@case(CheckpointError, "file: {root}/b/model.safetensors", "0 bytes; even an empty file has 8")
def empty_weights(w):
    (w.b / WEIGHTS).write_bytes(b"")


@case(CheckpointError, "file: {root}/b/model.safetensors", "the header claims 1152921504606846976 bytes")
def endless_header(w):
    (w.b / WEIGHTS).write_bytes(b"\0\0\0\0\0\0\0\x10{}")


@case(CheckpointError, "file: {root}/b/model.safetensors", "does not start with '{{'")
def weights_that_are_a_web_page(w):
    (w.b / WEIGHTS).write_bytes(b"\x20\0\0\0\0\0\0\0" + b"<html>" * 20)


@case(CheckpointError, "file: {root}/a/model-00002-of-00003.safetensors", "truncated")
def truncated_shard(w):
    file = w.reshard("a") / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


@case(
    CheckpointError,
    "missing shards",
    "file: {root}/b/" + INDEX,
    "1 of 3 shards missing: model-00003-of-00003",
)
def missing_shard(w):
    (w.reshard("b") / "model-00003-of-00003.safetensors").unlink()


@case(CheckpointError, "a shard outside the folder", "file: {root}/b/" + INDEX, "'../a/model.safetensors'")
def shard_in_another_folder(w):
    index = w.reshard("b") / INDEX
    weight_map = json.loads(index.read_text())["weight_map"]
    write_json(index, {"weight_map": weight_map | {"lm_head.weight": "../a/model.safetensors"}})


@case(CheckpointError, "the index does not match", "ghost in model-00001-of-00003.safetensors: not there")
def index_that_promises_too_much(w):
    index = w.reshard("b") / INDEX
    weight_map = json.loads(index.read_text())["weight_map"]
    write_json(index, {"weight_map": weight_map | {"ghost": "model-00001-of-00003.safetensors"}})


@case(
    CheckpointError,
    "3 problems",
    "[1] no usable config.json",
    "[2] damaged",
    "{root}/a",
    "[3]",
    "{root}/nowhere",
)
def everything_at_once(w):
    (w.a / "config.json").unlink()
    (w.a / WEIGHTS).write_bytes(b"")
    w.b = w.root / "nowhere"


@case(
    CheckpointError,
    "3 problems",
    "[1] {root}/nowhere: model not found",
    "[2] damaged safetensors file",
    "file: {root}/b/model.safetensors",
    "[3] {root}/bb: model not found",
)
def several_of_four_models(w):
    w.more = [w.a, w.root / "bb"]
    w.a = w.root / "nowhere"
    (w.b / WEIGHTS).write_bytes(b"")
    w.options["method"] = "linear"


# --- pairs that do not fit ------------------------------------------------------------------------------


@case(
    MismatchError,
    "the models differ in model_type",
    "'llama' in {root}/a/config.json",
    "'mistral' in {root}/b",
)
def other_architecture_of_the_same_shapes(w):
    w.change_config("b", model_type="mistral")


@case(
    MismatchError,
    "the models differ in num_attention_heads",
    "a: 2 in {root}/a/",
    "b: 4 in {root}/b/config.json",
)
def other_number_of_heads_in_the_same_shapes(w):
    w.change_config("b", num_attention_heads=4)


@case(MismatchError, "the models differ in num_key_value_heads", "a: 2 in", "b: 1 in")
def other_number_of_key_heads(w):
    w.change_config("b", num_key_value_heads=1)


@case(MismatchError, "model_type", "hidden_size", "the tensor names differ", "only in a: 4", "only in b: 2")
def other_architecture_altogether(w):
    shutil.rmtree(w.b)
    tensors = {
        "transformer.wte.weight": np.ones((3, 2), "float32"),
        "transformer.ln_f.weight": np.ones(2, "float32"),
    }
    write_checkpoint(w.b, tensors=tensors, config={"model_type": "gpt2", "hidden_size": 2})


@case(
    MismatchError,
    "the models differ in hidden_size",
    "the shapes of 4 tensors differ",
    "a: [6, 4]",
    "b: [6, 6]",
)
def other_width(w):
    wide = {name: np.repeat(tensor, 3, -1)[..., ::2] for name, tensor in tiny_tensors(2).items()}
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in wide.items()}, w.b / WEIGHTS)
    w.change_config("b", hidden_size=6)


@case(
    MismatchError,
    "num_hidden_layers",
    "the tensor names differ",
    "only in b: 1: model.layers.1.mlp.up_proj.weight",
)
def other_depth(w):
    w.change_tensors("b", model__layers__1__mlp__up_proj__weight=np.ones((8, 4), "float32"))
    w.change_config("b", num_hidden_layers=2)


@case(MismatchError, "the tensor names differ", "only in a: 1: model.norm.weight", "folder: {root}/a")
def tensor_missing(w):
    w.change_tensors("b", model__norm__weight=None)


@case(MismatchError, "only in b: 1: model.norm.bias (did you mean", "only in a: 1: model.norm.weight")
def names_that_differ(w):
    w.change_tensors("b", model__norm__weight=None, model__norm__bias=np.ones(4, "float32"))


@case(
    MismatchError,
    "the shapes of 1 tensors differ",
    "tensor: model.norm.weight",
    "a: [4] in {root}/a/",
    "b: [5]",
)
def shapes_that_differ(w):
    w.change_tensors("b", model__norm__weight=np.ones(5, "float32"))


@case(
    MismatchError, "the types of 1 tensors cannot be merged", "tensor: model.norm.weight", "a: F32", "b: I32"
)
def types_that_differ(w):
    w.change_tensors("b", model__norm__weight=np.ones(4, "int32"))


@case(MismatchError, "the tensor names differ", "only in a: 1: lm_head.weight", "use missing='copy'")
def head_missing_though_untied(w):
    w.change_tensors("b", lm_head__weight=None)


@case(MismatchError, "the vocabularies differ: 6, 7", "a: 6 rows, {root}/a", "add the tokenizer files")
def vocabularies_of_different_size_without_a_tokenizer(w):
    (w.b / "tokenizer.json").unlink()
    rows = np.ones((7, 4), "float32")
    w.change_tensors("b", lm_head__weight=rows, model__embed_tokens__weight=rows)
    w.change_config("b", vocab_size=7)
    w.options["strict"] = True


@case(MismatchError, "rows that only one model has", "5 merged, 1 copied from a", "vocab_fill='owner'")
def a_token_of_one_side_that_must_be_in_both(w):
    shutil.rmtree(w.b)
    write_checkpoint(w.b, tokens=TOKENS[:5])
    w.options["vocab_fill"] = "error"


@case(
    MismatchError,
    "the tokenizers cannot be united",
    "tokens: 1 only in b: 'new'",
    "found: WordPiece, not WordLevel",
    "use tokenizer='a' or tokenizer='b', so that the merged model keeps",
)
def two_kinds_of_tokenizers(w):
    model = {"type": "WordPiece", "vocab": {token: row for row, token in enumerate((*TOKENS[:5], "new"))}}
    write_json(w.b / "tokenizer.json", tokenizer_json() | {"model": model})


@case(MismatchError, "the tokenizers differ", "no embedding with a known name in all of them")
def other_tokens_and_no_known_embedding(w):
    for name in "ab":
        w.change_tensors(name, model__embed_tokens__weight=None, lm_head__weight=None)
    write_json(w.b / "tokenizer.json", tokenizer_json(TOKENS[::-1]))


@case(
    MismatchError,
    "the tokenizers differ, and this tensor's rows cannot be rearranged",
    "tensor: model.embed_tokens.weight",
    "found: int32",
    "needed: floating-point rows",
)
def other_tokens_and_integers_as_embedding(w):
    for name in "ab":
        w.change_tensors(name, model__embed_tokens__weight=np.ones((6, 4), "int32"), lm_head__weight=None)
    write_json(w.b / "tokenizer.json", tokenizer_json(TOKENS[::-1]))


@case(MismatchError, "`tokens` refers to a missing row", "token: 'be'", "found: 'no such' of b")
def a_token_source_that_is_not_there(w):
    w.options["tokens"] = {"be": {"source": {"kind": "model_token", "model": "b", "token": "no such"}}}


@case(
    MismatchError,
    "`tokens` refers to a missing row",
    "found: 'c'",
    "a, b, or the path or id",
    "tokens={{'be'",
)
def a_token_source_of_another_model(w):
    w.options["tokens"] = {"be": {"source": "c", "force": True}}


@case(
    SettingsError,
    "invalid tokens",
    "found: 'be': {{'kind': 'mean'}}",
    "needed: a model (a, b, ...), {{kind: zero}}",
)
def a_token_source_of_another_kind(w):
    w.options["tokens"] = {"be": {"source": {"kind": "mean"}}}


@case(SettingsError, "invalid tokens", "(did you mean 'force'?)")
def a_misspelt_key_of_a_token_source(w):
    w.options["tokens"] = {"be": {"source": "a", "forced": True}}


@case(SettingsError, "invalid vocab_fill", "one of owner, mean, gradient, zeros, error")
def an_unknown_vocab_fill(w):
    w.options["vocab_fill"] = "random"


@case(SettingsError, "invalid pad_vocab_to_multiple_of", "found: 0 (int)")
def padding_to_a_multiple_of_nothing(w):
    w.options["pad_vocab_to_multiple_of"] = 0


@case(
    MismatchError,
    "the types of 1 tensors cannot be merged",
    "a: F32 in {root}/a/model.safetensors",
    "b: C64 in {root}/b/model.safetensors",
)
def complex_weights(w):
    w.change_tensors("b", model__norm__weight=np.ones(4, "complex64"))


def third(w: World, **tensors: np.ndarray) -> Path:
    """A model `c` that fits, for a merge by linear; some tensors replaced, as `change_tensors` does."""
    w.more = [write_checkpoint(w.root / "c", seed=3)]
    w.options["method"] = "linear"
    w.change_tensors("c", **tensors)
    return w.more[0]


@case(MismatchError, "model_type", "a: 'llama' in {root}/a/", "c: 'mistral' in {root}/c/config.json")
def a_third_model_of_another_architecture(w):
    third(w)
    w.change_config("c", model_type="mistral")


@case(MismatchError, "the tensor names differ", "only in c: 1: model.norm.bias")
def a_third_model_with_one_tensor_more(w):
    third(w, model__norm__bias=np.ones(4, "float32"))


@case(MismatchError, "the shapes of 1 tensors differ", "tensor: model.norm.weight", "c: [5] in {root}/c/")
def a_third_model_of_another_shape(w):
    third(w, model__norm__weight=np.ones(5, "float32"))


@case(MismatchError, "a tensor must be equal in all models", "tensor: ids (I64)", "{root}/c/", "element 1")
def integers_that_differ_in_the_third_model(w):
    for name in "ab":
        w.change_tensors(name, ids=np.array([1, 2, 3]))
    third(w, ids=np.array([1, 4, 3]))


@case(
    CheckpointError,
    "NaN or infinity in a weight",
    "tensor: lm_head.weight",
    "c: 1 of 24 elements, first at 3",
    "file: {root}/c/model.safetensors",
)
def not_a_number_in_the_third_model(w):
    third(w)
    w.set_element("c", "lm_head.weight", math.nan)


@case(OutputError, "the output is model c", "out: {root}/c", "model c: {root}/c")
def output_is_the_third_model(w):
    w.out, w.options["overwrite"] = third(w), True


# --- values that cannot be merged -----------------------------------------------------------------------

for side, number, shown in (
    ("a", math.nan, "nan"),
    ("b", math.nan, "nan"),
    ("a", math.inf, "inf"),
    ("b", -math.inf, "-inf"),
):

    def not_finite(w, side=side, number=number):
        w.set_element(side, "lm_head.weight", number)

    not_finite.__name__ = f"{shown} in {side}"
    case(
        CheckpointError,
        "NaN or infinity in a weight",
        "tensor: lm_head.weight",
        f"{side}: 1 of 24 elements, first at 3",
        f"file: {{root}}/{side}/model.safetensors",
    )(not_finite)


@case(
    MismatchError,
    "a tensor must be equal in all models",
    "tensor: ids (I64)",
    "{root}/a/",
    "{root}/b/",
    "element 2",
)
def integers_that_differ(w):
    w.change_tensors("a", ids=np.array([1, 2, 3]))
    w.change_tensors("b", ids=np.array([1, 2, 4]))


@case(OutputError, "overflow to infinity in float16", "tensor: model.norm.weight", "use dtype='bfloat16'")
def values_that_float16_cannot_hold(w):
    for name in "ab":
        w.set_element(name, "model.norm.weight", 1e6)
    w.options["dtype"] = "float16"


# --- settings -------------------------------------------------------------------------------------------

for value in (-0.5, 1.5, 2, math.nan, math.inf, True, "0.5", "abc", None, [0.1, 1.9]):

    def wrong_t(w, value=value):
        w.options["t"] = value

    wrong_t.__name__ = f"t={value!r}"
    case(SettingsError, "invalid t", f"found: {value!r} (", "needed: a number in [0, 1]")(wrong_t)


@case(
    SettingsError, "merge has no setting 'dot_threshold' (did you mean 'DOT_THRESHOLD'?)", "known settings:"
)
def unknown_setting(w):
    w.options["dot_threshold"] = 0.5


@case(SettingsError, "3 problems", "invalid t", "invalid dtype", "invalid max_shard_size")
def several_wrong_settings(w):
    w.options |= {"t": 3, "dtype": "int4", "max_shard_size": "huge"}


@case(
    SettingsError,
    "slerp merges exactly 2 models, not 3",
    "found: {root}/a, {root}/b, {root}/a",
    "needed: exactly 2",
    "Fix: name exactly 2 models, or use method='linear'",
)
def three_models_for_slerp(w):
    w.more = [w.a]


for each in METHODS.values():

    def a_base(w, method=each.name):
        w.options |= {"method": method, "base": w.root / "c"}

    def no_base(w, method=each.name):
        w.options["method"] = method

    a_base.__name__ = f"a base for {each.name}"
    no_base.__name__ = f"no base for {each.name}"
    if each.base == "none":
        parts = "base: {root}/c", f"method: {each.name}", "leave out base, or use a method that takes one"
        case(SettingsError, f"{each.name} takes no base", *parts)(a_base)
    if each.base == "needed":
        parts = f"method: {each.name}", "needed: a base", "common ancestor: base='FOLDER'"
        case(SettingsError, f"{each.name} needs a base", *parts)(no_base)


def with_base(w, **options):
    """A merge by TIES."""
    w.options |= {"method": "ties", "base": write_checkpoint(w.root / "base", seed=9), **options}


@case(SettingsError, "invalid density", "found: 1.5 (float)", "needed: a number in [0, 1]", "use density=0.5")
def a_density_above_one(w):
    with_base(w, density=1.5)


@case(SettingsError, "invalid density.b", "found: -0.1 (float)", "needed: a number in [0, 1]")
def a_density_of_one_model_below_zero(w):
    with_base(w, density={"a": 0.5, "b": -0.1})


@case(SettingsError, "weights that sum to zero: a 1, b -1", "tensors: 4: ", "use normalize=False")
def weights_of_task_vectors_that_cancel(w):
    with_base(w, weight={"b": -1})


@case(SettingsError, "model c is the base", "model: {root}/base", "leave {root}/base out of the models")
def the_base_among_the_models(w):
    with_base(w)
    w.more = [w.root / "base"]


@case(SettingsError, "model a is the base", "model: {root}/a", "base: {root}/link")
def the_base_among_the_models_under_another_name(w):
    with_base(w)
    (w.root / "link").symlink_to(w.a)
    w.options["base"] = w.root / "link"


@case(SettingsError, "weight has a value for the base", "needed: a, b", "leave base out of weight")
def a_weight_of_the_base(w):
    with_base(w, weight={"a": 1, "base": 0.5})


@case(SettingsError, "density has a value for model d, which is not merged", "needed: a, b")
def a_density_of_a_model_that_is_not_merged(w):
    with_base(w, density={"d": 0.5})


@case(SettingsError, "ties has no option t", "found: t, an option of slerp", "use method='slerp'")
def an_option_of_slerp_for_a_method_with_a_base(w):
    with_base(w, t=0.5)


@case(
    MismatchError,
    "the slices do not fit the model",
    "model: {root}/base",
    "base: [0, 2]",
    "has layers 0 to 0",
)
def slices_beyond_the_base(w):
    with_base(
        w, slices=[{"a": [0, 1], "b": [0, 1], "base": [0, 1]}, {"a": [0, 2], "b": [0, 2], "base": [0, 2]}]
    )


@case(MismatchError, "slices[0] does not fit the models", "found: a, b", "needed: a range of base")
def slices_without_the_base(w):
    with_base(w, slices=[{"a": [0, 1], "b": [0, 1]}])


@case(CheckpointError, "{root}/bass: model not found", "did you mean 'base'?")
def a_misspelt_base(w):
    with_base(w)
    w.options["base"] = w.root / "bass"


@case(MismatchError, "the models differ in hidden_size", "a: 4 in", "base: 5 in {root}/base/config.json")
def a_base_of_another_size(w):
    with_base(w)
    w.change_config("base", hidden_size=5)


@case(MismatchError, "the shapes of 1 tensors differ", "base: [5] in {root}/base/")
def a_base_with_another_shape(w):
    with_base(w)
    w.change_tensors("base", model__norm__weight=np.ones(5, "float32"))


@case(MismatchError, "the tensor names differ", "only in a, b: 1: model.norm.weight")
def a_base_without_a_tensor(w):
    with_base(w)
    w.change_tensors("base", model__norm__weight=None)


@case(CheckpointError, "NaN or infinity in a weight", "tensor: model.norm.weight", "base: 1 of 4 elements")
def nan_in_the_base(w):
    with_base(w)
    w.set_element("base", "model.norm.weight", math.nan)


@case(SettingsError, "invalid method", "found: 'lineal' (str)", "(did you mean 'linear'?)")
def a_misspelt_method(w):
    w.options["method"] = "lineal"


@case(SettingsError, "slerp has no option weight", "weight, an option of linear", "use method='linear'")
def an_option_of_another_method(w):
    w.options["weight"] = 0.5


@case(SettingsError, "invalid weight.b", "found: 'much' (str)", "needed: a finite number")
def a_weight_that_is_no_number(w):
    w.options |= {"method": "linear", "weight": {"a": 0.5, "b": "much"}}


@case(SettingsError, "invalid weight", "found: the key 'first'", "labels of models: a, b, c, ...")
def a_weight_of_no_label(w):
    w.options |= {"method": "linear", "weight": {"first": 0.5}}


@case(SettingsError, "weights that sum to zero: a 1, b -1", "tensors: 4: ", "use normalize=False")
def weights_that_cancel(w):
    w.options |= {"method": "linear", "weight": {"a": 1, "b": -1}}


@case(CheckpointError, "{root}/nowhere: model not found")
def tokenizer_that_does_not_exist(w):
    w.options["tokenizer"] = str(w.root / "nowhere")


@case(CheckpointError, "no tokenizer there", "tokenizer: {root}/none", "use tokenizer='a', or a folder")
def folder_without_a_tokenizer(w):
    (w.root / "none").mkdir()
    w.options["tokenizer"] = str(w.root / "none")


# --- the output -----------------------------------------------------------------------------------------


@case(OutputError, "the output is model a", "out: {root}/a", "the output exists")
def output_is_an_input(w):
    w.out = w.a


@case(OutputError, "the output is model b", "out: {root}/b")
def output_is_an_input_to_be_overwritten(w):
    w.out, w.options["overwrite"] = w.b, True


@case(OutputError, "the output is model b", "out: {root}/b", "model b: {root}/b")
def output_is_a_link_to_an_input(w):
    (w.root / "link").symlink_to(w.b)
    w.out, w.options["overwrite"] = w.root / "link", True


@case(OutputError, "overwrite replaces nothing through a link", "out: {root}/link", "a link to {root}/child")
def output_is_a_link(w):
    write_checkpoint(w.out)
    (w.root / "link").symlink_to(w.out)
    w.out, w.options["overwrite"] = w.root / "link", "any"


@case(OutputError, "links lead in a circle", "path: {root}/link")
def output_is_a_link_to_itself(w):
    w.out = w.root / "link"
    w.out.symlink_to(w.out)


@case(
    OutputError,
    "the partial folder was not made by a merge",
    "in the way: {root}/.child.partial",
    "thesis.tex",
)
def partial_folder_is_of_somebody_else(w):
    (w.root / ".child.partial").mkdir()
    (w.root / ".child.partial/thesis.tex").write_bytes(b"precious")


@case(
    OutputError, "the output folder cannot be created", "found: File name too long", "choose a shorter name"
)
def output_has_a_name_that_is_too_long(w):
    w.out = w.root / ("x" * 250)


@case(OutputError, "no home folder for a path", "no user 'nosuchuser'", "write ./~nosuchuser/child")
def output_is_below_the_home_of_nobody(w):
    w.out = Path("~nosuchuser/child")


@case(CheckpointError, "no home folder for a path", "no user 'nosuchuser'")
def model_is_below_the_home_of_nobody(w):
    w.a = Path("~nosuchuser/a")


@case(CheckpointError, "{root}/link: model not found", "found: Too many levels of symbolic links")
def model_is_a_link_to_itself(w):
    w.a = w.root / "link"
    w.a.symlink_to(w.a)


@case(CheckpointError, "{root}/link: model not found", "found: a link to {root}/gone, which does not exist")
def model_is_a_link_to_nothing(w):
    w.a = w.root / "link"
    w.a.symlink_to(w.root / "gone")


@case(CheckpointError, "model not found", "found: File name too long")
def model_has_a_name_that_is_too_long(w):
    w.a = w.root / ("x" * 300)


@case(OutputError, "the output is model a", "out: {root}/a")
def input_is_a_link_to_the_output(w):
    (w.root / "link").symlink_to(w.a)
    w.out, w.a, w.options["overwrite"] = w.a, w.root / "link", True


@case(OutputError, "the output is model a")
def output_is_an_input_by_another_spelling(w):
    w.out, w.options["overwrite"] = w.root / "b/../a/.", True


@case(OutputError, "the output lies inside model a", "out: {root}/a/child")
def output_inside_an_input(w):
    w.out = w.a / "child"


@case(OutputError, "the output lies inside model b", "out: {root}/b/deep/child")
def output_inside_an_input_through_a_link(w):
    (w.root / "link").symlink_to(w.b)
    w.out = w.root / "link/deep/child"


@case(OutputError, "the output contains model a", "the output contains model b", "out: {root}")
def output_holds_the_inputs(w):
    w.out, w.options["overwrite"] = w.root, True
    write_json(w.root / "config.json", CONFIG)


@case(OutputError, "the output contains a file of model b", "a file of model b: {root}/old/model.safetensors")
def output_holds_the_weights_that_an_input_links_to(w):
    """The folders are apart, and yet replacing the output would destroy the parent."""
    shutil.move(w.b, w.root / "old")
    w.b.mkdir()
    for name in names_in(w.root / "old"):
        (w.b / name).symlink_to(w.root / "old" / name)
    w.out = w.root / "old"
    w.options |= {"overwrite": True, "follow_links": True}


@case(OutputError, "the output is the tokenizer", "out: {root}/tokens")
def output_is_the_tokenizer(w):
    shutil.copytree(w.a, w.root / "tokens")
    w.out = w.root / "tokens"
    w.options |= {"tokenizer": str(w.root / "tokens"), "overwrite": True}


@case(OutputError, "the output exists", "out: {root}/child", "overwrite=True")
def output_exists(w):
    write_checkpoint(w.out)


@case(OutputError, "the output exists", "out: {root}/child", "found: a file")
def output_is_a_file(w):
    w.out.write_bytes(b"precious")
    w.options["overwrite"] = True


@case(OutputError, "overwrite replaces only a model folder", "out: {root}/child", "in the way: thesis.tex")
def output_is_a_folder_of_something_else(w):
    w.out.mkdir()
    (w.out / "thesis.tex").write_bytes(b"precious")
    w.options["overwrite"] = True


@case(OutputError, "the output folder cannot be created", "folder: {root}/note", "found: a file")
def output_below_a_file(w):
    (w.root / "note").write_bytes(b"precious")
    w.out = w.root / "note/child"


@case(OutputError, "the output contains model a", "out: /\n", "the output exists")
def output_is_the_root(w):
    w.out = Path("/")


@case(MismatchError, "2 problems", "[1] the models differ in model_type", "[2] the output exists")
def output_and_models_at_once(w):
    write_checkpoint(w.out)
    w.change_config("b", model_type="mistral")


# --- the test -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spoil", "error", "parts"), CASES)
def test_bad_input(tmp_path, spoil, error, parts):
    world = World(tmp_path)
    spoil(world)
    before, names = contents(tmp_path), names_in(tmp_path)
    target_was_there = world.out.exists()
    with pytest.raises(FusionSlerpError) as caught:
        merge(world.a, world.b, *world.more, out=world.out, **world.options)
    message = str(caught.value)
    assert type(caught.value) is error, message
    for part in parts:
        assert part.format(root=tmp_path) in message
    blocks = re.split(r"\n\n(?=\[)", message)
    for block in blocks[len(blocks) > 1 :]:
        assert re.fullmatch(r"(?:\[\d+\] )?\S.*(?:\n  \w[\w ,]*: .+)+\nFix: .+", block), block
    assert contents(tmp_path) == before
    assert names_in(tmp_path) == names
    assert world.out.exists() == target_was_there


def test_the_world_of_these_tests_is_fine(tmp_path):
    world = World(tmp_path)
    merge(world.a, world.b, out=world.out)
    assert names_in(tmp_path) == ["a", "b", "child"]


# --- what the file system refuses -----------------------------------------------------------------------


@pytest.fixture
def closed(tmp_path):
    """A folder that this process may not look into, until the test is over."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0)
    user = os.geteuid()
    if user == 0:  # to whom nothing is closed
        os.setresuid(65534, 65534, 0)
    yield folder
    if user == 0:
        os.setresuid(0, 0, 0)
    folder.chmod(0o700)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
class TestClosedFolders:
    def test_model(self, tmp_path, closed):
        with pytest.raises(CheckpointError) as caught:
            merge(closed / "a", closed / "b", out=tmp_path / "child")
        message = str(caught.value)
        assert message.startswith("2 problems")
        assert f"path: {closed / 'a'}\n  found: Permission denied" in message

    def test_output(self, closed):
        (problem,) = check_target(closed / "deep/child", overwrite=False)
        assert problem.headline == "the output folder cannot be created"
        assert dict(problem.fields)["found"] == "not writable"


def test_disk_that_is_too_small(tmp_path, parents, monkeypatch):
    """Checked before anything is written or read."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1_000_000))
    monkeypatch.setattr("fusion_slerp.sources.elements.read_at", None)
    with pytest.raises(OutputError) as caught:
        merge(*parents, out=tmp_path / "new/child")
    lines = str(caught.value).splitlines()
    needed = plan_merge(*parents).nbytes_written
    needed += sum((parents[0] / name).stat().st_size for name in SIDE_FILES)
    assert lines == [
        "not enough disk space",
        f"  out: {tmp_path / 'new/child'}",
        f"  needed: {needed} bytes",
        "  free: 1000000 bytes",
        "Fix: free space, or choose an output folder on another disk",
    ]
    assert names_in(tmp_path) == ["models"]


def test_a_mebibyte_must_be_left_for_the_small_files(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    for free, n_problems in ((1000 + 2**20, 0), (999 + 2**20, 1)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: usage._replace(free=free))
        assert len(check_disk_space(tmp_path / "new/child", 1000)) == n_problems


def test_disk_that_fills_up_in_the_middle(tmp_path, parents, monkeypatch):
    real, calls = output_file.write_at, []

    def filling(descriptor, data, offset):
        calls.append(offset)
        if len(calls) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor, data, offset)

    monkeypatch.setattr(output_file, "write_at", filling)
    before = contents(tmp_path)
    with pytest.raises(OutputError) as caught:
        merge(*parents, out=tmp_path / "child", max_shard_size=200, threads=1)
    lines = str(caught.value).splitlines()
    assert lines[0] == "cannot write the merged model's weights"
    assert re.fullmatch(
        rf"  file: {tmp_path}/\.child\.partial/files/model-0000\d-of-00002.safetensors", lines[1]
    )
    assert lines[2] == "  found: No space left on device"
    assert lines[-1].startswith("Fix: free space")
    assert contents(tmp_path) == before
    assert names_in(tmp_path) == ["models"]


# --- through FusionBench --------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["one"], ["one", "two", "three"]])
def test_a_pool_of_other_than_two_models(tmp_path, parents, names):
    from fusion_bench.modelpool import CausalLMPool

    from fusion_slerp import SlerpForCausalLM

    pool = CausalLMPool(dict.fromkeys(names, str(parents[0])), tokenizer=None, enable_lazy_loading=True)
    method = SlerpForCausalLM(0.5, model_save_path=str(tmp_path / "child"))
    with pytest.raises(SettingsError) as caught:
        method.run(pool)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"slerp merges exactly 2 models, not {len(names)}"
    assert lines[1:3] == [f"  modelpool.models: {', '.join(names)}", "  needed: exactly 2"]
    assert lines[-1].startswith("Fix: name exactly 2 models")
    assert names_in(tmp_path) == ["models"]


@pytest.mark.parametrize(
    ("name", "nearest"), [("DOT_TRESHOLD", "DOT_THRESHOLD"), ("save_path", "model_save_path")]
)
def test_an_unknown_argument_of_the_method(name, nearest):
    from fusion_slerp import SlerpForCausalLM

    with pytest.raises(SettingsError) as caught:
        SlerpForCausalLM(0.5, **{name: 1})
    assert f"SlerpForCausalLM has no setting {name!r} (did you mean {nearest!r}?)" in str(caught.value)
    assert str(caught.value).splitlines()[-1].startswith("Fix: ")
