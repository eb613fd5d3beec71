"""Merges the demo models by every method and prints how well each result predicts the held-out texts.

    python examples/compare_methods.py

The models are three fine-tunes of one ancestor: on plays, on Python code and on a manual. A row has the
length of the merged model's task vector (its difference from the ancestor, over the whole model) as a
multiple of the first row's, the loss on each text in nats per token, and the mean over the texts with its
standard error. The last column is the difference of that mean from the first row's, `linear`, with the
standard error of the difference.

Both errors come from blocks of 64 tokens, which are closer to independent than single tokens. The difference
is taken block by block: two models stumble over the same passages, so it is much steadier than either loss.
The settings are those that docs/methods.md and the papers name as a start; no loss was used to choose them.
In the rows with a `scaling_factor`, it makes the task vector about as long as the first row's.

Needs torch and transformers; about two minutes on two cores. Layer stacking, `passthrough`, is left out: it
makes a deeper model, which has to be trained further.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import fusion_slerp
from fusion_slerp.evaluation.losses import token_losses

SHIPPED = Path(fusion_slerp.__file__).parent / "demo"
FINE_TUNES = ("plays", "code", "manual")
ANCESTOR = "ancestor"
CONTEXT_LENGTH, STRIDE, BATCH_SIZE = 256, 128, 8
"""As in the perplexity task pool, for models of 256 positions."""
BLOCK = 64
"""Tokens; some have one more, so that every token of a text is in a block."""

Blocks = Mapping[str, torch.Tensor]
"""The loss of every block over the mean length of a block: nats per token, by text, float64, shape [blocks].
Their mean is that of all tokens."""
Measured = tuple[float, Blocks]
"""The length of a task vector, and losses."""


@dataclass(frozen=True, slots=True)
class Merge:
    """A merge in the table.

    Attributes:
        method: Its name in the registry.
        models: Folders of the demo, in the order of their labels.
        has_base: Whether the ancestor is the base.
        options: All others have their defaults.
    """

    method: str
    models: tuple[str, ...] = FINE_TUNES
    has_base: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = " ".join(f"{name}={value}" for name, value in self.options.items()) or "defaults"
        models = ("all",) if self.models == FINE_TUNES else self.models
        return f"`{self.method}` | {', '.join((*models, *['base'] * self.has_base))} | {settings}"


HALF = {"density": 0.5}
SUM = {"weight": 0.5}
"""For methods that add task vectors up instead of averaging them."""

MERGES = (
    Merge("linear", has_base=False),
    Merge("multislerp", has_base=False),
    Merge("karcher", has_base=False),
    Merge("multislerp"),
    Merge("task_arithmetic", options=SUM),
    Merge("model_stock"),
    Merge("warp"),
    Merge("ties", options=HALF),
    Merge("breadcrumbs", options=SUM | {"density": 0.9, "gamma": 0.01}),
    Merge("breadcrumbs_ties", options=SUM | {"density": 0.9, "gamma": 0.01}),
    Merge("sce", options={"select_topk": 0.5}),
    Merge("ram"),
    Merge("ramplus"),
    Merge("dare_linear", options=SUM | HALF | {"seed": 0}),
    Merge("dare_ties", options=SUM | HALF | {"seed": 0}),
    Merge("della", options=HALF | {"seed": 0}),
    Merge("della_linear", options=SUM | HALF | {"seed": 0}),
    Merge("linear", ("plays", "code"), has_base=False),
    Merge("slerp", ("plays", "code"), has_base=False),
    Merge("slerp", ("plays", "code")),
    Merge("nearswap", ("manual",), options={"t": 0.001}),
    Merge("ties", options=HALF | {"scaling_factor": 0.47}),
    Merge("breadcrumbs", options=SUM | {"density": 0.9, "gamma": 0.01, "scaling_factor": 0.73}),
    Merge("dare_linear", options=SUM | HALF | {"seed": 0, "scaling_factor": 0.49}),
    Merge("della", options=HALF | {"seed": 0, "scaling_factor": 0.33}),
)
"""The first is compared with all others."""


def blocks_of(model: Path, texts: Mapping[str, Path], max_tokens: int | None = None) -> Blocks:
    """Returns the losses of a model, which computes in its own type.

    Args:
        model: A folder.
        texts: By name.
        max_tokens: Read at most this many tokens of each text.
    """
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    blocks = {}
    for name, path in texts.items():
        ids = torch.tensor(
            tokenizer(path.read_text(encoding="utf-8"), verbose=False)["input_ids"][:max_tokens]
        )
        (losses,) = token_losses(
            loaded, [ids], context_length=CONTEXT_LENGTH, stride=STRIDE, batch_size=BATCH_SIZE
        )
        sums = torch.stack([each.sum() for each in losses.tensor_split(len(losses) // BLOCK)])
        blocks[name] = sums * len(sums) / len(losses)
    return blocks


def mean_and_error(blocks: Blocks) -> tuple[float, float]:
    """Returns the mean over texts, each of which counts the same, and its standard error."""
    n = len(blocks)
    mean = sum(each.mean().item() for each in blocks.values()) / n
    variance = sum(each.var(correction=1).item() / len(each) for each in blocks.values()) / n**2
    return mean, math.sqrt(variance)


def difference(blocks: Blocks, reference: Blocks) -> Blocks:
    """Returns the losses less the reference's, block by block."""
    return {text: each - reference[text] for text, each in blocks.items()}


