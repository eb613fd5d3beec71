"""The merged model's README.md: what its source models are, how it was made, how to make it again.

Source: the hub's metadata conventions, https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fusion_slerp._version import __version__
from fusion_slerp.engine.report import TensorReport, count_rules
from fusion_slerp.methods import DEFAULT
from fusion_slerp.options import meanings
from fusion_slerp.output.child_settings import child_settings
from fusion_slerp.settings.labels import BASE
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings
from fusion_slerp.settings.schedule import PerModel, Schedule
from fusion_slerp.sources.folder import Checkpoint
from fusion_slerp.sources.regular_files import open_regular

MAX_CARD_NBYTES = 1 << 20
"""Of a parent's card; its front matter stands at the beginning."""

MAX_LICENCE = 2000
"""Characters of all that the front matter says of the licence."""

_LICENCE = re.compile(r"^license\w*:.*(?:\n(?:[ \t]|-[ \t]).*)*", re.MULTILINE)
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CardParent:
    """What the card says of a source model.

    Attributes:
        name: A hub id, or the last name of a local folder: a card is made to be published.
        revision: Its hub commit; None if it is local.
        metadata: The front matter of its own card.
        from_files: Whether `merge` can be called with its name, to do it again.
    """

    name: str
    revision: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    from_files: bool = False

    @property
    def pinned(self) -> str:
        """The name with its commit: what `merge` takes."""
        return f"{self.name}@{self.revision}" if self.revision else self.name


def card_parent(checkpoint: Checkpoint) -> CardParent:
    """Returns what the card says of a checkpoint."""
    metadata = _front_matter(checkpoint.folder / "README.md")
    if checkpoint.revision:
        return CardParent(checkpoint.source.partition("@")[0], checkpoint.revision, metadata, True)
    return CardParent(checkpoint.folder.resolve().name, None, metadata, True)


def model_card(
    parents: Mapping[str, CardParent],
    settings: MergeSettings,
    report: Sequence[TensorReport],
    name: str,
) -> str:
    """Returns the text of the card.

    Args:
        parents: The source models, by label.
        settings: The settings of the merge that was run.
        report: What happened to each tensor.
        name: The merged model's name, its heading.
    """
    rules = "\n".join(f"| {rule} | {count} |" for rule, count in count_rules(report).items())
    about = "\n\n".join([_models_table(parents, settings), *_options_text(settings)])
    return f"""---
{_yaml(_metadata(parents))}---

# {name}

A merged language model: {settings.how.summary}, made with
[FusionBench](https://github.com/tanganke/fusion_bench) and fusion_slerp {__version__}.

{about}

## Configuration

```yaml
{_yaml(_configuration(settings))}```
{_reproduction(parents, settings, name)}
## What happened to the tensors

| made by | tensors |
|---|---|
{rules}
"""


def _models_table(parents: Mapping[str, CardParent], settings: MergeSettings) -> str:
    """A row for each model, with a column for each option that models have values of their own for."""
    per_model = {name: each for name, each in settings.schedules.items() if isinstance(each, PerModel)}
    rows = [["label", "model", "revision", *per_model], ["---"] * (3 + len(per_model))]
    for label, parent in parents.items():
        values = [_number_text(each.of(label)) or "varies, see below" for each in per_model.values()]
        rows.append([label, parent.name, parent.revision or "local", *values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _number_text(schedule: Schedule | None) -> str:
    """The one number that a schedule gives all tensors; empty where they have several."""
    number = None if schedule is None else schedule.number
    return "" if number is None else repr(number).removesuffix(".0")


def _options_text(settings: MergeSettings) -> list[str]:
    """A paragraph for each option with a schedule that is the same for all models."""
    about = meanings(settings.how.options)
    shared = {name: each for name, each in settings.schedules.items() if isinstance(each, Schedule)}
    return [f"{_value_text(name, each)}: {_clause(about[name])}" for name, each in shared.items()]


def _value_text(name: str, schedule: Schedule) -> str:
    number = _number_text(schedule)
    if number:
        return f"`{name}` = {number}"
    return f"`{name}` varies from tensor to tensor (see the configuration)"


def _clause(text: str) -> str:
    """The first sentence, to stand behind a colon."""
    sentence = text.partition(". ")[0].removesuffix(".")
    return f"{sentence[0].lower()}{sentence[1:]}."


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
    """What a parent's card says of its licence; empty where it says nothing that can be read.

    All scalars are texts, and anything but those and lists of them is left out: the loader knows no
    types, no keys that are merged into each other, and too little text to nest deep.
    """
    try:
        with open_regular(readme) as stream:
            text = stream.read(MAX_CARD_NBYTES).decode("utf-8", "replace").replace("\r\n", "\n")
        found = _FRONT_MATTER.match(text)
        licence = "\n".join(_LICENCE.findall(found[1])) if found else ""
        value = yaml.load(licence, yaml.BaseLoader) if len(licence) <= MAX_LICENCE else {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return {k: v for k, v in value.items() if _is_plain(v)} if isinstance(value, dict) else {}


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
    """The keyword arguments that differ from the defaults, and always those that may vary over depth."""
    defaults = child_settings(make_settings(method=settings.method))
    shown = {
        name: value
        for name, value in child_settings(settings).items()
        if name in settings.schedules or value != (DEFAULT if name == "method" else defaults[name])
    }
    return [f"{name}={value!r}" for name, value in shown.items()]


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
