"""The chat templates of a tokenizer: one, or several by name, in any of the files that hold them.

Source: `PreTrainedTokenizerBase._from_pretrained` of transformers 5.23. chat_template.jinja and the files in
additional_chat_templates take precedence over tokenizer_config.json. Processors also read chat_template.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fusion_slerp.sources.links import TEMPLATES
from fusion_slerp.sources.regular_files import read_regular
from fusion_slerp.vocabulary.tokens import TOKENIZER_CONFIG, load, read_config

CHAT_TEMPLATE = "chat_template.jinja"
OF_PROCESSORS = "chat_template.json"
MORE_TEMPLATES = f"{TEMPLATES}/"

DEFAULT = "default"
"""The name of the template that is used unless another is asked for."""

MAX_TEMPLATE_NBYTES = 1_000_000
"""A larger chat template is ignored: the largest known ones have about 20 KB."""

Templates = Mapping[str, str]
"""From name to Jinja text."""


def chat_templates(folder: Path, written: Mapping[str, bytes] | None = None) -> Templates:
    """Returns the chat templates of a tokenizer, by name; empty if it has none.

    Args:
        folder: The folder of its files.
        written: Files that are rewritten, by name.
    """
    files = _files(folder) | {n: file for n, file in (written or {}).items() if n.endswith(".jinja")}
    if files:
        texts = {_name_of(file): content.decode("utf-8", "replace") for file, content in files.items()}
        return {name: text for name, text in texts.items() if text}
    return _named(read_config(folder, (written or {}).get(TOKENIZER_CONFIG)).get("chat_template")) or (
        _of_processors(folder)
    )


def chat_template(folder: Path) -> str | None:
    """Returns the texts of all chat templates next to a tokenizer, joined; None if there are none."""
    return "\n".join(chat_templates(folder).values()) or None


def template_files(folder: Path) -> dict[str, bytes]:
    """Returns the chat templates of a folder as files, including those in its tokenizer_config.json."""
    return _files(folder) or {
        CHAT_TEMPLATE if name == DEFAULT else f"{MORE_TEMPLATES}{name}.jinja": text.encode("utf-8", "replace")
        for name, text in chat_templates(folder).items()
        if re.fullmatch(r"[\w-]{1,60}", name)
    }


def _files(folder: Path) -> dict[str, bytes]:
    """The templates in files of their own, by path in the folder; those that are too large are left out."""
    paths = [folder / CHAT_TEMPLATE, *sorted((folder / TEMPLATES).glob("*.jinja"))]
    small = [path for path in paths if path.is_file() and path.stat().st_size <= MAX_TEMPLATE_NBYTES]
    return {path.relative_to(folder).as_posix(): read_regular(path, MAX_TEMPLATE_NBYTES) for path in small}


def _name_of(file: str) -> str:
    return DEFAULT if file == CHAT_TEMPLATE else file.removeprefix(MORE_TEMPLATES).removesuffix(".jinja")


def _named(value: object) -> dict[str, str]:
    """The templates in a value of `chat_template`: a text, a list of named ones, or a mapping."""
    if isinstance(value, list):
        entries = [
            entry for entry in value if isinstance(entry, Mapping) and isinstance(entry.get("name"), str)
        ]
        value = {entry["name"]: entry.get("template") for entry in entries}
    named = value if isinstance(value, Mapping) else {DEFAULT: value}
    return {
        name: text for name, text in named.items() if isinstance(name, str) and isinstance(text, str) and text
    }


def _of_processors(folder: Path) -> dict[str, str]:
    try:
        return _named(load(folder / OF_PROCESSORS)["chat_template"])
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return {}
