"""The task pool that measures loss and perplexity of the merged model beside its parents."""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import floor, isfinite, log10
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from fusion_bench.mixins.serialization import auto_register_config
from fusion_bench.taskpool.base_pool import BaseTaskPool
from fusion_bench.utils.instantiate_utils import instantiate
from hydra.utils import to_absolute_path
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.hub import has_file

from fusion_slerp import perplexity
from fusion_slerp.errors import (
    CheckpointError,
    Problem,
    SettingsError,
    listed,
    raise_all,
    unknown_names_error,
)

log = logging.getLogger(__name__)

MERGED = "merged"
_HOST_ARGUMENTS = ("_recursive_", "_usage_", "_version_")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class _Subject:
    """One model to evaluate: its config, and by text the token ids of each document, also as strings.

    Two models with equal strings are scored on the same task.
    """

    config: Any
    ids: dict[str, list[torch.Tensor]]
    tokens: dict[str, list[list[str]]]


@auto_register_config
class PerplexityTaskPool(BaseTaskPool):
    """Loss and perplexity per token on local texts, for the merged model and for others to compare with.

    The windows are those of transformers' documentation ("Perplexity of fixed-length models"), each token
    is scored once, and the mean is exact: see `fusion_slerp.perplexity`. A model reads about
    `context_length / stride` times the tokens of the texts. Weights are not widened: a bfloat16 model runs
    in bfloat16, with log-softmax in float32 and sums in float64.

    Losses per token compare only where the tokens are the same. A baseline with a tokenizer of its own is
    evaluated with that; if it cuts a text in another way, the table marks the baseline and leaves it out
    of the comparison.

    Args:
        texts: Name -> file, at least one: `.txt` (one document) or `.jsonl` (one document per line, under
            `text`), in UTF-8. Documents do not see each other. Relative paths start at the working
            directory; `~` is home.
        tokenizer: Folder, hub id, mapping with `_target_`, or tokenizer. None takes the model pool's, or
            without one that in the folder that the model was loaded from.
        baselines: Name -> folder or hub id of a model to evaluate as well, or a mapping of which only
            `pretrained_model_name_or_path` is read. Each is loaded in its own dtype, in turn, and freed.
        context_length: Positions that a model sees at once, at least 2 and at most what each model was
            made for. None takes the smallest such limit, but at most 1024.
        stride: Positions from one window to the next, from 1 to `context_length - 1`; less gives tokens
            more context and takes longer. None takes half of `context_length`.
        batch_size: Windows in one forward pass, at least 1. Changes the result by rounding only.
        max_tokens: Read at most so many tokens of each text, at least 2; None reads all.
        device: A torch device such as `"cuda:1"`, or `"auto"`: the accelerator that the model is on
            already, else CUDA if available, else the CPU. The merged model is put back where it was.
        **kwargs: The host's `_recursive_`, `_usage_` and `_version_`; nothing else.

    Raises:
        SettingsError: A setting is unknown; or settings are wrong or files unusable (all at once).
    """

    texts: Mapping[str, str]
    tokenizer: Any
    context_length: int | None
    stride: int | None
    batch_size: int
    max_tokens: int | None
    device: str

    def __init__(
        self,
        texts: Mapping[str, str],
        *,
        tokenizer: Any = None,
        baselines: Mapping[str, Any] | None = None,
        context_length: int | None = None,
        stride: int | None = None,
        batch_size: int = 8,
        max_tokens: int | None = None,
        device: str = "auto",
        **kwargs: Any,
    ) -> None:
        unknown = [name for name in kwargs if name not in _HOST_ARGUMENTS]
        if unknown:
            known = [name for name in self._config_mapping.values() if name not in _HOST_ARGUMENTS]
            raise unknown_names_error(unknown, known, type(self).__name__)
        super().__init__(**kwargs)
        problems: list[Problem] = []
        self._documents = _read_texts(_plain(texts), problems)
        self._baselines = _locate_baselines(_plain(baselines) or {}, problems)
        _check_tokenizer(_plain(tokenizer), problems)
        _check_number("context_length", context_length, 2, None, problems)
        _check_number("stride", stride, 1, None, problems)
        _check_number("batch_size", batch_size, 1, 8, problems)
        _check_number("max_tokens", max_tokens, 2, None, problems)
        if not _is_usable(device):
            problems.append(_wrong("device", repr(device), "auto, or a device that this machine has", "auto"))
        if not problems and stride is not None and context_length is not None:
            _check_stride(stride, context_length, problems)
        raise_all(problems)

    def evaluate(self, model: Any) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns the scores of the model and of the baselines, and prints a table of them.

        Args:
            model: A transformers causal language model; evaluated first, left as it was.

        Returns:
            `{text: {"loss", "perplexity", "loss_stderr", "tokens"}, ..., "average": {"loss",
            "perplexity"}}`, and with baselines `"baselines": {name: {the same}}`. Plain floats and ints;
            their meaning stands in `fusion_slerp.perplexity.TextScore`. `average` is the mean loss over
            the texts and its exponential.

        Raises:
            SettingsError: Before any model runs, all at once: a tokenizer or baseline cannot be opened, a
                text has fewer than two tokens, a model is too small for `context_length` or its tokenizer.
            CheckpointError: A baseline lacks weights.
        """
        subjects = self._open(model)
        context_length, stride = self._check(subjects)
        scores = {MERGED: self._score(model, subjects[MERGED], context_length, stride)}
        for name, source in self._baselines.items():
            log.info("evaluating baseline %s from %s", name, source)
            scores[name] = self._score(_load_baseline(name, source), subjects[name], context_length, stride)
            gc.collect()  # models hold reference cycles, and the next one needs the room
        tokens = subjects[MERGED].tokens
        _print_comparison(scores, {name for name in subjects if subjects[name].tokens != tokens})
        report = scores.pop(MERGED)
        return {**report, "baselines": scores} if scores else report

    def _open(self, model: Any) -> dict[str, _Subject]:
        """Opens all configs and tokenizers and cuts the texts into tokens; the merged model comes first."""
        problems: list[Problem] = []
        subjects: dict[str, _Subject] = {}
        default = None
        for name, source in {MERGED: None, **self._baselines}.items():
            try:
                if source is None:
                    config, tokenizer = model.config, self._merged_tokenizer(model)
                    default = tokenizer
                else:
                    config, tokenizer = AutoConfig.from_pretrained(source), _own_tokenizer(source) or default
            except Exception as error:  # transformers raises whatever its many loaders raise
                setting = "tokenizer" if source is None else f"baselines.{name}"
                problems.append(_cannot_load(setting, self.tokenizer if source is None else source, error))
            else:
                if tokenizer is not None:
                    subjects[name] = self._subject(config, tokenizer)
        raise_all(problems)
        return subjects

    def _merged_tokenizer(self, model: Any) -> Any:
        """The tokenizer that is set, else the model pool's, else the one beside the model."""
        if self.tokenizer is not None:
            return _load_tokenizer(self.tokenizer)
        pool = getattr(self._program, "modelpool", None)
        if pool is not None and getattr(pool, "tokenizer", None) is not None:
            return pool.load_tokenizer()
        folder = getattr(model.config, "_name_or_path", None)
        if folder and os.path.isdir(folder):
            return AutoTokenizer.from_pretrained(folder)
        raise LookupError("the model pool has no tokenizer, and the model was not loaded from a folder")

    def _subject(self, config: Any, tokenizer: Any) -> _Subject:
        ids = {
            text: perplexity.encode(tokenizer, documents, self.max_tokens)
            for text, documents in self._documents.items()
        }
        tokens = {
            text: [tokenizer.convert_ids_to_tokens(row.tolist()) for row in rows]
            for text, rows in ids.items()
        }
        return _Subject(config.get_text_config(), ids, tokens)

    def _check(self, subjects: Mapping[str, _Subject]) -> tuple[int, int]:
        """Returns context length and stride in tokens, after checking that texts and models allow them."""
        found = {name: perplexity.position_limit(subject.config) for name, subject in subjects.items()}
        limits = {name: limit for name, limit in found.items() if limit is not None}
        context_length = self.context_length or min(perplexity.DEFAULT_CONTEXT_LENGTH, *limits.values())
        stride = self.stride or context_length // 2
        problems: list[Problem] = []
        for name, limit in limits.items():
            if limit < context_length:
                needed = f"at most {limit}, the positions of {name}"
                problems.append(_wrong("context_length", context_length, needed, limit))
        _check_stride(stride, context_length, problems)
        for name, subject in subjects.items():
            _check_ids(name, subject, problems)
        raise_all(problems)
        return context_length, stride

    def _score(self, model: Any, subject: _Subject, context_length: int, stride: int) -> dict[str, Any]:
        scores = {}
        with perplexity.ready(model, self.device):
            for text, ids in subject.ids.items():
                losses = perplexity.token_losses(
                    model, ids, context_length=context_length, stride=stride, batch_size=self.batch_size
                )
                scores[text] = asdict(perplexity.summary(losses))
        return {**scores, "average": perplexity.average(scores)}


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _wrong(name: str, found: object, needed: str, example: object) -> Problem:
    fields = (("found", found), ("needed", needed))
    return Problem(SettingsError, f"taskpool.{name} is not usable", fields, f"taskpool.{name}={example}")


