"""The figures that the trials measure, printed at the end of a run."""

import pytest

_FIGURES: list[str] = []


@pytest.fixture
def figure():
    """Takes a line to be printed."""
    return _FIGURES.append


def pytest_terminal_summary(terminalreporter):
    if _FIGURES:
        terminalreporter.section("safety: figures")
        for line in _FIGURES:
            terminalreporter.line(line)
