"""Which entries of a pool only load a checkpoint, so that its files can be streamed instead.

An entry names a loader, `_target_`, and gives it arguments. It can be streamed if the loader is a language
model's class whose `from_pretrained` is transformers' own, and if no argument changes what the files say.
Classes of other models may take a part of their files, or add weights: the pool loads them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto import modeling_auto

from fusion_slerp.errors import Problem, SettingsError
from fusion_slerp.evaluation.building import AUTOMATIC

PATH = "pretrained_model_name_or_path"

INSTANTIATION = frozenset({"_target_", "_recursive_", "_convert_"})
"""Keys of an entry that are Hydra's, not the loader's."""

HOW_IT_LOADS = frozenset(
    "torch_dtype dtype device_map low_cpu_mem_usage attn_implementation trust_remote_code code_revision "
    "max_memory offload_folder offload_state_dict offload_buffers weights_only".split()
)
"""Arguments that change how weights are loaded, not which: the merged model is loaded with them."""

HOW_IT_DOWNLOADS = {
    "cache_dir": "HF_HUB_CACHE",
    "token": "HF_TOKEN",
    "use_auth_token": "HF_TOKEN",
    "local_files_only": "HF_HUB_OFFLINE",
    "proxies": "HTTPS_PROXY",
    "force_download": "HF_HUB_CACHE",
}
"""Arguments for the Hub, and the environment variable that a streaming merge heeds in their place."""

QUANTISING = ("quantization_config", "load_in_8bit", "load_in_4bit")
"""Arguments that leave no weights to interpolate."""

PACKAGES = ("transformers.", "fusion_bench.models.")
"""Where loaders are looked for: nothing else is imported to find out whether an entry only loads."""


@dataclass(frozen=True, slots=True)
class Loading:
    """How an entry of a pool loads its model.

    Attributes:
        source: The folder or Hub id (with `@revision`) that can be streamed; None if the pool must load it.
        loader: The class that loads the merged model.
        kwargs: The arguments with which it does.
        why_loaded: Why the files cannot be streamed; empty if they can.
        not_heeded: Arguments that have no effect on a merge that streams.
    """

    source: str | None
    loader: Any = AutoModelForCausalLM
    kwargs: Mapping[str, Any] | None = None
    why_loaded: str = ""
    not_heeded: tuple[str, ...] = ()


def loading_of(name: str, path: str, arguments: Mapping[str, Any], target: str | None) -> Loading:
    """Returns how an entry with a path loads its model.

    Args:
        name: The entry's name in the pool.
        path: The folder or Hub id that it gives its loader.
        arguments: All others, those of the pool for every model included.
        target: Its `_target_`; None for a path alone, which AutoModelForCausalLM loads.

    Raises:
        SettingsError: The weights would be quantised.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    if quantising := [key for key in QUANTISING if given.get(key)]:
        raise _quantised(name, quantising[0]).error()
    loader = AutoModelForCausalLM if target is None else plain_loader(target)
    if loader is None:
        return Loading(None, why_loaded=str(target))
    is_local = os.path.isdir(os.path.expanduser(path))
    revision, subfolder = given.pop("revision", None), given.pop("subfolder", None)
    changing = sorted(_changing(given))
    if subfolder and not is_local:
        changing.append("subfolder")
    if changing:
        return Loading(None, why_loaded=", ".join(changing))
    source = os.path.join(path, subfolder) if subfolder else path
    if revision and not is_local and "@" not in path:  # a folder has no revisions, for transformers either
        source = f"{path}@{revision}"
    not_heeded = () if is_local else tuple(sorted(given.keys() & HOW_IT_DOWNLOADS.keys()))
    kwargs = {key: value for key, value in given.items() if key in HOW_IT_LOADS}
    return Loading(source, loader, kwargs, not_heeded=not_heeded)


def plain_loader(target: str) -> Any:
    """Returns the model class that a `_target_` loads checkpoints with; None if it may do more than that."""
    name = target.removesuffix(".from_pretrained")
    module, _, class_name = name.rpartition(".")
    if not name.startswith(PACKAGES):
        return None
    try:
        found = getattr(import_module(module), class_name, None)
    except ImportError:  # the pool will say so
        return None
    return found if found in AUTOMATIC or _is_language_model(found) else None


def _is_language_model(found: Any) -> bool:
    """Whether it is a language model's class that loads a checkpoint as all of transformers' classes do."""
    if not isinstance(found, type) or not issubclass(found, PreTrainedModel):
        return False
    known = (
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values(),
    )
    own: Any = found.from_pretrained
    loads_as_all_do = own.__func__ is PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]
    return loads_as_all_do and (found.__name__ in known or found.__name__.endswith("ForCausalLM"))


def _changing(given: Mapping[str, Any]) -> Iterator[str]:
    """Yields the arguments that may change which weights are loaded."""
    for key, value in given.items():
        if key == "use_safetensors" and value:
            continue  # streaming prefers them, too
        if key not in HOW_IT_LOADS and key not in HOW_IT_DOWNLOADS and key not in QUANTISING:
            yield key


def _quantised(name: str, key: str) -> Problem:
    fields = (("model", name), ("found", key), ("needed", "bfloat16, float16, float32 or float64"))
    fix = f"remove {key} from modelpool.models.{name} and from modelpool.model_kwargs"
    return Problem(SettingsError, "quantised weights cannot be merged", fields, fix)
