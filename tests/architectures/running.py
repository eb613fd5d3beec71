"""Runs a tiny model: with tokens alone, or with the picture, bytes or prompt that its class asks for."""

from collections.abc import Iterator, Mapping
from typing import Any


def attempts(model: Any, n: int) -> Iterator[Mapping[str, Any]]:
    """Yields what a model may take besides the ids of `n` tokens, from the simplest to the rarest."""
    import torch

    size = _image_size(model.config)
    image = {"pixel_values": torch.zeros(1, 3, size, size)}
    start = {"decoder_input_ids": torch.ones(1, n, dtype=torch.long)}
    yield {}
    yield start
    yield image
    yield {"bbox": torch.zeros(1, n, 4), **start}
    yield {**image, "input_ids": None, **start}


def _image_size(config: Any) -> int:
    for name in ("vision_config", "encoder"):
        size = getattr(getattr(config, name, None), "image_size", None)
        if size is not None:
            return size if isinstance(size, int) else size[0]
    return 16


def logits_of(model: Any, ids: list[int], more: Mapping[str, Any]) -> Any:
    """Returns the logits for some tokens."""
    import torch

    with torch.no_grad():
        return model(**{"input_ids": torch.tensor([ids]), **more}).logits


def inputs_for(model: Any, ids: list[int]) -> tuple[Mapping[str, Any] | None, str]:
    """Returns what a model takes besides tokens, or None and the first reason why it does not run."""
    reason = ""
    for more in attempts(model, len(ids)):
        try:
            logits_of(model, ids, more)
        except Exception as error:  # whatever a class raises when it is called in a way it does not know
            reason = reason or f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            return more, ""
    return None, reason[:240]
