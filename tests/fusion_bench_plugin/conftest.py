"""Nothing is left to be shown at the end of the test run, after pytest's own last line."""

import pytest

from fusion_slerp.fusion_bench_plugin.last_lines import show_waiting


@pytest.fixture(autouse=True)
def _last_lines_are_shown():
    yield
    show_waiting()
