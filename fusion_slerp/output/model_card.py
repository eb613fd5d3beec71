"""The child's README.md: who its parents are, how it was made, how to make it again.

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
from fusion_slerp.output.child_settings import child_settings
from fusion_slerp.settings.merge_settings import MergeSettings
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
    """What the card says of a parent.

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
    parents: Sequence[CardParent],
    settings: MergeSettings,
    report: Sequence[TensorReport],
    name: str,
) -> str:
    """Returns the text of the card.

    Args:
        parents: Parent a and parent b.
        settings: The settings of the merge that was run.
        report: What happened to each tensor.
        name: The child's name, its heading.
    """
    rules = "\n".join(f"| {rule} | {count} |" for rule, count in count_rules(report).items())
    return f"""---
{_yaml(_metadata(parents))}---

# {name}

A merge of two language models by spherical linear interpolation (SLERP) of their weights, made
with [FusionBench](https://github.com/tanganke/fusion_bench) and fusion_slerp {__version__}.

| t | model | revision |
|---|---|---|
| 0 | {parents[0].name} | {parents[0].revision or "local"} |
| 1 | {parents[1].name} | {parents[1].revision or "local"} |

{_position(settings)}

## Configuration

```yaml
{_yaml(_configuration(settings))}```
{_reproduction(parents, settings, name)}
## What happened to the tensors

| made by | tensors |
|---|---|
{rules}
"""


def _position(settings: MergeSettings) -> str:
    if settings.schedule.number is None:
        return "t varies from tensor to tensor; the configuration below says how."
    return f"This model lies at t = {settings.t}."


def _metadata(parents: Sequence[CardParent]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    hub_ids = [parent.name for parent in parents if parent.revision]
    if hub_ids:
        metadata |= {"base_model": hub_ids, "base_model_relation": "merge"}
    metadata |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    licence = ("license", "license_name", "license_link")
    metadata |= {key: parents[0].metadata[key] for key in licence if key in parents[0].metadata}
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
    target = {"_target_": "fusion_slerp.SlerpForCausalLM"}
    given = {k: v for k, v in child_settings(settings).items() if k != "tokenizer"}
    return {"method": target | given}


def _reproduction(parents: Sequence[CardParent], settings: MergeSettings, name: str) -> str:
    if not all(parent.from_files for parent in parents):
        return ""
    a, b = (parent.pinned for parent in parents)
    return f"""
## How to reproduce

```python
from fusion_slerp import merge

merge({a!r}, {b!r}, out={name!r}{_arguments(settings)})
```
"""


def _arguments(settings: MergeSettings) -> str:
    """The keyword arguments that differ from the defaults, and always t."""
    defaults = MergeSettings()
    given = child_settings(settings)
    shown = {k: v for k, v in given.items() if k == "t" or v != getattr(defaults, k)}
    return "".join(f", {name}={value!r}" for name, value in shown.items())


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
