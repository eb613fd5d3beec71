"""What `docs/architectures.md` says: what is tried, and why some of it is refused."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trial:
    """What one check tries.

    Attributes:
        column: Its heading in the tables.
        text: What it does.
    """

    column: str
    text: str


TRIALS: Mapping[str, Trial] = {
    "equal": Trial(
        "equal",
        "Two models with one vocabulary. Every tensor of the merged model is compared with a reference in "
        "exact arithmetic.",
    ),
    "permuted": Trial(
        "permuted",
        "The second model is the first one with its tokens in another order: embeddings, heads, biases, "
        "special tokens. The merged model must be the first one, bit by bit, and so must its config.",
    ),
    "larger": Trial(
        "one more",
        "The second model has one more token. The merged model has its row, the shared rows are merged, and "
        "the config has the new size.",
    ),
    "repeated layers": Trial(
        "repeated",
        "The slices `[0, 3]` and `[1, 4]` of four layers: six layers, each equal to the one it is made from.",
    ),
    "first layer dropped": Trial(
        "dropped",
        "The slice `[1, 4]`: three layers, without the first one.",
    ),
    "layouts": Trial(
        "layouts",
        "Tensors as they are published, and as the class of transformers names them: one tensor for each "
        "expert, or one for all. Every mix gives the same merged model, in the first model's layout.",
    ),
    "heads": Trial(
        "heads",
        "A model that ties its head to the embedding with one that does not, a head that is stored although "
        "it is tied, and configs that do not say whether it is.",
    ),
    "text model": Trial(
        "text",
        "A text model merged into the language model of a larger one. All other parts stay as they are.",
    ),
    "generates": Trial(
        "writes",
        "The merged model generates tokens: tried with popular model types.",
    ),
}
"""By the name of the check in the outcomes."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is refused.

    Attributes:
        phrases: Parts of error messages, by any of which it is known; the first entry that fits counts.
        title: A heading.
        why: Why it cannot be done.
        help: What would make it possible.
        checks: Those that it is a reason for; empty for all.
    """

    phrases: tuple[str, ...]
    title: str
    why: str
    help: str
    checks: tuple[str, ...] = ()


REASONS = (
    Reason(
        ("the tensor names differ",),
        "Tied models that leave out more than the head",
        "With a tied head, these classes leave out more than its weight: its bias, or the embeddings of "
        "other parts. Untied, they store it.",
        "a tied model whose files have copies of these tensors, and whose config has "
        "`tie_word_embeddings: false`.",
        ("heads",),
    ),
    Reason(
        ("the tensor names differ", "the expert layouts differ"),
        "Files with other tensor names",
        "More than prefixes and experts differs: other names within the layers, or tensors that are split "
        "otherwise, such as queries, keys and values.",
        "load the model with the other names with transformers, and save it again. `save_pretrained` writes "
        "the published names, or those of the class with `save_original_format=False`.",
    ),
    Reason(
        ("may belong to tokens", "wte.new_embedding"),
        "Tensors that may have a row for each token",
        "The tokenizers differ, and a tensor has as many rows as a vocabulary, or part of them, under a "
        "name that does not tell whether its rows follow the tokens.",
        "the setting `vocabulary_tensors`, which says so by name.",
    ),
    Reason(
        ("tid2eid",),
        "Tables of integers by token",
        "A table that is not an embedding has a row for each token: which experts serve it. Rows of "
        "integers are copied if they are equal, never united.",
        "give both models the same tokens before they are merged.",
    ),
    Reason(
        ("cannot follow the slices",),
        "Slices that a key of the config cannot follow",
        "A key gives each layer its kind by a rule, such as every fourth one, or a width to all layers "
        "together. No value of it describes the layers in their new order.",
        "slices that leave each layer the kind that the key gives it, such as whole periods of the rule.",
    ),
    Reason(
        ("bound to its position",),
        "Layers that are bound to their position",
        "The class gives one layer other tensors than its like, without a key that says which: the first "
        "one has a norm of its own, or several layers share the weights of one.",
        "slices that keep this layer in its place.",
    ),
    Reason(
        ("stacks of layers",),
        "Several stacks of layers in the language model",
        "Encoder and decoder, or two stacks that take turns: slices count the layers of one stack, and do "
        "not say which one is meant.",
        "a setting that names the stack.",
    ),
)
"""For every refusal among the recorded outcomes."""
