"""The facts of a checkpoint, from its headers, config and tokenizer files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fusion_slerp.errors import SHOWN_NAME, printable
from fusion_slerp.inspection.readable import Problems, json_object, open_anything, weight_files
from fusion_slerp.planning.heads import stated_tie
from fusion_slerp.sources.conversions import ADAPTER
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.opening import open_source
from fusion_slerp.sources.quantisation import stated
from fusion_slerp.sources.regular_files import reading_models
from fusion_slerp.tensor_names import layer_of, mtp_layers
from fusion_slerp.tensor_names.vocabulary import is_of_head, roles
from fusion_slerp.vocabulary.chat_templates import chat_template
from fusion_slerp.vocabulary.pipeline import model_type
from fusion_slerp.vocabulary.tokens import TOKENIZER, Tokens, load, read_config, read_tokens, vocabulary_file

SPECIAL = ("bos", "eos", "pad", "unk")
"""Special tokens that are shown; others are in the tokenizer's own files."""

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
SHOWN = (*LAYERS, "hidden_size", "n_embd", "d_model", "vocab_size", "torch_dtype", "dtype")
"""Keys of config.json that are shown."""

MAX_CONFIGS = 20
"""Nested configs that are looked at; a model of text, pictures and sound has about five."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A checkpoint in numbers and names.

    Attributes:
        source: The user's name for it.
        folder: Its folder.
        revision: Its Hub commit; None for a local folder.
        architecture: The class named in its config, or its `model_type`.
        config: Values in its config by key, see `SHOWN`; those of the text part of a larger model.
        quantised: Method and bits if its config says that it is quantised.
        adapter: Kind, rank and base model if it is an adapter.
        n_parameters: Elements of all tensors as stored.
        n_tensors: Number of tensors.
        dtypes: Parameters by type.
        n_layers: Layers of the deepest stack, by the tensors' names.
        files: Bytes of its weight files, by name.
        n_rows: Rows of the embedding; None if no tensor has an embedding's name.
        n_tokens: Tokens of the tokenizer; None if it cannot be read.
        tokenizer: Its kind and the file it was read from; None if it cannot be read.
        special: Special tokens, with their rows if they have one.
        has_chat_template: Whether there is one.
        is_tied: Whether the config ties the head to the embedding; None if it does not say.
        stores_head: Whether the head is stored.
        warnings: Oddities, one line each.
    """

    source: str
    folder: str
    revision: str | None
    architecture: str
    config: Mapping[str, Any]
    quantised: str | None
    adapter: str | None
    n_parameters: int
    n_tensors: int
    dtypes: Mapping[str, int]
    n_layers: int
    files: Mapping[str, int]
    n_rows: int | None
    n_tokens: int | None
    tokenizer: str | None
    special: Mapping[str, str]
    has_chat_template: bool
    is_tied: bool | None
    stores_head: bool
    warnings: tuple[str, ...]


def inspect_source(source: str) -> tuple[Checkpoint, Facts]:
    """Opens a sound checkpoint and returns it with its facts.

    Args:
        source: A folder or a Hub id.

    Raises:
        CheckpointError: It cannot be opened, or files are links that lead out of its folder.
    """
    with reading_models():
        checkpoint = open_source(source)
        return checkpoint, facts_of(checkpoint)


def inspect_anything(source: str) -> tuple[Checkpoint, Facts, Problems]:
    """Returns what is readable of a model, its facts, and everything that prevents a merge.

    Raises:
        CheckpointError: There is no such folder, and the Hub does not provide it.
    """
    with reading_models():
        checkpoint, problems = open_anything(source)
        odd = list(contradictions(checkpoint, is_whole=not problems))
        checkpoint = replace(checkpoint, warnings=(*checkpoint.warnings, *odd))
        facts = facts_of(checkpoint)
    files = {**facts.files, **weight_files(checkpoint.folder)} if problems else facts.files
    return checkpoint, replace(facts, files=files), problems


def contradictions(checkpoint: Checkpoint, is_whole: bool) -> Iterator[str]:
    """Yields what config.json says otherwise than the tensors, or should say and does not.

    Args:
        checkpoint: The model.
        is_whole: Whether all of its tensors are known.
    """
    config, where = checkpoint.config, f"{checkpoint.source}: config.json"
    if config and not isinstance(config.get("model_type"), str):
        yield f"{where} has no model_type, which transformers needs to load the model"
    if not is_whole:
        return
    stacks = Counter[str]()
    for name in checkpoint.tensors:
        if layer := layer_of(name):
            stacks[layer[0]] = max(stacks[layer[0]], layer[1] + 1)
    more = config.get("num_nextn_predict_layers")  # stored as layers, and counted apart
    depths = {n - extra for n in stacks.values() for extra in (0, more if isinstance(more, int) else 0)}
    claimed = _claims(config, LAYERS)
    if stacks and claimed and not depths & claimed.keys():
        n, key = next(iter(claimed.items()))
        layers = max(stacks.values())
        yield f"{where} says {key} = {n}, but the tensors have {layers} layer{'s' * (layers > 1)}"
    entries = (checkpoint.tensors[name] for name in roles(checkpoint.tensors))
    rows = {entry.shape[0] for entry in entries if entry.shape}
    claimed = _claims(config, ("vocab_size",))
    if rows and claimed and not rows & claimed.keys():
        yield f"{where} says vocab_size = {next(iter(claimed))}, but the embedding has {max(rows)} rows"


