"""Judges models on held-out text and on held-out preference pairs, against the model they come from.

    python examples/dpo/judge.py child tuned

The first folder is the reference. The first table is that of fusion_slerp's perplexity task pool, on the demo
texts. The second is on the pairs:

- chosen, rejected: the mean log-probability of a token of either text. Both falling is a collapse.
- margin: DPO's reward margin, beta (log-ratio of the chosen text - log-ratio of the rejected one), per pair.
- preferred: the share of pairs whose margin is positive.
- distinct: the share of different 4-grams among 64 greedy tokens after each prompt; 1 is no repetition.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import fusion_slerp

HERE = Path(__file__).resolve().parent
TEXTS = Path(fusion_slerp.__file__).parent / "demo/texts"
BETA = 0.1
NEW_TOKENS, GRAM = 64, 4


@dataclass(frozen=True, slots=True)
class Judgement:
    """A model's log-probabilities of both texts of each pair, in nats, and how little it repeats itself."""

    chosen: tuple[float, ...]
    rejected: tuple[float, ...]
    chosen_tokens: int
    rejected_tokens: int
    distinct: float

    def per_token(self) -> tuple[float, float]:
        """Mean log-probability of a token of the chosen and of the rejected texts."""
        return sum(self.chosen) / self.chosen_tokens, sum(self.rejected) / self.rejected_tokens

    def margins(self, reference: Judgement) -> list[float]:
        """DPO's reward margin of each pair."""
        both = zip(self.chosen, self.rejected, reference.chosen, reference.rejected, strict=True)
        return [BETA * ((c - ref_c) - (r - ref_r)) for c, r, ref_c, ref_r in both]


def read_pairs(path: Path) -> list[dict[str, str]]:
    """The pairs of a `.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def judge(folder: Path, pairs: Sequence[dict[str, str]]) -> Judgement:
    """Judges one model, computing in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chosen, rejected = (
        [log_probability(model, tokenizer, pair["prompt"], pair[key]) for pair in pairs]
        for key in ("chosen", "rejected")
    )
    distinct = [distinct_share(model, tokenizer, pair["prompt"]) for pair in pairs]
    return Judgement(
        tuple(total for total, _ in chosen),
        tuple(total for total, _ in rejected),
        sum(tokens for _, tokens in chosen),
        sum(tokens for _, tokens in rejected),
        sum(distinct) / len(distinct),
    )


@torch.inference_mode()
def log_probability(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, text: str
) -> tuple[float, int]:
    """Log-probability of a text after its prompt, without an end-of-text token; and its tokens."""
    start, ids = len(tokenizer(prompt)["input_ids"]), torch.tensor([tokenizer(prompt + text)["input_ids"]])
    logs = model(input_ids=ids).logits[0, start - 1 : -1].double().log_softmax(-1)
    return logs.gather(1, ids[0, start:, None]).sum().item(), ids.shape[1] - start


@torch.inference_mode()
def distinct_share(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> float:
    """The share of different 4-grams in the greedy continuation of a prompt."""
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    written = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )[0, ids.shape[1] :].tolist()
    grams = [tuple(written[i : i + GRAM]) for i in range(len(written) - GRAM + 1)]
    return len(set(grams)) / len(grams)


def print_perplexities(folders: Sequence[Path]) -> None:
    """Prints the table of the perplexity task pool; the last model is the one that is compared."""
    texts = {name: str(TEXTS / f"{name}.txt") for name in ("plays", "code")}
    baselines = {folder.name: str(folder) for folder in folders[:-1]}
    model = AutoModelForCausalLM.from_pretrained(folders[-1], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folders[-1])
    fusion_slerp.PerplexityTaskPool(texts, tokenizer=tokenizer, baselines=baselines).evaluate(model)


def print_preferences(folders: Sequence[Path], pairs: Sequence[dict[str, str]]) -> None:
    """Prints one line a model."""
    judgements = [judge(folder, pairs) for folder in folders]
    print(f"\n{len(pairs)} held-out pairs\n{'':16} chosen rejected  margin preferred distinct")
    for folder, each in zip(folders, judgements, strict=True):
        chosen, rejected = each.per_token()
        margins = each.margins(judgements[0])
        margin, preferred = sum(margins) / len(margins), sum(margin > 0 for margin in margins) / len(margins)
        numbers = f"{chosen:6.3f} {rejected:8.3f} {margin:7.3f} {preferred:9.2f} {each.distinct:8.2f}"
        print(f"{folder.name:16} {numbers}")


def main() -> None:
    """Judges all models that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+", help="folders; the first is the reference")
    parser.add_argument(
        "--pairs", type=Path, default=HERE / "held_out.jsonl", help="preference pairs (default: %(default)s)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # models this small gain nothing from more
    print_perplexities(arguments.models)
    print_preferences(arguments.models, read_pairs(arguments.pairs))


if __name__ == "__main__":
    main()
