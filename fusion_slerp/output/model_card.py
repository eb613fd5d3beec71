"""The merged model's README.md: its source models, how to use it, how it was made and how to make it again.

The card depends on the source models, the settings, the folder's name and the program that ran the merge, so
the same call makes the same card. FusionBench is credited only if it ran the merge: its card then differs in
one line from that of the same merge by the command. Neither the merge's identity nor any other file but the
manifest, which has the card's digest, depends on it.

Source: the Hub's metadata conventions, https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fusion_slerp._version import __version__
from fusion_slerp.engine.report import TensorReport, count_rules
from fusion_slerp.methods import DEFAULT
from fusion_slerp.options import meanings
from fusion_slerp.output.child_settings import child_settings
from fusion_slerp.output.lineage import Lineage, lineage, sentence
from fusion_slerp.settings.labels import BASE
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings
from fusion_slerp.settings.schedule import PerModel, Schedule
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.regular_files import open_regular

if TYPE_CHECKING:
    from fusion_slerp.output.card_pictures import Picture

MAX_CARD_NBYTES = 1 << 20
"""Of a source model's card; its front matter comes first."""

MAX_CHARACTERS = 2000
"""Of the licence in the front matter, and of the base models in it."""

_PARTS = [
    re.compile(rf"^{key}:.*(?:\n(?:[ \t]|-[ \t]).*)*", re.MULTILINE) for key in (r"license\w*", "base_model")
]
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CardParent:
    """What the card says of a source model.

    Attributes:
        name: A hub id, or the last name of a local folder: a card is made to be published.
        revision: Its hub commit; None if it is local.
        metadata: The licence and base models in the front matter of its own card.
        from_files: Whether `merge` can be called with its name, to repeat the merge.
        lineage: What it was merged from, if it is a merge itself.
    """

    name: str
    revision: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    from_files: bool = False
    lineage: Lineage | None = None

    @property
    def pinned(self) -> str:
        """The name with its commit: what `merge` takes."""
        return f"{self.name}@{self.revision}" if self.revision else self.name


def card_parent(checkpoint: Checkpoint) -> CardParent:
    """Returns what the card says of a checkpoint."""
    metadata = _front_matter(checkpoint.folder / "README.md")
    made = lineage(checkpoint.folder, metadata)
    if checkpoint.revision:
        return CardParent(checkpoint.source.partition("@")[0], checkpoint.revision, metadata, True, made)
    return CardParent(checkpoint.folder.resolve().name, None, metadata, True, made)


def model_card(
    parents: Mapping[str, CardParent],
    settings: MergeSettings,
    report: Sequence[TensorReport],
    name: str,
    made_with: str | None = None,
    has_tokenizer: bool = True,
    pictures: Sequence[Picture] = (),
) -> str:
    """Returns the text of the card.

    Args:
        parents: The source models, by label.
        settings: The settings of the merge that was run.
        report: What happened to each tensor.
        name: The merged model's name, its heading.
        made_with: The program that ran the merge, in Markdown; None for fusion_slerp alone.
        has_tokenizer: Whether the merged model has a tokenizer.
        pictures: The pictures that it embeds; see `card_pictures`.
    """
    rules = "\n".join(f"| {rule} | {count} |" for rule, count in count_rules(report).items())
    merges = (sentence(label, each.lineage) for label, each in parents.items() if each.lineage)
    about = "\n\n".join(
        [_models_table(parents, settings), *_base_text(parents), *merges, *_options_text(settings)]
    )
    ran = f" in {made_with}" if made_with else ""
    return f"""---
{_yaml(_metadata(parents))}---

# {name}

This is a merged language model: {settings.how.summary}, made with fusion_slerp {__version__}{ran}.

{about}

## How to use

```python
{_usage(name, has_tokenizer)}
```

## Configuration

```yaml
{_yaml(_configuration(settings))}```
{_reproduction(parents, settings, name)}{_sections(pictures)}
## What happened to the tensors

| made by | tensors |
|---|---|
{rules}
"""


def _sections(pictures: Sequence[Picture]) -> str:
    """A section for each picture."""
    return "".join(
        f"\n## {each.heading}\n\n{each.about}\n\n![{each.description}]({each.file})\n" for each in pictures
    )


def _usage(name: str, has_tokenizer: bool) -> str:
    """Code that loads the model and, with its tokenizer, generates some tokens."""
    load = f"model = AutoModelForCausalLM.from_pretrained({name!r})  # the folder, or its id on the Hub"
    if not has_tokenizer:
        return f"from transformers import AutoModelForCausalLM\n\n{load}"
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

