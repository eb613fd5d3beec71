"""Maps by layer and kind of module: in colour, in few colours, and as numbers."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from rich.color import Color
from rich.console import Console

from fusion_slerp.cli import heat_map
from fusion_slerp.cli.heat_map import HeatMap
from fusion_slerp.cli.terminal_colours import STEPS, painter
from fusion_slerp.drawing.colours import sequential
from tests.cli.conftest import DEMO

DEMOS = (DEMO / "plays", DEMO / "code")


class Utf8(io.StringIO):
    encoding = "utf-8"


def layers(n, scale=1.0):
    return {
        i: {"attention": scale * (i + 1), "mlp": scale * (i + 1) / 2, "norm": scale * 0.01} for i in range(n)
    }


def screen(system="truecolor", width=80, file=None, **more):
    return Console(
        file=file or Utf8(), force_terminal=True, color_system=system, width=width, soft_wrap=True, **more
    )


def drawn(shown, console):
    """The lines, without styles."""
    return [str(part) for part in heat_map.parts(shown, console)]


def lightness(name):
    channels = (c / 255 for c in Color.parse(name).get_truecolor())
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


RAMP = sequential(is_dark=True)


@pytest.mark.parametrize("ramp", [RAMP, *STEPS.values()])
def test_every_ramp_becomes_lighter_step_by_step(ramp):
    """So readers who confuse hues can still order the colours."""
    assert all(lightness(a) < lightness(b) for a, b in pairwise(ramp))


@pytest.mark.parametrize(("system", "ramp"), [("truecolor", RAMP), *STEPS.items()])
def test_colours_follow_the_value_and_stay_in_range(system, ramp):
    paint = painter(0, 1, screen(system))
    assert [paint(share) for share in (-3, 0, 1, 7)] == [ramp[0], ramp[0], ramp[-1], ramp[-1]]
    assert list(dict.fromkeys(paint(i / 50) for i in range(51))) == list(ramp)
    assert painter(2, 2, screen(system))(2) == ramp[len(ramp) // 2]


@pytest.mark.parametrize("system", ["standard", "256", "truecolor"])
def test_a_line_holds_two_layers_and_80_columns_suffice(system):
    shown = HeatMap({"": layers(80)}, unit="°", names_largest=True)
    console = screen(system)
    parts = heat_map.parts(shown, console)
    lines = [part.plain for part in parts]
    assert len([line for line in lines if "▀" in line]) == 40
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("  0-1  ▀▀▀▀▀▀▀▀▀")
    assert lines[1].endswith("80.00° layer 79 attention")
    assert lines[-1].startswith("0.01° █")
    assert lines[-1].endswith("█ 80.00°")
    for part in parts:
        console.print(part)
    text = console.file.getvalue()
    colours = {
        "standard": "\x1b[34;44m",
        "256": "\x1b[38;5;54;48;5;54m",
        "truecolor": "\x1b[38;2;{};{};{};48".format(*bytes.fromhex(RAMP[0][1:])),
    }
    assert colours[system] in text


def test_the_upper_half_is_the_first_layer_and_a_missing_one_is_empty():
    shown = HeatMap(
        {"": {0: {"mlp": 0.0}, 1: {"mlp": 1.0}, 2: {"norm": 1.0}, 3: {"mlp": 0.0}, 4: {"mlp": 1.0}}}
    )
    console = screen()
    lines = heat_map.parts(shown, console)[1:4]
    assert [line.plain.split()[0] for line in lines] == ["0-1", "2-3", "4"]
    styles = [str(span.style) for line in lines for span in line.spans if str(span.style).startswith("#")]
    assert styles == [f"{RAMP[0]} on {RAMP[-1]}", RAMP[0], RAMP[-1], RAMP[-1]]
    assert "▄" in lines[1].plain


def test_groups_stay_together_on_a_narrow_screen():
    shown = HeatMap({name: layers(4) for name in "BCD"})
    narrow, wide = drawn(shown, screen(width=80)), drawn(shown, screen(width=200))
    assert [line.split() for line in narrow if line.split()[:1] and line.split()[0] in "BCD"] == [
        ["B", "C"],
        ["D"],
    ]
    assert ["B", "C", "D"] in [line.split() for line in wide]
    assert max(map(len, narrow)) <= 80


def test_equal_values_have_one_colour():
    lines = drawn(HeatMap({"": {0: {"mlp": 2.0}}}, unit="°"), screen())
    assert lines[-1] == "██ 2.00° everywhere"


def test_nothing_is_drawn_without_values():
    assert heat_map.parts(HeatMap({"": {}}), screen()) == []


@pytest.mark.parametrize(
    "console",
    [
        Console(file=Utf8(), width=80),
        screen(no_color=True),
        screen(system=None),
        screen(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii")),
    ],
    ids=["pipe", "NO_COLOR", "no colours", "ascii"],
)
def test_without_colours_there_are_numbers(console):
    (table,) = heat_map.parts(HeatMap({"": layers(3)}), console)
    assert [column.header for column in table.columns] == ["layer", "attention", "mlp", "norm"]
    assert [list(column.cells) for column in table.columns][1] == ["1.00", "2.00", "3.00"]


# --- the commands ---


def test_inspect_shows_the_numbers_in_a_pipe_and_colours_where_they_are_forced(command, monkeypatch):
    plain = command("inspect", *DEMOS).out
    rows = [line.split() for line in plain.splitlines() if line.strip()[:2] in ("0 ", "4 ")]
    angles = command("inspect", *DEMOS, "--json").json["layers"]
    assert [row[1:] for row in rows] == [
        [f"{angles[n][m][0]:.2f}" for m in ("attention", "mlp", "norm")] for n in "04"
    ]
    assert "\x1b" not in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    coloured = command("inspect", *DEMOS).out
    assert "▀" in coloured
    assert "\x1b[38;2;" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "▀" not in command("inspect", *DEMOS).out


def test_inspect_of_several_has_the_columns_of_each(command, parents, tmp_path):
    out = command("inspect", *DEMOS, DEMOS[1]).out
    (row,) = [line.split() for line in out.splitlines() if line.strip().startswith("4 ")]
    assert len(row) == 7
    assert row[1:4] == row[4:7]
    every = command("inspect", *DEMOS, DEMOS[1], "--all").out
    assert "|C|/|A|" in every


def test_plan_shows_a_schedule_that_varies_and_no_other(command):
    out = command("plan", *DEMOS, "-t", "[{filter: mlp, value: [0, 1]}, {value: 0.5}]").out
    lines = out.splitlines()
    rows = [line.split() for line in lines[lines.index("t by layer") :] if line.strip()[:1].isdigit()]
    assert rows == [[str(i), "0.5", f"{i / 4:.4g}", "0.5"] for i in range(5)]
    assert "by layer" not in command("plan", *DEMOS, "-t", "0.3").out


def test_plan_shows_the_weights_of_each_model(command):
    out = command("plan", *DEMOS, "--method", "linear", "-w", "a=[0, 1]", "-w", "b=0.5").out
    lines = out.splitlines()
    rows = [line.split() for line in lines[lines.index("weight by layer") :] if line.strip()[:1].isdigit()]
    assert rows[1] == ["1", "0.25", "0.25", "0.25", "0.5", "0.5", "0.5"]