def _cannot_load(name: str, source: object, error: Exception) -> Problem:
    log.debug("cannot load %s", source, exc_info=error)
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return _wrong(name, f"{source}: {reason}", "a folder or hub id that transformers can load", "FOLDER")


def _absolute(path: str | os.PathLike[str]) -> str:
    return to_absolute_path(os.path.expanduser(path))


def _located(source: object) -> str | None:
    """Returns the folder that a source names, else the source if it may be a hub id, else None."""
    if not isinstance(source, str):
        return None
    folder = _absolute(source)
    return folder if os.path.isdir(folder) else source if _HUB_ID.fullmatch(source) else None


def _read_texts(texts: Any, problems: list[Problem]) -> dict[str, list[str]]:
    """Returns the documents of every text file that can be used; adds a problem for each that cannot."""
    if not isinstance(texts, Mapping) or not texts:
        problems.append(_wrong("texts", repr(texts), "at least one name and file", "{NAME: FILE.txt}"))
        return {}
    documents: dict[str, list[str]] = {}
    for name, file in texts.items():
        setting, needed = f"texts.{name}", 'a .txt in UTF-8, or a .jsonl with {"text": "..."} in every line'
        if name in ("average", "baselines"):
            problems.append(_wrong(setting, "a name that the report uses itself", "another name", "null"))
        elif not isinstance(file, (str, os.PathLike)):
            problems.append(_wrong(setting, repr(file), needed, "FILE.txt"))
        else:
            path = _absolute(file)
            try:
                documents[str(name)] = perplexity.read_documents(Path(path))
            except ValueError as error:
                problems.append(_wrong(setting, f"{path}: {error}", needed, "FILE.txt"))
    return documents


