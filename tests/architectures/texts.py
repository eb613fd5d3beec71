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
        "special "
        "tokens. The merged model must be the first one, bit by bit, and so must its config.",
    ),
    "larger": Trial(
        "one more",
        "The second model has one more token. The merged model has its row, the shared rows are merged, and "
        "the "
        "config has the new size.",
    ),
    "repeated layers": Trial(
        "repeated",
        "The slices `[0, 3]` and `[1, 4]` of four layers: six layers, each equal to the one it is made from.",
    ),
    "first layer dropped": Trial("dropped", "The slice `[1, 4]`: three layers, without the first one."),
    "layouts": Trial(
        "layouts",
        "Tensors as they are published, and as the class of transformers names them: one tensor for each "
        "expert, "
        "or one for all. Every mix gives the same merged model, in the first model's layout.",
    ),
    "heads": Trial(
        "heads",
        "A model that ties its head to the embedding with one that does not, a head that is stored although "
        "it is "
        "tied, and configs that do not say whether it is.",
    ),
    "text model": Trial(
        "text",
        "A text model merged into the language model of a larger one. All other parts stay as they are.",
    ),
    "generates": Trial("writes", "The merged model generates tokens: tried with popular model types."),
}
"""By the name of the check in the outcomes."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is refused.

    Attributes:
        phrase: Part of the error message, by which it is known; the first entry that fits counts.
        title: A heading.
        why: Why it cannot be done.
        help: What would make it possible.
    """

    phrase: str
    title: str
    why: str
    help: str


REASONS = (
    Reason(
        "stacks of layers",
        "Slices of a model with several stacks of layers",
        "The model has several stacks of layers, such as those of a vision tower and a language model. "
        "Slices "
        "count the layers of one stack and do not say which one is meant.",
        "A setting that names the stack. Until then, slice the text model before it becomes part of the "
        "larger one.",
    ),
    Reason(
        "expert layouts differ",
        "Expert layouts that cannot be converted",
        "One model has a tensor for each expert, the other one for all experts, in an arrangement that is "
        "not "
        "known here.",
        "Load one of them with transformers and save it in the other's layout; "
        "`save_pretrained(..., save_original_format=False)` writes that of the class.",
    ),
    Reason(
        "the tensor names differ",
        "Files with other tensor names",
        "The files give the same tensors other names, or some hold tensors that the others lack.",
        "Load the model that is named differently with transformers and save it again: both then have the "
        "names "
        "of one version.",
    ),
)
"""For every refusal among the recorded outcomes."""