def length_of(model: Path, ancestor: Path) -> float:
    """Returns the length of a model's task vector: the norm of all its differences from the ancestor."""
    a, b = load_file(model / "model.safetensors"), load_file(ancestor / "model.safetensors")
    return math.sqrt(sum((a[name].double() - b[name].double()).square().sum().item() for name in b))


def row(first_cells: str, measured: Measured, reference: Measured | None) -> str:
    """Returns a line of the table; without a reference it is the reference, and its last cell is empty."""
    length, blocks = measured
    cells = [f"{length / (reference or measured)[0]:.2f}"]
    cells += [f"{each.mean().item():.3f}" for each in blocks.values()]
    cells.append("{:.3f} ± {:.3f}".format(*mean_and_error(blocks)))
    paired = mean_and_error(difference(blocks, reference[1])) if reference else ()
    cells.append("{:+.3f} ± {:.3f}".format(*paired) if paired else "")
    return f"| {first_cells} | {' | '.join(cells)} |"


def rows(demo: Path, methods: Collection[str] = (), max_tokens: int | None = None) -> Iterator[str]:
    """Yields the lines of the table.

    Args:
        demo: The folder of the demo models and their texts.
        methods: Only these and the first, or all if there are none.
        max_tokens: See `blocks_of`.
    """
    texts = {name: demo / "texts" / f"{name}.txt" for name in FINE_TUNES}

    def measured(model: Path) -> Measured:
        return length_of(model, demo / ANCESTOR), blocks_of(model, texts, max_tokens)

    yield f"| method | models | settings | length | {' | '.join(texts)} | mean | difference from `linear` |"
    yield "|---" * (6 + len(texts)) + "|"
    reference: Measured | None = None
    with tempfile.TemporaryDirectory() as folder:
        for number, merge in enumerate(MERGES):
            if reference and methods and merge.method not in methods:
                continue
            out = Path(folder) / str(number)
            base = {"base": demo / ANCESTOR} if merge.has_base else {}
            options = {"method": merge.method, **base, **merge.options}
            fusion_slerp.merge(*(demo / name for name in merge.models), out=out, **options)
            result = measured(out)
            yield row(str(merge), result, reference)
            reference = reference or result
    for name in (*FINE_TUNES, ANCESTOR):
        yield row(f"none | {name} | ", measured(demo / name), reference)


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", type=Path, default=SHIPPED, help="folder of the demo models")
    parser.add_argument("--methods", nargs="+", default=[], help="only these and linear (default: all)")
    parser.add_argument("--max-tokens", type=int, help="of each text (default: all)")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    for line in rows(arguments.demo, arguments.methods, arguments.max_tokens):
        print(line, flush=True)


if __name__ == "__main__":
    main()