def _locate_baselines(baselines: Any, problems: list[Problem]) -> dict[str, str]:
    """Returns folder or hub id of each baseline; adds a problem for each that can be neither."""
    if not isinstance(baselines, Mapping):
        problems.append(_wrong("baselines", repr(baselines), "names and folders, or null", "null"))
        return {}
    sources: dict[str, str] = {}
    for name, given in baselines.items():
        setting = f"baselines.{name}"
        source = given.get("pretrained_model_name_or_path") if isinstance(given, Mapping) else given
        if name == MERGED:
            problems.append(_wrong(setting, "the name of the merged model", "another name", "null"))
        elif (located := _located(source)) is None:
            problems.append(_wrong(setting, f"{source!r}: no such folder", "a folder or a hub id", "FOLDER"))
        else:
            sources[str(name)] = located
    return sources


def _check_tokenizer(tokenizer: Any, problems: list[Problem]) -> None:
    needed = "a folder, a hub id, a mapping with `_target_`, or a tokenizer"
    if isinstance(tokenizer, str) and _located(tokenizer) is None:
        problems.append(_wrong("tokenizer", f"{tokenizer!r}: no such folder", needed, "FOLDER"))
    elif isinstance(tokenizer, dict) and "_target_" not in tokenizer:
        problems.append(_wrong("tokenizer", tokenizer, needed, "FOLDER"))


