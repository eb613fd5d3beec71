"""More that is tried: other layouts, tied and untied heads, a text model in a larger model, writing."""

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from tests.architectures.building import CAUSAL, IMAGE_TEXT, build, save, words
from tests.architectures.checks import IDS, loaded, merged
from tests.architectures.shrinking import VOCABULARY
from tests.architectures.subjects import Subject, T, Wrong, in_a_line, same
from tests.architectures.weights import unit_of, weights
from tests.models import write_json


def check_layouts(subject: Subject) -> str | None:
    """The same weights in the layout of the class and in the published one, in any mix: the same child."""
    own = save(subject.model, subject.folder / "a-own", words(), save_original_format=False)
    if weights(own).keys() == weights(subject.a).keys():
        return None
    b_own = save(subject.load(subject.b), subject.folder / "b-own", words(), save_original_format=False)
    expected = subject.load(subject.folder / "equal").state_dict()
    for name, a, b in (("mixed", subject.a, b_own), ("mixed-too", own, subject.b), ("own", own, b_own)):
        child = merged(subject, name, a, b)
        if weights(child).keys() != weights(a).keys():
            raise Wrong(f"the child of {a.name} and {b.name} has another layout than {a.name}")
        own_names = a != subject.a
        for tensor, value in loaded(subject, child, save_original_format=not own_names).state_dict().items():
            if not same(value.numpy(), expected[tensor].numpy()):
                raise Wrong(f"{tensor}: other values in the child of {a.name} and {b.name} than of a and b")
    return ""


TIED = "tie_word_embeddings"


def check_heads(subject: Subject) -> str | None:
    """A tied model with an untied one, a head stored though tied, and configs without the flag."""
    try:
        flags = {flag: _with_flag(subject, flag) for flag in (True, False)}
        folders = {flag: save(flags[flag], subject.folder / f"tied-{flag}", words()) for flag in flags}
    except Exception:  # the class refuses one of the two
        return None
    if _is_tied(flags[True]) is not True or _is_tied(flags[False]) is not False:
        return None  # the architecture always ties them, never does, or has no head
    _one_of_two(subject, flags, folders)
    _unset(subject)
    heads = weights(folders[False]).keys() - weights(folders[True]).keys()
    if len(heads) == 1:
        _stored(subject, flags[True], folders[True], heads.pop())
    return ""


def _with_flag(subject: Subject, flag: bool) -> Any:
    config = copy.deepcopy(subject.config)
    for part in (config, config.get_text_config()):
        setattr(part, TIED, flag)
    return build(subject.architecture.kind, config, seed=3 if flag else 4)


def _is_tied(model: Any) -> bool | None:
    try:
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    except NotImplementedError:
        return None
    if head is None or not hasattr(head, "weight"):
        return None
    return head.weight.data_ptr() == embedding.weight.data_ptr()


def _one_of_two(subject: Subject, flags: Mapping[bool, Any], folders: Mapping[bool, Path]) -> None:
    child = loaded(subject, merged(subject, "one-tied", folders[True], folders[False]))
    for end in (_embedding, _head):
        made, a, b = (end(model) for model in (child, flags[True], flags[False]))
        if made.shape != a.shape or unit_of(T, made, a, b) is None:
            raise Wrong(f"of a tied and an untied model: the {end.__name__[1:]} is not the SLERP of theirs")


def _embedding(model: Any) -> np.ndarray:
    return model.get_input_embeddings().weight.detach().numpy()


def _head(model: Any) -> np.ndarray:
    return model.get_output_embeddings().weight.detach().numpy()


def _unset(subject: Subject) -> None:
    """Without the flag in the configs, if that makes no difference to transformers."""
    unset = []
    for folder in (subject.a, subject.b):
        copied = shutil.copytree(folder, folder.with_name(f"{folder.name}-unset"))
        config = json.loads((copied / "config.json").read_text())
        for part in (config, *(value for value in config.values() if isinstance(value, dict))):
            part.pop(TIED, None)
        write_json(copied / "config.json", config)
        unset.append(copied)
    if _is_tied(type(subject.model).from_pretrained(unset[0])) is not _is_tied(subject.model):
        return
    child = merged(subject, "unset", *unset)
    loaded(subject, child)
    expected, made = weights(subject.folder / "equal"), weights(child)
    if expected.keys() != made.keys() or not all(same(expected[name], made[name]) for name in made):
        raise Wrong("without the flag in the configs, the child has other weights")


