"""The tables that show at a glance whether the merge worked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import floor, isfinite, log10
from textwrap import fill
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fusion_slerp.evaluation.comparison import Comparison
from fusion_slerp.evaluation.evaluation import AVERAGE
from fusion_slerp.evaluation.samples import by_prompt
from fusion_slerp.evaluation.statistics import Estimate

NOISE = "~"
"""Precedes a difference that noise may explain."""


def print_comparison(
    comparison: Comparison, samples: Mapping[str, Sequence[Mapping[str, str]]] | None = None
) -> None:
    """Prints what `comparison_parts` returns, to standard output."""
    console = Console(highlight=False)
    for part in comparison_parts(comparison, console, samples or {}):
        console.print(part)


def comparison_parts(
    comparison: Comparison, console: Console, samples: Mapping[str, Sequence[Mapping[str, str]]]
) -> list[Table | Text | str]:
    """Returns what is shown of an evaluation: losses, differences, samples, and the result in a sentence.

    Args:
        comparison: The models; the subject comes last.
        console: Where it will be shown: tables drop columns that do not fit its width.
        samples: By model, as `fusion_slerp.evaluation.samples.generate` returns them.
    """
    sign = "+-" if console.options.ascii_only else "±"
    parts: list[Table | Text | str] = []
    if comparison.evaluations[comparison.subject].texts:
        parts += [
            "Loss in nats per token, and perplexity on the next line",
            *_losses(comparison, console, sign),
        ]
        parts += _differences(comparison, console, sign)
    parts += [text for each in by_prompt(samples).items() for text in _sample(*each)]
    return [*parts, Text(verdict)] if (verdict := comparison.verdict()) else parts


def _losses(comparison: Comparison, console: Console, sign: str) -> Iterable[Table | str]:
    """The table of losses, and remarks on it."""
    subject, marked = comparison.subject, comparison.reads_other_tokens
    order = [*comparison.others, subject]
    scores = {name: comparison.evaluations[name].scores for name in order}
    finite = {n: s[AVERAGE]["loss"] for n, s in scores.items() if n not in marked}
    finite = {name: loss for name, loss in finite.items() if isfinite(loss)}
    best = min(finite, key=finite.__getitem__) if len(order) > 1 and finite else ""
    texts = [text for text in scores[subject] if text != AVERAGE]

    def table(shown: Sequence[str], sign: str) -> Table:
        made = _columns("model", [*shown, AVERAGE, *(["bits per byte"] if marked else [])])
        for name, score in scores.items():
            cells = [Text(_cell(score[text], sign)) for text in shown]
            average = _cell(score[AVERAGE], sign) + ("\nbest" if name == best else "")
            cells.append(Text(average, style="bold green" if name == best else ""))
            cells += [Text(f"{score[AVERAGE]['bits_per_byte']:.3f}")] if marked else []
            made.add_row(Text(fill(f"{name} *" if name in marked else name, 24)), *cells)
        return made

    # The first that fits: with standard errors, without them, or only the averages.
    candidates = [table(texts, sign), table(texts, ""), table([], "")]
    chosen = _first_that_fits(candidates, console)
    yield chosen
    if chosen is candidates[-1]:
        yield "The figures of the single texts do not fit this width; they are in the report."
    if marked:
        yield "* its own tokenizer makes other tokens, so its losses compare in bits per byte only"


def _differences(comparison: Comparison, console: Console, sign: str) -> Iterable[Table | str]:
    """The table of paired differences, if there are any."""
    rows = {name: paired for name, paired in comparison.differences.items() if paired}
    texts = list(comparison.evaluations[comparison.subject].texts)

    def table(shown: Sequence[str], sign: str) -> Table:
        made = _columns(f"{comparison.subject} minus", shown)
        for name, paired in rows.items():
            cells = [_gap(paired[text], sign) if text in paired else Text("") for text in shown]
            made.add_row(Text(fill(name, 24)), *cells)
        return made

    if rows:
        yield f"Differences, token by token ({NOISE}: may be noise)"
        every = [*texts, AVERAGE]
        yield _first_that_fits([table(every, sign), table(every, ""), table([AVERAGE], "")], console)


def _columns(first: str, headings: Iterable[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(Text(fill(first, 24)))
    for heading in headings:
        table.add_column(Text(fill(heading, 16)), justify="right", no_wrap=True)
    return table


def _first_that_fits(tables: Sequence[Table], console: Console) -> Table:
    """The first table that fits the console's width; else the last."""
    unbounded = console.options.update(max_width=10_000)  # measure() cuts at the width it is given
    fitting = (each for each in tables if console.measure(each, options=unbounded).maximum <= console.width)
    return next(fitting, tables[-1])


def _gap(gap: Estimate, sign: str) -> Text:
    """A difference with its error: green if better, red if worse, marked if it may be noise."""
    value = f"{gap.value:+.3f}" + (f" {sign} {gap.stderr:.3f}" if sign else "")
    if not gap.differs_from_zero:
        return Text(f"{NOISE} {value}" if gap.stderr or gap.value else value, "dim")
    return Text(value, "green" if gap.value < 0 else "red")


def _cell(score: Mapping[str, float], sign: str) -> str:
    lines = []
    for value, slope in ((score["loss"], 1.0), (score["perplexity"], score["perplexity"])):
        # About four significant digits, at most three decimals; the error has as many as its value.
        plain = isfinite(value) and value < 1e6
        form = f".{min(3, max(0, 3 - floor(log10(max(value, 1.0)))))}f" if plain else ".3g"
        lines.append(f"{value:{form}}" + (f" {sign} {score['loss_stderr'] * slope:{form}}" if sign else ""))
    return "\n".join(lines)


def _sample(prompt: str, texts: Mapping[str, str]) -> Iterable[Any]:
    """What the models wrote after one prompt, one below the other."""
    yield Text.assemble(("Prompt: ", "bold"), _visible(prompt))
    for name, text in texts.items():
        yield Text.assemble((f"  {name}: ", "bold"), _indented(_visible(text)))
    yield ""


def _indented(text: str) -> str:
    lines = text.splitlines() or [""]
    return lines[0] if len(lines) == 1 else "".join(f"\n    {line}" for line in lines)


def _visible(text: str) -> str:
    """A text that cannot command a terminal: control characters but line ends and tabs are escaped."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text
    )
