"""Builds an architecture as small as it goes, with random weights, and saves it with a tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.architectures.exceptions import exceptions
from tests.architectures.shrinking import VOCABULARY, Shape, shrunk
from tests.models import tokenizer_json, write_json

CAUSAL, IMAGE_TEXT = "causal", "image-text"


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model that one of the automatic classes builds.

    Attributes:
        model_type: Of its configuration.
        kind: `causal` or `image-text`: by which automatic class it is loaded.
        class_name: Of the model.
    """

    model_type: str
    kind: str
    class_name: str

    def __str__(self) -> str:
        return f"{self.model_type}-{self.kind}"


def architectures() -> list[Architecture]:
    """Returns all that the two automatic classes map; a class that both map is an image-text model."""
    from transformers.models.auto import modeling_auto

    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    image_text = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    found = [Architecture(name, IMAGE_TEXT, image_text[name]) for name in image_text]
    found += [
        Architecture(name, CAUSAL, causal[name]) for name in causal if causal[name] != image_text.get(name)
    ]
    return sorted(found, key=str)


def auto_class(kind: str) -> Any:
    """Returns the automatic class that builds and loads models of a kind."""
    import transformers

    return transformers.AutoModelForCausalLM if kind == CAUSAL else transformers.AutoModelForImageTextToText


def tiny_config(architecture: Architecture, vocabulary: int = VOCABULARY) -> Any:
    """Returns the smallest configuration of an architecture."""
    from transformers import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[architecture.model_type]
    return config_class(**shrunk(config_class, Shape(exceptions(), vocabulary)))


def build(kind: str, config: Any, seed: int) -> Any:
    """Returns a model with random weights: also where a model starts with ones or zeros."""
    import copy

    import torch

    torch.manual_seed(seed)
    model = auto_class(kind).from_config(copy.deepcopy(config)).eval()
    generator = torch.Generator().manual_seed(seed)
    seen = set()
    for tensor in model.parameters():
        if tensor.is_floating_point() and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            module.weight.data[module.padding_idx] = 0
    for buffer in model.buffers():  # limits that training measures: a new model has infinity there
        if buffer.is_floating_point():
            buffer.data = buffer.data.nan_to_num(posinf=8.0, neginf=-8.0)
    return model


def words(n: int = VOCABULARY) -> list[str]:
    """Returns the tokens of a vocabulary: four special ones, then words."""
    return ["<unk>", "<s>", "</s>", "<pad>", *(f"w{i}" for i in range(n - 4))]


def save(model: Any, folder: Path, tokens: list[str], **how: Any) -> Path:
    """Saves a model with a tokenizer of these tokens; keyword arguments go to save_pretrained."""
    model.save_pretrained(folder, **how)
    tokenizer = tokenizer_json(tokens)
    tokenizer["model"]["unk_token"] = "<unk>"
    write_json(folder / "tokenizer.json", tokenizer)
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
    return folder
