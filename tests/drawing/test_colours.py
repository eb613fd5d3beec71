"""The colours: even in lightness, readable, and different for every kind of colour vision."""

from itertools import combinations, pairwise

import pytest

from fusion_slerp.drawing.colours import (
    DARK,
    LEVELS,
    LIGHT,
    SERIES,
    contrast,
    level,
    luminance,
    sequential,
    text_on,
)


@pytest.mark.parametrize("is_dark", [False, True])
def test_the_scale_runs_evenly_from_the_background(is_dark):
    colours = sequential(is_dark)
    assert len(colours) == len(set(colours)) == LEVELS
    background = (DARK if is_dark else LIGHT)["bg"]
    away = [contrast(colour, background) for colour in colours]
    assert away == sorted(away)
    steps = [abs(luminance(p) ** (1 / 3) - luminance(q) ** (1 / 3)) for p, q in pairwise(colours)]
    assert max(steps) < 2 * min(steps)


def test_the_ends_of_the_scale_differ_from_white_and_from_black():
    assert contrast(sequential()[0], "#ffffff") > 1.15
    assert contrast(sequential()[-1], "#000000") > 1.5


@pytest.mark.parametrize("is_dark", [False, True])
def test_numbers_on_the_scale_are_readable(is_dark):
    assert min(contrast(text_on(colour), colour) for colour in sequential(is_dark)) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_lines_and_texts_stand_out_from_the_background(theme):
    assert min(contrast(theme[name], theme["bg"]) for name in (*SERIES, "child", "base", "axis")) >= 3
    assert min(contrast(theme[name], theme["bg"]) for name in ("ink", "soft", "accent")) >= 4.5
    assert min(contrast(theme[name], theme["bg"]) for name in ("a", "e", "c", "d", "b", "base")) >= 3.0


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("lacking", range(3))
def test_the_first_lines_differ_without_one_kind_of_cones(theme, lacking):
    """Without a channel altogether, which is harsher than any dichromacy."""
    for one, other in combinations(("a", "b", "child"), 2):
        values = [[int(theme[name][i : i + 2], 16) for i in (1, 3, 5)] for name in (one, other)]
        kept = [[v for i, v in enumerate(value) if i != lacking] for value in values]
        assert max(abs(p - q) for p, q in zip(*kept, strict=True)) > 40


def test_values_outside_the_scale_get_its_ends():
    assert [level(value, 1, 5) for value in (0, 1, 4.999, 5, 9)] == [0, 0, LEVELS - 1, LEVELS - 1, LEVELS - 1]
    assert level(3.0, 2.0, 2.0) == 0