def _check_number(name: str, value: object, least: int, default: int | None, problems: list[Problem]) -> None:
    """Adds a problem unless the value is a whole number from `least` up, or None as the default is."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not whole and not (value is None and default is None):
        needed = f"a whole number, at least {least}" + (", or null" if default is None else "")
        problems.append(_wrong(name, repr(value), needed, "null" if default is None else default))


def _check_stride(stride: int, context_length: int, problems: list[Problem]) -> None:
    if stride >= context_length:
        needed = f"less than the context length {context_length}: each scored token needs one before it"
        problems.append(_wrong("stride", stride, needed, context_length - 1))


def _is_usable(device: object) -> bool:
    try:
        return device == "auto" or torch.empty(0, device=torch.device(str(device))).device.type != "meta"
    except (RuntimeError, AssertionError):  # unknown or absent; a torch built without CUDA asserts
        return False


def _check_ids(name: str, subject: _Subject, problems: list[Problem]) -> None:
    """Adds a problem for each text that has nothing to score or a token that the model does not know."""
    rows = getattr(subject.config, "vocab_size", None)
    for text, documents in subject.ids.items():
        if not any(len(ids) > 1 for ids in documents):
            found = f"no document of two tokens or more, by the tokenizer of {name}"
            problems.append(_wrong(f"texts.{text}", found, "a longer text", "FILE.txt"))
        largest = max((int(ids.max()) for ids in documents if len(ids)), default=0)
        if rows is not None and largest >= rows:
            setting = "tokenizer" if name == MERGED else f"baselines.{name}"
            found = f"token id {largest} in {text}; {name} has {rows} embedding rows"
            problems.append(_wrong(setting, found, "a tokenizer that goes with the model", "FOLDER"))


def _load_tokenizer(source: Any) -> Any:
    if isinstance(source, str):
        return AutoTokenizer.from_pretrained(_located(source))
    return instantiate(source) if isinstance(_plain(source), dict) else source


def _own_tokenizer(source: str) -> Any:
    """Returns the tokenizer that lies beside a model, or None where there is none."""
    if any(has_file(source, name) for name in _TOKENIZER_FILES):
        return AutoTokenizer.from_pretrained(source)
    return None


def _load_baseline(name: str, source: str) -> Any:
    """Returns the model in its own dtype.

    Raises:
        CheckpointError: The files lack weights, which transformers would fill with random numbers.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto", output_loading_info=True)
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        fields = (("source", source), ("missing", listed(missing)))
        fix = f"taskpool.baselines.{name}=FOLDER, one that holds the whole model"
        raise Problem(CheckpointError, f"taskpool.baselines.{name} lacks weights", fields, fix).error()
    return model


@rank_zero_only
def _print_comparison(scores: Mapping[str, dict[str, Any]], other_tokens: set[str]) -> None:
    """Prints one row per model, the merged one last, and what the comparison says in a sentence.

    Args:
        scores: The report of each model, by name.
        other_tokens: Names of the models that were scored on other tokens than the merged one.
    """
    console = Console(highlight=False)
    rows = {name: score for name, score in scores.items() if name != MERGED} | {MERGED: scores[MERGED]}
    losses = {name: row["average"]["loss"] for name, row in rows.items() if name not in other_tokens}
    finite = {name: loss for name, loss in losses.items() if isfinite(loss)}
    best = min(finite, key=finite.__getitem__) if len(rows) > 1 and finite else ""
    labels = {name: f"{name} *" if name in other_tokens else name for name in rows}
    texts = [text for text in rows[MERGED] if text != "average"]
    # The first that fits: with standard errors, without, at last the averages alone.
    for shown, sign in ((texts, "+-" if console.options.ascii_only else "±"), (texts, ""), ([], "")):
        table = _table(rows, labels, shown, sign, best)
        unbounded = console.options.update(max_width=10_000)  # measure() cuts at the width it is given
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
    console.print("Loss in nats per token, and in the line below it the perplexity")
    console.print(table)
    if not shown:
        console.print("The texts' own figures do not fit this width; the report holds them.")
    if other_tokens:
        console.print("* cut into other tokens by its own tokenizer; its losses do not compare")
    console.print(Text(perplexity.verdict(losses, MERGED)))


def _table(
    rows: Mapping[str, dict[str, Any]], labels: Mapping[str, str], texts: list[str], sign: str, best: str
) -> Table:
    """Returns the table of losses; `sign` stands before standard errors, which it leaves out if empty."""
    table = Table("model", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (*texts, "average"):
        table.add_column(Text(fill(heading, 16)), justify="right", no_wrap=True)
    for name, score in rows.items():
        cells = [Text(_cell(score[text], sign)) for text in texts]
        average = _cell(score["average"], "") + ("\nbest" if name == best else "")
        cells.append(Text(average, style="bold green" if name == best else ""))
        table.add_row(Text(fill(labels[name], 24)), *cells)
    return table


def _cell(score: Mapping[str, float], sign: str) -> str:
    lines = []
    for value, slope in ((score["loss"], 1.0), (score["perplexity"], score["perplexity"])):
        # About four significant digits, never more than three decimals; the error with as many as its value.
        plain = isfinite(value) and value < 1e6
        form = f".{min(3, max(0, 3 - floor(log10(max(value, 1.0)))))}f" if plain else ".3g"
        lines.append(f"{value:{form}}" + (f" {sign} {score['loss_stderr'] * slope:{form}}" if sign else ""))
    return "\n".join(lines)