{load}
tokenizer = AutoTokenizer.from_pretrained({name!r})

inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))"""


def _models_table(parents: Mapping[str, CardParent], settings: MergeSettings) -> str:
    """A row per model, with a column for each option that may differ between models."""
    per_model = {name: each for name, each in settings.schedules.items() if isinstance(each, PerModel)}
    rows = [["label", "model", "revision", *per_model], ["---"] * (3 + len(per_model))]
    for label, parent in parents.items():
        values = [_own_text(each, label) for each in per_model.values()]
        rows.append([label, parent.name, parent.revision or "local", *values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _own_text(option: PerModel, label: str) -> str:
    """A model's value of an option; the base has none."""
    if label == BASE:
        return ""
    return _number_text(option.of(label)) or "varies, see below"


def _base_text(parents: Mapping[str, CardParent]) -> list[str]:
    if BASE not in parents:
        return []
    return [f"The model labelled {BASE} is the common ancestor of the others."]


def _number_text(schedule: Schedule | None) -> str:
    """The number that a schedule gives all tensors; empty if it varies."""
    number = None if schedule is None else schedule.number
    return "" if number is None else repr(number).removesuffix(".0")


def _options_text(settings: MergeSettings) -> list[str]:
    """A paragraph for each option with a schedule that all models share."""
    about = meanings(settings.how.options)
    shared = {name: each for name, each in settings.schedules.items() if isinstance(each, Schedule)}
    return [f"{_value_text(name, each)}: {_clause(about[name])}" for name, each in shared.items()]


def _value_text(name: str, schedule: Schedule) -> str:
    number = _number_text(schedule)
    if number:
        return f"`{name}` = {number}"
    return f"`{name}` varies from tensor to tensor (see the configuration)"


def _clause(text: str) -> str:
    """The first sentence, to follow a colon."""
    first = text.partition(". ")[0].removesuffix(".")
    return f"{first[0].lower()}{first[1:]}."


def _metadata(parents: Mapping[str, CardParent]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    hub_ids = list(dict.fromkeys(parent.name for parent in parents.values() if parent.revision))
    if hub_ids:
        metadata |= {"base_model": hub_ids, "base_model_relation": "merge"}
    metadata |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    first = next(iter(parents.values())).metadata
    metadata |= {key: first[key] for key in ("license", "license_name", "license_link") if key in first}
    metadata["tags"] = ["merge", "fusion_slerp"]
    return metadata


def _front_matter(readme: Path) -> dict[str, Any]:
    """The licence and the base models in a source model's card; empty where nothing is readable.

    All scalars are strings, and only those and lists of them are kept. The loader knows no types and no merge
    keys, and the text is too short to nest deep.
    """
    try:
        with open_regular(readme) as stream:
            text = stream.read(MAX_CARD_NBYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return {}
    matter = _FRONT_MATTER.match(text)
    parts = ["\n".join(part.findall(matter[1])) for part in _PARTS] if matter else []
    return {k: v for part in parts for k, v in _mapping(part).items() if _is_plain(v)}


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = yaml.load(text, yaml.BaseLoader) if len(text) <= MAX_CHARACTERS else {}
    except (ValueError, RecursionError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_plain(value: object) -> bool:
    texts = value if isinstance(value, list) else [value]
    return all(text and isinstance(text, str) for text in texts)


def _configuration(settings: MergeSettings) -> dict[str, Any]:
    target = {"_target_": f"fusion_slerp.{settings.how.class_name}"}
    given = {k: v for k, v in child_settings(settings).items() if k not in ("method", "tokenizer")}
    return {"method": target | given}


def _reproduction(parents: Mapping[str, CardParent], settings: MergeSettings, name: str) -> str:
    if not all(parent.from_files for parent in parents.values()):
        return ""
    models = [repr(parent.pinned) for label, parent in parents.items() if label != BASE]
    base = [f"base={parents[BASE].pinned!r}"] if BASE in parents else []
    arguments = ", ".join([*models, *base, f"out={name!r}", *_arguments(settings)])
    return f"""
## How to reproduce

```python
from fusion_slerp import merge

merge({arguments})
```
"""


def _arguments(settings: MergeSettings) -> list[str]:
    """The keyword arguments that differ from the defaults, and always those with a schedule."""
    defaults = child_settings(make_settings(method=settings.method))
    shown = {
        name: value
        for name, value in child_settings(settings).items()
        if name in settings.schedules or value != (DEFAULT if name == "method" else defaults.get(name))
    }
    return [f"{name}={value!r}" for name, value in shown.items()]


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