def _stored(subject: Subject, model: Any, folder: Path, head: str) -> None:
    """The head's weight stored next to the embedding, though the config ties them."""
    from safetensors.numpy import save_file

    copied = shutil.copytree(folder, folder.with_name("head-stored"))
    tensors = weights(folder)
    tensors[head] = _head(model)
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    child = loaded(subject, merged(subject, "of-stored", copied, folder))
    if not same(_head(child), tensors[head]):
        raise Wrong("with a head stored though tied, the child's head is not its parents'")


def check_text(subject: Subject) -> str | None:
    """A text model merged into the language model of a larger one: the rest is copied."""
    text = text_model(subject) if subject.architecture.kind == IMAGE_TEXT else None
    if text is None:
        return None
    b = save(text, subject.folder / "text", words())
    child = loaded(subject, merged(subject, "from-text", subject.a, b))
    of_text, before, made = (_of_language_model(model) for model in (text, subject.model, child))
    if made.keys() != of_text.keys():
        other = sorted(made.keys() ^ of_text.keys())
        raise Wrong(f"merged, though the text model has other tensors: {', '.join(other[:3])}")
    for name, value in made.items():
        if unit_of(T, *(each.detach().numpy() for each in (value, before[name], of_text[name]))) is None:
            raise Wrong(f"{name} of the language model is not the SLERP of both")
    inside = {id(each) for each in made.values()}
    of_a = dict(subject.model.named_parameters())
    others = {name: each for name, each in child.named_parameters() if id(each) not in inside}
    for name, value in others.items():
        if "lm_head" not in name and not same(value.detach().numpy(), of_a[name].detach().numpy()):
            raise Wrong(f"{name} is not a's, though the text model lacks it")
    return f"{text.config.model_type} into its language model"


def _of_language_model(model: Any) -> dict[str, Any]:
    """The parameters of a model's language model, without its head, by their names within it."""
    decoder = model.get_decoder()
    inner = getattr(decoder, "model", decoder)
    return {name.removeprefix("decoder."): each for name, each in inner.named_parameters()}


TEXT_TYPES = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_5_omni_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "glm4v_text": "glm4",
    "glm4v_moe_text": "glm4_moe",
}
"""Text models whose weights some language models have taken over, by the type of their configuration."""


def text_model(subject: Subject) -> Any | None:
    """Returns a text model with the shapes of a larger one's language model; None if there is none."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    inside = subject.config.get_text_config()
    kind = TEXT_TYPES.get(inside.model_type, inside.model_type)
    if inside is subject.config or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return None
    config_class = CONFIG_MAPPING[kind]
    left = {"transformers_version", "architectures", "rope_parameters"}
    names = [each.name for each in fields(config_class) if each.name not in left]
    stored = inside.to_dict()
    stored |= {
        name: stored[own_name] for name, own_name in inside.attribute_map.items() if own_name in stored
    }
    values = {name: stored[name] for name in [*names, "per_layer_config"] if name in stored}
    if "head_dim" in names and "head_dim" not in values:
        values["head_dim"] = inside.hidden_size // inside.num_attention_heads
    try:
        return build(CAUSAL, config_class(**values, rope_parameters=_plain(inside)), seed=5)
    except Exception as error:
        raise Wrong(f"no text model of type {kind}: {in_a_line(error)}") from None


def _plain(config: Any) -> Any:
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict):
        return rope
    return {key: value for key, value in rope.items() if key != "mrope_section"}


GENERATING = frozenset(
    "llama mistral mixtral qwen2 qwen3 qwen3_moe gemma2 gemma3_text phi3 gpt2 gpt_neox falcon bloom opt "
    "olmo2 granite deepseek_v3 gpt_oss smollm3 starcoder2 cohere2 glm4 mamba2 llava qwen2_5_vl gemma3".split()
)
"""Popular model types, whose merged models also write a few tokens."""


def check_generates(subject: Subject) -> str | None:
    """The merged model writes tokens."""
    import torch

    if subject.architecture.model_type not in GENERATING:
        return None
    child = subject.load(subject.folder / "equal")
    prompt = torch.tensor([IDS])
    wanted = {"min_new_tokens": 3, "max_new_tokens": 3, "do_sample": False}
    made = child.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **wanted)
    if made.shape != (1, len(IDS) + 3) or not (made < VOCABULARY).all():
        raise Wrong(f"{made.shape[1] - len(IDS)} new tokens")
    return ""
