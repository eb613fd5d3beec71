"""What the models write, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_slerp.drawing.markup import Html, joined, tag, verbatim
from fusion_slerp.reports.sections.parts import Data, Section, labelled, swatch


def section(data: Data) -> Section | None:
    """Returns each prompt with the models' continuations next to each other."""
    samples = (data.get("evaluation") or {}).get("samples")
    if not samples:
        return None
    return Section("samples", "Samples", "What they write", joined(_sample(data, each) for each in samples))


def _sample(data: Data, sample: Mapping[str, Any]) -> Html:
    texts = [
        tag("div", tag("h4", swatch(label), " ", labelled(data, label)), _lines(text, "answer"))
        for label, text in sample["texts"].items()
    ]
    prompt = tag("div", tag("h3", "Prompt"), _lines(sample["prompt"], "prompt"))
    return tag("div", prompt, tag("div", *texts, class_="answers"), class_="sample")


def _lines(text: str, class_: str) -> Html:
    """A text with its line breaks."""
    return tag("div", verbatim(text), class_=f"written {class_}")
