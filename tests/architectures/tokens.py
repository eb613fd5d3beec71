"""Another order of the vocabulary, known by the modules of a model: its embedding, its head, and shapes."""

from collections.abc import Iterator, Sequence
from typing import Any

from tests.architectures.shrinking import FIXED_TOKENS, PAD, TOKEN


def other_order(n: int) -> list[int]:
    """Returns the new id of each token; special tokens move as well.

    All but padding: the RoBERTa family counts positions from its id.
    """
    order = [(token * 7 + 3) % n for token in range(n)]
    moved = order.index(PAD)
    order[PAD], order[moved] = PAD, order[PAD]
    return order


def token_dimensions(model: Any, n: int) -> Iterator[tuple[str, Any, int]]:
    """Yields each tensor that has a place for each token, and the dimension; each storage once.

    These are the weights of the input embedding and of the head, and whatever else has `n` places in a
    dimension: `n` is a prime that no other size of the model equals. An embedding may have more rows.
    """
    ends = [module for module in (_embedding(model), model.get_output_embeddings()) if module is not None]
    of_ends = {id(tensor) for module in ends for tensor in module.parameters(recurse=True)}
    seen = set()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        dimensions = [i for i, size in enumerate(tensor.shape) if size == n]
        if not dimensions and id(tensor) in of_ends and n < tensor.shape[0] < n + 10:
            dimensions = [0]
        if dimensions and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            for dimension in dimensions:
                yield name, tensor, dimension


def _embedding(model: Any) -> Any:
    try:
        return model.get_input_embeddings()
    except NotImplementedError:  # a few classes do not say which of their modules it is
        return None


def reorder(model: Any, order: Sequence[int]) -> None:
    """Gives each token another id, in place: weights and biases, not the configuration."""
    import torch

    for _, tensor, dimension in token_dimensions(model, len(order)):
        index = torch.arange(tensor.shape[dimension])
        index[torch.tensor(order)] = torch.arange(len(order))
        tensor.data.copy_(tensor.data.index_select(dimension, index))


def move_ids(config: Any, order: Sequence[int]) -> None:
    """Gives the tokens that a configuration names their other ids, in place, at every level."""
    from transformers import PreTrainedConfig

    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            move_ids(value, order)
        elif name in FIXED_TOKENS or TOKEN.fullmatch(name):
            if isinstance(value, int) and value < len(order):
                setattr(config, name, order[value])
        elif name == "vocabulary_map" and isinstance(value, dict):
            setattr(config, name, {token: order[row] for token, row in value.items()})
