"""Tunes a merged model on preference pairs by DPO with TRL: on a CPU, in a minute for the demo models.

    fusion_slerp demo
    fusion_slerp merge plays code -t 0.5 -o child
    python examples/dpo/tune.py child -o tuned

Needs Python 3.11 or later and `pip install 'fusion-slerp[dpo]'`. docs/dpo.md tells the story.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

HERE = Path(__file__).resolve().parent
LEARNING_RATE = 1e-4
"""Of the demo child. TRL's 1e-6, meant for billions of parameters, does not move it; 3e-4 ruins it."""


def tune(child: Path, pairs: Path, out: Path, learning_rate: float, seed: int = 20) -> list[dict[str, float]]:
    """Tunes one pass over the pairs and writes the result to a new folder, in the child's own type.

    Args:
        child: Folder of the merged model. Its path goes to the trainer, not a model in memory: TRL takes the
            reference from the path in the model's config, so the reference is what that folder holds.
        pairs: A `.jsonl` with the columns `prompt`, `chosen` and `rejected`.
        out: A folder that does not exist. It gets weights, configs and tokenizer, and nothing else.
        learning_rate: Peak of AdamW's, after a warm-up over the first tenth of the steps.
        seed: Of the order of the pairs.

    Returns:
        The trainer's log, one entry a step: `loss`, `rewards/margins`, `logps/chosen` and others.

    Raises:
        RuntimeError: The first loss is not ln 2, so the reference is not the child.
    """
    out.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(child)
    with tempfile.TemporaryDirectory() as work:
        trainer = DPOTrainer(
            model=str(child),
            args=settings(work, learning_rate, seed),
            train_dataset=load_dataset("json", data_files=str(pairs), split="train", cache_dir=work),
            processing_class=tokenizer,
        )
        trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    if abs(log[0]["loss"] - math.log(2)) > 1e-5:
        raise RuntimeError(f"first loss {log[0]['loss']:.5f}, not ln 2: the reference is not {child}")
    save(trainer.model.state_dict(), child, out)
    return log


# --8<-- [start:settings]
def settings(work: str, learning_rate: float, seed: int) -> DPOConfig:
    """A run on the CPU that leaves no checkpoints; TRL's defaults are for bfloat16 on a GPU."""
    return DPOConfig(
        output_dir=work,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_length=256,  # what the demo models were made for
        per_device_train_batch_size=8,
        num_train_epochs=1,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        beta=0.1,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        seed=seed,
    )


# --8<-- [end:settings]


def save(state: dict[str, torch.Tensor], child: Path, out: Path) -> None:
    """Writes the weights in the child's type, with its config and its tokenizer, all of them unchanged.

    The trainer's own `save_model` would write float32, a config with another type and padding token, the
    tokenizer in new words, and `training_args.bin`, a pickle.
    """
    model = AutoModelForCausalLM.from_pretrained(child)
    model.load_state_dict(state)  # rounds to the child's type
    model.save_pretrained(out)
    for path in child.glob("tokenizer*"):
        shutil.copyfile(path, out / path.name)


def main() -> None:
    """Tunes, and prints the first and the last steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("child", type=Path, help="folder of the merged model")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write, which must not exist")
    parser.add_argument(
        "--pairs", type=Path, default=HERE / "train.jsonl", help="preference pairs (default: %(default)s)"
    )
    parser.add_argument(
        "--learning-rate", type=float, default=LEARNING_RATE, help="peak (default: %(default)s)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # models this small gain nothing from more
    log = tune(arguments.child, arguments.pairs, arguments.out, arguments.learning_rate)
    print(f"{'step':>4} {'loss':>7} {'margin':>7}")
    for step in sorted({1, 2, len(log) // 2, len(log)}):
        print(f"{step:4} {log[step - 1]['loss']:7.4f} {log[step - 1]['rewards/margins']:7.3f}")


if __name__ == "__main__":
    main()