def _claims(config: Mapping[str, Any], keys: Sequence[str]) -> dict[int, str]:
    """The numbers under some keys, with the key; in nested configs as well."""
    parts: list[Mapping[str, Any]] = [config]
    for part in parts:
        parts += [value for value in part.values() if isinstance(value, Mapping)][
            : max(0, MAX_CONFIGS - len(parts))
        ]
    return {part[key]: key for part in parts for key in keys if type(part.get(key)) is int}


def _n_layers(names: Collection[str]) -> int:
    """The layers of the deepest stack, without those for multi-token prediction."""
    layers = {layer for name in names if (layer := layer_of(name))} - mtp_layers(names)
    return max((index + 1 for _, index in layers), default=0)


def facts_of(checkpoint: Checkpoint) -> Facts:
    """Returns the facts of a checkpoint."""
    tensors, config = checkpoint.tensors, checkpoint.config
    dtypes: Counter[str] = Counter()
    for entry in tensors.values():
        dtypes[entry.dtype.name] += entry.n_elements
    following = [tensors[name] for name in roles(tensors) if tensors[name].shape]
    tokens = read_tokens(checkpoint.folder)
    files = sorted({entry.file for entry in tensors.values()})
    return Facts(
        source=checkpoint.source,
        folder=str(checkpoint.folder),
        revision=checkpoint.revision,
        architecture=printable(_architecture(config), SHOWN_NAME),
        config=_shown(config),
        quantised=_quantised(config),
        adapter=_adapter(json_object(checkpoint.folder / ADAPTER)),
        n_parameters=dtypes.total(),
        n_tensors=len(tensors),
        dtypes=dict(dtypes.most_common()),
        n_layers=_n_layers(tensors),
        files={file.name: file.stat().st_size for file in files},
        n_rows=following[0].shape[0] if following else None,
        n_tokens=None if tokens is None else len(tokens.rows),
        tokenizer=_tokenizer(checkpoint, tokens),
        special=_special(checkpoint, tokens),
        has_chat_template=chat_template(checkpoint.folder) is not None,
        is_tied=stated_tie(config),
        stores_head=any(map(is_of_head, tensors)),
        warnings=checkpoint.warnings,
    )


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    kind = config.get("model_type")
    return f"{first} ({kind})" if first and kind else str(first or kind or "not named in config.json")


def _shown(config: Mapping[str, Any]) -> dict[str, Any]:
    part = config.get("text_config")
    values = {**config, **(part if isinstance(part, Mapping) else {})}
    plain = {key: values[key] for key in SHOWN if isinstance(values.get(key), (int, float, str))}
    return {key: printable(v, SHOWN_NAME) if isinstance(v, str) else v for key, v in plain.items()}


def _quantised(config: Mapping[str, Any]) -> str | None:
    for _, given in stated(config):
        given = given if isinstance(given, Mapping) else {}
        method, bits = given.get("quant_method", "by an unnamed method"), given.get("bits")
        return printable(f"{method}, {bits} bits" if bits else method, SHOWN_NAME)
    return None


def _adapter(config: Mapping[str, Any]) -> str | None:
    if not config:
        return None
    kind, rank = config.get("peft_type", "of an unnamed type"), config.get("r")
    base = config.get("base_model_name_or_path") or "a model that is not named"
    return printable(f"{kind}{f', rank {rank}' if rank else ''}, for {base}", SHOWN_NAME)


def _tokenizer(checkpoint: Checkpoint, tokens: Tokens | None) -> str | None:
    file = vocabulary_file(checkpoint.folder)
    if tokens is None or file is None:
        return None
    if file.name != TOKENIZER:
        return file.name
    return f"{printable(model_type(load(file)['model']), SHOWN_NAME)} in {file.name}"


def _special(checkpoint: Checkpoint, tokens: Tokens | None) -> dict[str, str]:
    try:
        older = load(checkpoint.folder / "special_tokens_map.json")
    except (OSError, ValueError, RecursionError):
        older = {}
    config = {**(older if isinstance(older, dict) else {}), **read_config(checkpoint.folder)}
    special = {}
    for kind in SPECIAL:
        token = config.get(f"{kind}_token")
        token = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(token, str):
            row = None if tokens is None else tokens.rows.get(token)
            special[kind] = printable(token if row is None else f"{token} ({row})", SHOWN_NAME)
    return special
